"""Whether the layer that a rule names is the one to take: cost and gradient in representative cells.

    cell      length n, lag, a training step or per-token latency
    factor    predicted time of the family's best member over that of the cheapest layer of all

In both, only layers count through which the gradient arrives: reached within ``MOST_LAYERS``, and not below
float32's epsilon of the largest in its row. A rule holds in a cell where the factor is at most ``WITHIN``.
Source: the models of ``depprobe.advice``, fitted to this machine's times at one thread.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from depprobe.advice.arriving_gradient import SEEDS, SHORTER, WIDTH, arrival, arrivals
from depprobe.advice.machine_costs import Grid, fitted, kept_in
from depprobe.advice.ranking import DROWNED, candidates
from depprobe.advice.stack_depth import MOST_LAYERS, stack
from depprobe.ledger.choosing.article_rules import FAMILIES, is_of
from depprobe.ledger.claim import CONFIRMED, Finding, Measured, Progress, verdict
from depprobe.ledger.evidence import About, evidence, mean

#: a layer is as good as the cheapest where it takes at most so many times as long
WITHIN = 2.0
#: quick: what is measured, at one thread, since thread pools make times of small products jump
QUICK = Grid((64, 256, 1024), (64,), seconds=0.02, threads=1, sizes=False)
FULL = Grid((128, 512, 2048), (128, 512), seconds=0.2, threads=1, sizes=False)
#: what is found of each layer in each cell
NAMES = ("predicted_time", "predicted_error", "log_arrival", "layers_needed")


class Cell(NamedTuple):
    """One situation, and the rule that speaks of it."""

    rule: str
    n: int
    lag: int
    stream: bool = False

    def __str__(self) -> str:
        return f"{self.rule}; n = {self.n}, lag {self.lag}" + ", stream" * self.stream


def measured(
    claim: str, cells: Sequence[Cell], title: str, quick: bool, progress: Progress | None, seed: int
) -> xr.Dataset:
    """Predicted time and gradient of every layer in every cell, and how far back recurrences see.

    Parameters
    ----------
    claim, title : for the attributes.
    cells : the situations.
    quick, progress, seed : as ``Claim.measure`` takes them; the seed names the run, weights are seeds 0 to 2.
    """
    grid = QUICK if quick else FULL
    d = grid.widths[-1]
    streams = sorted({cell.stream for cell in cells})
    names = list(dict.fromkeys(spec for stream in streams for spec in candidates(d, stream)))
    shape = (len(cells), len(names))
    found = {name: np.full(shape, math.nan) for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        kept = kept_in(Path(folder))
        for part, stream in enumerate(streams):
            specs = candidates(d, stream)
            costs = fitted(specs, stream, kept, _part(progress, part, len(streams) + 1), grid)
            for row, cell in enumerate(cells):
                for spec in specs if cell.stream == stream else ():
                    wanted, at = stack(spec, cell.n, cell.lag, d), (row, names.index(spec))
                    found["layers_needed"][at] = wanted.levels
                    found["log_arrival"][at] = arrival(spec, cell.n, cell.lag, kept).log
                    if spec in costs.times:
                        time = costs.times[spec].at(spec, cell.n, d)
                        found["predicted_time"][at] = time * wanted.multiple
                        found["predicted_error"][at] = costs.times[spec].error
        if progress:
            progress(len(streams), len(streams) + 1, "how far back recurrences see")
        horizons = [_horizon(arrivals(spec, 1, SHORTER[-1], kept)) for spec in FAMILIES["recurrence"]]
    over = ("cell", "layer")
    variables: dict[str, Any] = {name: (over, values) for name, values in found.items()}
    variables |= {
        "cell_n": (("cell",), [cell.n for cell in cells], "sequence length", "positions"),
        "cell_lag": (("cell",), [cell.lag for cell in cells], "lag of the dependency", "positions"),
        "cell_stream": (("cell",), [int(cell.stream) for cell in cells], "1 for per-token latency", "1"),
        "horizon": (
            ("recurrence", "seed"),
            horizons,
            "largest lag from which the gradient arrives",
            "positions",
        ),
    }
    coords = {
        "cell": [str(cell) for cell in cells],
        "layer": names,
        "recurrence": list(FAMILIES["recurrence"]),
        "seed": list(range(SEEDS)),
    }
    about = About(claim, title, ", ".join(names), max(cell.n for cell in cells), d, quick, seed)
    return evidence(about, variables, coords, threads=1, arrival_width=WIDTH)


def _part(progress: Progress | None, part: int, of: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total, label: progress(part + done / total, of, label)


def _horizon(logs: np.ndarray) -> list[int]:
    """Largest lag at which each seed's gradient does not drown, from ln arrivals (seeds, lags)."""
    return [int(np.flatnonzero(row > DROWNED).max()) for row in logs]


