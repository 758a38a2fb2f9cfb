"""Which norms of a chain are not known: zeros that may be underflows, and blocks about overflowed states.

A norm that comes out as zero is an exact zero only where no chain of non-zero factors leads from k to t.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.operators.chain.cells import SweptChain
from depprobe.vocabulary import STATUS, status_of


def reach(stack: Sequence[SweptChain], t: int, lowest: int, wrt: str, of: str) -> NDArray[np.bool_]:
    """Whether any chain of non-zero factors leads from source k to h_t (or c_t), for lowest <= k <= t."""
    reached = np.zeros(t + 1 - lowest, dtype=bool)
    device = stack[-1].size.device
    units = [torch.zeros(cell.width, dtype=torch.bool, device=device) for cell in stack]
    units[-1][slice(stack[-1].d_c) if of == "c" else slice(stack[-1].d_c, None)] = True
    for k in range(t, lowest - 1, -1):
        if wrt != "x":
            parts = [cell.part_reach(wrt, unit) for cell, unit in zip(stack, units, strict=True)]
            reached[k - lowest] = bool(torch.cat(parts).any())
        above: Tensor | None = None
        for level in range(len(stack) - 1, -1, -1):
            if above is not None:
                units[level][stack[level].d_c :] |= above
            units[level], above = stack[level].reach(k, units[level])
        if wrt == "x" and above is not None:
            reached[k - lowest] = bool(above.any())
    return reached


def overflowed(layers: Sequence[Sequence[SweptChain]], t: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a block J[t,k] was linearised about a state that left the range of floats: (T, n).

    Parameters
    ----------
    layers : the chains of every layer, each with one entry a direction, in reading order.
    t : targets (T,).
    """
    n = layers[0][0].n
    k = np.arange(n)
    out = np.zeros((len(t), n), dtype=bool)
    stacks = list(zip(*layers, strict=True))
    for direction, stack in enumerate(stacks):
        first = min(cell.overflow for cell in stack)
        if len(stacks) > 1 < len(layers):  # the layers above read both ways
            out |= first < n
            continue
        here, source = (n - 1 - t, n - 1 - k) if direction else (t, k)
        out |= (here >= first)[:, None] & (source <= here[:, None])
    return out


def statuses(values: NDArray[np.float64], overflow: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Status of each norm, given which of them overflowed; see ``vocabulary.STATUS``."""
    return np.where(np.isnan(values) & overflow, np.int8(STATUS["overflow"]), status_of(values))


def severed(cell: SweptChain) -> Tensor:
    """Steps at which every factor is exactly 0, so that nothing passes: (n,) bool.

    Looked for among those that put out zeros, as steps do whose units are all off.
    """
    found = torch.zeros(cell.n, dtype=torch.bool, device=cell.size.device)
    every = torch.ones(cell.width, dtype=torch.bool, device=cell.size.device)
    for k in (cell.size == 0).nonzero()[:, 0].tolist():
        found[k] = not any(bool(part.any()) for part in cell.reach(k, every))
    return found


def carried(live: Tensor, cut: Tensor) -> Tensor:
    """Steps from which something reaches the state at a live one, (m, n), where none passes those in ``cut``.

    Examples
    --------
    >>> live, cut = torch.tensor([[0, 0, 0, 1, 0]]).bool(), torch.tensor([0, 1, 0, 0, 0]).bool()
    >>> carried(live, cut).int().tolist()
    [[0, 0, 1, 1, 0]]
    """
    steps = torch.arange(len(cut), device=cut.device)

    def following(marked: Tensor) -> Tensor:
        return torch.where(marked, steps, len(cut)).flip(-1).cummin(-1).values.flip(-1)

    return following(live) < following(cut)
