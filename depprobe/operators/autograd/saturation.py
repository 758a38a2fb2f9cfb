r"""Zeros behind units that are saturated: a factor that only rounded to 0.

    sigma(-100) = 3.7e-44 is 0 in float32, tanh(20) = 1 in float64, e^-800 = 0:   h_t = z h_(t-1) + ..., z = 0

Such a factor is not zero, though its gradient is 0 and no replacement of an earlier input shows: where it
comes from a parameter, none can. So the row is taken once more through a pass in which nothing rounds to 0
(``unrounded_zeros``). What has a gradient there is not proved to be ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from depprobe.core.function import SequenceFunction
from depprobe.core.memory import OWN, BudgetGuard, bytes_of
from depprobe.core.recorded_graph import REENTRANT, coarsest, holds_gates, saved_bytes, whole_gradients
from depprobe.operators.autograd.recording import n_by_n_bytes, tensors_of
from depprobe.operators.unrounded_zeros import UnroundedZeros

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

#: by which x is made smaller where recurrences run in one kernel
_SMALLER = 2.0**-10
#: share of the range of exponents by which rows are raised
_RAISED = 0.5
#: share of the memory, one over this, that the pass may go on to take for other targets
_KEPT = 8


@contextmanager
def _seen_through() -> Iterator[None]:
    """Recurrences run in operations that can be seen, on a CPU."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


