r"""One row of attention's Jacobian, every weight and difference to full precision.

    J_tk = sum_h a^h_tk O_h (W_V^h + (v^h_k - o^h_t) q_t^hT W_K^h / sqrt(e)),  + sum_h O_h C_h W_Q^h at k = t

Where one key takes nearly all the weight, v - o and C are small differences of large numbers. So they are
taken about the heaviest key s, s itself left out and the weights of the rest carried with their exponent L:

    o - v_s = exp(L) delta,                   delta = sum_{j != s} r_j (v_j - v_s),  r_j = a_j exp(-L)
    C = exp(L) [ sum_{j != s} r_j (v_j - v_s)(k_j - k_s)^T - exp(L) delta kappa^T ] / sqrt(e)

What errors of q, k, v and a change of a block is bounded to first order, in units of the last place.

Shapes: m keys, H heads, e = d / heads; everything float64. Equation 1 of Vaswani et al. 2017, differentiated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled
from depprobe.operators.attention.heads import Heads, Tile


class Row:
    """The blocks of one target.

    Parameters
    ----------
    heads : projections and weights, in float64.
    values : O_h W_V^h in float64, (H, d, d).
    out_norms : spectral norms of O_h, (H,).
    tile : a tile with this one target.
    """

    def __init__(self, heads: Heads, values: Tensor, out_norms: Tensor, tile: Tile) -> None:
        self.t = int(tile.targets)
        seen = tile.seen()[0, 0]
        seen = seen | ~seen.any()  # of no key, all blocks are zero
        self.keys = tile.keys[0, seen]
        self._heads, self._values, self._out_norms = heads, values, out_norms
        self._log_a = heads.log_weights(tile)[0, :, 0, seen]  # (H, m)
        v, k = (z[self.keys].transpose(0, 1) for z in (heads.v, heads.k))  # (H, m, e)
        every = torch.arange(v.shape[0], device=v.device)
        top = self._log_a.argmax(1)
        v, k = v - v[every, top][:, None], k - k[every, top][:, None]
        rest = self._log_a.index_put((every, top), torch.tensor(-torch.inf, dtype=v.dtype, device=v.device))
        self._L = rest.amax(1)
        r = (rest - self._L.clamp_min(torch.finfo(v.dtype).min)[:, None]).exp()
        delta, kappa = (torch.einsum("hm,hme->he", r, z) for z in (v, k))
        size = self._L.exp()[:, None]
        self._u = v - (size * delta)[:, None]
        moments = torch.einsum("hm,hme,hmf->hef", r, v, k)
        self._apart = torch.stack(
            [r, r * v.norm(dim=2), r * k.norm(dim=2), r * v.norm(dim=2) * k.norm(dim=2)]
        ).sum(2)
        self._C = (moments - size[..., None] * delta[..., None] * kappa[:, None]) * heads.scale

    def _places(self, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Column of each source among the keys, ln weights (sources, H), and which source is the target."""
        where = torch.full((len(self._heads.k),), -1, device=self.keys.device)
        where[self.keys] = torch.arange(len(self.keys), device=self.keys.device)
        column = where[sources]
        log_a = self._log_a.T[column].masked_fill((column < 0)[:, None], -torch.inf)
        return column, log_a, sources == self.t

    def blocks(self, sources: Tensor) -> Scaled:
        """Blocks of the sources given: values (sources, d, d), log_scale (sources, 1, 1)."""
        column, log_a, own = self._places(sources)
        peak = torch.where(own, torch.maximum(log_a.amax(1), self._L.max()), log_a.amax(1))
        peak = torch.where(peak.isneginf(), 0.0, peak)
        b = (log_a - peak[:, None]).exp()
        heads = self._heads
        left = torch.einsum("hde,hse,sh->sdh", heads.W_O, self._u[:, column], b)
        p = torch.einsum("hed,he->hd", heads.W_K, heads.q[self.t]) * heads.scale
        out = torch.tensordot(b, self._values, 1).baddbmm_(left, p.expand(len(sources), -1, -1))
        for i in own.nonzero().flatten().tolist():
            C = self._C * (self._L - peak[i]).exp()[:, None, None]
            out[i] += heads.W_O.transpose(0, 1).flatten(1) @ (C @ heads.W_Q).flatten(0, 1)
        return Scaled(out, peak[:, None, None])

    def rounding(self, sources: Tensor) -> Tensor:
        """What errors of the factors can change of the norms of blocks, ln of units of the last place.

        Where v_k - o_t is taken about the heaviest key s, all but s err by what v errs, s by that times the
        weight of the rest.
        """
        heads, t = self._heads, self.t
        column, log_a, own = self._places(sources)
        of_a, of_q = heads.weight_errors(sources.new_tensor(t)), heads.errors[0, t]
        of_k, of_v = heads.errors[1:].amax(1)
        rest = self._L.exp()
        r, rv, rk, rvk = self._apart
        out = self._out_norms
        p = torch.einsum("hed,he->hd", heads.W_K, heads.q[t]).norm(dim=1) * heads.scale
        of_p = heads.scale * heads.W_K.norm(dim=(1, 2)) * (of_q + 2 * heads.q[t].norm(dim=1))
        u = self._u[:, column].norm(dim=2).T
        top = self._log_a.argmax(1)[None] == column[:, None]
        of_u = torch.where(top, 0, of_v) + rest * (r * of_v + of_a * rv)
        each = (of_a + 8) * (self._values.norm(dim=(1, 2)) + out * u * p) + out * (of_u * p + u * of_p)
        found = (log_a + each.log()).logsumexp(1)
        through = (
            heads.scale * out * heads.W_Q.norm(dim=(1, 2)) * ((of_a + 8) * rvk + 2 * (of_v * rk + of_k * rv))
        )
        through = (self._L + through.log()).logsumexp(0)
        return torch.where(own, torch.logaddexp(found, through), found)