def _times(ds: xr.Dataset) -> np.ndarray:
    """Predicted times, (cells, layers); inf where the gradient does not arrive."""
    arrives = (ds["log_arrival"] > DROWNED) & (ds["layers_needed"] <= MOST_LAYERS)
    times = ds["predicted_time"].where(arrives & ds["predicted_time"].notnull(), math.inf)
    return np.asarray(times.transpose("cell", "layer").values)


def factors(ds: xr.Dataset, family: str) -> np.ndarray:
    """Time of the family's best member over that of the cheapest layer, by cell; inf where none arrives."""
    times = _times(ds)
    own = times[:, [is_of(str(spec), family) for spec in ds["layer"].values]].min(1)
    return np.divide(own, times.min(1), out=np.full(len(own), math.inf), where=np.isfinite(own))


def cheapest(ds: xr.Dataset) -> list[str]:
    """The cheapest layer through which the gradient arrives, by cell; empty where there is none."""
    times = _times(ds)
    best = zip(times.argmin(1), np.isfinite(times).any(1), strict=True)
    return [str(ds["layer"].values[i]) if some else "" for i, some in best]


def finding(ds: xr.Dataset, rule: str, family: str) -> Finding:
    """The verdict on one rule: in every cell, in some, or in none is its layer as good as the cheapest."""
    chosen = np.flatnonzero([str(cell).startswith(f"{rule};") for cell in ds["cell"].values])
    here = ds.isel(cell=chosen)
    by_cell, best = factors(here, family), cheapest(here)
    holds = by_cell <= WITHIN
    reached = np.isfinite(by_cell)
    numbers = {
        "cells where its gradient arrives": Measured(float(reached.sum()), unit=f"of {len(reached)}"),
        f"within {WITHIN:g} of the cheapest": Measured(float(holds.sum()), unit=f"of {len(holds)}"),
    }
    numbers |= {
        _where(here, i): Measured(round(float(by_cell[i]), 2), unit=f"times {best[i]}")
        for i in range(len(by_cell))
        if reached[i]
    }
    said = verdict(int(holds.sum()), len(holds))
    return Finding(rule, said, numbers, "" if said == CONFIRMED else _note(here, by_cell, best))


def _note(ds: xr.Dataset, by_cell: np.ndarray, best: list[str]) -> str:
    parts: dict[str, list[str]] = {}
    for i, factor in enumerate(by_cell):
        if factor <= WITHIN:
            continue
        why = (
            "its gradient does not arrive"
            if math.isinf(factor)
            else f"it takes over {WITHIN:g} times as long"
        )
        parts.setdefault(f"{why}; cheapest is {best[i] or 'none'}", []).append(_where(ds, i))
    return "; ".join(f"at {' and '.join(where)} {why}" for why, where in parts.items())


def _where(ds: xr.Dataset, i: int) -> str:
    return str(ds["cell"].values[i]).partition("; ")[2]


def horizons(ds: xr.Dataset) -> Finding:
    """Whether a recurrence lets the gradient arrive from anywhere in the sequence it is named for."""
    far = {str(name): ds["horizon"].sel(recurrence=name).values for name in ds["recurrence"].values}
    longest = max(int(values.max()) for values in far.values())
    everywhere = longest >= SHORTER[-1] - 1
    return Finding(
        "the gradient reaches the far past through a recurrence",
        verdict(int(everywhere), 1),
        {f"{name} at initialisation": mean(values, "positions") for name, values in far.items()},
        f"from beyond lag {longest} it drowns in float32, at any n: a long sequence needs another layer",
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Attention reaches any lag in one layer; a gradient never exceeds the largest in its row."""
    faults = []
    if (ds["log_arrival"] > 0).any():
        faults.append("a gradient exceeds the largest of its row")
    plain = [i for i, spec in enumerate(ds["layer"].values) if str(spec).partition(":")[0] == "attention"]
    steps = ds["layers_needed"].values[:, plain]
    if (steps[~np.isnan(steps)] != 1).any():
        faults.append("attention does not reach every lag in one layer")
    return faults
