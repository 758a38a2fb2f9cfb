"""Which operator serves a module: one open table keyed on module type, autograd for what is not in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.core.adapters import call, parameters_of
from depprobe.core.budget import DEFAULT_MEMORY
from depprobe.core.one_function import require_function
from depprobe.core.temporal_jacobian import TemporalJacobian
from depprobe.errors import BadInput, unknown
from depprobe.operators.autograd.operator import AutogradJacobian
from depprobe.operators.chain.operator import RecurrentJacobian
from depprobe.vocabulary import METHODS, WRT


@singledispatch
def structured(
    module: nn.Module,
    x: Tensor,
    *,
    wrt: str = "x",
    tolerance: float = 1e-6,
    memory: int = DEFAULT_MEMORY,
    forward: Mapping[str, Any] | None = None,
) -> TemporalJacobian | None:
    """The structured operator of a module at x (n, d_in), or None where it has none.

    Open: ``structured.register(MyModule)`` on a function of the same signature teaches it another; it
    may return None for instances that it does not serve.
    """
    return None


@structured.register
def _(
    module: nn.RNNBase,
    x: Tensor,
    *,
    wrt: str = "x",
    tolerance: float = 1e-6,
    memory: int = DEFAULT_MEMORY,
    forward: Mapping[str, Any] | None = None,
) -> TemporalJacobian | None:
    own = next(kind for kind in (nn.RNN, nn.GRU, nn.LSTM, nn.RNNBase) if isinstance(module, kind))
    if own is nn.RNNBase or forward or not is_plain(module, own):
        return None
    return RecurrentJacobian(module, x, wrt=wrt, tolerance=tolerance, memory=memory)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what ``kind`` computes: its forward not overridden, no hooks on it."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module).forward is kind.forward and not hooked


def check(module: nn.Module, x: Tensor) -> None:
    """Refuse what no operator can answer for, in one line.

    Raises
    ------
    BadInput : x is not (n, d) with n >= 2, or not finite; half precision; weights that are not finite, or
        of another dtype or device than x; dropout or running statistics at work in train mode.
    """
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 1:
        raise BadInput(f"x must be (n, d) with n >= 2 and d >= 1, not {tuple(x.shape)}")
    if x.dtype in (torch.float16, torch.bfloat16):
        raise BadInput(
            f"{x.dtype} has too few digits to measure with: use --dtype float32 (module.float(), x.float())"
        )
    if not x.is_floating_point():
        raise BadInput(f"x must be float32 or float64, not {x.dtype}")
    if not bool(x.isfinite().all()):
        raise BadInput("x holds NaN or Inf; every entry must be finite")
    found = parameters_of(module)
    if found and found[0] in (torch.float16, torch.bfloat16):
        raise BadInput(
            f"{found[0]} weights have too few digits to measure with: use --dtype float32 (module.float())"
        )
    if found and found != (x.dtype, x.device):
        raise BadInput(
            f"x is {x.dtype} on {x.device} but the module is {found[0]} on {found[1]}; bring them together"
        )
    for name, weight in module.named_parameters():
        if not bool(weight.isfinite().all()):
            raise BadInput(f"weight {name!r} holds NaN or Inf")
    for name, child in module.named_modules():
        if not child.training:
            continue
        rate = (
            getattr(child, "dropout", 0.0)
            if not isinstance(child, nn.modules.dropout._DropoutNd)
            else child.p
        )
        if isinstance(rate, (int, float)) and rate > 0:
            raise BadInput(
                f"dropout {rate} of {name or type(child).__name__!r} is active, so rows would come from "
                "different functions; call module.eval() first"
            )
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.track_running_stats:
            raise BadInput(
                f"{name or type(child).__name__!r} updates its statistics in train mode; "
                "call module.eval() first"
            )


def _is_known(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] in ("torch", "depprobe")


def temporal_jacobian(
    module: nn.Module,
    x: Tensor,
    *,
    wrt: str = "x",
    method: str = "auto",
    tolerance: float = 1e-6,
    probes: int = 32,
    memory: int = DEFAULT_MEMORY,
    seed: int = 0,
    batched: bool = False,
    forward: Mapping[str, Any] | None = None,
) -> TemporalJacobian:
    """The temporal Jacobian of a module at one input, as an operator.

    Parameters
    ----------
    module : any ``nn.Module``, in eval mode if it has dropout.
    x : (n, d_in), n >= 2, of the module's dtype and device.
    wrt : ``x`` the input; ``h`` or ``c`` the earlier state of a recurrent module.
    method : ``auto`` takes the structured operator where there is one and autograd elsewhere;
        ``structured``, ``autograd`` and ``probes`` insist.
    tolerance : relative error that compression may cause; 0 for none.
    probes : number of random cotangents a row for ``method='probes'``.
    memory : bytes that the job may take.
    seed : seed of the probes.
    batched : whether an unknown module is to be given (1, n, d_in) rather than (n, d_in).
    forward : further arguments of the module's forward, such as ``attn_mask``.

    Raises
    ------
    BadInput : see ``check`` and ``require_function``; or the method or ``wrt`` asked for does not serve this
        module.
    OverBudget : the job would not fit the budget.

    Examples
    --------
    >>> import torch
    >>> J = temporal_jacobian(torch.nn.GRU(3, 5, batch_first=True), torch.randn(9, 3))
    >>> J.shape
    (9, 5, 9, 3)
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if wrt not in WRT:
        raise unknown("wrt", wrt, WRT)
    if not 0 <= tolerance < 1:
        raise BadInput(f"tolerance must lie in [0, 1), not {tolerance}")
    check(module, x)
    found: TemporalJacobian | None = None
    if method in ("auto", "structured"):
        found = structured(module, x, wrt=wrt, tolerance=tolerance, memory=memory, forward=forward)
    if found is None:
        if method == "structured":
            raise BadInput(
                f"no structured operator serves {type(module).__name__}; use method auto, autograd or probes"
            )
        if wrt != "x":
            raise BadInput(f"wrt={wrt!r} needs the chain operator of nn.RNN, nn.GRU or nn.LSTM; use x")
        found = AutogradJacobian(
            lambda z: call(module, z, batched=batched, forward=forward),
            x,
            probes=probes if method == "probes" else None,
            memory=memory,
            seed=seed,
        )
    # last: what takes too much memory was refused before anything was run
    if not all(map(_is_known, module.modules())):
        require_function(module, x, batched=batched, forward=forward)
    return found


def operator_name(module: nn.Module, d_in: int) -> str:
    """Which operator serves a module, found by asking for one at a short input of width d_in."""
    weights = parameters_of(module)
    dtype, device = weights or (torch.float64, torch.device("cpu"))
    return temporal_jacobian(module.eval(), torch.zeros(256, d_in, dtype=dtype, device=device)).method
