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
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from depprobe.core.device import waits
from depprobe.core.scaled import Scaled, log_norms
from depprobe.operators.attention.head_pairs import add_pairs
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
    pairs : numbers in the largest temporary.
    """

    def __init__(self, heads: Heads, pairs: int) -> None:
        self.heads, self._pairs = heads, pairs
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
        n = len(heads.v)
        self.right = heads.v.new_ones(n, H, e + H + 1)
        self.power = heads.v.new_empty(n, H)
        step = max(1, pairs // (2 * H * H * e))
        for v, right, power in zip(*(z.split(step) for z in (heads.v, self.right, self.power)), strict=True):
            centred = v - self.mean
            right[..., :e], right[..., e : e + H] = centred, self._forms(centred)
            torch.sum(centred.square(), -1, out=power)
        self.length = self.right[..., e : e + H].diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        self.out_norms = largest_eigenvalues(self.G.diagonal()).sqrt()
        self.key_norms = heads.W_K.norm(dim=(1, 2))

    def squares(self, tile: Tile, log_a: Tensor, mixed: Tensor, spread: Tensor) -> Squares:
        """Squared norms for every pair of a tile.

        Parameters
        ----------
        tile : T groups of c targets with m keys.
        log_a : ln weights, (T, H, c, m), used up.
        mixed, spread : o_t, (T, c, H, e), and standard deviations of the values, (T, c, H).
        """
        H, c = log_a.shape[1:3]
        peak = log_a.amax(1)
        b = log_a.sub_(peak.clamp_min(torch.finfo(peak.dtype).min)[:, None]).exp_()
        left, reach = self._left(tile, mixed - self.mean)
        keys = tile.at_keys(self.right).permute(0, 2, 3, 1)  # (T, g, K, m)
        value, step = torch.zeros_like(peak), max(1, self._pairs // b.numel())
        for g in range(0, H, step):
            X = left[:, g : g + step].flatten(2, 3) @ keys[:, g : g + step]
            add_pairs(value, X.unflatten(2, (H, c)), b, g)
        lengths = F.pad(tile.at_keys(self.length)[..., None], (1, 0), value=1)  # (T, m, H, 2)
        sizes = (reach @ lengths.permute(0, 2, 3, 1)).mul_(b).sum(1)
        of_a = self.heads.weight_errors(tile.targets)
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

    def spread(self, tile: Tile, a: Tensor, mixed: Tensor) -> Tensor:
        """Standard deviation of the values under the weights: (T, c, H)."""
        power = torch.einsum("thcm,tmh->tch", a, tile.at_keys(self.power))
        left = power - (mixed - self.mean).square().sum(-1)
        return (left.clamp_min(0) + 4 * torch.finfo(power.dtype).eps * power).sqrt()

    def _left(self, tile: Tile, o: Tensor) -> tuple[Tensor, Tensor]:
        """Left factors (T, g, h, c, K), and (T, H, c, 2): norm of A + O o p^T at most, and norm of p."""
        q, H, e = self.heads.q[tile.targets].permute(2, 0, 1, 3), *self.G.shape[1:3]  # (g, T, c, e)
        each, o = q.flatten(1, 2), o.permute(2, 0, 1, 3)
        shape = (H, *q.shape[1:3], H, e)
        P = ((each @ self.KK.transpose(1, 2).flatten(2)).view(shape) * q.permute(1, 2, 0, 3)).sum(-1)
        B = (each @ self.GVK.permute(0, 3, 1, 2).flatten(2)).view(shape)
        Go = (o.flatten(1, 2) @ self.G.permute(1, 3, 0, 2).flatten(2)).view(shape).transpose(0, 3)
        here = o[..., None, :]
        oGo = (Go * here).sum(-1)  # (g, T, c, h)
        number = self.A[:, None, None] + P * oGo - 2 * (B * here).sum(-1)
        left = each.new_zeros(shape[1], H, H, shape[2], e + H + 1)
        torch.mul(B - P[..., None] * Go, 2, out=left[..., :e].permute(1, 0, 3, 2, 4))
        left[..., e : e + H].diagonal(dim1=2, dim2=4).copy_(P.permute(1, 0, 2, 3))
        left[..., -1] = number.permute(1, 0, 3, 2)
        p = P.diagonal(dim1=0, dim2=3).clamp_min(0).sqrt()  # (T, c, H)
        most = self.A.diagonal().clamp_min(0).sqrt() + oGo.diagonal(dim1=0, dim2=3).clamp_min(0).sqrt() * p
        return left, torch.stack([most, p], -1).transpose(1, 2)

    def _forms(self, v: Tensor) -> Tensor:
        """v_g^T G_gh v_h for every pair of heads: (n, g, h)."""
        moved = (v.transpose(0, 1) @ self.G.transpose(1, 2).flatten(2)).unflatten(2, v.shape[1:])
        return (moved * v).sum(-1).transpose(0, 1)


def largest_eigenvalues(gram: Tensor) -> Tensor:
    """Those of some Gram matrices (e, e, H): (H,)."""
    if waits(gram.device):
        return by_squaring(gram)
    return log_norms(Scaled.plain(gram), "spectral", (0, 1)).exp().to(gram)


def by_squaring(gram: Tensor) -> Tensor:
    """The same without a look at a number: lambda <= tr(A^p)^(1/p) <= e^(1/p) lambda with p = 2^24."""
    A = gram.movedim(2, 0).double()
    log, power = A.new_zeros(len(A)), 1
    for _ in range(5):
        trace = A.diagonal(dim1=1, dim2=2).sum(1).clamp_min(torch.finfo(A.dtype).tiny)
        log += trace.log() / power
        # of the largest eigenvalue over the trace, 1/e at least, the 64th power is in range
        A, power = torch.linalg.matrix_power(A / trace[:, None, None], 64), 64 * power
    return log.exp().to(gram)
