"""Which keys and values a causal attention pattern keeps between two tokens, and which of them a token reads.

    window         the last w positions, in a ring
    powers of two  all positions, of which t reads t, t - 1, t - 2, t - 4, ...
    blocks         the own block of b positions, and the last position of every earlier one

Source: Dai et al. 2019 (cached keys and values); Child et al. 2019 (what a block leaves behind).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from depprobe.layers.sparse_attention import Blocks, PowersOfTwo, Window


class Slots(ABC):
    """Where the key and value of a position are kept, and which of those kept position t reads."""

    size: int

    @abstractmethod
    def written(self, t: int) -> tuple[int, ...]:
        """Slots that position t is written to, before it reads."""

    @abstractmethod
    def read(self, t: int) -> slice | Tensor:
        """Slots that position t reads."""


class Ring(Slots):
    """The last ``size`` positions; with ``size`` = n, all."""

    def __init__(self, size: int) -> None:
        self.size = size

    def written(self, t: int) -> tuple[int, ...]:
        return (t % self.size,)

    def read(self, t: int) -> slice | Tensor:
        return slice(0, min(t + 1, self.size))


class Behind(Ring):
    """All positions, read at given lags."""

    def __init__(self, size: int, lags: list[int], device: torch.device) -> None:
        super().__init__(size)
        self._lags = torch.tensor(lags, device=device)

    def read(self, t: int) -> slice | Tensor:
        return t - self._lags[self._lags <= t]


class Summaries(Slots):
    """The last position of every earlier block, in order, after the own block."""

    def __init__(self, block: int, n: int, device: torch.device) -> None:
        self._block, self._device = block, device
        self.size = block + -(-n // block) - 1

    def written(self, t: int) -> tuple[int, ...]:
        before, within = divmod(t, self._block)
        summary = self._block + before
        return (within, summary) if within == self._block - 1 and summary < self.size else (within,)

    def read(self, t: int) -> slice | Tensor:
        before, within = divmod(t, self._block)
        own = torch.arange(within + 1, device=self._device)
        return torch.cat([own, torch.arange(self._block, self._block + before, device=self._device)])


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
    return Ring(len(pattern.lags(n) or ()))


@slots.register
def _(pattern: PowersOfTwo, n: int, device: torch.device) -> Slots:
    return Behind(n, pattern.lags(n) or [], device)


@slots.register
def _(pattern: Blocks, n: int, device: torch.device) -> Slots:
    return Summaries(math.isqrt(n - 1) + 1 if pattern.size is None else pattern.size, n, device)
