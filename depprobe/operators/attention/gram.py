r"""Frobenius norms of attention's blocks from Gram products of their small factors.

    J_tk = sum_h a^h (A_h + O_h u_h p_h^T)                        k != t
    A_h = O_h W_V^h,  u_h = v^h_k - o^h_t,  p_h = W_K^hT q^h_t / sqrt(e),  G_gh = O_g^T O_h
    |J_tk|^2 = sum_gh a^g a^h [ <A_g, A_h> + 2 u_g . B_gh + (p_g . p_h) u_g^T G_gh u_h ]
    B_gh = G_gh W_V^h p_g, so with Z_gh = B_gh - (p_g . p_h) G_gh o_h the bracket is, summed,
        2 v_g . Z_gh + (p_g . p_h) v_g^T G_gh v_h  +  a number of t,

one inner product [v_g, v_g^T G_gh v_h, 1] . [2 Z_gh, p_g . p_h, number] of length e + H + 1 for every pair of
heads: no block is ever made. Values are centred first (a sums to one, so u is the same), for precision.

Shapes: right factors (n + extra, H, e + H + 1); left factors of a tile (T, H, H, c, e + H + 1).
Equation 1 of Vaswani et al. 2017, differentiated.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from depprobe.operators.attention.heads import Heads, Tile


class Squares(NamedTuple):
    """Squared norms of the part of each block that carries a_tk, over exp(2 peak); all (T, c, m).

    ``bound`` is the square of a sum of norms of all terms: rounding is relative to it.
    """

    value: Tensor
    bound: Tensor
    peak: Tensor


class Gram:
    """The constant products of one module at one input.

    Parameters
    ----------
    heads : projections and weights.
    """

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        H, e = heads.q.shape[1:]
        W_O = heads.W_O.transpose(0, 1).flatten(1)  # (d, H e)
        self.G = (W_O.T @ W_O).view(H, e, H, e).transpose(1, 2)
        W_V, W_K = heads.W_V.flatten(0, 1), heads.W_K.flatten(0, 1)
        VV = (W_V @ W_V.T).view(H, e, H, e).transpose(1, 2)
        VK = (W_V @ W_K.T).view(H, e, H, e).transpose(1, 2)
        self.A = torch.einsum("ghij,ghij->gh", self.G, VV)
        # B_gh = GVK_gh q_g and p_g . p_h = q_g KK_gh q_h
        self.GVK = (self.G @ VK.transpose(0, 1)) * heads.scale
        self.KK = (W_K @ W_K.T).view(H, e, H, e).transpose(1, 2) * heads.scale**2
        self.mean = heads.v.mean(0)
        centred = heads.v - self.mean
        N = torch.stack([_forms(centred, self.G, g) for g in range(H)], 1)  # (n, g, h)
        self.length = N.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        self.right = torch.cat([centred, N, torch.ones_like(centred[..., :1])], -1)

    def squares(self, tile: Tile, log_a: Tensor, mixed: Tensor) -> Squares:
        """Squared norms for every pair of a tile.

        Parameters
        ----------
        tile : T groups of c targets with m keys.
        log_a : ln weights, (T, H, c, m).
        mixed : o_t, (T, c, H, e).
        """
        T, H, c, m = log_a.shape
        peak = log_a.amax(1)
        b = (log_a - peak.clamp_min(torch.finfo(peak.dtype).min)[:, None]).exp_()
        left, reach = self._left(tile, mixed - self.mean)
        keys = self.right[tile.keys]  # (T, m, g, K)
        value, inner = torch.zeros_like(peak), torch.empty_like(peak)
        for g in range(H):
            product = (left[:, g].flatten(1, 2) @ keys[:, :, g].transpose(1, 2)).view(T, H, c, m)
            torch.sum(product.mul_(b), 1, out=inner)
            value.addcmul_(inner, b[:, g])
        lengths = torch.stack([torch.ones_like(self.length), self.length], -1)[tile.keys]
        sizes = reach @ lengths.permute(0, 2, 3, 1)
        return Squares(value, sizes.mul_(b).sum(1).square_(), peak)

    def _left(self, tile: Tile, o: Tensor) -> tuple[Tensor, Tensor]:
        """Left factors (T, g, h, c, K), and (T, H, c, 2): norm of A + O o p^T at most, and norm of p."""
        q = self.heads.q[tile.targets]
        rows, H = [], q.shape[2]
        sizes = torch.empty(*q.shape[:3], 2, dtype=q.dtype, device=q.device)
        for g in range(H):
            P = torch.einsum("tce,hef,tchf->thc", q[:, :, g], self.KK[g], q)
            B = torch.einsum("hef,tcf->thce", self.GVK[g], q[:, :, g])
            Go = torch.einsum("hef,tchf->thce", self.G[g], o)
            here = o[:, None, :, g]
            oGo = (Go * here).sum(-1)
            number = self.A[g][:, None] + P * oGo - 2 * (B * here).sum(-1)
            slots = torch.diag_embed(P.transpose(1, 2)).transpose(1, 2)  # (T, h, c, H), P in slot h
            rows.append(torch.cat([2 * (B - P[..., None] * Go), slots, number[..., None]], -1))
            p = P[:, g].clamp_min(0).sqrt()
            sizes[:, :, g, 0] = self.A[g, g].clamp_min(0).sqrt() + oGo[:, g].clamp_min(0).sqrt() * p
            sizes[:, :, g, 1] = p
        return torch.stack(rows, 1), sizes.transpose(1, 2)


def _forms(v: Tensor, G: Tensor, g: int) -> Tensor:
    """v_g^T G_gh v_h for every h: (n, H)."""
    return torch.einsum("nhe,nhe->nh", torch.einsum("ne,hef->nhf", v[:, g], G[g]), v)
