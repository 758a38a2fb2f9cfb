r"""Attention's blocks in closed form: norms from Gram products of small factors.

    J_tk = sum_h a^h (A_h + O_h u_h p_h^T)                        k != t
    A_h = O_h W_V^h,  u_h = v^h_k - o^h_t,  p_h = W_K^hT q^h_t / sqrt(e),  G_gh = O_g^T O_h
    |J_tk|^2 = sum_gh a^g a^h [ <A_g, A_h> + 2 u_g . B_gh + (p_g . p_h) u_g^T G_gh u_h ]
    B_gh = G_gh W_V^h p_g, so with Z_gh = B_gh - (p_g . p_h) G_gh o_h the bracket is, summed,
        2 v_g . Z_gh + (p_g . p_h) v_g^T G_gh v_h  +  a number of t,

one inner product [v_g, v_g^T G_gh v_h, 1] . [2 Z_gh, p_g . p_h, number] of length e + H + 1 for every pair of
heads: no block is ever made. Values are centred first (a sums to one, so u is the same), for precision.

Shapes: right factors (n + extra, H, e + H + 1); left factors of a tile (T, H, H, c, e + H + 1).
Equation 1 of Vaswani et al. 2017, differentiated.

The part of the k = t blocks that comes through the query:

    D_t = sum_h O_h C_h W_Q^h,   C_h = sum_j a_tj (v_j - o_t)(k_j - kbar_t)^T / sqrt(e)

Its norm and its inner product with the rest of the block, R_t = sum_h a^h (A_h + O_h u_h p_h^T):

    |D|^2     = sum_gh <C_g, G_gh C_h Q_hg>,           Q_hg = W_Q^h W_Q^gT,  G_gh = O_g^T O_h
    <D, R>    = sum_gh a^h [ <C_g, G_gh W_V^h W_Q^gT> + (G_gh u_h)^T C_g (W_Q^g p_h) ]

Shapes: N targets, C (H, e, N, e) the value index first, so that both products with it are matrix products.
Subtracting kbar changes nothing (sum_j a_tj (v_j - o_t) = 0) but saves digits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled, log_norms
from depprobe.operators.attention.heads import Heads, Tile


class Squares(NamedTuple):
    """Squared norms of the part of each block that carries a_tk, over exp(2 peak); all (T, c, m).

    ``bound`` is the square of a sum of norms of all terms: rounding of the products is relative to it.
    ``rounding`` is what errors of the factors can change of the norm, in units of the last place.
    """

    value: Tensor
    bound: Tensor
    peak: Tensor
    rounding: Tensor


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
        self.power = centred.square().sum(-1)
        self.out_norms = log_norms(Scaled.plain(heads.W_O), "spectral").exp().to(heads.q.dtype)
        self.key_norms = heads.W_K.norm(dim=(1, 2))
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
        sizes = (reach @ lengths.permute(0, 2, 3, 1)).mul_(b).sum(1)
        of_a = self.heads.weight_errors(tile.targets)
        spread = self.spread(tile, log_a, mixed)
        q = self.heads.q[tile.targets].norm(dim=-1)
        of_p = self.heads.scale * self.key_norms * (self.heads.errors[0, tile.targets] + 2 * q)
        added = (
            self.out_norms
            * reach[..., 1].transpose(1, 2)
            * (2 * self.heads.errors[2].amax(0) + of_a * spread)
        )
        added += 2 * of_p * self.length.amax(0)
        rounding = sizes * (of_a.amax(-1) + 8)[..., None] + added.sum(-1)[..., None]
        return Squares(value, sizes.square_(), peak, rounding)

    def spread(self, tile: Tile, log_a: Tensor, mixed: Tensor) -> Tensor:
        """Standard deviation of the values under the weights: (T, c, H)."""
        power = torch.einsum("thcm,tmh->tch", log_a.exp(), self.power[tile.keys])
        left = power - (mixed - self.mean).square().sum(-1)
        return (left.clamp_min(0) + 4 * torch.finfo(power.dtype).eps * power).sqrt()

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


#: elements of the largest temporary
_ELEMENTS = 1 << 22


class Through(NamedTuple):
    """For N targets: |D|^2 + 2 <D, R>; the norms of D's terms; what the rounding of its products is relative
    to; and what errors of the factors can change of its norm, in units of the last place; (N,).
    """

    value: Tensor
    size: Tensor
    rounding: Tensor
    factors: Tensor


class QueryPart:
    """The constant products of the k = t blocks.

    Parameters
    ----------
    gram : constant products of the other blocks.
    """

    def __init__(self, gram: Gram) -> None:
        self.gram, heads = gram, gram.heads
        H, e = heads.q.shape[1:]
        W_Q, W_K, W_V = (w.flatten(0, 1) for w in (heads.W_Q, heads.W_K, heads.W_V))
        self.QQ, self.VQ, self.QK = (
            (a @ b.T).view(H, e, H, e).transpose(1, 2) for a, b in ((W_Q, W_Q), (W_V, W_Q), (W_Q, W_K))
        )
        self.F = gram.G @ self.VQ.transpose(0, 1)  # F_gh = G_gh W_V^h W_Q^gT
        logs = [log_norms(Scaled.plain(M.diagonal()), "spectral", (0, 1)) for M in (gram.G, self.QQ)]
        self.sizes = (0.5 * (logs[0] + logs[1])).exp().to(W_Q.dtype)
        self.k_mean = heads.k.mean(0)

    def through(self, tile: Tile, log_a: Tensor, mixed: Tensor, own: Tensor) -> Through:
        """What D adds to the squared norms of the k = t blocks of a tile, N = T c targets.

        Parameters
        ----------
        tile, log_a, mixed : as in ``Gram.squares``.
        own : ln a_tt, (T, H, c).
        """
        heads, a = self.gram.heads, log_a.exp()
        v, k = heads.v[tile.keys] - self.gram.mean, heads.k[tile.keys] - self.k_mean
        k_mixed = torch.einsum("thcm,tmhe->tche", a, k)
        o = mixed - self.gram.mean
        C = torch.stack([_moments(a[:, h], v[:, :, h], k[:, :, h]) for h in range(a.shape[1])])
        C -= torch.einsum("tche,tchf->hetcf", o, k_mixed)
        C *= heads.scale
        # rounding errors of the terms are independent: they add in squares, unlike the terms themselves
        of_v = self.gram.spread(tile, log_a, mixed)
        power = torch.einsum("thcm,tmh->tch", a, k.square().sum(-1))
        of_k = (power - k_mixed.square().sum(-1)).clamp_min(0) + 4 * torch.finfo(a.dtype).eps * power
        errors, of_k = heads.errors.amax(1), of_k.sqrt()
        factors = (heads.weight_errors(tile.targets) + 8) * of_v * of_k + 2 * (
            errors[2] * of_k + errors[1] * of_v
        )
        factors = (factors * self.sizes * heads.scale).sum(-1)
        squares = (v.square().sum(-1) * k.square().sum(-1)).permute(0, 2, 1)[..., None]  # (T, H, m, 1)
        inside = (a.square_() @ squares)[..., 0].sqrt_()
        inside += (o.norm(dim=-1) * k_mixed.norm(dim=-1)).transpose(1, 2)
        rounding = torch.einsum("h,thc->tc", self.sizes * heads.scale, inside)
        size = torch.einsum("h,htc->tc", self.sizes, torch.linalg.vector_norm(C, dim=(1, 4)))
        C = C.flatten(2, 3)
        u = (heads.v[tile.targets] - mixed).flatten(0, 1)  # (N, H, e)
        q = heads.q[tile.targets].flatten(0, 1) * heads.scale
        weights = own.exp().transpose(1, 2).flatten(0, 1)  # (N, H)
        value = self._own(C) + 2 * self._cross(C, weights, u, q)
        return Through(value, size.flatten(), rounding.flatten(), factors.flatten())

    def _own(self, C: Tensor) -> Tensor:
        """|D|^2: (N,); each pair of heads once."""
        H, e, N, _ = C.shape
        total = torch.zeros(N, dtype=C.dtype, device=C.device)
        for h in range(H):
            stacked = self.gram.G[: h + 1, h].reshape(-1, e) @ C[h].reshape(e, -1)  # G_gh C_h, g <= h
            moved = stacked.view(h + 1, e * N, e) @ self.QQ[h, : h + 1]
            inner = torch.linalg.vecdot(moved.view(h + 1, e, N, e), C[: h + 1]).sum(1)  # (h + 1, N)
            total += 2 * inner[:h].sum(0) + inner[h]
        return total

    def _cross(self, C: Tensor, weights: Tensor, u: Tensor, q: Tensor) -> Tensor:
        """<D, R>: (N,)."""
        total = torch.zeros_like(weights[:, 0])
        for g in range(C.shape[0]):
            plain = torch.einsum("eni,hei->nh", C[g], self.F[g])
            Gu = torch.einsum("hef,nhf->nhe", self.gram.G[g], u)
            r = torch.einsum("hef,nhf->nhe", self.QK[g], q)
            total += (weights * (plain + torch.einsum("nhe,eni,nhi->nh", Gu, C[g], r))).sum(1)
        return total


def _moments(a: Tensor, v: Tensor, k: Tensor) -> Tensor:
    """sum_j a_tj v_j k_j^T: a (T, c, m), v and k (T, m, e) to (e, T, c, e), by the smaller temporary."""
    (T, c, m), e = a.shape, v.shape[-1]
    if c < e:
        parts = max(1, _ELEMENTS // (c * m * e))
        out = [
            (x[:, :, None] * y.transpose(1, 2)[:, None]).flatten(1, 2) @ z
            for x, y, z in zip(a.split(parts), v.split(parts), k.split(parts), strict=True)
        ]
        return torch.cat(out).view(T, c, e, e).permute(2, 0, 1, 3).contiguous()
    out_all = torch.empty(e, T, c, e, dtype=a.dtype, device=a.device)
    step = max(1, _ELEMENTS // (T * m * e))
    for i in range(0, e, step):
        pairs = v[:, :, i : i + step].permute(2, 0, 1)[..., None] * k
        torch.matmul(a, pairs, out=out_all[i : i + step])
    return out_all
