r"""One layer of a stack, linearised at its input: what its outputs depend on, and rows pulled through it.

    pull: R on the layer's output  ->  R J on its input,  J[t,k] = d y_t / d x_k

    per position   J[t,t] alone: an elementwise slope, a matrix, or a small product of vectors
    convolution    J[t,k] = sum of the taps W_i that read k
    recurrence     a backward sweep with exponents (``pull.py``)
    others         the closed form of a single row, else batched vector-Jacobian products

Shapes: rows (P, r, d) at P positions. A level that mixes no positions never makes a zero block larger.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.operators.bands import anchors
from depprobe.operators.jacobian import Scaled, TemporalJacobian
from depprobe.operators.memory import predicted_peak
from depprobe.operators.recurrent import RecurrentJacobian
from depprobe.operators.rows import Rows, gathered
from depprobe.operators.taps import Taps

Positions = NDArray[np.int64]

#: exponents this far apart are pulled separately by a level that works in plain floats
_BUCKET = {torch.float32: 40.0, torch.float64: 300.0}

#: pairs of positions up to which a level of any pattern remembers what each output reads
_KNOWN_READS = 1 << 24


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


class PerPosition(Level):
    """A level that mixes no positions."""

    def support(self, where: Positions) -> Positions:
        """The positions themselves."""
        return where

    def window(self) -> tuple[int, int] | None:
        """No other position."""
        return (0, 0)

    def is_closed(self) -> bool:
        """Nothing moves."""
        return True


class Elementwise(PerPosition):
    """y = phi(x) entry by entry; ``slope`` takes some positions of x (P, d) to phi'(x) there."""

    def __init__(self, slope: Callable[[Tensor], Tensor], x: Tensor, piecewise: bool) -> None:
        self.slope, self.x, self.width, self.piecewise = slope, x, x.shape[1], piecewise

    def zeros_are_exact(self) -> bool:
        """Where slopes are cut off at zero, or none of them is zero."""
        return self.piecewise or bool((self.slope(self.x) != 0).all())

    def pull(self, rows: Rows) -> Rows:
        """Rows times the slopes."""
        return rows._replace(values=rows.values * self.slope(self.x[rows.where])[:, None]).settled()


class Matrix(PerPosition):
    """y_t = W x_t + b."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.width, self.work = weight, weight.shape[1], float(weight.numel())

    def is_shift_invariant(self) -> bool:
        """One matrix for all positions."""
        return True

    def pull(self, rows: Rows) -> Rows:
        """Rows times the matrix."""
        return rows._replace(values=rows.values @ self.weight).settled()


class EachPosition(PerPosition):
    """y_t = f(x_t) with any f that reads one position, such as a layer norm."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.function, self.x, self.width = function, x, x.shape[1]
        self.work = 8.0 * self.width

    def zeros_are_exact(self) -> bool:
        """No: it rounds on its way."""
        return False

    def pull(self, rows: Rows) -> Rows:
        """One vector-Jacobian product over the positions that carry anything, for each row."""
        with torch.enable_grad():
            leaf = self.x[rows.where].requires_grad_()
            y = self.function(leaf)
            (pulled,) = torch.autograd.grad(
                y, leaf, rows.values.transpose(0, 1), is_grads_batched=True, materialize_grads=True
            )
        return rows._replace(values=pulled.transpose(0, 1)).settled()


class Conv(Level):
    """A convolution: each tap carries rows to the position it reads."""

    def __init__(self, conv: nn.Conv1d, taps: Taps) -> None:
        self.taps, self.width, self.groups = taps, conv.in_channels, conv.groups
        self.placing = (taps.origin, float(taps.stride))
        weight = conv.weight.detach()
        self.work = float(weight.numel())
        # (K, groups, d_out / groups, d_in / groups)
        self._weight = weight.permute(2, 0, 1).unflatten(1, (conv.groups, -1)).contiguous()
        self._grams: dict[tuple[int, int], Tensor] = {}

    def support(self, where: Positions) -> Positions:
        """What the taps read."""
        source = self.taps.sources(where)
        return np.unique(source[source >= 0])

    def window(self) -> tuple[int, int] | None:
        """From the first tap to the last."""
        return (-self.taps.pad[0], self.taps.span - self.taps.pad[0])

    def matrix(self, tap: int) -> Tensor:
        """W_i: (d_out, d_in)."""
        return self._weight[tap, 0] if self.groups == 1 else torch.block_diag(*self._weight[tap])

    def gram(self, tap: int, other: int) -> Tensor:
        """W_i W_j^T: (d_out, d_out), kept once made."""
        if (tap, other) not in self._grams:
            self._grams[tap, other] = self.matrix(tap) @ self.matrix(other).T
        return self._grams[tap, other]

    def keeps_band(self) -> bool:
        """Unless padding shows positions from elsewhere."""
        taps = self.taps
        centred = 2 * taps.pad[0] == 2 * taps.pad[1] == taps.span
        return taps.mode == "zeros" or (centred and taps.mode != "circular")

    def is_shift_invariant(self) -> bool:
        """One kernel for all positions."""
        return True

    def is_inner(self, low: Positions, high: Positions) -> NDArray[np.bool_]:
        """Whether no padding is read."""
        return self.taps.is_inner(low) & self.taps.is_inner(high)

    def is_closed(self) -> bool:
        """Zeros on the left, as a causal convolution has them."""
        return self.taps.is_causal

    def pull(self, rows: Rows) -> Rows:
        """Rows times each tap's matrix, added up where taps meet."""
        source = torch.from_numpy(self.taps.sources(rows.where.cpu().numpy())).to(rows.where.device)
        parts = []
        for tap, weight in enumerate(self._weight):
            read = source[:, tap] >= 0
            values = rows.values if bool(read.all()) else rows.values[read]
            scale = rows.log_scale if rows.log_scale.shape[0] == 1 else rows.log_scale[read]
            if len(weight) == 1:
                values = values @ weight[0]
            else:
                values = torch.einsum(
                    "prgo,goi->prgi", values.unflatten(2, (len(weight), -1)), weight
                ).flatten(2)
            parts.append((values, scale, source[read, tap]))
        return gathered(parts).settled()


