r"""Layers on a line, linearised at their inputs, one on top of another and side by side.

    convolution       (R J)_k = sum_{t,i: t reads k through i} R_t W_i
    elementwise       R_t -> R_t * phi'(x_t)
    matrix            R_t -> R_t W
    each position     R_t -> R_t df/dx_t
    side by side      R (J_inner + J_shortcut),    y = shortcut(x) + inner(x)
    one on another    R J_L ... J_1,    origin and window of the top carried down:  low <- s_l low + low_l

Shapes: r rows R (P, r, d_out) at P positions; x (n, d); W_i (d_out, d_in), kept as
(K, groups, d_out / groups, d_in / groups). Lists hold levels bottom first; an empty one is the identity.
Level l places its output t at ``s_l t`` plus an origin, and reads from ``s_l t + low_l`` on.
Source: the chain rule; Araujo, Norris and Sim 2019 (windows of stacks); He et al. 2016 (shortcuts).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core import scaled
from depprobe.core.scaled import Scaled
from depprobe.operators.convolution.operator import tap_matrices, through_taps
from depprobe.operators.convolution.taps import Taps

Positions = NDArray[np.int64]

#: bytes of a layer's input of which slopes are taken at once
_NEAR_BYTES = 1 << 20


class Rows(NamedTuple):
    """r rows on a sequence of which P positions carry something.

    Shapes: values (P, r, d); log_scale (P, r, 1), or (1, 1, 1) where all share it; where (P,) ascending.
    Exponents are written down only once rows leave the middle of the float range.
    """

    values: Tensor
    log_scale: Tensor
    where: Tensor

    @property
    def scaled(self) -> Scaled:
        """The rows without their positions."""
        return Scaled(self.values, self.log_scale)

    def settled(self) -> Rows:
        """The same, rescaled to a largest entry of 1 if any row left the middle of the float range."""
        found = self.scaled.settled((2,))
        if found.values is self.values and self.log_scale.numel() == 1:
            return self
        return Rows(*found, self.where)

    def dense(self, n: int) -> Scaled:
        """Values (r, n, d) with exponents (r, n, 1) over all n positions; -inf where nothing is carried."""
        P, r, d = self.values.shape
        values = self.values.new_zeros(r, n, d)
        values[:, self.where] = self.values.transpose(0, 1)
        log_scale = torch.full((r, n, 1), -torch.inf, dtype=torch.float64, device=values.device)
        log_scale[:, self.where] = self.log_scale.expand(P, r, 1).transpose(0, 1)
        return Scaled(values, log_scale)


def gathered(parts: Sequence[Rows]) -> Rows:
    """Sum of contributions whose positions may repeat, within one of them too."""
    total, where = scaled.gathered([(part.scaled, part.where) for part in parts])
    return Rows(*total, where)


class Level(abc.ABC):
    """One layer at one input, by default one that mixes no positions.

    Attributes
    ----------
    width : d_in of the layer.
    placing : (origin, step): output t sits at ``origin + step * t`` among the layer's inputs.
    window : away from the edges, t reads inputs ``step * t + window[0]`` to ``step * t + window[1]``.
    keeps_band : whether at the edges, too, outputs read nothing outside the window.
    repeats : whether away from the edges a block depends on ``step * t - k`` only.
    is_closed : whether what falls off the left edge cannot come back, and nothing falls off the right.
    zeros_are_exact : whether a zero that this level makes is a zero, not an underflow.
    """

    width: int
    placing: tuple[float, float] = (0.0, 1.0)
    window: tuple[int, int] = (0, 0)
    keeps_band: bool = True
    repeats: bool = False
    is_closed: bool = True
    zeros_are_exact: bool = True

    @abc.abstractmethod
    def pull(self, rows: Rows) -> Rows:
        """Rows on the output as rows on the input."""

    def support(self, where: Positions) -> Positions:
        """Input positions that the outputs given may depend on, ascending."""
        return where

    def is_inner(self, low: Positions, high: Positions) -> NDArray[np.bool_]:
        """Whether outputs ``low`` to ``high`` are away from the edges, for several such ranges."""
        return np.ones(len(low), dtype=bool)


class Conv(Level):
    """A convolution: each tap carries rows to the position it reads. ``weight`` (d_out, d_in / groups, K)."""

    repeats = True

    def __init__(self, weight: Tensor, groups: int, taps: Taps) -> None:
        self.taps, self.groups, self.width = taps, groups, weight.shape[1] * groups
        self.placing = (taps.origin, float(taps.stride))
        self.window = (-taps.pad[0], taps.span - taps.pad[0])
        centred = 2 * taps.pad[0] == 2 * taps.pad[1] == taps.span
        self.keeps_band = taps.mode == "zeros" or (centred and taps.mode != "circular")
        self.is_closed = taps.is_causal
        self._weight = tap_matrices(weight, groups)

    def support(self, where: Positions) -> Positions:
        """What the taps read."""
        source = self.taps.sources(where)
        return np.unique(source[source >= 0])

    def matrix(self, tap: int) -> Tensor:
        """W_i: (d_out, d_in)."""
        return self._weight[tap, 0] if self.groups == 1 else torch.block_diag(*self._weight[tap])

    def is_inner(self, low: Positions, high: Positions) -> NDArray[np.bool_]:
        """Whether no padding is read."""
        return self.taps.is_inner(low) & self.taps.is_inner(high)

    def pull(self, rows: Rows) -> Rows:
        """Rows times each tap's matrix, added up where taps meet."""
        found, where = through_taps(self._weight, self.taps, rows.scaled, rows.where)
        return Rows(*found, where).settled()


