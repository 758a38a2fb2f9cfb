r"""The part of the k = t blocks that comes through the query:

    D_t = sum_h O_h C_h W_Q^h,   C_h = sum_j a_tj (v_j - o_t)(k_j - kbar_t)^T / sqrt(e)

Its norm and its inner product with the rest of the block, R_t = sum_h a^h (A_h + O_h u_h p_h^T):

    |D|^2     = sum_gh <C_g, G_gh C_h Q_hg>,           Q_hg = W_Q^h W_Q^gT,  G_gh = O_g^T O_h
    <D, R>    = sum_gh a^h [ <C_g, G_gh W_V^h W_Q^gT> + (G_gh u_h)^T C_g (W_Q^g p_h) ]

Shapes: N targets, C sqrt(e) (H, e, N, e) the value index first, so that both products with it are matrix
products; the factor stands with the constants.
Subtracting kbar changes nothing (sum_j a_tj (v_j - o_t) = 0) but saves digits.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from depprobe.operators.attention.closed_form import Gram, largest_eigenvalues
from depprobe.operators.attention.heads import Tile


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
    elements : numbers in the largest temporary.
    """

    def __init__(self, gram: Gram, elements: int) -> None:
        self.gram, self._elements, heads = gram, elements, gram.heads
        H, e = heads.q.shape[1:]
        W_Q, W_K, W_V = (w.flatten(0, 1) for w in (heads.W_Q, heads.W_K, heads.W_V))
        QQ, VQ, QK = (
            (a @ b.T).view(H, e, H, e).transpose(1, 2) for a, b in ((W_Q, W_Q), (W_V, W_Q), (W_Q, W_K))
        )
        # F_gh = G_gh W_V^h W_Q^gT as (g, e, e, h)
        self.F = (heads.scale * gram.G @ VQ.transpose(0, 1)).permute(0, 2, 3, 1).contiguous()
        self.sizes = heads.scale * gram.out_norms * largest_eigenvalues(QQ.diagonal()).sqrt()
        QQ, self.QK = heads.scale**2 * QQ, heads.scale**2 * QK
        # G_gh and Q_hg of all g <= h, for each h
        self.above = [(gram.G[: h + 1, h].flatten(0, 1), QQ[h, : h + 1]) for h in range(H)]
        self.mean = heads.k.mean(0)
        parts = heads.k.split(max(1, elements // (H * e)))
        self.power = torch.cat([(part - self.mean).square_().sum(-1) for part in parts])

    def through(self, tile: Tile, a: Tensor, mixed: Tensor, spread: Tensor) -> Through:
        """What D adds to the squared norms of the k = t blocks of a tile, N = T c targets.

        Parameters
        ----------
        tile, mixed, spread : as in ``Gram.squares``.
        a : weights, (T, H, c, m), used up.
        """
        heads, (T, H, c, _), e = self.gram.heads, a.shape, mixed.shape[-1]
        own = a.gather(3, tile.own()[:, None, :, None].expand(-1, H, -1, -1))[..., 0]  # a_tt, (T, H, c)
        v, k = (tile.at_keys(z).transpose(1, 2) for z in (self.gram.right[..., :e], heads.k))  # (T, H, m, e)
        o, k_mixed = (mixed - self.gram.mean).transpose(1, 2), a.new_empty(T, H, c, e)
        C = a.new_empty(H, e, T, c, e)
        for h in range(H):
            centred = k[:, h] - self.mean[h]
            k_mixed[:, h] = a[:, h] @ centred
            _moments(a[:, h], v[:, h], centred, C[h], self._elements)
        C.addcmul_(o.permute(1, 3, 0, 2)[..., None], k_mixed.transpose(0, 1)[:, None], value=-1)
        # rounding errors of the terms are independent: they add in squares, unlike the terms themselves
        squares = tile.at_keys(self.power).transpose(1, 2)[..., None]  # (T, H, m, 1)
        power = (a @ squares)[..., 0]
        of_k = (power - k_mixed.square().sum(-1)).clamp_min(0) + 4 * torch.finfo(a.dtype).eps * power
        errors, of_k = heads.errors.amax(1), of_k.sqrt().transpose(1, 2)
        factors = (heads.weight_errors(tile.targets) + 8) * spread * of_k + 2 * (
            errors[2] * of_k + errors[1] * spread
        )
        factors = (factors * self.sizes).sum(-1)
        squares = squares * tile.at_keys(self.gram.power).transpose(1, 2)[..., None]
        inside = (a.square_() @ squares)[..., 0].sqrt_()
        inside += o.norm(dim=-1) * k_mixed.norm(dim=-1)
        rounding = torch.einsum("h,thc->tc", self.sizes, inside)
        size = torch.einsum("h,htc->tc", self.sizes, torch.linalg.vector_norm(C, dim=(1, 4)))
        C = C.flatten(2, 3)
        u = (heads.v[tile.targets] - mixed).flatten(0, 1)  # (N, H, e)
        q = heads.q[tile.targets].flatten(0, 1)
        value = self._own(C) + 2 * self._cross(C, own.transpose(1, 2).flatten(0, 1), u, q)
        return Through(value, size.flatten(), rounding.flatten(), factors.flatten())

    def _own(self, C: Tensor) -> Tensor:
        """|D|^2: (N,); each pair of heads once."""
        H, e, N, _ = C.shape
        step = max(1, self._elements // (H * e * e))
        return torch.cat([self._own_of(C[:, :, i : i + step]) for i in range(0, N, step)])

    def _own_of(self, C: Tensor) -> Tensor:
        H, e, N, _ = C.shape
        inner = C.new_zeros(H, H, N)
        for h, (G, Q) in enumerate(self.above):
            moved = (G @ C[h].flatten(1)).view(h + 1, e * N, e) @ Q  # G_gh C_h Q_hg, g <= h
            torch.sum(moved.view(h + 1, e, N, e).mul_(C[: h + 1]), (1, 3), out=inner[h, : h + 1])
        return 2 * inner.sum((0, 1)) - inner.diagonal().sum(1)

    def _cross(self, C: Tensor, weights: Tensor, u: Tensor, q: Tensor) -> Tensor:
        """<D, R>: (N,)."""
        H, e, N, _ = C.shape
        Gu, r = (
            (z.transpose(0, 1) @ M.permute(1, 3, 0, 2).flatten(2)).view(H, N, H, e).permute(2, 1, 0, 3)
            for M, z in ((self.gram.G, u), (self.QK, q))
        )  # (g, N, h, e)
        total = (C @ self.F).sum((0, 1))
        for g in range(H):
            total += ((Gu[g] @ C[g].transpose(0, 1)) * r[g]).sum(-1)
        return (weights * total).sum(1)


def _moments(a: Tensor, v: Tensor, k: Tensor, out: Tensor, elements: int) -> None:
    """sum_j a_tj v_j k_j^T: a (T, c, m), v and k (T, m, e) into (e, T, c, e), by the smaller temporary."""
    (T, c, m), e = a.shape, v.shape[-1]
    if c < e:
        width = max(1, min(c, elements // (e * max(m, e))))
        step = max(1, elements // (width * e * max(m, e)))
        for i, r in itertools.product(range(0, T, step), range(0, c, width)):
            x, y, z = a[i : i + step, r : r + width], v[i : i + step], k[i : i + step]
            found = (x[:, :, None] * y.mT[:, None]).flatten(1, 2) @ z
            out[:, i : i + step, r : r + width] = found.unflatten(1, (-1, e)).permute(2, 0, 1, 3)
        return
    step = max(1, elements // (T * m * e))
    for i in range(0, e, step):
        pairs = (v[:, :, i : i + step, None] * k[:, :, None]).flatten(2)
        out[i : i + step] = (a @ pairs).unflatten(2, (-1, e)).permute(2, 0, 1, 3)
