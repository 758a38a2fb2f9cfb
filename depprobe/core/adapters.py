"""Calling a module in its own layout, with x always (n, d).

``call`` is open: ``call.register(MyModule)`` teaches it another layout. What it does not know is called
with exactly what the user gave, (n, d) or (1, n, d).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.errors import BadInput


@singledispatch
def call(
    module: nn.Module, x: Tensor, *, batched: bool = False, forward: Mapping[str, Any] | None = None
) -> Tensor:
    """Output of ``module`` at one input: (n, d_in) to (n_out, d_out).

    Parameters
    ----------
    module : any module; recurrent modules, ``MultiheadAttention``, ``TransformerEncoder`` and its layers,
        ``Conv1d`` and ``Sequential`` in their own layouts.
    x : (n, d_in).
    batched : whether an unknown module is to be given (1, n, d_in) rather than (n, d_in).
    forward : further arguments of the module's forward, such as ``attn_mask``.

    Raises
    ------
    BadInput : the output is not a tensor of shape (n_out, d_out), or (1, n_out, d_out) where batched.
    """
    y = module(x[None] if batched else x, **(forward or {}))
    if isinstance(y, (tuple, list)) and y:
        y = y[0]
    if not isinstance(y, Tensor):
        raise BadInput(
            f"{type(module).__name__} returned {type(y).__name__}; its output must be a tensor (n, d)"
        )
    if batched and y.ndim == 3 and y.shape[0] == 1:
        y = y[0]
    if y.ndim != 2:
        expected = "(1, n, d)" if batched else "(n, d)"
        raise BadInput(
            f"{type(module).__name__} returned shape {tuple(y.shape)}; its output must be {expected}"
        )
    return y


@call.register
def _(
    module: nn.RNNBase, x: Tensor, *, batched: bool = False, forward: Mapping[str, Any] | None = None
) -> Tensor:
    axis = 0 if module.batch_first else 1
    return module(x.unsqueeze(axis), **(forward or {}))[0].squeeze(axis)


@call.register
def _(
    module: nn.MultiheadAttention,
    x: Tensor,
    *,
    batched: bool = False,
    forward: Mapping[str, Any] | None = None,
) -> Tensor:
    if not (module.kdim == module.vdim == module.embed_dim):
        raise BadInput(
            f"x is query, key and value at once, so kdim = {module.kdim} and vdim = {module.vdim} "
            f"must equal embed_dim = {module.embed_dim}"
        )
    options = dict(forward or {})
    # the fused path refuses what its plain twin allows: ask for no averaged weights unless told otherwise
    options.setdefault("need_weights", False)
    return module(x, x, x, **options)[0]


@call.register(nn.TransformerEncoderLayer)
@call.register(nn.TransformerEncoder)
def _(
    module: nn.Module, x: Tensor, *, batched: bool = False, forward: Mapping[str, Any] | None = None
) -> Tensor:
    # (n, d) is one sequence to them, whatever the place of the batch
    return module(x, **(forward or {}))


@call.register
def _(
    module: nn.Conv1d, x: Tensor, *, batched: bool = False, forward: Mapping[str, Any] | None = None
) -> Tensor:
    return module(x.T[None], **(forward or {}))[0].T


@call.register
def _(
    module: nn.Sequential, x: Tensor, *, batched: bool = False, forward: Mapping[str, Any] | None = None
) -> Tensor:
    if forward:
        raise BadInput(f"nn.Sequential takes no further arguments, not {sorted(forward)}")
    for child in module:
        x = call(child, x, batched=batched)
    return x


def parameters_of(module: nn.Module) -> tuple[torch.dtype, torch.device] | None:
    """dtype and device of the module's weights, or None where it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return None
