r"""Rows of a line pulled again with changed last bits, from which the error that rounding made is estimated.

    R' = (R f_l'(x_l (1 + c eps s))) (1 + eps s'),    s, s' = +-1 at random,    c for what x_l itself has lost

Every layer changes the last bit of what it hands down; slopes are taken at inputs that are off by as much as
rounding in the layers below leaves. What a layer rounds inside differs too, since cotangents are scaled:
``operators.autograd.rounding``.
Shapes: cotangents (n_out, d_out); products (n_in, d_in).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled
from depprobe.operators.composed.rules.levels import (
    EachPosition,
    Elementwise,
    Level,
    Residual,
    Rows,
    pull_through,
)
from depprobe.operators.last_bits import Repeat

#: units in the last place by which inputs of layers are changed
_INPUTS = 4

Change = Callable[[Tensor], Tensor]


class LineProducts:
    """Products of a line with a cotangent on one position, as ``operators.autograd.rounding`` takes them.

    Attributes
    ----------
    narrowest : the dtype of the rows.
    """

    def __init__(self, levels: list[Level], n_in: int, dtype: torch.dtype) -> None:
        self._levels, self._n_in, self.narrowest = levels, n_in, dtype

    def rows(self, at: Sequence[int], vectors: Tensor, repeat: Repeat | None = None) -> Iterator[Scaled]:
        """Products with vectors (m, d_out) on positions ``at``; through layers that ``repeat`` changes."""
        for t, vector in zip(at, vectors, strict=True):
            levels = self._levels
            if repeat is not None:
                change: Change = repeat.forward().changed
                levels = [_Changed(level, change) for level in levels]
            where = torch.tensor([t], device=vector.device)
            found = pull_through(levels, Rows(*Scaled.plain(vector[None, None]), where))
            yield Scaled(*(part[0] for part in found.dense(self._n_in)))


class _Changed(Level):
    """A layer that changes the last bits of the rows it hands down; asked for nothing but rows."""

    def __init__(self, level: Level, change: Change) -> None:
        self._level, self._change = level, change

    def pull(self, rows: Rows) -> Rows:
        found = self._moved().pull(rows)
        return found._replace(values=self._change(found.values))

    def _moved(self) -> Level:
        """The layer at inputs that are off: made for one pull, since those of all layers may be large."""
        moved, change = copy(self._level), self._change
        if isinstance(moved, Elementwise | EachPosition):
            moved.x = moved.x + _INPUTS * (change(moved.x) - moved.x)
        elif isinstance(moved, Residual):
            moved.branches = [[_Changed(one, change) for one in branch] for branch in moved.branches]
        return moved
