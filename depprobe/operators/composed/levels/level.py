r"""Layers linearised at their inputs, alone, one on top of another and side by side.

    pull              R on the layer's output  ->  R J on its input,  J[t,k] = d y_t / d x_k
    one on another    R J_L ... J_1,    origin and window of the top carried down:  low <- s_l low + low_l
    side by side      R (J_inner + J_shortcut),    y = shortcut(x) + inner(x)

Shapes: rows (P, r, d) at P positions. Lists hold levels bottom first; an empty one is the identity. Level l
places its output t at ``s_l t`` plus an origin, and reads from ``s_l t + low_l`` on. The kinds are a file
each, by what is known of J: nothing but J[t,t] (``per_position``), taps (``convolution``), an
``own_operator``.
Source: the chain rule; Araujo, Norris and Sim 2019 (windows of stacks); He et al. 2016 (shortcuts).
"""

from __future__ import annotations

import abc

import numpy as np
from numpy.typing import NDArray

from depprobe.core.rows import Rows, gathered

Positions = NDArray[np.int64]


class Level(abc.ABC):
    """One layer at one input.

    Attributes
    ----------
    width : d_in of the layer.
    placing : (origin, step): output t sits at ``origin + step * t`` among the layer's inputs.
    work : multiply-adds of a pull, for each row and position.
    """

    width: int
    placing: tuple[float, float] = (0.0, 1.0)
    work: float = 0.0

    @abc.abstractmethod
    def support(self, where: Positions) -> Positions:
        """Input positions that the outputs given may depend on, ascending."""

    @abc.abstractmethod
    def pull(self, rows: Rows) -> Rows:
        """Rows on the output as rows on the input."""

    def window(self) -> tuple[int, int] | None:
        """Away from the edges, t reads inputs ``step * t + low`` to ``step * t + high``; None: anywhere."""
        return None

    def zeros_are_exact(self) -> bool:
        """Whether a zero that this level makes is a zero, not an underflow."""
        return True

    def row_log_norms(self, t: int) -> tuple[Positions, NDArray[np.float64]] | None:
        """Sources of output t and ln Frobenius norms of its blocks, if a shorter way than rows is known."""
        return None

    def keeps_band(self) -> bool:
        """Whether at the edges, too, outputs read nothing outside the window."""
        return True

    def is_shift_invariant(self) -> bool:
        """Whether away from the edges a block depends on ``step * t - k`` only."""
        return False

    def is_inner(self, low: Positions, high: Positions) -> NDArray[np.bool_]:
        """Whether outputs ``low`` to ``high`` are away from the edges, for several such ranges."""
        return np.ones(len(low), dtype=bool)

    def is_closed(self) -> bool:
        """Whether what falls off the left edge cannot come back, and nothing falls off the right."""
        return False


def pull_through(levels: list[Level], rows: Rows) -> Rows:
    """Rows on the top's output as rows on the input of the bottom; levels bottom first."""
    for level in reversed(levels):
        rows = level.pull(rows)
    return rows


def support_of(levels: list[Level], where: Positions) -> Positions:
    """Inputs of the bottom level that outputs of the top may depend on."""
    for level in reversed(levels):
        where = level.support(where) if len(where) else where
    return where


def placing_of(levels: list[Level]) -> tuple[float, float]:
    """(origin, step) of a stack."""
    origin, step = 0.0, 1.0
    for level in reversed(levels):
        start, stride = level.placing
        origin, step = start + stride * origin, stride * step
    return origin, step


def window_of(levels: list[Level]) -> tuple[int, int] | None:
    """Window of a stack; see ``Level.window``."""
    low = high = 0
    for level in reversed(levels):
        window, stride = level.window(), int(level.placing[1])
        if window is None:
            return None
        low, high = stride * low + window[0], stride * high + window[1]
    return low, high


def is_inner(levels: list[Level], low: Positions, high: Positions) -> NDArray[np.bool_]:
    """Whether outputs ``low`` to ``high`` of a stack are away from the edges of every level."""
    inner = np.ones(len(low), dtype=bool)
    for level in reversed(levels):
        window, stride = level.window(), int(level.placing[1])
        if window is None:
            return np.zeros(len(low), dtype=bool)
        inner &= level.is_inner(low, high)
        low, high = stride * low + window[0], stride * high + window[1]
    return inner


class Residual(Level):
    """y = shortcut(x) + inner(x), both of the same length."""

    def __init__(self, inner: list[Level], shortcut: list[Level], width: int) -> None:
        self.branches, self.width = [inner, shortcut], width
        levels = inner + shortcut
        self.work = sum(level.work for level in levels)

    def support(self, where: Positions) -> Positions:
        """What either branch depends on."""
        return np.union1d(*(support_of(branch, where) for branch in self.branches))

    def window(self) -> tuple[int, int] | None:
        """The wider of the branches' windows."""
        found = [window_of(branch) for branch in self.branches]
        known = [window for window in found if window is not None]
        if len(known) < len(found):
            return None
        return min(low for low, _ in known), max(high for _, high in known)

    def is_shift_invariant(self) -> bool:
        """Where both branches are."""
        return all(level.is_shift_invariant() for branch in self.branches for level in branch)

    def zeros_are_exact(self) -> bool:
        """Where all of both branches' are."""
        return all(level.zeros_are_exact() for branch in self.branches for level in branch)

    def keeps_band(self) -> bool:
        """Where both branches do."""
        return all(level.keeps_band() for branch in self.branches for level in branch)

    def is_inner(self, low: Positions, high: Positions) -> NDArray[np.bool_]:
        """Where both branches are."""
        return np.logical_and(*(is_inner(branch, low, high) for branch in self.branches))

    def is_closed(self) -> bool:
        """Where both branches are."""
        return all(level.is_closed() for branch in self.branches for level in branch)

    def pull(self, rows: Rows) -> Rows:
        """The sum of what comes through the branches."""
        return gathered([pull_through(branch, rows) for branch in self.branches]).settled()
