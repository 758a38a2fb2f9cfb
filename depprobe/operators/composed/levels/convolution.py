r"""A convolution as a level, alone and with attention right above it.

    J[t,k] = sum of the taps W_i that read k,    (R J)_k = sum_{t,i: t reads k through i} R_t W_i

With attention above it, norms of a whole row are had without making its blocks:

    J[t,s] = sum over taps i, keys k that read s through i, heads h of  a^h_tk O_h (W_V^h + u^h_k p_h^T) W_i
           = sum_g [ alpha_g(s) O_h B_g + O_h m_g(s) r_g^T ],                               g = (i, h)
    B_g = W_V^h W_i,  r_g = W_i^T p_h,  u^h_k = v^h_k - o^h_t
    alpha_g(s) = sum_k a^h_tk,  m_g(s) = sum_k a^h_tk u^h_k                            over the same k

    |J[t,s]|^2 = sum_gg' [ alpha_g alpha_g' <O_h B_g, O_h' B_g'> + 2 alpha_g m_g' . O_h'^T O_h B_g r_g'
                           + (r_g . r_g') (O_h m_g) . (O_h' m_g') ]

The blocks of the few s that target t itself reads (where the query moves, too), and those whose squared norm
is a small difference of its terms, are made and measured.

Shapes: rows R (P, r, d_out), W_i (d_out, d_in), kept as (K, groups, d_out / groups, d_in / groups); K taps,
H heads, G = K H; O_h (d, e), B_g (e, d_in), r_g (d_in,), alpha (S, G), m (S, G, e) for S sources,
p_h = W_K^hT q^h_t / sqrt(e). Cost of a row: S G d (e + G) multiply-adds, in float64.
Source: Vaswani et al. 2017, equation 1, differentiated.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.rows import Rows, gathered
from depprobe.core.scaled import Scaled, log_norms, log_norms_of_squares
from depprobe.operators.attention.closed_form import Row
from depprobe.operators.attention.operator import AttentionJacobian
from depprobe.operators.composed.levels.level import Level, Positions, pull_through, support_of
from depprobe.operators.composed.levels.own_operator import Mixing
from depprobe.operators.convolution.taps import Taps


class Conv(Level):
    """A convolution: each tap carries rows to the position it reads."""

    def __init__(self, conv: nn.Conv1d, taps: Taps) -> None:
        self.taps, self.width, self.groups = taps, conv.in_channels, conv.groups
        self.placing = (taps.origin, float(taps.stride))
        weight = conv.weight.detach()
        self.work = float(weight.numel())
        # (K, groups, d_out / groups, d_in / groups)
        self._weight = weight.permute(2, 0, 1).unflatten(1, (conv.groups, -1)).contiguous()
        self._grams: dict[tuple[int, int], Tensor] = {}

    def support(self, where: Positions) -> Positions:
        """What the taps read."""
        source = self.taps.sources(where)
        return np.unique(source[source >= 0])

    def window(self) -> tuple[int, int] | None:
        """From the first tap to the last."""
        return (-self.taps.pad[0], self.taps.span - self.taps.pad[0])

    def matrix(self, tap: int) -> Tensor:
        """W_i: (d_out, d_in)."""
        return self._weight[tap, 0] if self.groups == 1 else torch.block_diag(*self._weight[tap])

    def gram(self, tap: int, other: int) -> Tensor:
        """W_i W_j^T: (d_out, d_out), kept once made."""
        if (tap, other) not in self._grams:
            self._grams[tap, other] = self.matrix(tap) @ self.matrix(other).T
        return self._grams[tap, other]

    def keeps_band(self) -> bool:
        """Unless padding shows positions from elsewhere."""
        taps = self.taps
        centred = 2 * taps.pad[0] == 2 * taps.pad[1] == taps.span
        return taps.mode == "zeros" or (centred and taps.mode != "circular")

    def is_shift_invariant(self) -> bool:
        """One kernel for all positions."""
        return True

    def is_inner(self, low: Positions, high: Positions) -> NDArray[np.bool_]:
        """Whether no padding is read."""
        return self.taps.is_inner(low) & self.taps.is_inner(high)

    def is_closed(self) -> bool:
        """Zeros on the left, as a causal convolution has them."""
        return self.taps.is_causal

    def pull(self, rows: Rows) -> Rows:
        """Rows times each tap's matrix, added up where taps meet."""
        source = torch.from_numpy(self.taps.sources(rows.where.cpu().numpy())).to(rows.where.device)
        parts = []
        for tap, weight in enumerate(self._weight):
            read = source[:, tap] >= 0
            values = rows.values if bool(read.all()) else rows.values[read]
            scale = rows.log_scale if rows.log_scale.shape[0] == 1 else rows.log_scale[read]
            if len(weight) == 1:
                values = values @ weight[0]
            else:
                values = torch.einsum(
                    "prgo,goi->prgi", values.unflatten(2, (len(weight), -1)), weight
                ).flatten(2)
            parts.append(Rows(values, scale, source[read, tap]))
        return gathered(parts).settled()


