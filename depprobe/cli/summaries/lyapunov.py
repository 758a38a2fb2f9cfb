"""The summary of Lyapunov exponents: the leading ones with standard errors, sums, dimension, entropy rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.cli.output import Summary, said, with_error
from depprobe.curves.names import repeats
from depprobe.units import counted

#: how many exponents the table names
_SHOWN = 3


def summary(ds: xr.Dataset) -> Summary:
    """Table and notes of a dataset that ``depprobe.lyapunov`` gave."""
    rows = [_record(here) for here in _by_layer(ds)]
    count = min(_SHOWN, ds.sizes["mode"])
    headings = ["layer", "state"]
    headings += [f"exponent {i} (nats/step)" for i in range(1, count + 1)]
    headings += [f"exponent {ds.sizes['mode']} (nats/step)"] if ds.sizes["mode"] > count else []
    optional = {"exponent_sum": "sum of all (nats/step)", "log_det": "mean ln |det J| (nats/step)"}
    columns = []
    for row in rows:
        named = [*range(1, count + 1), *([ds.sizes["mode"]] if ds.sizes["mode"] > count else [])]
        cells = [row["layer"], str(row["state"])]
        cells += [_exponent(row[f"exponent_{i}"], row[f"exponent_{i}_stderr"]) for i in named]
        cells += [_exponent(row[name], math.nan) for name in optional if name in ds]
        columns.append([*cells, *(_known(row[name]) for name in ("kaplan_yorke", "entropy_rate"))])
    headings += [words for name, words in optional.items() if name in ds]
    headings += ["Kaplan-Yorke dimension", "entropy rate (nats/step)"]
    return Summary(_title(ds), headings, columns, rows, _notes(ds))


def _by_layer(ds: xr.Dataset) -> list[xr.Dataset]:
    return [ds.isel(layer=i) for i in range(ds.sizes["layer"])] if "layer" in ds.dims else [ds]


def _record(ds: xr.Dataset) -> dict[str, Any]:
    label = ds["layer"].item() if "layer" in ds.coords else ds.attrs.get("layer", "?")
    row: dict[str, Any] = {"layer": str(label), "state": int(ds["state"])}
    row |= {"interval": float(ds["interval"])}
    for i, (value, error) in enumerate(zip(ds["exponent"].values, ds["exponent_stderr"].values, strict=True)):
        row |= {f"exponent_{i + 1}": float(value), f"exponent_{i + 1}_stderr": float(error)}
    for name in ("exponent_sum", "log_det", "kaplan_yorke", "entropy_rate"):
        if name in ds:
            row[name] = float(ds[name])
    return row


def _exponent(value: float, error: float) -> str:
    return "unknown" if math.isnan(value) else with_error(value, error)


def _known(value: float) -> str:
    return "needs more exponents" if math.isnan(value) else f"{value:.4g}"


def _title(ds: xr.Dataset) -> str:
    """One line that says what was measured."""
    driven = "autonomous" if ds.attrs.get("drive") == "none" else "driven by the input"
    return (
        f"Lyapunov exponents: n = {ds.attrs.get('n')} of which {ds.attrs.get('warmup')} warm-up, "
        f"d = {said(ds, 'd')}, {repeats(ds)}, {said(ds, 'dtype')}, {driven}"
    )


def _notes(ds: xr.Dataset) -> list[str]:
    """What a reader must know to take the numbers as they are meant."""
    values = ds["exponent"].values
    source = ds.attrs.get("stderr_from")
    lines = [
        f"standard errors from {source}" if source else "no standard errors: fewer than 20 steps to average"
    ]
    every = f"{float(ds['interval'].mean()):.3g}"
    lines[0] += "; orthonormalised every step" if every == "1" else f"; orthonormalised every {every} steps"
    if (hidden := ds.sizes["mode"] - 1) > _SHOWN:
        which = f"exponent {hidden} is" if hidden == _SHOWN + 1 else f"exponents {_SHOWN + 1} to {hidden} are"
        lines.append(f"{which} in the dataset")
    if np.isneginf(values).any():
        lines.append(f"{_are(np.isneginf(values))} -inf: some step Jacobian is exactly singular")
    if np.isnan(values).any():
        lines.append(f"{_are(np.isnan(values))} unknown: below what round-off leaves")
    if "exponent_sum" in ds and "log_det" in ds:
        gap = np.abs(np.asarray(ds["exponent_sum"] - ds["log_det"], dtype=float))
        if np.isfinite(gap).all():
            lines.append(f"the sum of all exponents meets the mean ln |det J| to {float(gap.max()):.1e}")
    return lines


def _are(which: NDArray[np.bool_]) -> str:
    """How many exponents are meant, with their verb."""
    count = int(which.sum())
    return f"{counted(count, 'exponent')} {'is' if count == 1 else 'are'}"
