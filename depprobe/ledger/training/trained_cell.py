r"""One layer trained on one task, with its gradient curve before, during and after.

    g = dL/dW,   W <- step(W, g min(1, clip / ||g||))        the norm is over all weights together

A linear read-out sits on the last position. A layer whose input must have its own width gets a linear
embedding and sinusoidal positions in front, which belong to the module the curve is measured on.
Source: Pascanu, Mikolov and Bengio 2013 (clipping); Kingma and Ba 2015 (Adam); Vaswani et al. 2017
(positions).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from depprobe.curves import decay_curve
from depprobe.errors import BadInput
from depprobe.ledger.training.tasks import TASKS, Task
from depprobe.probes.jacobian import jacobian
from depprobe.registry import Spec, layers
from depprobe.store.finished import Finished
from depprobe.store.marks import code_version
from depprobe.vocabulary import describe

SNAPSHOTS = ("before", "during", "after")
#: training ends early where the loss of the last tenth of the steps is below this share of chance
DONE = 0.02
#: fresh sequences the loss after training is taken on, and sequences the curve is pooled over
TESTED, PROBED = 256, 2
#: long names and units of what the vocabulary lacks
ABOUT = {
    "training_loss": {
        "long_name": "mean loss of the last tenth of the steps, over that of chance",
        "units": "1",
    },
    "learning_rate": {
        "long_name": "learning rate, of Adam; of gradient descent it is 30 times that",
        "units": "1",
    },
}
#: parts of the package that bear on what comes out
_BEARING = ("core", "curves", "layers", "operators", "probes", "ledger/training")


@dataclass(frozen=True)
class Cell:
    """What is trained: all that bears on the result."""

    layer: str
    task: str
    task_lag: int
    seed: int
    clip: float
    optimizer: str
    d: int = 32
    batch: int = 16
    steps: int = 150
    rate: float = 3e-3


class Positions(nn.Module):
    """Adds sin and cos of t / 10000^(2 i / d) to (batch, n, d), d even."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, d) or (batch, n, d) to the same shape."""
        n, d = x.shape[-2:]
        angle = torch.arange(n, dtype=x.dtype)[:, None] * 1e4 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
        return x + torch.cat([angle.sin(), angle.cos()], -1)


class Reader(nn.Module):
    """A layer with a linear read-out at the last position."""

    def __init__(self, layer: nn.Module, d: int, d_out: int) -> None:
        super().__init__()
        self.layer, self.readout = layer, nn.Linear(d, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, n, d_in) to (batch, d_out)."""
        out = self.layer(x)
        return self.readout((out[0] if isinstance(out, tuple) else out)[:, -1])


def build(cell: Cell) -> Reader:
    """The layer and its read-out in float32, weights drawn from the cell's seed."""
    task, spec = TASKS[cell.task], Spec.parse(cell.layer)
    entry, options = layers[spec.name], spec.options()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        if entry.reads_any_width:
            layer = entry.build(cell.d, d_in=task.d_in, **options)
        else:
            layer = nn.Sequential(nn.Linear(task.d_in, cell.d), Positions(), entry.build(cell.d, **options))
        return Reader(layer, cell.d, task.d_out)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread, for the same bits every time, subnormal numbers being 0, since they are slow.

    Threads and the treatment of subnormal numbers come back as they were.
    """
    threads = torch.get_num_threads()
    flushing = float(torch.full((1,), 2e-40) * 0.5) == 0.0
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushing)
        torch.set_num_threads(threads)


def clip(parameters: list[nn.Parameter], most: float) -> float:
    """Scale the whole gradient to norm ``most`` where it is longer; returns the norm it had.

    One factor for all weights: the direction, and so the share that came from each lag, stays.
    """
    return float(nn.utils.clip_grad_norm_(parameters, most))


def optimizer_of(cell: Cell, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam, or gradient descent with momentum 0.9 at a rate 30 times as large.

    Raises
    ------
    BadInput : any other optimizer.
    """
    if cell.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=cell.rate)
    if cell.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=30 * cell.rate, momentum=0.9)
    raise BadInput(f"unknown optimizer {cell.optimizer!r}; choose adam or sgd")


