r"""In which order a module takes and returns a sequence; to us it is time first, (n, d).

    "b n d"  (1, n, d)      "n b d"  (n, 1, d)      "b d n"  (1, d, n)      "n d"  (n, d)

torch's own modules bring their layout; a Sequential has that of its first layer that has one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depprobe.errors import BadInput

LAYOUTS: tuple[str, ...] = ("b n d", "n b d", "b d n", "n d")

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

    Raises
    ------
    BadInput : it has neither the shape of a sequence nor of one vector or number, or is empty.
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
