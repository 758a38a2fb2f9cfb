"""Whether the layer that a rule names is the one to take: cost and gradient in representative cells.

    cell      length n, lag, a training step or per-token latency
    factor    predicted time of the family's best member over that of the cheapest layer of all

In both, only layers count through which the gradient arrives: reached within ``MOST_LAYERS``, and not below
float32's epsilon of the largest in its row. A rule holds in a cell where the factor is at most ``WITHIN``,
and surely where it still is with the times of both layers off by the errors predicted.
Source: the models of ``depprobe.advice``, fitted to this machine's times at one thread.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from depprobe.advice.arriving_gradient import SEEDS, WIDTH, arrival, arrivals
from depprobe.advice.machine_costs import Grid, fitted, kept_in
from depprobe.advice.ranking import DROWNED, candidates
from depprobe.advice.stack_depth import MOST_LAYERS, stack
from depprobe.ledger.choosing.article_rules import is_of
from depprobe.ledger.claim import Measured, Rule
from depprobe.ledger.evidence import About, evidence, mean
from depprobe.ledger.progress import Progress
from depprobe.ledger.verdicts import timed, verdict

#: a layer is as good as the cheapest where it takes at most so many times as long
WITHIN = 2.0
#: quick: what is measured, at one thread, since thread pools make times of small products jump
QUICK = Grid((64, 256, 1024), (64,), seconds=0.02, threads=1, sizes=False)
FULL = Grid((128, 512, 2048), (128, 512), seconds=0.2, threads=1, sizes=False)
#: lag from which a gradient through a recurrence has come far
FAR = 2999
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
    about: About, cells: Sequence[Cell], progress: Progress | None, recurrences: Sequence[str] = ()
) -> xr.Dataset:
    """Predicted time and gradient of every layer in every cell, and how far back ``recurrences`` see.

    Weights are seeds 0 to 2, whatever the seed of the run.
    """
    grid = QUICK if about.quick else FULL
    d = grid.widths[-1]
    streams = sorted({cell.stream for cell in cells})
    names = list(dict.fromkeys(spec for stream in streams for spec in candidates(d, stream)))
    found = np.full((len(NAMES), len(cells), len(names)), math.nan)
    with tempfile.TemporaryDirectory() as folder:
        kept = kept_in(Path(folder))
        for part, stream in enumerate(streams):
            specs = candidates(d, stream)
            costs = fitted(specs, stream, kept, _part(progress, part, len(streams) + 1), grid)
            here = [(row, cell) for row, cell in enumerate(cells) if cell.stream == stream]
            for (row, cell), spec in product(here, specs):
                wanted, time, error = stack(spec, cell.n, cell.lag, d), math.nan, math.nan
                if spec in costs.times:
                    time = costs.times[spec].at(spec, cell.n, d) * wanted.multiple
                    error = costs.times[spec].error
                log = arrival(spec, cell.n, cell.lag, kept).log
                found[:, row, names.index(spec)] = time, error, log, wanted.levels
        if progress:
            progress(len(streams), len(streams) + 1, "how far back recurrences see")
        horizons = [_horizon(arrivals(spec, 1, FAR + 1, kept)) for spec in recurrences]
    variables: dict[str, Any] = {
        **{name: ("cell layer", values) for name, values in zip(NAMES, found, strict=True)},
        "cell_n": ("cell", [cell.n for cell in cells], "sequence length", "positions"),
        "cell_lag": ("cell", [cell.lag for cell in cells], "lag of the dependency", "positions"),
        "cell_stream": ("cell", [int(cell.stream) for cell in cells], "1 for per-token latency", "1"),
    }
    coords: dict[str, Any] = {"cell": map(str, cells), "layer": names}
    if recurrences:
        words = ("largest lag from which the gradient arrives", "positions")
        variables["horizon"] = ("recurrence seed", horizons, *words)
        coords |= {"recurrence": recurrences, "seed": range(SEEDS)}
    about = about._replace(layer=names, n=max(cell.n for cell in cells), d=d)
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


def factors(ds: xr.Dataset, family: str, errors: float = 0.0) -> np.ndarray:
    """Time of the family's best member over that of the cheapest layer, by cell; inf where none arrives.

    With ``errors`` the time of that member is off by so many of its errors, and every other one's by as many
    of its own the other way.
    """
    times = _times(ds)
    members = np.flatnonzero([is_of(str(spec), family) for spec in ds["layer"].values])
    own, row = members[times[:, members].argmin(1)], np.arange(len(times))
    off = np.zeros_like(times)
    if errors:  # beyond e^300 a time is as good as unknown
        known = ds["predicted_error"].transpose("cell", "layer").values
        off = np.clip(np.nan_to_num(errors * known), -300, 300)
    shifted, mine = times * np.exp(-off), times[row, own] * np.exp(off[row, own])
    shifted[row, own] = mine
    return np.divide(mine, shifted.min(1), out=np.full(len(own), math.inf), where=np.isfinite(mine))


def cheapest(ds: xr.Dataset) -> list[str]:
    """The cheapest layer through which the gradient arrives, by cell; empty where there is none."""
    times = _times(ds)
    best = zip(times.argmin(1), np.isfinite(times).any(1), strict=True)
    return [str(ds["layer"].values[i]) if some else "" for i, some in best]


def takes(rule: str, family: str) -> Rule:
    """The verdict on one rule: in every cell, in some, or in none is its layer as good as the cheapest."""

    def judge(ds: xr.Dataset) -> tuple:
        here = ds.isel(cell=np.flatnonzero([str(cell).startswith(f"{rule};") for cell in ds["cell"].values]))
        by_cell, best, of = factors(here, family), cheapest(here), here.sizes["cell"]
        surely, perhaps = (int((factors(here, family, sign) <= WITHIN).sum()) for sign in (1, -1))
        where = [str(cell).partition("; ")[2] for cell in here["cell"].values]
        numbers = {
            "cells where its gradient arrives": Measured(int(np.isfinite(by_cell).sum()), unit=f"of {of}"),
            f"within {WITHIN:g} of the cheapest": Measured(int((by_cell <= WITHIN).sum()), unit=f"of {of}"),
            "undecided within the errors of the times": Measured(perhaps - surely, unit=f"of {of}"),
        }
        numbers |= {
            where[i]: Measured(round(float(factor), 2), unit=f"times {best[i]}")
            for i, factor in enumerate(by_cell)
            if math.isfinite(factor)
        }
        reasons: dict[str, list[str]] = {}
        for i in np.flatnonzero(by_cell > WITHIN):
            dear = f"it takes over {WITHIN:g} times as long"
            why = "its gradient does not arrive" if math.isinf(by_cell[i]) else dear
            reasons.setdefault(f"{why}; cheapest is {best[i] or 'none'}", []).append(where[i])
        note = "; ".join(f"at {' and '.join(at)} {why}" for why, at in reasons.items())
        return timed([verdict(surely, of), verdict(perhaps, of)], numbers, note)

    return judge


def horizons(ds: xr.Dataset) -> tuple:
    """Whether the gradient arrives through recurrences from lag ``FAR``, in the median of the draws."""
    far = {str(name): ds["horizon"].sel(recurrence=name).values for name in ds["recurrence"].values}
    through = [name for name, lags in far.items() if np.median(lags) >= FAR]
    longest = max((int(lags.max()) for name, lags in far.items() if name not in through), default=0)
    return (
        verdict(len(through), len(far)),
        {name: mean(lags, "positions") for name, lags in far.items()},
        f"through {' and '.join(through) or 'none'} it arrives from lag {FAR}; through the others it "
        f"drowns in float32 from beyond lag {longest}, at any n",
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
