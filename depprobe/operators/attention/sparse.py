r"""The temporal Jacobian of attention over a sparse pattern: the closed form on the tiles of the pattern.

    J_tk = 0 outside S(t); inside, the blocks of softmax attention with all other keys masked

Shapes: T tiles of c targets that share m keys; norms (targets, lags) where the pattern is a set of lags, else
(targets, sources). Patterns: see ``depprobe.layers.sparse_attention``.
Source: Child et al. 2019; Vaswani et al. 2017, equation 1, differentiated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from depprobe.core.calling.known import is_plain
from depprobe.core.options import Options
from depprobe.core.temporal_jacobian import TemporalJacobian
from depprobe.layers.sparse_attention import Pattern, SparseAttention
from depprobe.operators.attention.heads import Heads, Tile
from depprobe.operators.attention.operator import AttentionJacobian, check_width
from depprobe.operators.dispatch import register_jacobian

#: targets are taken out of their tiles where a tile holds at least so many times as many
_FEW = 2
#: numbers that are gathered at the keys of tiles, for each of their pairs
_GATHERED = 8


class Tiled:
    """The keys that the targets of a pattern see.

    Parameters
    ----------
    pattern : which positions each position sees.
    like : x (n, d), for length, dtype and device.
    """

    def __init__(self, pattern: Pattern, like: Tensor) -> None:
        self._pattern, self._like = pattern, like
        self._tiles = pattern.tiles(like.shape[0], like.device)

    def check(self, targets: Sequence[int]) -> None:
        """Nothing to refuse: every target sees itself."""

    def lags(self) -> list[int] | None:
        """Lags of all pairs, ascending, or None."""
        return self._pattern.lags(self._like.shape[0])

    def tiles(self, targets: Sequence[int], pairs: int, most: int) -> Iterator[Tile]:
        """The tiles that hold the targets asked for, several at once; of few targets, a tile for each."""
        every, keys, seen = self._tiles
        size, m = every.shape[1], keys.shape[1]
        home, inside = np.divmod(np.asarray(targets, dtype=np.int64), size)
        chosen, counts = np.unique(home, return_counts=True)
        if _FEW * len(home) <= size * len(chosen):
            at, column = (torch.from_numpy(z).to(keys.device) for z in (home, inside))
            every, keys, seen = every[at, column, None], keys[at], seen[at, column, None]
            size, chosen, counts = 1, np.arange(len(home)), np.ones_like(home)
        step = max(1, min(pairs // (m * size), most // size, _GATHERED * pairs // (m * self._like.shape[1])))
        for first in range(0, len(chosen), step):
            part = torch.from_numpy(chosen[first : first + step]).to(keys.device)
            bias = self._like.new_zeros(len(part), size, m).masked_fill_(~seen[part], -torch.inf)
            yield Tile(every[part], keys[part], bias[:, None], int(counts[first : first + step].sum()))


@register_jacobian(SparseAttention)
def sparse_attention_jacobian(
    module: SparseAttention, x: Tensor, options: Options
) -> TemporalJacobian | None:
    """In closed form, over the pairs of its pattern."""
    if options.wrt != "x" or options.forward or not is_plain(module.weights.out_proj, nn.Linear):
        return None
    check_width(module.weights, x)
    return AttentionJacobian(Heads.of(module.weights, x), Tiled(module.pattern, x), memory=options.memory)
