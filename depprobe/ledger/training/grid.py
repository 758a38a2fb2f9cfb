"""A grid of trained cells as one dataset: layers, tasks, lags, seeds, clipping and optimizers.

Every layer is trained by Adam without clipping; those named by ``clipped`` also clipped to norm 1, and by
gradient descent, free and clipped, at the lags ``clipped_lags``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from depprobe._version import __version__
from depprobe.ledger.progress import Progress, tracked
from depprobe.ledger.training.trained_cell import SNAPSHOTS, Cell, trained
from depprobe.runs.labelling import provenance
from depprobe.vocabulary import SCHEMA_VERSION, describe

#: the loss, over that of chance, below which a lag counts as learned; who reads the near mark alone gets 0.5
THRESHOLD = 0.25
#: norm to which gradients are clipped
CLIP = 1.0
DIMS = ("layer", "task", "task_lag", "seed", "clip", "optimizer")


@dataclass(frozen=True)
class Plan:
    """What is trained; ``seeds`` draws of the weights from ``seed`` on, ``steps`` at most of ``batch``.

    Every cell is trained at each of ``rates``, multiples of its learning rate, and the one that ends with the
    least training loss is kept: what is compared then is tuned on both sides.
    """

    layers: tuple[str, ...]
    clipped: tuple[str, ...]
    lags: tuple[int, ...]
    clipped_lags: tuple[int, ...]
    tasks: tuple[str, ...] = ("copy",)
    seeds: int = 2
    batch: int = 16
    steps: int = 120
    seed: int = 0
    rates: tuple[float, ...] = (1.0,)

    def cells(self) -> list[Cell]:
        """Every cell, seed by seed."""
        seeds = range(self.seed, self.seed + self.seeds)
        arms = [(math.inf, "adam"), (CLIP, "adam"), (math.inf, "sgd"), (CLIP, "sgd")]
        return [
            Cell(layer, task, lag, seed, *arm, batch=self.batch, steps=self.steps)
            for seed, task, lag, layer, arm in product(seeds, self.tasks, self.lags, self.layers, arms)
            if arm == arms[0] or (layer in self.clipped and lag in self.clipped_lags)
        ]

    def trained(self, cell: Cell, folder: Path | None) -> xr.Dataset:
        """A cell at the best of ``rates``."""
        at = [trained(replace(cell, rate=rate * cell.rate), folder) for rate in self.rates]
        return min(at, key=lambda ds: float(ds["training_loss"]))


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
    words: dict[str, dict] = {}
    for cell in tracked(wanted, progress, lambda cell: f"{cell.layer}, {cell.task}, lag {cell.task_lag}"):
        at: tuple[Any, ...] = (*(coords[dim].index(getattr(cell, dim)) for dim in DIMS), ...)
        for name, variable in plan.trained(cell, folder).data_vars.items():
            over = (*DIMS, *variable.dims)
            shape = [len(coords[str(dim)]) for dim in over]
            words[str(name)] = variable.attrs
            whole = columns.setdefault(str(name), np.full(shape, np.nan))
            here = whole[at]
            here[tuple(slice(size) for size in variable.shape)] = variable.values
    ds = xr.Dataset(coords={dim: (dim, values, describe(dim)) for dim, values in coords.items()})
    for name, values in columns.items():
        ds[name] = ((*DIMS, "snapshot", "lag")[: values.ndim], values, words[name])
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
