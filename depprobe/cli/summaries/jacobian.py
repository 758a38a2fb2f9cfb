"""The summary of a Jacobian dataset: norms at the ends of the curve, its form, and distances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from depprobe.cli.output import Summary, power_of_ten, with_error
from depprobe.curves import decay_curve, distances
from depprobe.curves.align import each_curve
from depprobe.curves.status import UNKNOWN, in_words
from depprobe.vocabulary import repeats

#: heading, unit, and the variable of ``distances`` behind each column
_COLUMNS = (
    ("decay rate", "ln/step", "decay_rate"),
    ("half-life", "steps", "half_life"),
    ("mean distance", "steps", "mean_distance"),
    ("95 % range", "steps", "effective_range"),
)


def summary(ds: xr.Dataset) -> Summary:
    """Table and notes of a dataset that ``depprobe.jacobian`` gave."""
    found = distances(ds)
    rows = _records(ds, found, decay_curve(ds))
    headings = _headings(rows)
    columns = [_cells(row, _have_far_ends(rows)) for row in rows]
    if any(row["unknown"] for row in rows):
        headings.append("norms not known")
        columns = [[*column, in_words(row) or "0"] for column, row in zip(columns, rows, strict=True)]
    return Summary(_title(ds), headings, columns, rows, _notes(ds, found))


def _records(ds: xr.Dataset, found: xr.Dataset, curve: xr.Dataset) -> list[dict[str, Any]]:
    """One row a layer and depth: norms at the smallest and largest lag, and distances with their errors."""
    # squares of estimates have the right mean, their medians are too low
    pooled = "log_rms" if "log_norm_stderr" in ds else "log_median"
    rows = []
    for here, line, by_lag in zip(*map(each_curve, (ds, found, curve)), strict=True):
        known = np.flatnonzero(np.asarray(by_lag["count"].values) > 0)
        lags, norms = by_lag["lag"].values[known], by_lag[pooled].values[known]
        near, far = int(np.abs(lags).argmin()), len(lags) - 1
        row: dict[str, Any] = {
            "layer": _label(here),
            "method": str(
                here["method"].item() if "method" in here.coords else here.attrs.get("method", "?")
            ),
            "near_lag": int(lags[near]),
            "log_norm_near": float(norms[near]),
            "far_lag": int(lags[far]),
            "log_norm_far": float(norms[far]),
            "best_form": str(line["best_form"].item()),
            **{name: int(line[name].item()) for name in ("unknown", *UNKNOWN)},
        }
        for _, _, name in _COLUMNS:
            row[name] = float(line[name].item())
            row[f"{name}_stderr"] = float(line[f"{name}_stderr"].item())
        # the largest over targets, samples and seeds: no mean, so no standard error
        row["receptive_field"] = float(line["receptive_field"].item())
        rows.append(row)
    return rows


def _label(ds: xr.Dataset) -> str:
    """The layer of a part of a dataset, and the submodule at its depth."""
    layer = str(ds["layer"].item() if "layer" in ds.coords else ds.attrs.get("layer", "?"))
    return f"{layer} {ds['submodule'].item()}" if "submodule" in ds.coords else layer


def _have_far_ends(rows: list[dict[str, Any]]) -> bool:
    """Whether some curve has a second end; the norm of a single lag is printed once."""
    return any(row["far_lag"] != row["near_lag"] for row in rows)


def _cells(row: dict[str, Any], far: bool) -> list[str]:
    """The printed cells of a summary row, in the order of the headings."""
    return [
        row["layer"],
        row["method"],
        power_of_ten(row["log_norm_near"]),
        *([power_of_ten(row["log_norm_far"])] if far else []),
        row["best_form"],
        *(with_error(row[name], row[f"{name}_stderr"]) for _, _, name in _COLUMNS),
        "-" if math.isnan(row["receptive_field"]) else f"{row['receptive_field']:.0f}",
    ]


def _headings(rows: list[dict[str, Any]]) -> list[str]:
    """Column headings; the lags at which norms stand are named where all rows share them."""

    def at(which: str, words: str) -> str:
        lags = {row[f"{which}_lag"] for row in rows}
        return f"norm at lag {lags.pop()}" if len(lags) == 1 else f"norm at {words} lag"

    ends = [at("near", "nearest"), *([at("far", "farthest")] if _have_far_ends(rows) else [])]
    distances_ = [f"{heading} ({unit})" for heading, unit, _ in _COLUMNS]
    return ["layer", "method", *ends, "form", *distances_, "receptive field (steps)"]


def _title(ds: xr.Dataset) -> str:
    """One line that says what was measured."""
    facts = {"norm": "Frobenius norm" if ds.attrs.get("norm") == "fro" else "spectral norm"}
    targets = ds.sizes.get("target", 1)
    at = f"t = {ds['target'].values[0]}" if targets == 1 else f"{targets} targets"
    return (
        f"dh_t/d{ds.attrs.get('wrt', 'x')}_k: n = {ds.attrs.get('n')}, d = {ds.attrs.get('d')}, {at}, "
        f"{repeats(ds)}, {ds.attrs.get('dtype')}, {facts['norm']}"
    )


def _notes(ds: xr.Dataset, found: xr.Dataset) -> list[str]:
    """What a reader must know to take the numbers as they are meant."""
    lines = []
    if "log_norm_error" in ds and float(ds["log_norm_error"].max()) > 0:
        changed = f"{float(ds['log_norm_error'].max()):.1e} (relative)"
        single = " and single precision" if ds.attrs.get("dtype") == "float64" else ""
        if "estimate" in np.atleast_1d(ds.get("kind", ds["log_norm_error"].attrs.get("kind", "bound"))):
            lines.append(f"compression and rounding are estimated to have changed norms by up to {changed}")
        else:
            lines.append(f"compression{single} changed no norm by more than {changed}")
    if "log_norm_stderr" in ds:
        lines.append(_probed(ds))
    if "log_floor" in ds.attrs:
        floor = power_of_ten(ds.attrs["log_floor"])
        lines.append(f"norms below {floor} that are not proved zero count as not known")
    lines.append(
        f"form chosen by BIC on ln rms; standard errors by resampling {found.attrs.get('resampled')}; "
        f"shares are norm^{found.attrs.get('share_power')}"
    )
    return lines


def _probed(ds: xr.Dataset) -> str:
    """How many random probes estimated the norms, and how well."""
    probes = np.unique(ds["probes"].values if "probes" in ds.coords else ds.attrs["probes"])
    low, rank, high = ds["effective_rank"].quantile([0.05, 0.5, 0.95]).values
    return (
        f"norms are estimates from orthonormal random probes, {' or '.join(map(str, probes[probes > 0]))} a "
        f"target: standard error of a norm up to {float(ds['log_norm_stderr'].max()):.1e} (relative), "
        f"effective rank of the blocks {rank:.1f} (5 to 95 %: {low:.1f} to {high:.1f})"
    )
