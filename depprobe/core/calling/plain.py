"""Whether a module computes what its type is known to compute: nothing overridden, hooked or replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules import module as _torch_module

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


def global_hooks() -> Iterator[dict[Any, Any]]:
    """The dictionaries of hooks that torch calls around every module of the process."""
    for name in _HOOKS:
        yield getattr(_torch_module, f"_global{name}")


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of this very module runs more or other code than its type's forward."""
    hooked = any(getattr(module, name, None) for name in _HOOKS)
    return bool(hooked or "forward" in vars(module) or "__call__" in vars(module))


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
    return not any(is_hooked(child) for child in module.modules())


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
