r"""Which layer should one take for a length and a dependency?

Claims C12 and C13: attention below 500 positions; up to 5000 convolution for local dependencies and sparse
attention for global ones; recurrence beyond, and for streams.
Measured: costs of the named layers on this machine, fitted and continued to other lengths, and the gradient
that arrives from a lag, in as many layers as reach it; a layer is usable where that is above float32's
epsilon of the largest in its row. Each cell takes the cheapest usable layer.

Answer: the lag decides more than the length. A default recurrence lets the gradient arrive from at most 33
positions (mean of the plain one 19, of the gated ones 30 and 31), so beyond n = 5000 the tree's layer serves
local dependencies only, streamed or not: of 8 cells it is usable in 7, and not at n = 32,768 and lag 1024.

Numbers: quick version, d = 64, one thread; gradients at width 32, 3 seeds, standard errors of the means 0.6
to 1 positions. Which layer is cheapest differs from machine to machine.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from _study import main, report
from matplotlib.figure import Figure

from depprobe import decision_map
from depprobe.advice.arriving_gradient import SHORTER, arrivals
from depprobe.advice.machine_costs import DEFAULT_GRID, kept_in
from depprobe.advice.ranking import DROWNED
from depprobe.figures import decision
from depprobe.ledger.choosing import representative_cells as choosing
from depprobe.ledger.choosing.article_rules import FAMILIES, beside_map

#: width, lengths, lags
QUICK = (64, (128, 2048, 32768), (1, 16, 1024))
FULL = (256, (64, 256, 1024, 4096, 16384, 65536), (1, 4, 16, 64, 256, 1024, 4096, 16384))
USES = ("training step", "one more token")


def compute(quick: bool) -> xr.Dataset:
    """Maps over (use, lag, n), and how far back each recurrence lets the gradient through (layer, seed)."""
    d, lengths, lags = QUICK if quick else FULL
    # another process beside makes passes of two threads many times as slow, of one hardly
    grid = replace(choosing.QUICK, seconds=0.005) if quick else replace(DEFAULT_GRID, threads=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maps = [
            beside_map(
                decision_map(
                    d, stream=bool(use), lengths=lengths, lags=lags, folder=folder, grid=grid,
                    progress=partial(_report, use),
                )
            )
            for use in range(2)
        ]  # fmt: skip
        rows = {spec: arrivals(spec, 1, SHORTER[-1], kept_in(folder)) for spec in FAMILIES["recurrence"]}
    ds = xr.concat([m[["best", "tree_factor"]] for m in maps], dim="use", combine_attrs="drop")
    ds = ds.assign_coords(use=list(USES), layer=list(rows))
    reach = [[int(np.flatnonzero(row > DROWNED).max()) for row in logs] for logs in rows.values()]
    about = {"long_name": "largest lag from which the gradient arrives", "units": "positions"}
    ds["horizon"] = (("layer", "seed"), reach, about)
    ds.attrs = {
        **maps[0].attrs,
        "title": f"The layer to take at d = {d}",
        "mode": "quick" if quick else "full",
    }
    ds.attrs["maps"] = json.dumps([{key: m.attrs[key] for key in ("layers", "d", "stream")} for m in maps])
    return ds


def _report(use: int, done: float, total: float, label: str) -> None:
    report(use + done / total, len(USES), f"{USES[use]}: {label}")


def plot(ds: xr.Dataset) -> Figure:
    """One panel for each use."""
    about = json.loads(ds.attrs["maps"])
    return decision(*(ds.isel(use=use).assign_attrs(about[use]) for use in range(len(USES)))).figure


def summary(ds: xr.Dataset) -> dict[str, float]:
    """What no clock bears on: where the layer of the tree is usable, and how far back recurrences see."""
    numbers = {
        f"horizon of {layer}": float(ds["horizon"].sel(layer=layer).mean()) for layer in ds["layer"].values
    }
    for use in USES:
        factor = ds["tree_factor"].sel(use=use).values
        numbers[f"cells, {use}"] = float((~np.isnan(factor)).sum())
        numbers[f"cells in which the gradient arrives through the tree's layer, {use}"] = float(
            np.isfinite(factor).sum()
        )
    return numbers


def checks(ds: xr.Dataset) -> list[str]:
    """Nothing is cheaper than the cheapest, and some layer is usable everywhere."""
    faults = []
    factor = ds["tree_factor"].values
    if (factor[~np.isnan(factor)] < 1).any():
        faults.append("the tree's layer is cheaper than the cheapest")
    if (ds["best"] == -1).any():
        faults.append("no layer is usable in some cell")
    return faults


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=checks, tolerance=0.05)
