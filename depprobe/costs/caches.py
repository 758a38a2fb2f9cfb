"""Which keys and values a causal attention pattern keeps between two tokens, and which of them a token reads.

    window         the last w positions, in a ring
    powers of two  all positions, of which t reads t, t - 1, t - 2, t - 4, ...
    blocks         the own block of b positions, and the last position of every earlier one

Source: Dai et al. 2019 (cached keys and values); Child et al. 2019 (what a block leaves behind).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from depprobe.layers.sparse_attention import Blocks, PowersOfTwo, Window


@dataclass(frozen=True)
class Slots:
    """``written(t)``: slots that position t is written to, before it reads the slots ``read(t)``."""

    size: int
    written: Callable[[int], tuple[int, ...]]
    read: Callable[[int], slice | Tensor]


def ring(size: int) -> Slots:
    """The last ``size`` positions; with ``size`` = n, all."""
    return Slots(size, lambda t: (t % size,), lambda t: slice(0, min(t + 1, size)))


@singledispatch
def slots(pattern: Any, n: int, device: torch.device) -> Slots | None:
    """The cache of a causal pattern for n tokens; None for a type that is not in the table.

    Examples
    --------
    >>> slots(Window(4, causal=True), 100, torch.device("cpu")).size
    4
    """
    return None


@slots.register
def _(pattern: Window, n: int, device: torch.device) -> Slots:
    return ring(len(pattern.lags(n) or ()))


@slots.register
def _(pattern: PowersOfTwo, n: int, device: torch.device) -> Slots:
    lags = torch.tensor(pattern.lags(n) or [], device=device)
    return Slots(n, lambda t: (t,), lambda t: t - lags[lags <= t])


@slots.register
def _(pattern: Blocks, n: int, device: torch.device) -> Slots:
    # the last position of every earlier block, in order, after the own block
    block = math.isqrt(n - 1) + 1 if pattern.size is None else pattern.size
    size = block + -(-n // block) - 1

    def written(t: int) -> tuple[int, ...]:
        before, within = divmod(t, block)
        summary = block + before
        return (within, summary) if within == block - 1 and summary < size else (within,)

    def read(t: int) -> Tensor:
        before, within = divmod(t, block)
        kept = torch.arange(block + before, device=device)
        return torch.cat([kept[: within + 1], kept[block:]])

    return Slots(size, written, read)
