"""What ``depprobe advise`` says: the ranking, why the first is first, and what the article would take."""

from __future__ import annotations

import json
import math
from typing import Any

import xarray as xr

from depprobe.cli import output
from depprobe.cli.output import Summary
from depprobe.units import readable

#: ``group`` of layers that can be taken, and of those that do not fit
_USABLE, _UNFIT = 0, 2
#: a fit that misses by a larger factor tells nothing, and the factor may be no float
_MOST = 1000
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def records(ds: xr.Dataset) -> list[dict[str, Any]]:
    """The ranking for the JSON document, best first."""
    reasons = json.loads(str(ds.attrs["reasons"]))
    return [
        {"layer": label, "reason": reasons[label], **{str(name): float(ds[name][i]) for name in ds.data_vars}}
        for i, label in enumerate(map(str, ds["layer"].values))
    ]


def summary(ds: xr.Dataset) -> Summary:
    """Table of the ranking with a row for each layer; what to take, and what a reader must know."""
    rows = records(ds)
    time, size = ("per-token latency", "state") if ds.attrs["stream"] else ("training step", "activations")
    headings = ["layer", "place", time, size, "layers", "gradient", "reason"]
    cells = [_cells(place, row) for place, row in enumerate(rows, start=1)]
    notes = [*_verdict(ds, rows), "", *_notes(ds, rows)]
    return Summary(str(ds.attrs["title"]), headings, cells, rows, notes, upright=True)


def _cells(place: int, row: dict[str, Any]) -> list[str]:
    levels = row["layers_needed"]
    known = math.isfinite(row["log_arrival"])
    return [
        row["layer"],
        str(place) if row["group"] == _USABLE else "-",
        _seconds(row["predicted_time"], row["predicted_error"]) if row["group"] < _UNFIT else "-",
        readable(row["predicted_bytes"]),
        f"{levels:,.0f}" if math.isfinite(levels) else "-",
        output.power_of_ten(row["log_arrival"]) + "*" * int(row["extrapolated"]) if known else "-",
        row["reason"],
    ]


def _seconds(value: float, error: float) -> str:
    if not math.isfinite(value):
        return "-"
    scale, unit = next((s, u) for s, u in _UNITS if value >= s or u == "µs")
    factor = f"{float(f'{math.exp(error):.2g}'):g}" if error < math.log(_MOST) else f"> {_MOST}"
    return f"{float(f'{value / scale:.2g}'):g} {unit} ×/÷ {factor}"


def _verdict(ds: xr.Dataset, rows: list[dict[str, Any]]) -> list[str]:
    """What to take and why; what the tree and the rules of thumb would take, and what is said against it."""
    usable = [row for row in rows if row["group"] == _USABLE]
    lag = ds.attrs["lag"]
    fast = alike(ds)
    if usable:
        names = [usable[0]["layer"], *fast]
        why = f"the cheapest layer through which the gradient arrives from lag {lag}"
        if fast:
            why = f"their times are indistinguishable within noise; the gradient arrives from lag {lag}"
        slower = [row for row in usable if row["layer"] not in names]
        if slower:
            times = slower[0]["predicted_time"] / usable[0]["predicted_time"]
            why += f"; {slower[0]['layer']} takes {times:.2g} times as long" + f" as {names[0]}" * bool(fast)
        lines = [f"take     {_either(names)}: {why}"]
    else:
        lines = [f"take     none: {_against(rows[0])}, and so on down the table"]
    for name, key in (("tree", "tree"), ("rules", "rule_of_thumb")):
        family = str(ds.attrs[key])
        if not family:
            lines.append(f"{name:<9}the article's rules of thumb are silent here")
            continue
        said = "decision tree says" if key == "tree" else "rules of thumb say"
        line = f"{name:<9}the article's {said} {family}"
        lines.append(line + (": the same" if ds.attrs[f"{key}_agrees"] else _differs(family, rows, fast)))
    return lines


def alike(ds: xr.Dataset) -> list[str]:
    """Usable layers as fast as the first within noise."""
    return [name for name in str(ds.attrs["indistinguishable"]).split(";") if name]


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _differs(family: str, rows: list[dict[str, Any]], alike: list[str]) -> str:
    from depprobe.ledger.choosing.article_rules import is_of

    members = [(place, row) for place, row in enumerate(rows, start=1) if is_of(row["layer"], family)]
    if not members:
        return ", which is not among these layers"
    place, best = members[0]
    if best["group"] != _USABLE:
        return f", which differs: {_against(best)}"
    if best["layer"] in alike:
        return f": {best['layer']} is number {place}, and its time is indistinguishable from the first's"
    times = best["predicted_time"] / rows[0]["predicted_time"]
    return f", which differs: {best['layer']} is number {place} and takes {times:.2g} times as long"


def _against(row: dict[str, Any]) -> str:
    known = row["group"] == 1 and math.isfinite(row["log_arrival"])
    told = f" ({output.power_of_ten(row['log_arrival'])} of the largest)" if known else ""
    return f"{row['layer']}: {row['reason']}{told}"


def _notes(ds: xr.Dataset, rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "time and bytes: fitted to measurements of this machine (float32, batch 1); ×/÷ is the fit's error, "
        "the factor by which it misses a point that is left out; times within both are indistinguishable",
        f"gradient: norm at the lag over the largest in its row, in as many layers as reach it, untrained, "
        f"d = {ds.attrs['arrival_width']}; below 1.2e-7 it drowns in a float32 sum",
    ]
    if ds.attrs["disturbed"]:
        lines.append(
            f"disturbed: {ds.attrs['disturbed']}: several times as long with all processors as with one "
            "thread, whose time is taken; run again while the machine does nothing else"
        )
    if any(row["extrapolated"] for row in rows):
        longest, recurrence = (ds.attrs[name] for name in ("arrival_longest", "arrival_longest_recurrence"))
        lines.append(f"* continued from sequences of up to {longest} positions, of recurrences {recurrence}")
    return lines