class Saturation:
    """Which inputs an output of one function ignores, also where no factor rounds to 0.

    Parameters
    ----------
    function : whose passes they are.
    memory : bytes that they may take.
    make_room : gives up what else is held, where it may not fit beside a pass.
    """

    def __init__(
        self, function: SequenceFunction, memory: int, make_room: Callable[[], None] | None = None
    ) -> None:
        self._function, self._memory, self._make_room = function, memory, make_room
        self._graph: tuple[Tensor, Tensor] | None = None
        #: runs of outputs without a gradient, what lies before and behind them, and whether they are masked
        self._runs: list[tuple[int, int, bool]] = []

    def __getstate__(self) -> dict[str, object]:
        # a graph does not travel; it is recorded again
        return vars(self) | {"_graph": None}

    def ignores(self, t: int, sources: Tensor) -> Tensor:
        """Which of some inputs output t is proved to ignore, without and with what is saturated: bool."""
        found = self._function.ignores(t, sources)
        return found & ~self._hides(t)[sources] if bool(found.any()) else found

    def may_be_masked(self, t: int, zero: Bools, large: Bools, columns: Ints, at: int) -> Bools:
        """Which zeros of row t, among columns, are not what is left of norms that fade.

        Parameters
        ----------
        t, at : the output, and the input position that it sits at.
        zero, large : which norms of the columns are zero, and which are in the middle of the range.
        """
        if zero.all():
            return np.full(len(zero), self._is_masked(t))
        return ends_abruptly(zero, large, columns, at)

    def _is_masked(self, t: int) -> bool:
        """Whether no gradient arrives in output t, though large ones do in the nearest outputs on either side
        in which any do.
        """
        if bool(self._hides(t).any()):
            return False
        for before, behind, masked in self._runs:
            if before < t < behind:
                return masked
        middle = math.sqrt(torch.finfo(self._function.y.dtype).tiny)
        (before, first), (behind, last) = (self._next_peak(t, step) for step in (-1, 1))
        peaks = [peak for peak in (first, last) if peak is not None]
        masked = bool(peaks) and all(peak > middle for peak in peaks)
        self._runs.append((before, behind, masked))
        return masked

    def _next_peak(self, t: int, step: int) -> tuple[int, float | None]:
        """The nearest output before or after t in which any gradient arrives, and the largest entry of that;
        the end of the sequence and None where there is none. Many outputs are asked at once, then halves.
        """
        end = -1 if step < 0 else len(self._function.y)
        most = abs(end - t) - 1

        def largest(first: int, last: int) -> float:
            ends = sorted((t + step * first, t + step * last))
            found = self._seen(slice(ends[0], ends[1] + 1), raised=False)
            return math.nan if found is None else float(found.abs().max())

        near, far = 0, min(1, most)  # in none of the nearest does any arrive
        while far > near and largest(near + 1, far) == 0:
            near, far = far, min(2 * far, most)
        if far == near:
            return end, None
        while far - near > 1:
            half = (near + far) // 2
            near, far = (half, far) if largest(near + 1, half) == 0 else (near, half)
        return t + step * far, largest(far, far)

    def _hides(self, t: int) -> Tensor:
        """Inputs (n_in,) that output t reads once nothing is saturated; all where that cannot be seen."""
        found = self._seen(t)
        if found is None:
            x = self._function.x
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        return found.ne(0).any(1)

    def _seen(self, t: int | slice, raised: bool = True) -> Tensor | None:
        """The gradient of output t, or of a sum of some, (n_in, d_in) with nothing saturated; None where it
        does not fit the memory, or the forward does not take other numbers.
        """
        function = self._function
        with function.held(), _seen_through(), sdpa_kernel(SDPBackend.MATH), self._watched():
            try:
                # a product that underflows shows only if it is raised
                found = self._gradient(t, raised)
                fits = not raised or bool(found.isfinite().all())
                return found if fits else self._gradient(t, raised=False)
            except (ValueError, RuntimeError):
                return None

    def _watched(self) -> AbstractContextManager[None]:
        """Counts what a pass makes where that could exceed the memory, and makes room for it."""
        function = self._function
        if n_by_n_bytes(function) <= self._memory:
            return nullcontext()
        if self._make_room is not None:
            self._make_room()
        beside = OWN + 2 * bytes_of(tensors_of(function.module))
        return BudgetGuard(self._memory, "the check of which inputs are ignored", [function.x] * 3, beside)

    def _gradient(self, t: int | slice, raised: bool = True) -> Tensor:
        leaf, y = self._graph or self._recorded()
        kept = saved_bytes(y) <= self._memory // _KEPT
        self._graph = (leaf, y) if kept else None
        scale = 2.0 ** int(_RAISED * math.log2(torch.finfo(coarsest(y)).max)) if raised else 1.0
        outputs, units = (1 + torch.arange(size, device=y.device).to(y) / size for size in y.shape)
        cotangent = torch.zeros_like(y)
        cotangent[t] = scale * (outputs[:, None] * units)[t]
        with UnroundedZeros():
            try:
                (found,) = torch.autograd.grad(y, leaf, cotangent, retain_graph=kept, materialize_grads=True)
            except RuntimeError as error:
                if REENTRANT not in str(error):
                    raise
                (found,) = whole_gradients(y, [leaf], cotangent)
        return found

    def _recorded(self) -> tuple[Tensor, Tensor]:
        leaf, y = self._function.record(UnroundedZeros())
        return (
            self._function.record(UnroundedZeros(), _SMALLER * self._function.x)
            if holds_gates(y)
            else (leaf, y)
        )


def ends_abruptly(zero: Bools, large: Bools, columns: Ints, t: int) -> Bools:
    """Which zeros belong to a run whose neighbour, on the side of t, is a norm in the middle of the range.

    Norms that fade reach the floor before they vanish; those that are masked do not.

    Examples
    --------
    >>> zero, large = np.array([True, False, False, True]), np.array([False, False, True, False])
    >>> ends_abruptly(zero, large, np.arange(4), 2).tolist()
    [False, False, False, True]
    """
    out = np.zeros(len(zero), dtype=bool)
    order = np.argsort(columns)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], zero[order], [0]])))
    for first, last in edges.reshape(-1, 2):
        below = bool(large[order[first - 1]]) if first else None
        above = bool(large[order[last]]) if last < len(order) else None
        if columns[order[first]] > t:
            ends = below
        elif columns[order[last - 1]] < t:
            ends = above
        else:
            ends = all(side for side in (below, above) if side is not None) and (below or above)
        out[order[first:last]] = bool(ends)
    return out