class Recurrence(Level):
    """An RNN, GRU or LSTM: its own sweep, which carries exponents."""

    def __init__(self, jacobian: RecurrentJacobian, both: bool) -> None:
        self.jacobian, self.both = jacobian, both
        self.n, self.width = jacobian.shape[0], jacobian.shape[3]
        self.work = 8.0 * jacobian.shape[1] * (jacobian.shape[1] + self.width)

    def zeros_are_exact(self) -> bool:
        """No: it rounds on its way."""
        return False

    def support(self, where: Positions) -> Positions:
        """The past, and the future too where it reads both ways."""
        return np.arange(self.n if self.both else where.max() + 1)

    def pull(self, rows: Rows) -> Rows:
        """The backward sweep, over the positions up to the last that carries anything."""
        values, log_scale = self.jacobian._pull(Scaled(*rows.dense(self.n)))
        stop = self.n if self.both else int(rows.where.max()) + 1
        where = torch.arange(stop, device=rows.where.device)
        return Rows(
            values[:, :stop].transpose(0, 1), log_scale[:, :stop].expand(-1, stop, 1).transpose(0, 1), where
        )


class Mixing(Level):
    """Any other layer with an operator of its own: its row where one position asks, else products."""

    def __init__(
        self, jacobian: TemporalJacobian, function: Callable[[Tensor], Tensor], x: Tensor, memory: int
    ) -> None:
        self.jacobian, self.function, self.x, self.memory = jacobian, function, x, memory
        n_out, d_out, n_in, self.width = jacobian.shape
        self.n_out, self.n_in = n_out, n_in
        if n_out != n_in:
            self.placing = (0.5 * n_in / n_out - 0.5, n_in / n_out)
        self.work = 4.0 * n_in * d_out
        self._reads: dict[int, Positions] = {}

    def zeros_are_exact(self) -> bool:
        """No: it rounds on its way."""
        return False

    def support(self, where: Positions) -> Positions:
        """What the operator says that the outputs given read; everything where that would fill memory."""
        if len(where) > 1 and self.n_out * self.n_in > _KNOWN_READS:
            return np.arange(self.n_in)
        missing = [t for t in where.tolist() if t not in self._reads]
        if missing:
            norms = self.jacobian.log_norms(missing)
            anchor = anchors(self.jacobian.position)[missing]
            for t, at, values in zip(missing, anchor, norms.values, strict=True):
                source = np.arange(self.n_in) if norms.lags is None else at - norms.lags
                self._reads[t] = source[(source >= 0) & (source < self.n_in) & ~np.isneginf(values)]
        return np.unique(np.concatenate([self._reads[t] for t in where.tolist()]))

    def pull(self, rows: Rows) -> Rows:
        """Rows times the operator's row, or vector-Jacobian products."""
        if len(rows.where) == 1:
            row, row_scale = self.jacobian.row(int(rows.where[0]))
            where = torch.from_numpy(self.support(rows.where.cpu().numpy())).to(rows.where.device)
            common = row_scale.amax(0, keepdim=True).expand(1, row.shape[1], 1)
            safe = torch.where(common.isfinite(), common, 0)
            row = (row * (row_scale - safe).exp().to(row.dtype))[:, where]
            values = torch.einsum("ro,opi->pri", rows.values[0], row)
            scale = safe.transpose(0, 1)[where] + rows.log_scale[:1]
            if bool((safe == 0).all()):
                scale = rows.log_scale[:1]
            return Rows(values, scale, where).settled()
        values, log_scale = rows.dense(self.n_out)
        peak = log_scale.amax(1, keepdim=True)
        depth = ((peak - log_scale) / _BUCKET[values.dtype]).nan_to_num(nan=torch.inf, posinf=1e9).long()
        where = torch.from_numpy(self.support(rows.where.cpu().numpy())).to(values.device)
        parts = []
        with torch.enable_grad():
            leaf = self.x.clone().requires_grad_()
            y = self.function(leaf)
        for bucket in depth[log_scale.isfinite()].unique().tolist():
            base = peak - bucket * _BUCKET[values.dtype]
            chosen = torch.where(depth == bucket, values * (log_scale - base).exp().to(values.dtype), 0)
            pulled = torch.cat([self._products(y, leaf, part) for part in chosen.split(self._chunk)])
            part = Rows(pulled[:, where].transpose(0, 1), base.transpose(0, 1), where).normalised()
            parts.append((part.values, part.log_scale, where))
        return gathered(parts).settled()

    def _products(self, y: Tensor, leaf: Tensor, cotangents: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(
            y, leaf, cotangents, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
        return pulled

    @cached_property
    def _chunk(self) -> int:
        """Products taken at once, within the budget."""
        one, two = (predicted_peak(self.function, self.x, count) for count in (1, 2))
        if one is None or two is None:
            return 16
        return int(max(1, 1 + (self.memory - one) // max(1, two - one)))


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
        parts = []
        for branch in self.branches:
            pulled = pull_through(branch, rows)
            parts.append((pulled.values, pulled.log_scale, pulled.where))
        return gathered(parts).settled()


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
