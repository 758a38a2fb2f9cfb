r"""ln Frobenius norms of the blocks of a tile from squares, and how far rounding may have changed them.

    |J_tk|^2 = exp(2 peak) value,   |J_tt|^2 = exp(2 peak) value + |D|^2 + 2 <D, R>
    relative error <= rounding / |J| + 8 bound / |J|^2          in units of the last place

Shapes: T groups of c targets with m keys; everything (T, c, m).
Source: as in ``closed_form`` and ``query_part``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from depprobe.core.scaled import log_norms_of_squares
from depprobe.operators.attention.closed_form import Gram
from depprobe.operators.attention.heads import Heads, Tile
from depprobe.operators.attention.query_part import QueryPart

#: relative error that rounding may leave in a norm from Gram products; beyond it the block is made
_ACCURACY = {torch.float32: 1e-4, torch.float64: 1e-11}
#: share of a tile's pairs in the largest temporary of the blocks k = t
_TEMPORARY = 2


class TileNorms:
    """The constant products of one module at one input, and the norms of tiles from them.

    Parameters
    ----------
    heads : projections and weights.
    pairs : pairs times heads of a tile, at most.
    """

    def __init__(self, heads: Heads, pairs: int) -> None:
        self._query = QueryPart(Gram(heads, pairs), pairs // _TEMPORARY)

    def of(self, tile: Tile, own: bool) -> tuple[Tensor, Tensor, Tensor]:
        """ln Frobenius norms of a tile, relative errors, both float64, and which of the norms kept their
        digits; those of the blocks k = t only if ``own``: (T, c, m) each.
        """
        heads, query = self._query.gram.heads, self._query
        log_a = heads.log_weights(tile)
        a = log_a.exp()
        mixed = (a @ tile.at_keys(heads.v).transpose(1, 2)).transpose(1, 2)
        spread = query.gram.spread(tile, a, mixed)
        kept = a if own else None
        del a
        value, bound, peak, rounding = query.gram.squares(tile, log_a, mixed, spread)
        del log_a
        accuracy = _ACCURACY[value.dtype]
        norms, known = log_norms_of_squares(value, bound, accuracy)
        share = rounding * (-norms).exp() + 8 * bound / value.clamp_min(torch.finfo(value.dtype).tiny)
        norms += peak
        if kept is not None:
            at = tile.own()[..., None]
            extra = query.through(tile, kept, mixed, spread)
            scale = peak.gather(2, at).exp().flatten()
            total = value.gather(2, at).flatten() * scale**2 + extra.value
            size = bound.gather(2, at).flatten().sqrt() * scale + extra.size
            logs, sure = log_norms_of_squares(total, size.square(), accuracy)
            limit = accuracy / (8 * torch.finfo(total.dtype).eps)
            sure &= total.clamp_min(0).sqrt() * limit > extra.rounding
            factors = rounding.gather(2, at).flatten() * scale + extra.factors + 8 * extra.rounding
            of_own = factors * (-logs).exp() + 8 * size.square() * (-2 * logs).exp()
            share.scatter_(2, at, of_own.view(at.shape).to(share.dtype))
            norms.scatter_(2, at, logs.view(at.shape))
            known.scatter_(2, at, sure.view(at.shape))
        return norms, share.double() * (torch.finfo(value.dtype).eps / 2), known
