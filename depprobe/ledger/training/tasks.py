r"""Tasks that need one input from exactly ``lag`` positions ago, with the loss of an answer that ignores it.

    copy     x_0 = one of S symbols, then blanks, then a cue;     y = the symbol;      chance  ln S
    adding   x_t = (u_t, m_t), u ~ U(0, 1), marks m at 0 and j;   y = u_0 + u_j;       chance  Var(y) = 1/6

Sequences have lag + 1 positions, the answer is read at the last, so position 0 lies ``lag`` behind it; in the
adding task the other mark j is uniform on 1 .. lag, and who reads j but not 0 gets to 1/12, half of chance.
Shapes: x (size, lag + 1, d_in), y (size).
Source: Hochreiter and Schmidhuber 1997 (adding); Arjovsky, Shah and Bengio 2016 (copy), here with one symbol.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SYMBOLS = 4


@dataclass(frozen=True)
class Task:
    """A task: ``draw(lag, size, generator)`` gives x and y, ``loss(answer, y)`` its mean loss in float."""

    d_in: int
    d_out: int
    chance: float
    draw: Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]


def copy(lag: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One-hot x (size, lag + 1, SYMBOLS + 2), the last two channels blank and cue; y the symbol's index."""
    symbol = torch.randint(SYMBOLS, (size,), generator=generator)
    x = torch.zeros(size, lag + 1, SYMBOLS + 2)
    x[torch.arange(size), 0, symbol] = 1
    x[:, 1:lag, SYMBOLS] = 1
    x[:, lag, SYMBOLS + 1] = 1
    return x, symbol


def adding(lag: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs (size, lag + 1, 2) of values and marks; y the sum of the two marked values."""
    value = torch.rand(size, lag + 1, generator=generator)
    other = torch.randint(1, lag + 1, (size,), generator=generator)
    mark = torch.zeros(size, lag + 1)
    mark[:, 0] = 1
    mark[torch.arange(size), other] = 1
    return torch.stack([value, mark], -1), (value * mark).sum(1)


TASKS = {
    "copy": Task(SYMBOLS + 2, SYMBOLS, math.log(SYMBOLS), copy, F.cross_entropy),
    "adding": Task(2, 1, 1 / 6, adding, lambda answer, y: F.mse_loss(answer[:, 0], y)),
}