#: relative error of a norm from products above which the block is made instead
_ACCURACY = 1e-11
#: sources whose moments are multiplied out at once
_AT_ONCE = 64


class _Constants(NamedTuple):
    """W (K, d, d_in), O (H, d, e), OB (G, d, d_in) and its Gram matrix (G, G)."""

    W: Tensor
    O: Tensor  # noqa: E741
    OB: Tensor
    gram: Tensor


class AttendedConv(Level):
    """A convolution and the attention above it, as one level."""

    def __init__(self, conv: Conv, mixing: Mixing, jacobian: AttentionJacobian) -> None:
        self._parts: list[Level] = [conv, mixing]
        self._conv, self._jacobian = conv, jacobian
        self.width, self.placing = conv.width, conv.placing
        self.work = 2.0 * conv.taps.n_in * conv.taps.kernel * jacobian.shape[1]
        self._made: _Constants | None = None

    def zeros_are_exact(self) -> bool:
        """As far as those of the attention are."""
        return all(level.zeros_are_exact() for level in self._parts)

    def support(self, where: Positions) -> Positions:
        """What the taps of the keys read."""
        return support_of(self._parts, where)

    def pull(self, rows: Rows) -> Rows:
        """Through one after the other."""
        return pull_through(self._parts, rows)

    def row_log_norms(self, t: int) -> tuple[Positions, NDArray[np.float64]] | None:
        """Sources that output t depends on, and ln Frobenius norms of the blocks."""
        constants, row = self._constants(), self._jacobian._row_of(t)
        n, device = self._jacobian.shape[2], row.keys.device
        inside = row.keys < n
        keys, log_a, u = row.keys[inside], row._log_a[:, inside], row._u[:, inside]
        source = torch.from_numpy(self._conv.taps.sources(keys.cpu().numpy())).to(device)
        own = self._conv.support(np.array([t]))
        where = torch.cat([source[source >= 0], torch.from_numpy(own).to(device)]).unique()

        alpha, m, peak = _gathered(where, source, log_a, u)
        heads = row._heads
        p = torch.einsum("hed,he->hd", heads.W_K, heads.q[t]) * heads.scale
        r = torch.einsum("hd,kdi->khi", p, constants.W).flatten(0, 1)
        total, bound = _squares(constants, alpha, m, r)
        norms, known = log_norms_of_squares(total, bound, _ACCURACY)
        norms += peak
        again = ~known | torch.isin(where, torch.from_numpy(own).to(device))
        for place in again.nonzero().flatten().tolist():
            norms[place] = self._block_log_norm(row, keys, source, t, int(where[place]))
        return where.cpu().numpy(), norms.cpu().numpy()

    def _block_log_norm(self, row: Row, keys: Tensor, source: Tensor, t: int, s: int) -> float:
        """ln norm of J[t,s], from the blocks of the attention that meet in it."""
        W = self._constants().W
        at, tap = (source == s).nonzero().unbind(1)
        key = keys[at]
        own = torch.from_numpy(np.flatnonzero(self._conv.taps.sources(np.array([t]))[0] == s)).to(keys.device)
        if len(own) and not bool((key == t).any()):  # a masked key still moves as query
            key, tap = torch.cat([key, torch.full_like(own, t)]), torch.cat([tap, own])
        blocks = row.blocks(key)
        peak = blocks.log_scale.max()
        return float(log_norms(Scaled((blocks.relative_to(peak) @ W[tap]).sum(0), peak)))

    def _constants(self) -> _Constants:
        if self._made is None:
            heads = self._jacobian._heads.double()
            W = torch.stack([self._conv.matrix(tap).double() for tap in range(self._conv.taps.kernel)])
            OB = torch.einsum("hde,hef,kfi->khdi", heads.W_O, heads.W_V, W).flatten(0, 1)
            flat = OB.flatten(1)
            self._made = _Constants(W, heads.W_O, OB, flat @ flat.T)
        return self._made


