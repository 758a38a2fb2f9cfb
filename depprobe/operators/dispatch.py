"""Which operator serves a function: registered for its type, else general, else autograd."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.core.calling.arguments import is_half, weights_of
from depprobe.core.calling.known import is_plain
from depprobe.core.function import SequenceFunction
from depprobe.core.options import Options, plain_modes
from depprobe.core.temporal_jacobian import TemporalJacobian
from depprobe.errors import BadInput, unknown
from depprobe.operators.autograd import fisher
from depprobe.operators.autograd.operator import AutogradJacobian
from depprobe.operators.autograd.probes import ProbedJacobian
from depprobe.registry import offered, take_all

#: makes the operator of a module at x (n, d); None for an instance that it does not serve
Maker = Callable[[Any, Tensor, Options], TemporalJacobian | None]
#: makes an operator of any function; None for one that it does not serve
General = Callable[[SequenceFunction, Options], TemporalJacobian | None]

_MAKERS: dict[type[nn.Module], Maker] = {}
_GENERAL: list[General] = []
#: types for which other packages were asked
_ASKED: set[type] = set()


def register_jacobian(*types: type[nn.Module]) -> Callable[[Maker], Maker]:
    """Teach the operator of a module type: decorates a function (module, x, options).

    It is asked for instances of the type, and of subclasses that override nothing of it, without hooks,
    called whole at x (n, d), which is detached. It may return None.

    Examples
    --------
    >>> class Twice(nn.Module):
    ...     def forward(self, x):
    ...         return 2 * x
    >>> @register_jacobian(Twice)
    ... def twice(module, x, options):
    ...     return None
    """

    def decorate(maker: Maker) -> Maker:
        _MAKERS.update(dict.fromkeys(types, maker))
        return maker

    return decorate


def register_general(maker: General) -> General:
    """Have a function (function, options) asked for every function that no registered type serves."""
    _GENERAL.append(maker)
    return maker


def maker_of(module: nn.Module) -> Maker | None:
    """What makes the operator registered for what a module computes, or None."""
    if type(module) not in _ASKED:
        _ask_other_packages(type(module))
    kind = next((kind for kind in type(module).__mro__ if kind in _MAKERS), None)
    return _MAKERS[kind] if kind is not None and is_plain(module, kind) else None


def _ask_other_packages(kind: type) -> None:
    """Import the operators that other packages offer for a type, by their entry points."""
    _ASKED.add(kind)
    names = [f"{base.__module__}.{base.__qualname__}." for base in kind.__mro__]
    take_all(
        entry for entry in offered("operators") if any(name.startswith(f"{entry.name}.") for name in names)
    )


def registered_jacobian(module: nn.Module, x: Tensor, options: Options) -> TemporalJacobian | None:
    """The operator registered for a module's type, at x (n, d_in), or None where there is none."""
    maker = maker_of(module)
    return None if maker is None else maker(module, x, options)


def operator_of(function: SequenceFunction, options: Options) -> TemporalJacobian:
    """The temporal Jacobian of a function.

    Raises
    ------
    BadInput : the method or ``wrt`` asked for does not serve it.
    OverBudget : the job would not fit the budget.
    """
    half = is_half(function.module, function.x)
    if half and options.method == "structured":
        raise BadInput(
            "structured operators take float32 or float64: use --dtype float32 (module.float()), or method "
            "auto"
        )
    if options.method in ("auto", "structured") and not half:
        if function.plain is not None and options.norm != fisher.NORM:
            found = registered_jacobian(function.plain, function.x, options)
            if found is not None:
                return found
        for general in _GENERAL:
            found = general(function, options)
            if found is not None:
                return found
    who = type(function.module).__name__
    if options.method == "structured":
        raise BadInput(f"no structured operator serves {who}; use method auto, autograd or probes")
    if options.wrt in ("h", "c"):
        known = dict(function.module.named_children())
        use = f"module:{options.wrt} for the submodule" if options.wrt in known else "x"
        raise BadInput(
            f"wrt={options.wrt!r} needs the chain operator of nn.RNN, nn.GRU or nn.LSTM; {who} is none; "
            f"use {use}"
        )
    if options.method == "probes":
        return ProbedJacobian(function, options)
    return AutogradJacobian(function, options)


