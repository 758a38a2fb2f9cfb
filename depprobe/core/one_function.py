"""Whether a module is one function of one sequence: the same output twice, and each sample by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.core.adapters import call
from depprobe.errors import BadInput

#: epsilons, of the largest output, by which kernels may differ between two passes
_ROUNDING = 1e4


def require_function(
    module: nn.Module, x: Tensor, *, batched: bool = False, forward: Mapping[str, Any] | None = None
) -> None:
    """Refuse a module whose output at x is random, or at (1, n, d) hangs on what else is in the batch.

    Parameters
    ----------
    module, x, batched, forward : as ``call`` takes them.

    Raises
    ------
    BadInput : two passes differ, so that rows would come from different functions; or the first axis is no
        batch: what stands before a sample changes its output.

    Examples
    --------
    >>> require_function(nn.Linear(3, 2), torch.ones(4, 3))
    """
    if isinstance(module, nn.Sequential):
        for child in module:
            require_function(child, x, batched=batched)
            x = call(child, x, batched=batched).detach()
        return
    with torch.no_grad():
        y, again = (call(module, x, batched=batched, forward=forward) for _ in range(2))
        if not _same(y, again):
            raise BadInput(
                f"{type(module).__name__} gives two outputs at one x, so rows would come from different "
                "functions: it draws random numbers, as F.dropout does without training=self.training"
            )
        if batched and _mixes_samples(module, x, y, forward or {}):
            raise BadInput(
                f"{type(module).__name__} does not take (batch, n, d): the output of a sample changes with "
                "the one before it, as where the first axis is time; build its parts with batch_first=True, "
                "or give x as (n, d)"
            )


def _mixes_samples(module: nn.Module, x: Tensor, y: Tensor, forward: Mapping[str, Any]) -> bool:
    if call.dispatch(type(module)) is not call.dispatch(object):
        return False  # called in its own layout, not with a batch
    try:
        together = module(torch.stack([x.flip(0) + 1, x]), **forward)
    except Exception:  # it takes one sample at a time, and then nothing can mix
        return False
    if isinstance(together, (tuple, list)) and together:
        together = together[0]
    return not (isinstance(together, Tensor) and len(together) == 2 and _same(together[1], y))


def _same(y: Tensor, other: Tensor) -> bool:
    if y.shape != other.shape:
        return False
    size = float(y.abs().nan_to_num(0, 0, 0).max())
    return torch.allclose(y, other, 0, _ROUNDING * torch.finfo(y.dtype).eps * size, equal_nan=True)