def train(cell: Cell) -> xr.Dataset:
    """Train one cell.

    Returns
    -------
    Dataset with ``relative_loss`` (on fresh sequences, 1 is chance, inf after divergence), ``training_loss``
    (likewise, of the last tenth of the steps), ``learning_rate``, ``steps`` taken,
    ``gradient_norm`` and ``gradient_norm_max`` (median and largest, before clipping), ``clipped_share``
    of the steps, ``diverged`` (1 where loss or gradient overflowed), and ``log_rms(snapshot, lag)``, the
    decay curve before, after a tenth of the steps allowed, and at the end.
    """
    task = TASKS[cell.task]
    net = build(cell)
    # every layer, clip and optimizer sees the same sequences
    draws = torch.Generator().manual_seed(1000 * cell.seed + cell.task_lag)
    fresh = torch.Generator().manual_seed(1000 * cell.seed + cell.task_lag + 500_000)
    tenth = max(cell.steps // 10, 1)
    parameters = list(net.parameters())
    optimizer = optimizer_of(cell, parameters)
    snapshots = {"before": copy.deepcopy(net.layer)}
    losses, norms, diverged = [], [], False
    with one_thread():
        for step in range(cell.steps):
            if step == tenth:
                snapshots["during"] = copy.deepcopy(net.layer)
            x, y = task.draw(cell.task_lag, cell.batch, draws)
            loss = task.loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            norm, value = clip(parameters, cell.clip), loss.item()
            if not (math.isfinite(norm) and math.isfinite(value)):
                diverged = True
                break
            optimizer.step()
            losses.append(value)
            norms.append(norm)
            if step >= tenth and sum(losses[-tenth:]) / tenth < DONE * task.chance:
                break
        with torch.no_grad():
            x, y = task.draw(cell.task_lag, TESTED, fresh)
            ending = task.loss(net(x), y).item() / task.chance
    snapshots["after"] = net.layer
    if diverged or not math.isfinite(ending):
        ending = math.inf
    last = losses[-tenth:]
    found = {
        "relative_loss": ending,
        "training_loss": math.inf if diverged or not last else sum(last) / len(last) / task.chance,
        "learning_rate": cell.rate,
        "steps": float(len(losses)),
        "gradient_norm": float(np.median(norms)) if norms else math.nan,
        "gradient_norm_max": max(norms, default=math.nan),
        "clipped_share": float(np.mean(np.array(norms) > cell.clip)) if norms else math.nan,
        "diverged": float(diverged),
    }
    ds = curves(snapshots, task, cell)
    return ds.assign({name: ((), value, ABOUT.get(name) or describe(name)) for name, value in found.items()})


def curves(snapshots: dict[str, nn.Module], task: Task, cell: Cell) -> xr.Dataset:
    """ln rms norm of J[t,k] at the last position by lag, on the task's own sequences, in float64."""
    fresh = torch.Generator().manual_seed(1000 * cell.seed + cell.task_lag + 500_000)
    x = task.draw(cell.task_lag, PROBED, fresh)[0].double()
    rows = np.full((len(SNAPSHOTS), cell.task_lag + 1), np.nan)
    for name, layer in snapshots.items():
        measured = jacobian(copy.deepcopy(layer).double(), x)
        curve = decay_curve(measured)["log_rms"]
        rows[SNAPSHOTS.index(name)] = curve.sel(lag=np.arange(cell.task_lag + 1))
    return xr.Dataset(
        {"log_rms": (("snapshot", "lag"), rows, describe("log_rms"))},
        coords={
            "snapshot": ("snapshot", list(SNAPSHOTS), describe("snapshot")),
            "lag": ("lag", np.arange(cell.task_lag + 1), describe("lag")),
        },
    )


def trained(cell: Cell, folder: Path | None) -> xr.Dataset:
    """The result of a cell: from the folder where an earlier run left it, else trained and left there."""
    if folder is None:
        return train(cell)
    return Finished(folder, code=code_version(*_BEARING)).dataset(asdict(cell), lambda: train(cell))
