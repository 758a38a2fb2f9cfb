r"""Numbers that stand for minus infinity in the scores of attention.

    bias_k = lowest finite number of its dtype, or bias_k < max_j bias_j - 1e20    =>    key k is masked

Where no key of a row is better off, all of them are seen alike, as torch has it. Larger numbers, such as
-1e9, are taken as they are: their exponential is small and not zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: what counts as infinite in the argument of an exponential
MASK = 1e20


def masked(bias: Tensor) -> Tensor:
    """A bias of scores (..., keys), -inf where it masks a key."""
    if not bias.numel():
        return bias
    largest = bias.amax(-1, keepdim=True)
    hidden = (bias == torch.finfo(bias.dtype).min) | (bias < largest - MASK)
    return bias.masked_fill(hidden & (bias < largest), -math.inf)
