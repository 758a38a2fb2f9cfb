r"""Zeros behind units that are saturated: a factor that only rounded to 0.

    sigma(-100) = 3.7e-44 is 0 in float32, tanh(20) = 1 in float64, e^-800 = 0:   h_t = z h_(t-1) + ..., z = 0

Such a factor is not zero, though its gradient is 0 and no replacement of an earlier input shows: where it
comes from a parameter, none can. So the row is taken once more through a pass in which exponentials and
their like see z / (1 + |z| / 8) in place of z, and round nothing to 0. What has a gradient there is not
proved to be ignored. What is infinite, or beyond 1e20, is a mask and stays one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.nn.attention import SDPBackend, sdpa_kernel

from depprobe.core.calling.environment import WatchingMode
from depprobe.core.function import SequenceFunction
from depprobe.core.memory import OWN, BudgetGuard, bytes_of
from depprobe.core.recorded_graph import REENTRANT, coarsest, holds_gates, saved_bytes, whole_gradients
from depprobe.operators.autograd.recording import n_by_n_bytes, tensors_of

#: by which x is made smaller where recurrences run in one kernel
_SMALLER = 2.0**-10
#: largest argument that is left, and what counts as infinite
_MOST, _MASK = 8.0, 1e20
#: share of the range of exponents by which rows are raised
_RAISED = 0.5
#: share of the memory, one over this, that the pass may go on to take for other targets
_KEPT = 8
#: which argument of an operation decides how its result rounds
_ARGUMENTS = {
    **dict.fromkeys(
        ("exp", "exp2", "expm1", "sigmoid", "tanh", "erf", "erfc", "softplus", "silu", "gelu"), 0
    ),
    **dict.fromkeys(("elu", "mish", "log_sigmoid_forward", "_softmax", "_safe_softmax", "_log_softmax"), 0),
    **dict.fromkeys(("exp_", "sigmoid_", "tanh_", "silu_", "elu_", "mish_"), 0),
    **dict.fromkeys(("softplus_backward", "silu_backward", "gelu_backward", "mish_backward"), 1),
    "log_sigmoid_backward": 1,
    "elu_backward": 5,
}


def _soft(z: Tensor) -> Tensor:
    size = z.abs()
    masked = size >= _MASK
    if not bool(((size > _MOST) & ~masked).any()):
        return z
    if not z.is_floating_point():
        return torch.where(masked, z, z / (1 + size / _MOST))
    # one tensor in all, which may be large
    size.div_(_MOST).add_(1)
    return torch.where(masked, z, torch.div(z, size, out=size), out=size)


@contextmanager
def _seen_through() -> Iterator[None]:
    """Recurrences run in operations that can be seen, on a CPU."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


class _Softened(WatchingMode):
    """Keeps the arguments of exponentials small while it is on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = "" if isinstance(func, HigherOrderOperator) else func.overloadpacket.__name__
        at = _ARGUMENTS.get(name)
        if at is not None and at < len(args):
            z = args[at]
            soft = _soft(z)
            if name.endswith("_"):
                z.copy_(soft)
            else:
                args = (*args[:at], soft, *args[at + 1 :])
        return self.ran(func, args, kwargs)


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

    def __getstate__(self) -> dict[str, object]:
        # a graph does not travel; it is recorded again
        return vars(self) | {"_graph": None}

    def ignores(self, t: int, sources: Tensor) -> Tensor:
        """Which of some inputs output t is proved to ignore, without and with what is saturated: bool."""
        found = self._function.ignores(t, sources)
        return found & ~self._hides(t)[sources] if bool(found.any()) else found

    def _hides(self, t: int) -> Tensor:
        """Inputs (n_in,) that output t reads once nothing is saturated; all where that cannot be seen or does
        not fit the memory.
        """
        function = self._function
        with function.held(), _seen_through(), sdpa_kernel(SDPBackend.MATH), self._watched():
            try:
                # a product that underflows shows only if it is raised
                found = self._gradient(t)
                if not bool(found.isfinite().all()):
                    found = self._gradient(t, raised=False)
            except (ValueError, RuntimeError):  # it does not run with other numbers, or does not fit
                return torch.ones(len(function.x), dtype=torch.bool, device=function.x.device)
        return found.ne(0).any(1)

    def _watched(self) -> AbstractContextManager[None]:
        """Counts what a pass makes where that could exceed the memory, and makes room for it."""
        function = self._function
        if n_by_n_bytes(function) <= self._memory:
            return nullcontext()
        if self._make_room is not None:
            self._make_room()
        beside = OWN + 2 * bytes_of(tensors_of(function.module))
        return BudgetGuard(self._memory, "the check of which inputs are ignored", [function.x] * 3, beside)

    def _gradient(self, t: int, raised: bool = True) -> Tensor:
        leaf, y = self._graph or self._recorded()
        kept = saved_bytes(y) <= self._memory // _KEPT
        self._graph = (leaf, y) if kept else None
        scale = 2.0 ** int(_RAISED * math.log2(torch.finfo(coarsest(y)).max)) if raised else 1.0
        cotangent = torch.zeros_like(y)
        cotangent[t] = scale * (1 + torch.arange(y.shape[1], device=y.device).to(y) / y.shape[1])
        with _Softened():
            try:
                (found,) = torch.autograd.grad(y, leaf, cotangent, retain_graph=kept, materialize_grads=True)
            except RuntimeError as error:
                if REENTRANT not in str(error):
                    raise
                (found,) = whole_gradients(y, [leaf], cotangent)
        return found

    def _recorded(self) -> tuple[Tensor, Tensor]:
        leaf, y = self._function.record(_Softened())
        return (
            self._function.record(_Softened(), _SMALLER * self._function.x) if holds_gates(y) else (leaf, y)
        )
