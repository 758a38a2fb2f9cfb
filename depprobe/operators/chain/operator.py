r"""The temporal Jacobian of torch's nn.RNN, nn.GRU and nn.LSTM, as a chain of step Jacobians.

    dh_t/dx_k = ds_t/ds_{t-1} ... ds_{k+1}/ds_k ds_k/dx_k

Any depth, one or both directions, projections, with or without biases. A stack in one direction is one
chain on the joint state and is swept with compression; a bidirectional layer is two chains whose rows
stand on different outputs; deeper bidirectional stacks pull rows through layer by layer, uncompressed.
Rows are swept with compression, more and more gently until the measured error holds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from depprobe.core.device import at_once, waits
from depprobe.core.options import DEFAULT_MEMORY, Options, require
from depprobe.core.parallel import Stopped, each
from depprobe.core.scaled import Scaled, log_hypot, log_norms
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian
from depprobe.errors import BadInput, wrong_width
from depprobe.operators.chain.cells import CellChain, SweptChain
from depprobe.operators.chain.compression import Step
from depprobe.operators.chain.recurrence import RecurrentWeights, room_for
from depprobe.operators.chain.rounding import digits_kept, rounded
from depprobe.operators.chain.runs import is_wide
from depprobe.operators.chain.sweep import sweep
from depprobe.operators.chain.trajectories import stacks_of
from depprobe.operators.chain.unknown_norms import overflowed, reach, statuses
from depprobe.operators.chain.vjp_rows import PulledStack, pulled, pulled_units, push, swept_row
from depprobe.operators.dispatch import register_jacobian

#: share of the norm one compression may discard, times the square root of the tolerance: the error is half
#: the square of the share, which grows while it rides along, and its upper bound is nine times its estimate
_SHARES = (0.06, 0.001, 0.0)
#: least tolerance for which what is read at each step is taken in float32, in the first sweep only, and how
#: many standard deviations of what that errs are added to the error: rows change from where they are compared
_SINGLE_TOLERANCE, _MARGIN = 1e-7, 6
#: rows swept together, and the numbers in their blocks that may be held
_MOST_AT_ONCE, _ROW_NUMBERS = 64, 16 << 20
#: bytes of a trajectory that is held whole; runs held before their norms are taken; numbers held for a norm
_HELD, _MOST_TOLD, _NUMBERS = 1 << 30, 4096, 16


class RecurrentJacobian(TemporalJacobian):
    """Temporal Jacobian of a torch recurrent module at one input.

    Parameters
    ----------
    module : ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM``.
    x : (n, d_in), of the module's dtype and device.
    wrt : ``x``, ``h`` or ``c``: the input, or the state after step k (all layers, bottom first).
    tolerance : relative error of a norm that compression may cause; 0 sweeps uncompressed.
    memory : bytes that the job may take.

    Raises
    ------
    BadInput : ``wrt`` names a state the module lacks, or one of two.
    OverBudget : norms, a row block, or what needs the trajectory held whole, would not fit.
    """

    method = "chain"

    def __init__(
        self,
        module: nn.RNNBase,
        x: Tensor,
        *,
        wrt: str = "x",
        tolerance: float = 1e-6,
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        both = module.bidirectional
        if x.shape[1] != module.input_size:
            raise wrong_width(x.shape[1], module.input_size)
        if wrt == "c" and not isinstance(module, nn.LSTM):
            raise BadInput(f"wrt='c' needs a cell state and {type(module).__name__} has none; use x or h")
        if wrt != "x" and both:
            raise BadInput(f"wrt={wrt!r} is not defined for a bidirectional module (two states); use x")
        self.wrt, self.tolerance, self._memory, n = wrt, tolerance, memory, x.shape[0]
        require(_NUMBERS * 8 * n, memory, f"a row of {n} norms", "use a smaller n")
        self._weights, self._x = RecurrentWeights.of_module(module), x.detach()
        self._dtype, self._device, self._deep_both = x.dtype, x.device, both and module.num_layers > 1
        if self._deep_both:
            self.tolerance, self.error_kind = 0.0, "estimate"
        held = self._deep_both or self._weights.bytes(n) <= min(_HELD, memory // 4)
        room = None if self._deep_both else room_for(self._weights, x, memory, held, _MOST_AT_ONCE)
        if held:
            self._stacks: list[Sequence[SweptChain]] = list(zip(*self._layers, strict=True))
        else:
            self._stacks = stacks_of(self._weights, self._x, both, memory)
        for cell in (cell for stack in self._stacks for cell in stack):
            cell.room = room
        d_out = sum(stack[-1].d_h for stack in self._stacks)
        d_from = sum(getattr(cell, f"d_{wrt}") for cell in self._stacks[0]) if wrt != "x" else x.shape[1]
        self.shape = (n, d_out, n, d_from)

    @functools.cached_property
    def _layers(self) -> list[list[CellChain]]:
        """The trajectory held whole."""
        self._weights.fit(len(self._x), self._memory)
        return self._weights.chains(self._x)

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        """ln norms of J[t,k]; ``error`` is a bound, of deep bidirectional stacks an estimate."""
        columns = np.arange(self.shape[2]) if sources is None else np.asarray(sources, dtype=np.int64)
        t = np.asarray(targets, dtype=np.int64)
        values, error, growth = self._norm_rows(t, int(columns.min()), norm)
        status = None
        if any(cell.overflow < cell.n for stack in self._stacks for cell in stack):
            unknown = overflowed(list(zip(*self._stacks, strict=True)), t)
            values[unknown], error[unknown] = np.nan, 0.0
            status = statuses(values, unknown)[:, columns] if unknown.any() else None
        digits = None if growth is None else self._digits(t, growth)[:, columns]
        return LogNorms(values[:, columns], error[:, columns], status=status, digits=digits)

    @functools.cached_property
    def _pulled(self) -> PulledStack:
        return PulledStack(self._layers, self.shape[1], self._memory)

    def _digits(self, t: NDArray[np.int64], growth: NDArray[np.float64]) -> NDArray[np.float64]:
        """(T, n): an error u |s_k| of s_k moves h_t by u ||dh_t/ds_k|| |s_k| / sqrt(d), relative to |h_t|."""
        size = self._stacks[0][-1].size.double().cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = growth + np.log(size) - np.log(size[t, None] * math.sqrt(self.shape[1]))
        return digits_kept(np.where(np.isneginf(growth), -np.inf, moved), self._dtype)

    @property
    def position(self) -> NDArray[np.float64]:
        """Each output sits where its input does: (n,)."""
        return np.arange(self.shape[0], dtype=np.float64)

    @property
    def targets_at_once(self) -> int:
        """Rows that share the work of a sweep."""
        return 1 if self._deep_both else targets_at_once(self._stacks[0])

    def _norm_rows(
        self, t: NDArray[np.int64], lowest: int, norm: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
        """Norms, error bounds (NaN: none), and in one direction ln norms of dh_t/ds_k: (T, n) each."""
        n = self.shape[2]
        if self._deep_both:
            return *self._pulled.log_norms(t, norm, self.row), None
        values, error = np.full((len(t), n), -np.inf), np.zeros((len(t), n))
        for direction, stack in enumerate(self._stacks):
            here, until = (n - 1 - t, 0) if direction else (t, lowest)
            rows, bounds, growth = chain_norms(stack, here.tolist(), until, self.wrt, norm, self.tolerance)
            if direction:
                rows, bounds = rows[:, ::-1], bounds[:, ::-1]
            # the two directions meet at k = t alone, where Frobenius norms add in squares
            values, error = log_hypot(values, rows), np.maximum(error, bounds)
        if len(self._stacks) > 1 and norm == "spectral":
            for row, target in zip(values, t.tolist(), strict=True):
                row[target] = float(log_norms(self.block(target, target), norm))
        return values, error, growth if len(self._stacks) == 1 else None

    def row(self, t: int) -> Scaled:
        """Row t, uncompressed: values (d_out, n_in, d_in), log_scale (d_out, n_in, 1)."""
        _, d_out, n_in, d_in = self.shape
        size = n_in * d_out * d_in * torch.finfo(self._dtype).bits // 8
        require(3 * size, self._memory, f"the row of {n_in} blocks", "ask for norms or for single blocks")
        if self._deep_both:
            return pulled_units(self._layers, t, range(d_out))
        return swept_row(self._layers, t, None, self.wrt, d_in)

    def block(self, t: int, k: int) -> Scaled:
        """Block J[t,k], uncompressed: values (d_out, d_in), log_scale (d_out, 1)."""
        if self._deep_both:
            return super().block(t, k)
        values, log_scale = swept_row(self._layers, t, k, self.wrt, self.shape[3])
        return Scaled(values[:, 0], log_scale[:, 0])

    def _needs_x(self, what: str) -> None:
        if self.wrt != "x":
            raise BadInput(f"{what} is defined for wrt='x', not {self.wrt!r}")

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Sum over t of cotangent_t^T J[t,:]: (n_out, d_out) to (n_in, d_in)."""
        self._needs_x("vjp")
        scale = torch.zeros(1, self.shape[0], 1, dtype=torch.float64, device=self._device)
        return pulled(self._layers, Scaled(cotangent.to(self._dtype)[None], scale)).dense()[0]

    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n_in, d_in) to (n_out, d_out)."""
        self._needs_x("jvp")
        return functools.reduce(lambda out, layer: push(layer, out), self._layers, tangent.to(self._dtype))


def chain_norms(
    stack: Sequence[SweptChain],
    targets: Sequence[int],
    lowest: int,
    wrt: str,
    norm: str = "fro",
    tolerance: float = 1e-6,
    of: str = "h",
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """ln norms of rows over all sources, bounds on their errors, and ln norms of dh_t/ds_k: (T, n) each.

    ``stack`` holds the layers, bottom first; ``wrt`` and ``of`` are as in ``sweep``. Sources outside
    [lowest, t] are -inf with error 0; a zero that cannot be told from an underflow is NaN.
    """
    shape = len(targets), stack[-1].n
    values, error, rounding = np.full(shape, -np.inf), np.zeros(shape), np.full((3, *shape), -np.inf)
    left = [index for index, t in enumerate(targets) if t >= lowest]
    # a spectral norm hangs on one direction, in which rounding errors do not average out
    single = norm == "fro" and tolerance >= _SINGLE_TOLERANCE
    for share in _SHARES if tolerance else (0.0,):
        size = targets_at_once(stack) if share else 1
        # where rank matters little, half of it saves a second sweep now and then
        threshold = share * math.sqrt(tolerance) * (1 if is_wide(stack) else 0.5)
        for group in (left[first : first + size] for first in range(0, len(left), size)):
            # every so many, so that all parts have targets near and far
            apart = is_wide(stack) and not waits(stack[0].size.device)
            count = min(len(group), torch.get_num_threads()) if apart else 1
            parts = [group[first::count] for first in range(count)]
            swept = functools.partial(
                _swept, stack, targets, lowest, wrt, norm, threshold, of, single, (values, error, rounding)
            )
            if count > 1:
                each(swept, parts)
            else:
                swept(parts[0], Event())
        single = False
        left = [i for i in left if (np.nan_to_num(error[i], nan=np.inf) > tolerance).any()]
    for row, t in zip(values, targets, strict=True):
        zero = np.isneginf(row[lowest : t + 1])
        if zero.any():
            reached = reach(stack, t, lowest, wrt, of)
            row[lowest : t + 1][zero & reached] = np.nan
    # a spectral norm hangs on one direction of many: all of the errors may lie along it
    whole, along, growth = rounding[0], rounding[0 if norm == "spectral" else 1], rounding[2]
    return *rounded(values, error, (whole, along), stack[0].weight_norms()[0].dtype), growth


def targets_at_once(stack: Sequence[SweptChain]) -> int:
    """How many rows are swept together: as many as fit beside the step Jacobians they share."""
    width = sum(cell.width + cell.d_in for cell in stack)
    most = _MOST_AT_ONCE if stack[0].room is None else stack[0].room.targets
    return max(1, min(most, _ROW_NUMBERS // (stack[-1].d_h * width)))


def _swept(
    stack: Sequence[SweptChain],
    targets: Sequence[int],
    lowest: int,
    wrt: str,
    norm: str,
    threshold: float,
    of: str,
    single: bool,
    into: tuple[NDArray[np.float64], ...],
    rows: Sequence[int],
    stop: Event,
) -> None:
    """Fill some rows, one a target, in norms (T, n), errors from compression (infinite where float32 did not
    hold the rows), and ln norms (3, T, n) of rounding errors, whole and along the rows, and of dh_t/ds_k."""
    values, error, rounding = into
    values[rows], error[rows], rounding[:, rows] = -np.inf, 0.0, -np.inf
    told: list[tuple[int, Step]] = []

    def fetch() -> None:
        tensors = {id(part): part for _, step in told for part in (step.told, step.read) if part is not None}
        fetched = dict(zip(tensors, at_once(tensors.values()), strict=True))
        for index, step in told:
            read = step.norms(fetched[id(step.told)], fetched.get(id(step.read)))
            row, where = rows[index], step.start - np.arange(len(read[0]))
            values[row, where], error[row, where], rounding[:, row, where] = read
        told.clear()

    def visit(index: int, step: Step) -> None:
        if stop.is_set():
            raise Stopped
        if len(told) > _MOST_TOLD:
            fetch()
        told.append((index, step._replace(taps=[])))  # which norms do not need

    deviation = sweep(stack, [targets[row] for row in rows], lowest, wrt, threshold, visit, of, single, norm)
    fetch()
    for row in rows if deviation else []:
        error[row, np.isfinite(values[row])] += _MARGIN * deviation


@register_jacobian(nn.RNN, nn.GRU, nn.LSTM)
def recurrent_jacobian(module: nn.RNNBase, x: Tensor, options: Options) -> TemporalJacobian | None:
    """A chain of steps; not where a parametrised weight may differ from the one that torch runs with."""
    if options.forward or is_parametrized(module):
        return None
    return RecurrentJacobian(module, x, wrt=options.wrt, tolerance=options.tolerance, memory=options.memory)