def options_given(**given: Any) -> Options:
    """Options as a call gives them; raises ``BadInput`` where one of them would have no effect.

    Examples
    --------
    >>> options_given(method="autograd").tolerance
    1e-06
    """
    how = Options(**given)
    if "tolerance" in given and how.method in ("autograd", "probes"):
        raise BadInput(f"tolerance has no meaning with method {how.method!r}, which compresses nothing")
    return how


@plain_modes()
def temporal_jacobian(
    module: nn.Module,
    x: Any,
    *,
    of: str = "output",
    wrt: str = "x",
    layout: str | None = None,
    position: Any = None,
    forward: Mapping[str, Any] | None = None,
    copy: bool = True,
    **options: Any,
) -> TemporalJacobian:
    """The temporal Jacobian of a module at one input, as an operator.

    Parameters
    ----------
    module, x, of, wrt, layout, position, forward, copy : see ``SequenceFunction``.
    options : ``method``, ``tolerance``, ``probes``, ``memory``, ``seed``, see ``Options``.

    Raises
    ------
    BadInput : see ``SequenceFunction``, ``Options`` and ``operator_of``.
    OverBudget : the job would not fit the budget.

    Examples
    --------
    >>> import torch
    >>> J = temporal_jacobian(torch.nn.GRU(3, 5, batch_first=True), torch.randn(9, 3))
    >>> J.shape
    (9, 5, 9, 3)
    """
    known = [*inspect.signature(temporal_jacobian).parameters, *(one.name for one in fields(Options))]
    for name in sorted(options.keys() - {*known}):
        raise unknown("argument of temporal_jacobian", name, {*known} - {"options"})
    how = options_given(wrt=wrt, forward={} if forward is None else forward, **options)
    given: dict[str, Any] = {"wrt": wrt, "layout": layout, "position": position, "forward": forward}
    given |= {"memory": how.memory, "copy": copy}
    if how.norm == fisher.NORM and of == "output":
        try:
            return operator_of(SequenceFunction(module, x, of="logits", **given), how)
        except BadInput as error:
            # of a module that returns one tensor, that holds the logits
            if "returns one Tensor" not in str(error):
                fault, unnamed, _ = str(error).partition(", no 'logits'")
                if not unnamed:
                    raise
                raise BadInput(
                    f"norm='fisher' weighs logits, and {fault}{unnamed}; of= may name what gives them"
                ) from error
    return operator_of(SequenceFunction(module, x, of=of, **given), how)


def jacobians_at_depths(
    module: nn.Module, x: Any, names: Sequence[str], **given: Any
) -> list[TemporalJacobian]:
    """The temporal Jacobians in the outputs of several submodules, sharing backward passes where they can.

    Parameters
    ----------
    module, x : see ``SequenceFunction``.
    names : of the submodules.
    given : what ``temporal_jacobian`` takes beside ``wrt``.

    Examples
    --------
    >>> import torch
    >>> f = nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 5, batch_first=True), nn.Linear(5, 2))
    >>> [J.shape for J in jacobians_at_depths(f, torch.randn(9, 3), ["0", "1"])]
    [(9, 2, 9, 4), (9, 2, 9, 5)]
    """
    first = temporal_jacobian(module, x, wrt=names[0], **given)
    shared = first.at_depths(names) if len(names) > 1 else None
    return shared or [first, *(temporal_jacobian(module, x, wrt=name, **given) for name in names[1:])]


def operator_name(module: nn.Module, d_in: int) -> str:
    """Which operator serves a module, found by asking for one at a short input of width d_in."""
    dtype, device = weights_of(module) or (torch.float64, torch.device("cpu"))
    return temporal_jacobian(module.eval(), torch.zeros(256, d_in, dtype=dtype, device=device)).method
