r"""Modules inside a forward whose type has an operator of its own, registered by its author.

    R on the module's output  ->  R J on its input (n, d) or (1, n, d)

Their ``forward`` is shadowed while a forward is traced, and as it was afterwards; hooks stay outside, as in
any call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.core.scaled import Scaled
from depprobe.core.temporal_jacobian import TemporalJacobian
from depprobe.errors import OverBudget
from depprobe.operators.calls import KnownCall, LinearisedCall

#: makes the operator of a module at x (n, d), or None
Make = Callable[[nn.Module, Tensor], TemporalJacobian | None]
#: positions that are asked one by one what they read; of more, everything may be
_FEW = 8


class OperatorCall(LinearisedCall):
    """A call whose Jacobian is an operator."""

    def __init__(self, jacobian: TemporalJacobian) -> None:
        self.jacobian = jacobian

    def pull(self, rows: Sequence[Scaled], live: Sequence[Tensor]) -> list[tuple[Scaled, Tensor]]:
        """Rows through the operator."""
        one = live[0].any(0).nonzero()[:, 0].tolist()
        found = self._from_row(rows[0], *one) if len(one) == 1 else self.jacobian.pull(rows[0])
        return [(found, self.reach(live)[0])]

    def reach(self, live: Sequence[Tensor]) -> list[Tensor]:
        """What the operator says that few positions read; of more, everything."""
        (alive,) = live
        reach = alive.new_zeros(len(alive), self.jacobian.shape[2])
        for mask, found in zip(alive, reach, strict=True):
            at = mask.nonzero()[:, 0].tolist()
            if len(at) > _FEW:
                found[:] = True
            for t in at[:_FEW]:
                found |= torch.from_numpy(self.jacobian.support(t)).to(found.device)
        return [reach]

    def _from_row(self, rows: Scaled, t: int) -> Scaled:
        """Rows that stand on position t alone, by the operator's own row: nothing tiny is lost."""
        try:
            row = self.jacobian.row(t)
        except OverBudget:
            return self.jacobian.pull(rows)
        top = row.log_scale.expand(len(row.values), -1, 1).amax(0, keepdim=True)
        base = torch.where(top.isneginf(), 0, top)
        values, log_scale = rows.values[:, t], rows.log_scale.expand(-1, rows.values.shape[1], 1)[:, t]
        return Scaled(torch.einsum("ro,opi->rpi", values, row.relative_to(base)), base + log_scale[:, None])


@contextmanager
def shadowed(modules: Sequence[nn.Module], make: Make, cut: Callable[..., Any]) -> Iterator[None]:
    """Have calls of some modules shown to ``cut(call)``: their output, or None to run as they are."""
    with ExitStack() as stack:
        for module in modules:
            if "forward" not in vars(module):
                run = module.forward
                module.forward = _shadow(module, run, make, cut)
                stack.callback(vars(module).pop, "forward")
        yield


def _shadow(module: nn.Module, run: Callable[..., Any], make: Make, cut: Callable[..., Any]) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        call = None if kwargs or len(args) != 1 else _read(module, args[0], run, make)
        found = None if call is None else cut(call)
        return run(*args, **kwargs) if found is None else found

    return forward


def _read(module: nn.Module, x: Any, run: Callable[..., Any], make: Make) -> KnownCall | None:
    if not isinstance(x, Tensor) or not x.requires_grad or x.ndim not in (2, 3):
        return None
    if x.ndim == 3 and len(x) != 1:
        return None
    axis = x.ndim - 2
    shadow = vars(module).pop("forward")  # what makes the operator looks whether the module is as it comes
    try:
        jacobian = make(module, x.detach().clone().reshape(x.shape[-2:]))
    finally:
        module.forward = shadow
    if jacobian is None:
        return None
    return KnownCall([x], [axis], run, [axis], lambda inputs: OperatorCall(jacobian), reads_inputs=False)
