"""The summary of a dataset of gates: true norm and product at the largest lag, gates, time constants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from depprobe.cli.output import LN10, Summary, power_of_ten, said
from depprobe.curves.names import repeats

#: what ``wrt`` says, in words
_FOLLOWS = {"cell": ", h_k following c_k", "c": ", h_k held", "h": ""}


def summary(ds: xr.Dataset) -> Summary:
    """Table and notes of a dataset that ``depprobe.gates`` gave."""
    state, keeper = ("cc", "f") if "log_norm_cc" in ds else ("hh", "z")
    lag = int(ds["source"].values[-1]) - int(ds["source"].values[0])
    holding = [int(one) for one in ds["lag"].values]
    rows = []
    for index in range(ds.sizes.get("layer", 1)):
        here = ds.isel(layer=index) if "layer" in ds.dims else ds
        rows.append(
            _record(here, state, str(here["layer"].item() if "layer" in here.coords else ds.attrs["layer"]))
        )
    headings = ["layer", f"true {_fraction(state)} at lag {lag}"]
    headings += [f"true {_fraction('hc')} at lag {lag}"] if state == "cc" else []
    headings += [f"product of {keeper} at lag {lag}", "true over product (decades)", f"median {keeper}"]
    headings += ["median time constant (steps)", *(f"units holding over {one}" for one in holding)]
    columns = [
        [
            row["layer"],
            *(power_of_ten(row[name]) for name in row if name.startswith("log_norm")),
            f"{row['log_gap'] / LN10:+.1f}" if math.isfinite(row["log_gap"]) else "unknown",
            f"{row['median_gate']:.4f}",
            f"{row['median_time_constant']:.4g}",
            *(f"{100 * row[f'hold_share_{one}']:.0f} %" for one in holding),
        ]
        for row in rows
    ]
    return Summary(_title(ds), headings, columns, rows, _notes(ds, state))


def _fraction(state: str) -> str:
    return f"d{state[0]}_t/d{state[1]}_k"


def _record(ds: xr.Dataset, state: str, layer: str) -> dict[str, Any]:
    """Medians over samples and seeds; natural logs of norms at the largest lag."""
    names = [f"log_norm_{state}", *(["log_norm_hc"] if state == "cc" else []), "log_norm_product", "log_gap"]
    row: dict[str, Any] = {"layer": layer}
    row |= {name: float(np.median(ds[name].isel(source=0).values)) for name in names}
    row["median_gate"] = float(np.median(ds["gate_value"].sel(gate=str(ds.attrs["keeper"])).values))
    row["median_time_constant"] = float(np.median(ds["time_constant"].values))
    for lag in ds["lag"].values:
        row[f"hold_share_{lag}"] = float(ds["hold_share"].sel(lag=lag).mean())
    return row


def _title(ds: xr.Dataset) -> str:
    facts = ", ".join(f"{name} = {ds.attrs.get(name)}" for name in ("n", "d", "depth"))
    follows = _FOLLOWS.get(str(ds.attrs.get("wrt")), "")
    at = f"t = {ds['source'].values[-1]}, {repeats(ds)}, {said(ds, 'dtype')}"
    return f"gates: {facts}, {at}, Frobenius norm{follows}"


def _notes(ds: xr.Dataset, state: str) -> list[str]:
    """What a reader must know to take the numbers as they are meant."""
    lines = []
    bounds = [str(name) for name in ds.data_vars if str(name).endswith("_error")]
    worst = max((float(ds[name].max()) for name in bounds), default=0.0)
    if worst > 0:
        lines.append(f"compression and rounding changed no norm by more than {worst:.1e} (relative)")
    pooled = [f"{ds.sizes[dim]} {dim}s" for dim in ("seed", "sample") if dim in ds.dims]
    if pooled:
        lines.append(f"norms are medians over {' and '.join(pooled)}; shares are means")
    if bool(np.isnan(ds[f"log_norm_{state}"]).any()):
        lines.append("some zeros could not be told from an underflow; they count as unknown")
    lines.append("a unit's time constant is -1 / mean ln gate, over all positions")
    return lines
