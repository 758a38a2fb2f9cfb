r"""The temporal Jacobian of a stack of layers, row by row through the layers from the top.

    y = f_L(... f_1(x)),   J[t,:] = J_L[t,:] J_{L-1} ... J_1

A row starts on one position and spreads only as far as each layer reads, so the support is known before
anything is computed, bands stay bands, and layers that act on each position by itself mix nothing. Rows
carry exponents (``rows.py``). Stacks of convolutions and matrices alone have rows that repeat: one is
computed, and those that meet an edge.

Cost of a row: the sum over layers of d_out (positions) (multiply-adds of one position). Where that is out
of reach, random probes estimate the norms and say how well. Source: the chain rule; Luo et al. 2016
(receptive fields of stacks).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.function import SequenceFunction
from depprobe.core.options import DEFAULT_MEMORY, Options, readable, require
from depprobe.core.rows import Rows
from depprobe.core.scaled import Scaled, log_hypot, log_norms
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian, anchors, is_banded, placed, repeat
from depprobe.layers.dilated_convolution import ConvolutionBlock
from depprobe.layers.residual import Added
from depprobe.operators.autograd.operator import AutogradJacobian
from depprobe.operators.autograd.probes import ProbedJacobian
from depprobe.operators.composed.levels import rectified
from depprobe.operators.composed.levels.convolution import joined
from depprobe.operators.composed.levels.known import levels
from depprobe.operators.composed.levels.level import (
    Level,
    is_inner,
    placing_of,
    pull_through,
    support_of,
    window_of,
)
from depprobe.operators.dispatch import register_jacobian

#: multiply-adds of one row block beyond which probes take over: about ten seconds on two cores
_WORK = 2e11
#: size of a row block that stays near the processor, and fewest rows for which products pay
_NEAR_BYTES, _FEWEST_ROWS = 8 << 20, 8


class StackJacobian(TemporalJacobian):
    """Temporal Jacobian of a stack at one input.

    Parameters
    ----------
    levels : the layers, bottom first, linearised at their inputs.
    module : the whole stack.
    x : (n, d_in).
    size : of its output, (n_out, d_out).
    memory : bytes that the job may take.
    """

    method = "composed"

    def __init__(
        self,
        levels: list[Level],
        module: nn.Module,
        x: Tensor,
        size: tuple[int, ...],
        *,
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        self._levels, self._module, self._x, self._memory = levels, module, x.detach(), memory
        self.shape = (size[0], size[1], x.shape[0], x.shape[1])
        self._repeats = all(level.is_shift_invariant() for level in levels)
        self._closed = all(level.is_closed() for level in levels)
        self._window = window_of(levels) if all(level.keeps_band() for level in levels) else None

    @property
    def position(self) -> NDArray[np.float64]:
        """Input position that each output sits at, (n_out,)."""
        origin, step = placing_of(self._levels)
        return origin + step * np.arange(self.shape[0], dtype=np.float64)

    @property
    def lags(self) -> NDArray[np.int64] | None:
        """Lags between which every block stands, ascending; None where the stack has no band."""
        if self._window is None:
            return None
        low, high = self._window
        start = int(anchors(self.position[:1])[0])
        return np.arange(start - high, start - low + 1)

    def work(self, t: int) -> float:
        """Multiply-adds of row t, roughly."""
        where, total = np.array([t]), 0.0
        for level in self._levels[:0:-1]:
            total += self.shape[1] * len(where) * level.work
            where = level.support(where)
        return total + self.shape[1] * len(where) * self._levels[0].work

    # -- norms ---------------------------------------------------------------------------------------

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        """Natural logs of the norms of J[t,k], by lag for several targets of a stack with a narrow band."""
        t = np.asarray(targets, dtype=np.int64)
        n_in = self.shape[2]
        lags = self.lags
        lags = lags if lags is not None and sources is None and is_banded(lags, len(t), n_in) else None
        columns = n_in if lags is None else len(lags)
        require(
            24.0 * len(t) * columns, self._memory, f"the norms of {len(t)} targets", "ask for fewer targets"
        )
        anchor = anchors(self.position)[t]
        alike = self._alike(t)
        out = np.empty((len(t), columns))
        rows = [self._norm_row(int(target), norm) for target in t[~alike]]
        if rows:
            out[~alike] = _placed(rows, anchor[~alike], n_in, lags)
        if alike.any():
            # of a causal stack the last row holds all the others, cut off at position 0
            last = int(t[alike].max())
            where, values = self._norm_row(last, norm)
            at = anchors(self.position)[last : last + 1]
            if lags is not None:
                repeat(out, alike, _placed([(where, values)], at, n_in, lags)[0], anchor, n_in, lags)
            else:
                moved = where - (at - anchor[alike][:, None])
                cut = [(source[source >= 0], values[source >= 0]) for source in moved]
                out[alike] = _placed(cut, anchor[alike], n_in, None)
        if sources is not None:
            return LogNorms(out[:, np.asarray(sources, dtype=np.int64)])
        return LogNorms(out, lags=lags)

    def _alike(self, t: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which targets have the same row but for a shift."""
        if not self._repeats:
            return np.zeros(len(t), dtype=bool)
        return np.ones(len(t), dtype=bool) if self._closed else is_inner(self._levels, t, t)

    def _norm_row(self, t: int, norm: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        if norm == "fro" and len(self._levels) == 1:
            known = self._levels[0].row_log_norms(t)
            if known is not None:
                return known
        chunk = self._chunk(t) if norm == "fro" else self.shape[1]
        if norm == "fro" and self._rectified:
            known = rectified.row_log_norms(self._levels, t, self._memory)
            if known is not None:
                return known
        where = support_of(self._levels, np.array([t]))
        total = np.full(len(where), -np.inf)
        for rows in self._row_parts(t, chunk):
            place = np.searchsorted(where, rows.where.cpu().numpy())
            found = log_norms(rows.scaled, norm, (1, 2)).cpu().numpy()
            total[place] = log_hypot(total[place], found)
        zeros = np.flatnonzero(np.isneginf(total))
        if len(zeros) and not self._zeros_are_exact:
            ignored = self._function.ignores(t, torch.from_numpy(where[zeros]).to(self._x.device))
            total[zeros[~ignored.cpu().numpy()]] = np.nan
        return where, total

    @cached_property
    def _rectified(self) -> bool:
        return rectified.is_rectified(self._levels)

    @cached_property
    def _zeros_are_exact(self) -> bool:
        return all(level.zeros_are_exact() for level in self._levels)

    def _row_parts(self, t: int, chunk: int) -> Iterator[Rows]:
        unit = torch.eye(self.shape[1], dtype=self._x.dtype, device=self._x.device)
        for part in unit.split(chunk):
            yield pull_through(self._levels, Rows.unit(t, part))

    def _chunk(self, t: int) -> int:
        """Rows pulled at once, within the budget."""
        where, widest = np.array([t]), self.shape[1]
        for level in reversed(self._levels):
            where = level.support(where)
            widest = max(widest, len(where) * level.width)
        each = 6 * widest * self._x.element_size()
        require(
            each, self._memory, "a single row", f"use a smaller n or d, or --memory {readable(1.1 * each)}"
        )
        # no more at once than stays near the processor, but enough for products to be worth their calls
        near = max(_FEWEST_ROWS, _NEAR_BYTES // (widest * self._x.element_size()))
        return max(1, min(self.shape[1], self._memory // each, near))

    # -- blocks and products -------------------------------------------------------------------------

    def row(self, t: int) -> Scaled:
        """Row t: values (d_out, n_in, d_in), log_scale (d_out, n_in, 1)."""
        t %= self.shape[0]
        size = 3 * int(np.prod(self.shape[1:])) * self._x.element_size()
        require(size, self._memory, f"the row of {self.shape[2]} blocks", "ask for norms")
        parts = [rows.dense(self.shape[2]) for rows in self._row_parts(t, self._chunk(t))]
        return Scaled(*(torch.cat(part) for part in zip(*parts, strict=True)))

    @cached_property
    def _autograd(self) -> AutogradJacobian:
        return AutogradJacobian(self._function, Options(memory=self._memory))

    @cached_property
    def _function(self) -> SequenceFunction:
        return SequenceFunction(self._module, self._x, memory=self._memory)

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Sum over t of cotangent_t^T J[t,:]: (n_out, d_out) to (n_in, d_in)."""
        return self._autograd.vjp(cotangent)

    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n_in, d_in) to (n_out, d_out)."""
        return self._autograd.jvp(tangent)


def _placed(
    rows: list[tuple[NDArray[np.int64], NDArray[np.float64]]],
    anchor: NDArray[np.int64],
    n_in: int,
    lags: NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Rows of (sources, log norms) side by side, by source or by lag."""
    which = np.repeat(np.arange(len(rows)), [len(where) for where, _ in rows])
    where, values = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return placed(which, where, values, anchor, n_in, lags).values


@register_jacobian(nn.Sequential, ConvolutionBlock, Added)
def composed_jacobian(module: nn.Module, x: Tensor, options: Options) -> TemporalJacobian | None:
    """Level by level, where all are known; by ``auto`` estimated by probes where a row is out of reach."""
    if options.wrt != "x" or options.forward:
        return None
    memory = options.memory
    stack = levels(module, x.detach(), memory)
    if stack is None or not stack.levels:
        return None

    exact = StackJacobian(joined(stack.levels), module, x, stack.shape, memory=memory)
    if options.method == "auto" and exact.work(exact.shape[0] - 1) > _WORK:
        function = SequenceFunction(module, x, memory=memory)
        warnings.warn(
            f"a row of {type(module).__name__} needs {exact.work(exact.shape[0] - 1):.0e} multiply-adds, so "
            f"{options.probes} random probes estimate its norms; method='structured' insists on exact ones",
            stacklevel=2,
        )
        return ProbedJacobian(function, replace(options, method="probes"))
    return exact