class Matrix(Level):
    """y_t = W x_t + b."""

    repeats = True

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.width = weight, weight.shape[1]

    def pull(self, rows: Rows) -> Rows:
        """Rows times the matrix."""
        return rows._replace(values=rows.values @ self.weight).settled()


class Elementwise(Level):
    """y = phi(x) entry by entry; ``slope`` takes some positions of x (P, d) to phi'(x) there.

    Zeros are exact where slopes are cut off at zero (``piecewise``), or none of them is zero.
    """

    def __init__(self, slope: Callable[[Tensor], Tensor], x: Tensor, piecewise: bool) -> None:
        self.slope, self.x, self.width, self.piecewise = slope, x, x.shape[1], piecewise
        self.zeros_are_exact = piecewise or all(bool((part != 0).all()) for part in self.slopes())

    def slopes(self) -> Iterator[Tensor]:
        """phi' at all positions, some at a time: autograd makes several copies of what it differentiates."""
        each = max(1, self.x[:1].numel() * self.x.element_size())
        return map(self.slope, self.x.split(max(1, _NEAR_BYTES // each)))

    def pull(self, rows: Rows) -> Rows:
        """Rows times the slopes."""
        return rows._replace(values=rows.values * self.slope(self.x[rows.where])[:, None]).settled()


class EachPosition(Level):
    """y_t = f(x_t) with any f that reads one position, such as a layer norm."""

    zeros_are_exact = False  # it rounds on its way

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.function, self.x, self.width = function, x, x.shape[1]

    def pull(self, rows: Rows) -> Rows:
        """One vector-Jacobian product over the positions that carry anything, for each row."""
        with torch.enable_grad():
            leaf = self.x[rows.where].requires_grad_()
            y = self.function(leaf)
            (pulled,) = torch.autograd.grad(
                y, leaf, rows.values.transpose(0, 1), is_grads_batched=True, materialize_grads=True
            )
        return rows._replace(values=pulled.transpose(0, 1)).settled()


class Residual(Level):
    """y = shortcut(x) + inner(x), both of the same length; it is what both branches are."""

    def __init__(self, inner: list[Level], shortcut: list[Level], width: int) -> None:
        self.branches, self.width = [inner, shortcut], width
        levels = inner + shortcut
        for law in ("keeps_band", "repeats", "is_closed", "zeros_are_exact"):
            setattr(self, law, all(getattr(level, law) for level in levels))
        windows = [window_of(branch) for branch in self.branches]
        self.window = min(low for low, _ in windows), max(high for _, high in windows)

    def support(self, where: Positions) -> Positions:
        """What either branch depends on."""
        return np.union1d(*(support_of(branch, where) for branch in self.branches))

    def is_inner(self, low: Positions, high: Positions) -> NDArray[np.bool_]:
        """Where both branches are."""
        return np.logical_and(*(is_inner(branch, low, high) for branch in self.branches))

    def pull(self, rows: Rows) -> Rows:
        """The sum of what comes through the branches."""
        return gathered([pull_through(branch, rows) for branch in self.branches]).settled()


def pull_through(levels: list[Level], rows: Rows) -> Rows:
    """Rows on the top's output as rows on the input of the bottom."""
    for level in reversed(levels):
        rows = level.pull(rows)
    return rows


def held_by(levels: list[Level]) -> list[Tensor]:
    """Tensors that the levels keep."""
    found = [value for level in levels for value in vars(level).values() if isinstance(value, Tensor)]
    inner = [branch for level in levels if isinstance(level, Residual) for branch in level.branches]
    return [*found, *(tensor for branch in inner for tensor in held_by(branch))]


def support_of(levels: list[Level], where: Positions) -> Positions:
    """Inputs of the bottom level that outputs of the top may depend on."""
    for level in reversed(levels):
        where = level.support(where) if len(where) else where
    return where


def placing_of(levels: list[Level]) -> tuple[float, float]:
    """(origin, step) of a line."""
    origin, step = 0.0, 1.0
    for level in reversed(levels):
        start, stride = level.placing
        origin, step = start + stride * origin, stride * step
    return origin, step


def window_of(levels: list[Level]) -> tuple[int, int]:
    """Window of a line."""
    low = high = 0
    for level in reversed(levels):
        stride = int(level.placing[1])
        low, high = stride * low + level.window[0], stride * high + level.window[1]
    return low, high


def is_inner(levels: list[Level], low: Positions, high: Positions) -> NDArray[np.bool_]:
    """Whether outputs ``low`` to ``high`` of a line are away from the edges of every level."""
    inner = np.ones(len(low), dtype=bool)
    for level in reversed(levels):
        inner &= level.is_inner(low, high)
        stride = int(level.placing[1])
        low, high = stride * low + level.window[0], stride * high + level.window[1]
    return inner