def _gathered(where: Tensor, source: Tensor, log_a: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """alpha (S, G), m (S, G, e) over exp(peak), and peak (S,): weights of the keys that read each source."""
    S, K, H = len(where), source.shape[1], log_a.shape[0]
    peak = torch.full((S,), -torch.inf, dtype=torch.float64, device=where.device)
    alpha = peak.new_zeros(S, K, H)
    m = peak.new_zeros(S, K, H, u.shape[2])
    reads = [(source[:, tap] >= 0).nonzero().flatten() for tap in range(K)]
    places = [torch.searchsorted(where, source[read, tap]) for tap, read in enumerate(reads)]
    for read, place in zip(reads, places, strict=True):
        peak.scatter_reduce_(0, place, log_a[:, read].amax(0), "amax")
    safe = torch.where(peak.isfinite(), peak, 0)
    for tap, (read, place) in enumerate(zip(reads, places, strict=True)):
        b = (log_a[:, read].T - safe[place, None]).exp()
        alpha[:, tap].index_add_(0, place, b)
        m[:, tap].index_add_(0, place, b[..., None] * u[:, read].transpose(0, 1))
    return alpha.flatten(1), m.flatten(1, 2), safe


def _squares(constants: _Constants, alpha: Tensor, m: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms (S,), and the square of the sum of the norms of all terms: rounding is relative to it."""
    H = len(constants.O)
    K = len(r) // H
    S, G = alpha.shape
    each = alpha @ constants.gram
    across = torch.einsum("gdi,hi->ghd", constants.OB, r).unflatten(1, (K, H))
    across = torch.einsum("gkhd,hde->gkhe", across, constants.O).flatten(1)
    mixed = (alpha @ across).view(S, G, -1)
    # a few sources at a time: O m is d / e times as large as m, and needed for its products only
    moved = (torch.einsum("hde,skhe->skhd", constants.O, x.unflatten(1, (K, H))) for x in m.split(_AT_ONCE))
    inner = torch.cat([y.flatten(1, 2) @ y.flatten(1, 2).mT for y in moved])
    total = (each * alpha).sum(1) + 2 * (mixed * m).sum((1, 2)) + (inner * (r @ r.T)).sum((1, 2))
    lengths = inner.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt() @ r.norm(dim=1)
    return total, (alpha @ constants.gram.diagonal().clamp_min(0).sqrt() + lengths).square()


def joined(levels: list[Level]) -> list[Level]:
    """The levels, a convolution with attention right above it as one where nothing else is there."""
    if len(levels) == 2:
        conv, mixing = levels
        if isinstance(conv, Conv) and isinstance(mixing, Mixing):
            jacobian = mixing.jacobian
            if isinstance(jacobian, AttentionJacobian):
                return [AttendedConv(conv, mixing, jacobian)]
    return levels
