r"""Products of attention's Jacobian with a vector, tile by tile: no block, no n x n array.

    jvp   s' = (q'_t . k_j + q_t . k'_j) / sqrt(e),  a' = a (s' - sum_j a s'),  y' = sum_h O_h (a' v + a v')
    vjp   the adjoint, with O^T y' in the place of o' and s' = a (y'_o . v - sum_j a y'_o . v)

Shapes: as in ``heads``; tangents (n, d) to (n, d). Equation 1 of Vaswani et al. 2017, differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from depprobe.operators.attention.heads import Heads, Tile


def jvp(heads: Heads, tiles: Iterable[Tile], tangent: Tensor) -> Tensor:
    """Sum over k of J[:,k] tangent_k: (n, d) to (n, d)."""
    extra = len(heads.k) - len(tangent)
    dq, dk, dv = (torch.einsum("hed,nd->nhe", W, tangent) for W in (heads.W_Q, heads.W_K, heads.W_V))
    dk, dv = (torch.cat([z, z.new_zeros(extra, *z.shape[1:])]) for z in (dk, dv))
    out = torch.empty_like(tangent)
    for tile in tiles:
        a = heads.log_weights(tile).exp_()
        q, k, v = heads.q[tile.targets], heads.k[tile.keys], heads.v[tile.keys]
        ds = torch.einsum("tche,tmhe->thcm", dq[tile.targets], k)
        ds = (ds + torch.einsum("tche,tmhe->thcm", q, dk[tile.keys])) * heads.scale
        da = a * (ds - (a * ds).sum(-1, keepdim=True))
        do = torch.einsum("thcm,tmhe->tche", da, v) + torch.einsum("thcm,tmhe->tche", a, dv[tile.keys])
        out[tile.targets.flatten()] = torch.einsum("tche,hde->tcd", do, heads.W_O).flatten(0, 1)
    return out


def vjp(heads: Heads, tiles: Iterable[Tile], cotangent: Tensor) -> Tensor:
    """Sum over t of cotangent_t^T J[t,:]: (n, d) to (n, d)."""
    back = torch.einsum("nd,hde->nhe", cotangent, heads.W_O)
    gq, gk, gv = torch.zeros_like(heads.q), torch.zeros_like(heads.k), torch.zeros_like(heads.v)
    for tile in tiles:
        do = back[tile.targets] * tile.fresh()[..., None, None]
        a = heads.log_weights(tile).exp_()
        k, v = heads.k[tile.keys], heads.v[tile.keys]
        da = torch.einsum("tche,tmhe->thcm", do, v)
        ds = a * (da - (a * da).sum(-1, keepdim=True)) * heads.scale
        shape = heads.q.shape[1:]
        gv.index_add_(0, tile.keys.flatten(), torch.einsum("thcm,tche->tmhe", a, do).reshape(-1, *shape))
        own = torch.einsum("thcm,tmhe->tche", ds, k).reshape(-1, *shape)
        gq.index_add_(0, tile.targets.flatten(), own)
        there = torch.einsum("thcm,tche->tmhe", ds, heads.q[tile.targets]).reshape(-1, *shape)
        gk.index_add_(0, tile.keys.flatten(), there)
    n = len(cotangent)
    pairs = ((gq, heads.W_Q), (gk[:n], heads.W_K), (gv[:n], heads.W_V))
    return sum((torch.einsum("nhe,hed->nd", g, W) for g, W in pairs), torch.zeros_like(cotangent))
