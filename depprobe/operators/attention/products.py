r"""Products of attention's Jacobian with a vector, tile by tile: no block, no n x n array.

    jvp   s' = (q'_t . k_j + q_t . k'_j) / sqrt(e),  a' = a (s' - sum_j a s'),  y' = sum_h O_h (a' v + a v')
    vjp   the adjoint, with O^T y' in the place of o' and s' = a (y'_o . v - sum_j a y'_o . v)

Shapes: as in ``heads``; tangents (n, d) to (n, d), cotangents (r, n, d) to (r, n, d).
Source: Vaswani et al. 2017, equation 1, differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from depprobe.operators.attention.heads import Heads, Tile

#: numbers in the largest intermediate, a product of cotangents and pairs
_ELEMENTS = 1 << 21


def jvp(heads: Heads, tiles: Iterable[Tile], tangent: Tensor) -> Tensor:
    """Sum over k of J[:,k] tangent_k: (n, d) to (n, d)."""
    extra = len(heads.k) - len(tangent)
    dq, dk, dv = (torch.einsum("hed,nd->nhe", W, tangent) for W in (heads.W_Q, heads.W_K, heads.W_V))
    dk, dv = (torch.cat([z, z.new_zeros(extra, *z.shape[1:])]) for z in (dk, dv))
    out = torch.empty_like(tangent)
    for tile in tiles:
        a = heads.log_weights(tile).exp_()
        q, k, v = heads.q[tile.targets], tile.at_keys(heads.k), tile.at_keys(heads.v)
        ds = torch.einsum("tche,tmhe->thcm", dq[tile.targets], k)
        ds = (ds + torch.einsum("tche,tmhe->thcm", q, tile.at_keys(dk))) * heads.scale
        da = a * (ds - (a * ds).sum(-1, keepdim=True))
        do = torch.einsum("thcm,tmhe->tche", da, v) + torch.einsum("thcm,tmhe->tche", a, tile.at_keys(dv))
        out[tile.targets.flatten()] = torch.einsum("tche,hde->tcd", do, heads.W_O).flatten(0, 1)
    return out


def vjp(heads: Heads, tiles: Iterable[Tile], cotangents: Tensor) -> Tensor:
    """Sums over t of cotangent_t^T J[t,:], for several at once: (r, n, d) to (r, n, d)."""
    back = torch.einsum("rnd,hde->rnhe", cotangents, heads.W_O)
    gq, gk, gv = (x.new_zeros(len(back), *x.shape) for x in (heads.q, heads.k, heads.v))
    for tile in tiles:
        a = heads.log_weights(tile).exp_()
        q, k, v = (
            x.transpose(1, 2) for x in (heads.q[tile.targets], tile.at_keys(heads.k), tile.at_keys(heads.v))
        )
        o, q, k = a @ v, q * heads.scale, k * heads.scale
        step = max(1, _ELEMENTS // max(1, a.numel()))
        for part, *into in zip(*(x.split(step) for x in (back, gq, gk, gv)), strict=True):
            do = (part[:, tile.targets] * tile.fresh()[..., None, None]).transpose(2, 3)
            ds = (do @ v.mT).sub_((do * o).sum(-1, keepdim=True)).mul_(a)
            found = (tile.targets, ds @ k), (tile.keys, ds.mT @ q), (tile.keys, a.mT @ do)
            for g, (where, values) in zip(into, found, strict=True):
                g.index_add_(1, where.flatten(), values.transpose(2, 3).flatten(1, 2))
    n = cotangents.shape[1]
    pairs = ((gq, heads.W_Q), (gk[:, :n], heads.W_K), (gv[:, :n], heads.W_V))
    return sum((torch.einsum("rnhe,hed->rnd", g, W) for g, W in pairs), torch.zeros_like(cotangents))
