"""The weights that a forward uses, where pruning, weight norm or a parametrisation computes them from others.

torch's hooks (``torch.nn.utils``: pruning, weight_norm, spectral_norm) compute a weight before each forward,
parametrisations whenever it is read. What is stored under the name is then of an earlier time, or not there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from depprobe.core.calling.known import is_plain
from depprobe.core.calling.passes import unharmed
from depprobe.core.options import pinned


@contextlib.contextmanager
def weights_in_effect(module: nn.Module) -> Iterator[bool]:
    """Within, attributes are the weights of the next forward; afterwards the module is bit for bit as before.

    Gives whether any of them is computed.
    """
    computed = any(is_parametrized(part) or _hooks(part) for part in module.modules())
    with contextlib.ExitStack() as stack:
        if computed:
            stack.enter_context(pinned())
            stack.enter_context(unharmed(module))
            stack.enter_context(torch.no_grad())
        for part in module.modules() if computed else ():
            for key, hook in _hooks(part).items():
                hook(part, ())
                del part._forward_pre_hooks[key]
            if isinstance(part, nn.RNNBase):
                part._update_flat_weights()  # which its forward does first
        yield computed


def recurrence_in_effect(module: nn.Module) -> nn.RNNBase | None:
    """An ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` with the weights in effect; None for what computes otherwise.

    The module itself, where none of its weights is computed; else one with the weights of its next forward.
    """
    with weights_in_effect(module) as computed:
        kind = next((kind for kind in (nn.RNN, nn.GRU, nn.LSTM) if isinstance(module, kind)), None)
        if kind is None:
            return None
        assert isinstance(module, nn.RNNBase)
        weights = dict(zip(module._flat_weights_names, module._flat_weights, strict=True))
        if computed:
            module.eval()  # what moves buffers in training is a fixed function now
        if not is_plain(module, kind):
            return None
        if not computed:
            return module
        names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")
        options = {name: getattr(module, name) for name in names}
        options |= {"nonlinearity": module.nonlinearity} if kind is nn.RNN else {}
        options |= {"proj_size": module.proj_size} if kind is nn.LSTM else {}
        twin = kind(module.input_size, module.hidden_size, device="meta", **options)
        for name, weight in weights.items():
            if weight is not None:
                setattr(twin, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
    return twin.train(module.training)


def _hooks(part: nn.Module) -> dict[int, Callable[..., object]]:
    """The hooks of torch's own that compute weights before a forward."""
    hooks = part._forward_pre_hooks.items()
    return {key: hook for key, hook in hooks if type(hook).__module__.startswith("torch.nn.utils.")}
