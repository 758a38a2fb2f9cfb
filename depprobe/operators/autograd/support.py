"""Which outputs provably do not depend on which inputs, found by running the module itself.

An output that stays finite when inputs are NaN, and keeps every bit when they are replaced by other
numbers, does not depend on them: NaN survives a product with a weight of zero or a factor that
underflowed, and the replacement catches a module that swallows NaN. The test can fail to prove an
independence, never prove a wrong one for functions that treat numbers alike.

NaN also survives a mask of -inf that is added to scores, as in a causal Transformer. So of the future there
is a second proof: an output that keeps every bit when all that follows it is replaced, by numbers small and
large, does not look ahead. What looked ahead would look at the next position too, where nothing has
underflowed yet; for single sources, or the past, this would prove nothing. A mask of large finite numbers
counts as one of -inf, and so does a unit behind a normalisation that is saturated whatever it reads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_TRIES = 24


def independent(function: Callable[[Tensor], Tensor], x: Tensor, t: int, sources: Tensor) -> Tensor:
    """For each source given, whether output t provably ignores it: bool of the same length.

    The future and the past are tried as wholes, and halves of them where that fails, so that a causal or
    banded layer is settled in a few forward passes; what is not settled after those stays unproved.
    """
    with torch.no_grad():
        outputs = function(x)
        reference = outputs[t]
        generator = torch.Generator(device=x.device).manual_seed(0)
        other = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device) * 7 + 3

        def ignores(group: Tensor) -> bool:
            for replacement in (torch.full_like(x, torch.nan), other):
                changed = x.clone()
                changed[group] = replacement[group]
                if not torch.equal(function(changed)[t], reference):
                    return False
            return True

        def looks_ahead() -> bool:
            # squares of the largest stay in range: they take a saturated unit out of saturation
            large = torch.finfo(x.dtype).max ** 0.4
            for factor in (1.0, -0.01, large, -large):
                changed = x.clone()
                changed[t + 1 :] = factor * other[t + 1 :]
                if not torch.equal(function(changed)[t], reference):
                    return True
            return False

        result = torch.zeros(len(sources), dtype=torch.bool, device=x.device)
        every = torch.arange(len(sources), device=x.device)
        future, past = every[sources > t], every[sources <= t]
        queue = [past] if len(past) else []
        if len(future) and (ignores(sources[future]) or (len(outputs) == len(x) and not looks_ahead())):
            result[future] = True
        elif len(future) > 1:
            queue = [*future.chunk(2), *queue]
        for _ in range(_TRIES):
            if not queue:
                break
            part = queue.pop(0)
            if ignores(sources[part]):
                result[part] = True
            elif len(part) > 1:
                queue.extend(part.chunk(2))
        return result
