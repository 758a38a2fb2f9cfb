r"""The part of attention's k = t blocks that comes through the query.

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
from depprobe.operators.attention.gram import Gram
from depprobe.operators.attention.heads import Tile

#: elements of the largest temporary
_ELEMENTS = 1 << 22


class Through(NamedTuple):
    """For N targets: |D|^2 + 2 <D, R>; the norms of D's terms; and what its rounding is relative to; (N,)."""

    value: Tensor
    size: Tensor
    rounding: Tensor


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
        return Through(value, size.flatten(), rounding.flatten())

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
