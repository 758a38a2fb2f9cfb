"""What the type of a module tells: its layout, and whether the module computes what its type is known for.

torch's own modules bring their layout; a Sequential has that of its first layer that has one. A module that
overrides, hooks or replaces anything computes something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as _torch_module
from torch.nn.utils.parametrize import is_parametrized

from depprobe.errors import BadInput

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: what a subclass may define anew without computing anything else
_HARMLESS = frozenset(
    {
        *("__init__", "__repr__", "extra_repr", "reset_parameters", "__getstate__", "__setstate__"),
        *("__deepcopy__", "__doc__", "__class__", "__reduce__", "__init_subclass__"),
    }
)
#: packages whose modules neither keep anything between calls nor draw random numbers in eval mode
_OWN = ("torch.nn.modules.", "depprobe.layers.")
#: torch's types that read (batch, channels, time)
CHANNELS_FIRST: tuple[type[nn.Module], ...] = (
    *(nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.GroupNorm, nn.InstanceNorm1d),
    *(nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d),
    *(nn.ConstantPad1d, nn.ReflectionPad1d, nn.ReplicationPad1d, nn.ZeroPad1d, nn.CircularPad1d),
    *(nn.Upsample, nn.Dropout1d, nn.LocalResponseNorm, nn.ChannelShuffle),
)
#: files of torch whose layers act on each entry by itself, but for those named below
_ENTRIES = ("torch.nn.modules.activation", "torch.nn.modules.dropout")
_TRANSFORMERS = (
    *(nn.Transformer, nn.TransformerEncoder, nn.TransformerEncoderLayer),
    *(nn.TransformerDecoder, nn.TransformerDecoderLayer),
)


def global_hooks() -> Iterator[dict[Any, Any]]:
    """The dictionaries of hooks that torch calls around every module of the process."""
    for name in _HOOKS:
        yield getattr(_torch_module, f"_global{name}")


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of this very module runs more or other code than its type's forward."""
    hooked = any(getattr(module, name, None) for name in _HOOKS)
    return bool(hooked or "forward" in vars(module) or "__call__" in vars(module))


def recomputes_weights(module: nn.Module) -> bool:
    """Whether reading a weight runs code of the user's, or moves a buffer (spectral_norm in training)."""
    if not is_parametrized(module):
        return False
    lists = module.parametrizations.children()  # type: ignore[union-attr]
    parts = [part for each in lists for part in each.modules() if part is not each]
    return any(
        not type(part).__module__.startswith("torch.")
        or (part.training and next(part.buffers(), None) is not None)
        for part in parts
    )


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what ``kind`` computes.

    No method of ``kind`` is overridden, no hook is on the module, on one inside it, or on all modules.

    Examples
    --------
    >>> is_plain(nn.Linear(2, 3), nn.Linear)
    True
    """
    own = type(module)
    if not isinstance(module, kind) or any(global_hooks()):
        return False
    for name in ("forward", "__call__", "_call_impl", "_wrapped_call_impl"):
        if getattr(own, name) is not getattr(kind, name):
            return False
    for parent in own.__mro__[: own.__mro__.index(kind)]:
        for name, value in vars(parent).items():
            if name not in _HARMLESS and callable(value) and hasattr(kind, name):
                return False
    return not any(is_hooked(child) or recomputes_weights(child) for child in module.modules())


def is_torchs_own(module: nn.Module) -> bool:
    """Whether all modules in a module are of torch's (or this package's) types, as they come."""
    if any(global_hooks()):
        return False
    for child in module.modules():
        home = f"{type(child).__module__}."
        if not home.startswith(_OWN) or is_hooked(child):
            return False
        for value in vars(child).values():
            # an activation function handed over by the user
            given = callable(value) and not isinstance(value, (nn.Module, type))
            home = str(getattr(value, "__module__", None) or "torch")
            if given and not home.startswith(("torch", "depprobe")):
                return False
    return True


def natural_layout(module: nn.Module) -> str | None:
    """The layout that a module's type brings, or None where it says nothing.

    Examples
    --------
    >>> natural_layout(nn.Sequential(nn.ReLU(), nn.LSTM(3, 4)))
    'n b d'
    """
    compiled = getattr(module, "_orig_mod", None)
    if isinstance(compiled, nn.Module):
        return natural_layout(compiled)
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return "b n d" if module.batch_first else "n b d"
    if isinstance(module, torch.jit.ScriptModule) and hasattr(module, "batch_first"):
        return "b n d" if module.batch_first else "n b d"
    if isinstance(module, CHANNELS_FIRST) or _scripted(module) in {kind.__name__ for kind in CHANNELS_FIRST}:
        return "b d n"
    if isinstance(module, _TRANSFORMERS):
        attention = next((m for m in module.modules() if isinstance(m, nn.MultiheadAttention)), None)
        return natural_layout(attention) if attention is not None else None
    if type(module).__module__.startswith("depprobe.layers."):
        return "b n d"
    if isinstance(module, nn.Sequential) or _scripted(module) == "Sequential":
        for child in module.children():
            known = natural_layout(child)
            if known:
                return known
            if not type(child).__module__.startswith("torch."):
                return None  # it may hand on any layout
    return None


def _scripted(module: nn.Module) -> str | None:
    return getattr(module, "original_name", None) if isinstance(module, torch.jit.ScriptModule) else None


def has_one_layout(module: nn.Module) -> bool:
    """Whether all parts of a module of torch's read the same layout, so that it need not run to know it."""
    natural = natural_layout(module)
    if not isinstance(module, nn.Sequential):
        return natural is not None or acts_on_each_position(module)
    return all(
        not isinstance(child, nn.MultiheadAttention)  # it reads three, and torch hands it one
        and acts_on_each_position(child, entries=natural == "b d n")
        if natural_layout(child) is None
        else natural_layout(child) == natural and has_one_layout(child)
        for child in module
    )


def acts_on_each_position(module: nn.Module, entries: bool = False) -> bool:
    """Whether a module of torch's parts acts on the last axis only, or on each entry by itself.

    Then all layouts with d last agree, or all layouts.
    """
    return all(type(child) is nn.Sequential or _on_last_axis(child, entries) for child in module.modules())


def _on_last_axis(module: nn.Module, entries: bool) -> bool:
    if isinstance(module, (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.GLU)):
        return module.dim == -1 and not entries
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return len(module.normalized_shape) == 1 and not entries
    if isinstance(module, (nn.MultiheadAttention, nn.Softmax2d, nn.Bilinear, nn.PReLU)):
        return False
    home = type(module).__module__
    return home in _ENTRIES or (
        home == "torch.nn.modules.linear" and (not entries or type(module) is nn.Identity)
    )


def check_part(name: str, child: nn.Module) -> None:
    """Refuse a part whose kind or mode leaves no one function to differentiate; raises ``BadInput``."""
    if ".quantized" in type(child).__module__:
        raise BadInput(
            f"{name!r} ({type(child).__name__}) is quantised, and autograd cannot go through it; "
            "measure the module from before it was quantised"
        )
    if not child.training:
        return
    known = isinstance(child, nn.modules.dropout._DropoutNd)
    rate = child.p if known else getattr(child, "dropout", 0.0)
    if isinstance(rate, (int, float)) and rate > 0:
        raise BadInput(
            f"dropout {rate} of {name!r} is active, so rows would come from different functions; "
            "call module.eval() first"
        )
    if isinstance(child, nn.modules.batchnorm._NormBase) and child.track_running_stats:
        raise BadInput(f"{name!r} updates its statistics in train mode; call module.eval() first")
