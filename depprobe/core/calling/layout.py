r"""In which order a module takes and returns a sequence; to us it is time first, (n, d).

    "b n d"  (1, n, d)      "n b d"  (n, 1, d)      "b d n"  (1, d, n)      "n d"  (n, d)

torch's own modules bring their layout; a Sequential has that of its first layer that has one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.core.calling.arguments import Argument
from depprobe.errors import CHOOSE, BadInput

LAYOUTS: tuple[str, ...] = ("b n d", "n b d", "b d n", "n d")


def check_layout(layout: str) -> None:
    """Refuse what is no layout; raises ``BadInput``."""
    if layout not in LAYOUTS:
        raise BadInput(f"layout must be one of {', '.join(map(repr, LAYOUTS))}, not {layout!r}")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Time first, (n, d) or ids (n,), to the module's layout, with a batch of one."""
    if layout == "n d":
        return x
    if layout == "n b d":
        return x.unsqueeze(1)
    return (x.T if layout == "b d n" and x.ndim == 2 else x).unsqueeze(0)


def batch_axis(layout: str) -> int | None:
    """Which axis is the batch; None where there is none."""
    return {"b n d": 0, "b d n": 0, "n b d": 1, "n d": None}[layout]


def time_first(y: Tensor, layout: str, what: str) -> tuple[Tensor, bool]:
    """A module's output to (n_out, d_out), and whether it has a time axis.

    Raises ``BadInput``: it has neither the shape of a sequence nor of one vector or number, or is empty.
    """
    if y.numel() == 0:
        raise BadInput(f"{what} has shape {tuple(y.shape)}, which is empty; give a longer x")
    if y.ndim == 0:
        return y.view(1, 1), False
    axis = batch_axis(layout)
    if axis is None:
        if y.ndim <= 2:
            return (y, True) if y.ndim == 2 else (y[None], False)
        raise BadInput(f"{what} has shape {tuple(y.shape)}; with layout 'n d' it must be (n, d) or (d,)")
    if y.ndim == 3 and y.shape[axis] == 1:
        y = y.squeeze(axis)
        return (y.T if layout == "b d n" else y), True
    if y.ndim <= 2 and y.shape[0] == 1:
        return y.reshape(1, -1), False
    sequence = {"b n d": "(1, n, d)", "n b d": "(n, 1, d)", "b d n": "(1, d, n)"}[layout]
    raise BadInput(
        f"{what} has shape {tuple(y.shape)}; with layout {layout!r} it must be {sequence}, "
        "or (1, d) where it has no time axis"
    )


def arranged(
    module: nn.Module, given: Tensor, argument: Argument, forward: Mapping[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Positional and keyword arguments of the module's call, the sequence given in its layout."""
    named = {**argument.beside, **forward}
    if given.ndim == 3 and type(module).__module__.startswith("torch.nn."):
        named |= {key: _with_batch(key, value) for key, value in named.items()}
    if argument.name is not None:
        return (), named | {argument.name: given}
    if isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward:
        _check_attention(module)
        # the fused path refuses what its plain twin allows: no averaged weights unless asked for
        return (given, given, given), {"need_weights": False} | named
    return (given,), named


def _with_batch(name: str, value: Any) -> Any:
    """A mask of padded keys, (n,), as torch's layers take it with a batch of one."""
    one = name.endswith("key_padding_mask") and isinstance(value, Tensor) and value.ndim == 1
    return value[None] if one else value


def _check_attention(module: nn.Module) -> None:
    """Refuse torch's attention where keys or values are of another width than x, which is all three."""
    widths = module.kdim, module.vdim, module.embed_dim
    if len(set(widths)) > 1:
        raise BadInput(
            f"x is query, key and value at once, so kdim = {widths[0]} and vdim = {widths[1]} "
            f"must equal embed_dim = {widths[2]}"
        )


def failure(who: str, value: Tensor, given: Tensor, error: Exception) -> str:
    """Why a module that fails on a value does not take it as it was given, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    scripted = isinstance(error, torch.jit.Error)
    said = (lines[-1] if scripted else lines[0]) if lines else type(error).__name__
    if said.startswith("Expected mat_a to be Float32"):
        return (
            f"{who} multiplies by its experts in a kernel without float64; load it with "
            "experts_implementation='eager', or measure it in float32"
        )
    width = f"{CHOOSE}, " if re.search(rf"(?<!\d){value.shape[-1]}(?!\d)", said) else ""
    return (
        f"{who} fails on x of shape {tuple(value.shape)}, given as {tuple(given.shape)}: {said}; "
        f"{width}layout= states another order of axes, forward={{...}} holds further arguments"
    )
