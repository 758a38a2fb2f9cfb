"""Trained cells by how much gradient arrived at the task's lag before training, free and clipped.

    vanished   norm < 1e-3        arriving   1e-3 to 1        exploding   norm > 1

The norm is the rms of ||J[t,k]|| at the lag the task needs; a cell is one training run.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from depprobe.ledger.training.grid import CLIP, DIMS

#: norm of J at the task's lag below which it counts as vanished
VANISHED = 1e-3
KINDS = ("vanished", "arriving", "exploding")


def kinds(norm: np.ndarray) -> dict[str, np.ndarray]:
    """Which ln norms have vanished (below VANISHED), arrive (up to 1) and explode (above 1).

    Examples
    --------
    >>> {kind: inside.tolist() for kind, inside in kinds(np.array([-50.0, 2.0])).items()}
    {'vanished': [True, False], 'arriving': [False, False], 'exploding': [False, True]}
    """
    vanished, exploding = norm < math.log(VANISHED), norm > 0
    return dict(zip(KINDS, (vanished, ~vanished & ~exploding, exploding), strict=True))


def pairs(ds: xr.Dataset) -> dict[str, np.ndarray]:
    """Runs that differ by clipping only, a row each.

    ``learned``, ``relative_loss`` and ``diverged`` are (rows, 2), free and clipped; ``clipped_share`` is that
    of the clipped run.
    """
    over = [dim for dim in DIMS if dim != "clip"]
    stacked = ds.drop_vars("log_rms").stack(cell=over, create_index=False).transpose("cell", ...)
    stacked = stacked.sel(clip=[math.inf, CLIP])
    stacked = stacked.isel(cell=np.flatnonzero(stacked["relative_loss"].notnull().all("clip")))
    names = ("layer", "optimizer", "task_lag", "learned", "relative_loss", "diverged")
    return {name: stacked[name].values for name in names} | {
        "log_norm_needed": stacked["log_norm_needed"].values[:, 0],
        "clipped_share": stacked["clipped_share"].values[:, 1],
    }


def clipping(ds: xr.Dataset) -> dict[str, float]:
    """Cells trained free and clipped: how many, and how many of them learned, by optimizer and kind."""
    row = pairs(ds)
    found: dict[str, float] = {}
    for optimizer in ds["optimizer"].values:
        for kind, inside in kinds(row["log_norm_needed"]).items():
            here = inside & (row["optimizer"] == optimizer)
            name = f"{optimizer}_{kind}"
            acted = row["clipped_share"][here]
            found[f"{name}_clipped_share"] = float(acted.mean()) if here.any() else math.nan
            found[f"{name}_cells"] = float(here.sum())
            for i, word in enumerate(("free", "clipped")):
                found[f"{name}_{word}_learned"] = float(row["learned"][here, i].sum())
    return found
