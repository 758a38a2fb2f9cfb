"""A grid of trained cells as one dataset: layers, tasks, lags, seeds, clipping and optimizers.

Every layer is trained by Adam without clipping; those named by ``clipped`` also clipped to norm 1, and by
gradient descent, free and clipped, at the lags ``clipped_lags``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from depprobe._version import __version__
from depprobe.ledger.training.trained_cell import SNAPSHOTS, Cell, trained
from depprobe.runs.labelling import provenance
from depprobe.vocabulary import SCHEMA_VERSION, describe

#: called with (cells done, cells in all, what is under way)
Progress = Callable[[float, int, str], None]

#: the loss, over that of chance, below which a lag counts as learned; who reads the near mark alone gets 0.5
THRESHOLD = 0.25
#: norm to which gradients are clipped
CLIP = 1.0
DIMS = ("layer", "task", "task_lag", "seed", "clip", "optimizer")


@dataclass(frozen=True)
class Plan:
    """What is trained; ``seeds`` draws of the weights from ``seed`` on, ``steps`` at most of ``batch``."""

    layers: tuple[str, ...]
    clipped: tuple[str, ...]
    lags: tuple[int, ...]
    clipped_lags: tuple[int, ...]
    tasks: tuple[str, ...] = ("copy",)
    seeds: int = 2
    batch: int = 16
    steps: int = 120
    seed: int = 0

    def cells(self) -> list[Cell]:
        """Every cell, seed by seed."""
        found = []
        for seed in range(self.seed, self.seed + self.seeds):
            for task in self.tasks:
                for lag in self.lags:
                    settings = {"batch": self.batch, "steps": self.steps}
                    for layer in self.layers:
                        found.append(Cell(layer, task, lag, seed, math.inf, "adam", **settings))
                    for layer in self.clipped if lag in self.clipped_lags else ():
                        for clip, optimizer in ((CLIP, "adam"), (math.inf, "sgd"), (CLIP, "sgd")):
                            found.append(Cell(layer, task, lag, seed, clip, optimizer, **settings))
        return found


def grid(
    plan: Plan, command: str, folder: Path | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Train every cell of a plan.

    Parameters
    ----------
    plan : what to train.
    command : what to record as the command.
    folder : where finished cells are kept, and taken up from; None keeps none.
    progress : called with (cells done, cells in all, what is under way).

    Returns
    -------
    Dataset over ``DIMS`` of what ``training.cell.train`` gives, with ``learned`` (1 where the loss fell below
    ``THRESHOLD`` of chance) and ``log_norm_needed`` (ln rms norm at the task's lag before training). NaN
    where a combination is not trained.
    """
    coords: dict[str, list] = {
        "layer": list(plan.layers),
        "task": list(plan.tasks),
        "task_lag": list(plan.lags),
        "seed": list(range(plan.seed, plan.seed + plan.seeds)),
        "clip": [math.inf, CLIP],
        "optimizer": ["adam", "sgd"],
        "snapshot": list(SNAPSHOTS),
        "lag": list(range(max(plan.lags) + 1)),
    }
    wanted = plan.cells()
    columns: dict[str, np.ndarray] = {}
    for done, cell in enumerate(wanted):
        if progress:
            progress(done, len(wanted), f"{cell.layer}, {cell.task}, lag {cell.task_lag}")
        at: tuple[Any, ...] = (*(coords[dim].index(getattr(cell, dim)) for dim in DIMS), ...)
        for name, variable in trained(cell, folder).data_vars.items():
            over = (*DIMS, *variable.dims)
            shape = [len(coords[str(dim)]) for dim in over]
            whole = columns.setdefault(str(name), np.full(shape, np.nan))
            here = whole[at]
            here[tuple(slice(size) for size in variable.shape)] = variable.values
    ds = xr.Dataset(coords={dim: (dim, values, describe(dim)) for dim, values in coords.items()})
    for name, values in columns.items():
        ds[name] = ((*DIMS, "snapshot", "lag")[: values.ndim], values, describe(name))
    loss = ds["relative_loss"]
    ds["learned"] = (loss < THRESHOLD).astype(float).where(loss.notnull())
    before = columns["log_rms"][..., 0, :]
    needed = [before[:, :, i, ..., lag] for i, lag in enumerate(plan.lags)]
    ds["log_norm_needed"] = (DIMS, np.stack(needed, DIMS.index("task_lag")))
    for name in ("learned", "log_norm_needed"):
        ds[name].attrs = describe(name)
    # what decides comes first where the dataset is printed
    ds = ds[[*(name for name in ds.data_vars if name != "log_rms"), "log_rms"]]
    ds.attrs = {
        "title": "Training on lags, and the gradient curve at initialisation",
        "layer": ", ".join(plan.layers),
        "n": max(plan.lags) + 1,
        "d": wanted[0].d,
        "seed": plan.seed,
        "dtype": "float32",
        "threshold": THRESHOLD,
        "batch": plan.batch,
        "steps_allowed": plan.steps,
        "depprobe_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(command, inputs="fresh sequences of the tasks"),
    }
    return ds
