"""The summary of costs: a column a layer and width at the longest sequence; exponents and crossovers."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from depprobe.cli.output import Summary, with_error
from depprobe.curves.scaling import APART, SLOWER, disturbed, grow_tellably
from depprobe.units import readable, scaled, seconds

_HEADINGS = [
    *("layer", "FLOPs", "time", "peak memory"),
    *("sequential steps", "path length", "parallelism", "per-token latency"),
]
_QUANTITIES = ("time", "peak_bytes", "flops")
_NAMES = {"time": "time", "peak_bytes": "memory", "flops": "FLOPs"}
#: what costs grow with
_SIZES = ("n", "d")
#: numbers of a record as they stand in the dataset
_NUMBERS = (
    *("flops", "flops_formula", "time", "time_low", "time_high", "peak_bytes"),
    *("kept_bytes", "parameter_bytes", "process_bytes", "sequential_steps", "path_length", "parallelism"),
    *("pairs", "step_time", "step_time_low", "step_time_high", "state_bytes"),
)
#: a count and a formula further apart than this disagree
_GAP = 0.0005
#: more columns than this are printed as rows
_ABREAST = 4


def summary(ds: xr.Dataset) -> Summary:
    """Table and notes of a dataset that ``depprobe.cost`` gave."""
    if _timed(ds):
        ds = ds.assign(disturbed=disturbed(ds))
    rows = [row for case in _cases(ds) for row in _records(case, ds)]
    several = {name: ds.sizes.get(name, 1) > 1 for name in ("n", "d", "phase")}
    columns = [_cells(row, several) for row in rows]
    grown = [f"{_NAMES[q]} ~ {size}^" for size in _SIZES if several[size] for q in _QUANTITIES]
    return Summary(
        _title(ds), [*_HEADINGS, *grown], columns, rows, _notes(ds, rows), upright=len(rows) > _ABREAST
    )


def _cases(ds: xr.Dataset) -> list[xr.Dataset]:
    """One dataset over layer and n for each width and phase, timed with the most threads."""
    if "threads" in ds.dims:
        ds = ds.sel(threads=max(ds["threads"].values.tolist()))
    cases = [ds]
    for dim in ("d", "phase"):
        if dim in ds.dims:
            cases = [one.isel({dim: i}) for one in cases for i in range(one.sizes[dim])]
    return cases


def _timed(ds: xr.Dataset) -> bool:
    return {"time", "time_low", "time_high"} <= set(ds)


def _records(case: xr.Dataset, ds: xr.Dataset) -> list[dict[str, Any]]:
    exponents: xr.Dataset | None = None
    fitted = {"n": case, "d": ds}
    if case.sizes["n"] > 1:
        from depprobe.curves import scaling

        # slopes in d need all widths; those in n are of the width of the case
        exponents = scaling(case.drop_vars("d", errors="ignore"))
        if ds.sizes.get("d", 1) > 1:
            whole = ds.sel(phase=case["phase"].item()) if "phase" in ds.dims else ds
            most = {"threads": whole["threads"].max()} if "threads" in whole.dims else {}
            fitted["d"] = whole.sel(most)
            of_d = scaling(fitted["d"])[["scaling_d", "scaling_d_stderr"]]
            exponents = exponents.assign(of_d.drop_vars("phase", errors="ignore"))
    longest = case.sel(n=case["n"].max())
    records = []
    for layer in case["layer"].values:
        one = longest.sel(layer=layer)
        row: dict[str, Any] = {"layer": str(layer)}
        for name, kind in (("n", int), ("d", int), ("phase", str), ("threads", int)):
            row[name] = kind(one[name].item()) if name in one.coords else None
        row |= {name: float(one[name]) if name in one else math.nan for name in _NUMBERS}
        told = {
            size: exponents is not None and grow_tellably(fitted[size].sel(layer=layer)) for size in _SIZES
        }
        for size, quantity, end in product(_SIZES, _QUANTITIES, ("", "_stderr")):
            name = f"scaling_{size}{end}"
            row[f"{name}_{quantity}"] = (
                math.nan
                if exponents is None
                or quantity not in exponents["quantity"]
                or (quantity == "time" and not told[size])
                else exponents[name].sel(quantity=quantity, layer=layer).item()
            )
        records.append(row)
    return records


def _cells(row: dict[str, Any], several: dict[str, bool]) -> list[str]:
    name = row["layer"] + (f" d={row['d']}" if several["d"] else "")
    # the two passes of a layer stand in columns of their own
    name += f" {row['phase']}" if several["phase"] else ""
    gap = _gap(row)
    flops = scaled(row["flops"])
    return [
        name,
        f"{flops} ({gap:+.1%} of formula)" if abs(gap) > _GAP else flops,
        _time(row, "time"),
        readable(row["peak_bytes"]),
        _number(row["sequential_steps"]),
        _number(row["path_length"]),
        _number(row["parallelism"]),
        _time(row, "step_time"),
        *(
            with_error(row[f"scaling_{size}_{q}"], row[f"scaling_{size}_stderr_{q}"])
            for size in _SIZES
            if several[size]
            for q in _QUANTITIES
        ),
    ]


def _gap(row: dict[str, Any]) -> float:
    """Share by which the count exceeds the formula; 0 where there is none."""
    formula = row["flops_formula"]
    return 0.0 if math.isnan(formula) or math.isnan(row["flops"]) else row["flops"] / formula - 1


def _time(row: dict[str, Any], name: str) -> str:
    return seconds(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}" if value == round(value) else f"{value:.4g}"


def _title(ds: xr.Dataset) -> str:
    said = [f"n = {int(ds['n'].max())}"]
    if "d" in ds.coords:
        said.append(f"d = {', '.join(str(d) for d in np.atleast_1d(ds['d'].values))}")
    if "phase" in ds.dims and ds.sizes["phase"] == 1:
        said.append(str(ds["phase"].item()))
    if "threads" in ds.coords:
        most = int(ds["threads"].max())
        said.append(f"{most} thread{'s' * (most > 1)}")
    said.append(str(ds.attrs.get("dtype", "")))
    return f"Cost of {ds.attrs.get('layer', 'layers')}: {', '.join(filter(None, said))}, batch 1"


def _notes(ds: xr.Dataset, rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "times with quartiles; memory is the most bytes of tensors alive at once, parameters and input apart"
    ]
    if ds.sizes["n"] > 1:
        lengths = ds["n"].values
        lines[0] += f"; exponents over n = {lengths.min()} to {lengths.max()}"
        lines[0] += ", no errors from two" * (len(lengths) == 2)
        lines += _crossings(ds)
    else:
        lines[0] += "; one n only: no exponents, no crossovers"
    if any(abs(_gap(row)) > _GAP for row in rows):
        lines.append("FLOPs counted exceed the formula where masks and tiles make products that are not used")
    lines += disturbances(ds)
    if ds.attrs.get("no_stream"):
        lines.append(f"no stream: {ds.attrs['no_stream']}")
    return lines


def disturbances(ds: xr.Dataset) -> list[str]:
    """One line that names the disturbed times of a dataset of costs; none where there are none."""
    parts: dict[str, xr.DataArray] = {}
    if _timed(ds):
        found = disturbed(ds)
        counts = ds["threads"].values.tolist() if "threads" in found.dims else []
        parts = {f"{k} thread{'s' * (k > 1)}": found.sel(threads=k) for k in counts} or {"passes": found}
    if {"step_time_low", "step_time_high"} <= set(ds):
        parts["per-token latency"] = ds["step_time_high"] > APART * ds["step_time_low"]
    said = []
    for what, found in parts.items():
        at = found.any([dim for dim in found.dims if dim not in ("layer", "n")])
        where = {
            str(layer): ", ".join(str(n) for n in at["n"].values[at.sel(layer=layer).values])
            for layer in at["layer"].values
        }
        named = [f"{layer} n = {lengths}" for layer, lengths in where.items() if lengths]
        said += [f"{what}: {'; '.join(named)}"] if named else []
    if not said:
        return []
    return [
        f"disturbed times ({' | '.join(said)}): quartiles more than {APART:g} times apart, or more than "
        f"{SLOWER:g} times as long as at one thread; they give no exponents and no crossovers: measure again "
        "while the machine does nothing else"
    ]


def _crossings(ds: xr.Dataset) -> list[str]:
    """Where attention becomes dearer than each other layer, a line for each quantity."""
    from depprobe.curves import crossovers

    names = [str(name) for name in ds["layer"].values]
    attention = next((name for name in names if name.split(":")[0] == "attention"), None)
    if attention is None or len(names) < 2:
        return []
    case = _cases(ds)[0]
    if _timed(case):
        case = case.assign(time=case["time"].where(~case["disturbed"].any("n")))
    found = crossovers(case.drop_vars("d", errors="ignore")).sel(layer=attention)
    where = [f"{case['phase'].item()}"] if "phase" in case.coords else []
    where += [f"d = {case['d'].item()}"] if "d" in case.coords else []
    lines = []
    for quantity in [q for q in _QUANTITIES if q in found["quantity"]]:
        others: dict[str, list[str]] = {}
        for other in (name for name in names if name != attention):
            one = found.sel(quantity=quantity, other=other)
            at = _crossing(*(float(one[f"crossover{end}"]) for end in ("", "_low", "_high")))
            others.setdefault(at, []).append(other)
        said = [f"{', '.join(group)} {at}" for at, group in others.items()]
        conditions = f" ({', '.join(where)})" if where else ""
        lines.append(f"{attention} costs more {_NAMES[quantity]}{conditions} than {'; '.join(said)}")
    return lines


def _crossing(at: float, low: float, high: float) -> str:
    if math.isnan(at):
        return "unknown"
    if (low, high) == (0, math.inf):
        return "cannot be told from these times"
    words = "always" if at == 0 else "not up to the longest n" if math.isinf(at) else f"from n = {at:.0f}"
    certain = math.isnan(low) or (at in (0, math.inf) and low == high)
    if certain:
        return words
    return f"{words} (95 %: {_end(low)} to {_end(high)})"


def _end(value: float) -> str:
    if value == 0:
        return "below the shortest"
    return "beyond the longest" if math.isinf(value) else f"{value:.0f}"
