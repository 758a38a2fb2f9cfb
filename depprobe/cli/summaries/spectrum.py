"""The summary of spectra: one column a matrix, from its spectral radius to its transient growth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from depprobe.cli.output import Summary, power_of_ten
from depprobe.curves.names import repeats

_HEADINGS = [
    *("matrix", "width", "spectral radius", "largest singular value"),
    *("condition", "departure from normality", "largest norm of a power", "circular law radius"),
]
#: numbers of a record, by the name of their variable
_NUMBERS = (
    *("spectral_radius", "largest_singular_value", "log_condition", "henrici", "log_growth"),
    *("growth_power", "growth_settled", "circular_radius", "residual"),
)


def summary(ds: xr.Dataset) -> Summary:
    """Table and notes of a dataset that ``depprobe.spectrum`` gave."""
    rows = [_record(ds.isel(weight=i)) for i in range(ds.sizes["weight"])]
    return Summary(_title(ds), list(_HEADINGS), [_cells(row) for row in rows], rows, _notes(ds))


def _record(one: xr.Dataset) -> dict[str, Any]:
    row: dict[str, Any] = {"matrix": str(one["weight"].item()), "width": int(one["matrix_width"])}
    row["seed"] = int(one["matrix_seed"])
    return row | {name: float(one[name]) for name in _NUMBERS}


def _cells(row: dict[str, Any]) -> list[str]:
    growth = row["log_growth"]
    largest = power_of_ten(growth) if growth > 5 else _number(math.exp(growth))
    at = f"{largest} (power {row['growth_power']:.0f})"
    condition = row["log_condition"]
    return [
        row["matrix"],
        str(row["width"]),
        _number(row["spectral_radius"]),
        _number(row["largest_singular_value"]),
        "-" if math.isnan(condition) else power_of_ten(condition),
        _number(row["henrici"]),
        at if row["growth_settled"] else f"{at}, still growing or not settled",
        _number(row["circular_radius"]),
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _title(ds: xr.Dataset) -> str:
    """One line that says what was measured."""
    what = f"step Jacobians, n = {ds.attrs.get('n')}" if ds.attrs.get("of") == "steps" else "weights"
    # a matrix of every seed stands along weight
    seeds = repeats(ds.assign_attrs(seeds=np.unique(ds["matrix_seed"]).size))
    least, most = int(ds["matrix_width"].min()), int(ds["matrix_width"].max())
    width = f"{least} to {most} wide" if least < most else f"d = {ds.attrs.get('d')}"
    sizes = f"{width}, {seeds}, {ds.attrs.get('dtype')}"
    return f"Spectrum of {ds.attrs.get('layer')}: {what}, {sizes}"


def _notes(ds: xr.Dataset) -> list[str]:
    """What a reader must know to take the numbers as they are meant."""
    lines = [
        f"powers up to {ds.attrs.get('powers')}; departure is Henrici's over the Frobenius norm (0 normal)"
    ]
    asked, least = ds.attrs.get("modes", 0), int(ds["matrix_width"].min())
    if asked > least:
        lines.append(f"{asked} modes were asked for: of narrower matrices (from {least} wide) all there are")
    residual = ds["residual"].values
    if np.isfinite(residual).any():
        lines.append(
            f"wide matrices by their leading modes, residual up to {np.nanmax(residual):.1e} of the largest "
            "singular value; what needs all modes is -"
        )
    return lines
