r"""Products of attention's Jacobian with a vector, tile by tile: no block, no n x n array.

    jvp   s' = (q'_t . k_j + q_t . k'_j) / sqrt(e),  a' = a (s' - sum_j a s'),  y' = sum_h O_h (a' v + a v')
    vjp   the adjoint, with O^T y' in the place of o' and s' = a (y'_o . v - sum_j a y'_o . v)

Where weights are sharp, so that some underflow or v_k - o_t cancels, rows go through ``AttentionCall``, tile
by tile, which keeps exponents.
Shapes: as in ``heads``; tangents (n, d) to (n, d), cotangents (r, n, d) to (r, n, d).
Source: Vaswani et al. 2017, equation 1, differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled, gathered
from depprobe.operators.attention.call import AttentionCall
from depprobe.operators.attention.heads import Heads, Tile

#: largest weight of a target, and ln of the smallest as a share of the dtype's range, that are sharp
_HEAVY, _OF_RANGE = 0.98, 0.5
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


def is_sharp(heads: Heads, tiles: Iterable[Tile]) -> bool:
    """Whether plain products would lose digits: one key has nearly all the weight, or some next to none."""
    least = _OF_RANGE * math.log(torch.finfo(heads.q.dtype).tiny)
    for tile in tiles:
        log_a = heads.log_weights(tile)
        if bool((log_a.masked_fill(log_a.isneginf(), 0) < least).any()):
            return True
        sole = (log_a > -math.inf).sum(-1) < 2
        if bool(((log_a.amax(-1) > math.log(_HEAVY)) & ~sole).any()):
            return True
    return False


def pull(heads: Heads, tiles: Iterable[Tile], rows: Scaled) -> Scaled:
    """Rows (r, n, d) times the Jacobian, with an exponent for each position: (r, n, d)."""
    within = rows._replace(values=torch.einsum("rnd,hde->rnhe", rows.values, heads.W_O).flatten(2))
    log_scale = rows.log_scale.expand(len(rows.values), rows.values.shape[1], 1)
    n = rows.values.shape[1]
    parts: list[tuple[Scaled, Tensor]] = []
    for tile in tiles:
        bias = None if tile.bias is None else tile.bias.expand(len(tile.keys), -1, *tile.seen().shape[1:])
        for i, (fresh, seen) in enumerate(zip(tile.fresh(), tile.seen().any(1), strict=True)):
            at, keys = tile.targets[i, fresh], tile.keys[i, seen]
            q, k, v = (z.transpose(0, 1) for z in (heads.q[at], heads.k[keys], heads.v[keys]))
            call = AttentionCall(q, k, v, None if bias is None else bias[i][:, fresh][..., seen], heads.scale)
            given = Scaled(within.values[:, at], log_scale[:, at])
            found = call.pull([given], [torch.ones(1, len(at), dtype=torch.bool, device=at.device)])
            weights = heads.W_Q, heads.W_K, heads.W_V
            for (part, _), where, W in zip(found, (at, keys, keys), weights, strict=True):
                source = where < n  # extra keys are none
                values = part.values[:, source].unflatten(2, W.shape[:2])
                one = Scaled(
                    torch.einsum("rphe,hed->prd", values, W), part.log_scale[:, source].transpose(0, 1)
                )
                parts.append((one, where[source]))
    total, where = gathered(parts)
    out, over = torch.zeros_like(rows.values), torch.full_like(log_scale, -torch.inf)
    out[:, where] = total.values.transpose(0, 1)
    over[:, where] = total.log_scale.expand(-1, len(out), 1).transpose(0, 1)
    return Scaled(out, over)
