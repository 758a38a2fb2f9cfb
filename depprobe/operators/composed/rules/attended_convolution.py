r"""Attention right above a convolution: norms of a whole row without making its blocks.

    J[t,s] = sum over taps i, keys k that read s through i, heads h of  a^h_tk O_h (W_V^h + u^h_k p_h^T) W_i
           = sum_g [ alpha_g(s) O_h B_g + O_h m_g(s) r_g^T ],                               g = (i, h)
    B_g = W_V^h W_i,  r_g = W_i^T p_h,  u^h_k = v^h_k - o^h_t
    alpha_g(s) = sum_k a^h_tk,  m_g(s) = sum_k a^h_tk u^h_k                            over the same k

    |J[t,s]|^2 = sum_gg' [ alpha_g alpha_g' <O_h B_g, O_h' B_g'> + 2 alpha_g m_g' . O_h'^T O_h B_g r_g'
                           + (r_g . r_g') (O_h m_g) . (O_h' m_g') ]

The blocks of the few s that target t itself reads (where the query moves, too), and those whose squared norm
is a small difference of its terms, are made and measured. What errors of the attention's blocks change of a
norm is bounded by sum_k,i |dJ_tk| |W_i|; one from products errs by 8 eps (sum of terms' norms)^2 / |J|.

Shapes: rows R (P, r, d_out), W_i (d_out, d_in), kept as (K, groups, d_out / groups, d_in / groups); K taps,
H heads, G = K H; O_h (d, e), B_g (e, d_in), r_g (d_in,), alpha (S, G), m (S, G, e) for S sources,
p_h = W_K^hT q^h_t / sqrt(e). Cost of a row: S G d (e + G) multiply-adds, in float64.
Source: Vaswani et al. 2017, equation 1, differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.options import Options, require
from depprobe.core.scaled import Scaled, log_norms, log_norms_of_squares, with_rounding
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian
from depprobe.operators.attention.operator import AttentionJacobian, share_of_bounds
from depprobe.operators.attention.row import Row
from depprobe.operators.convolution.operator import ToeplitzJacobian, tap_matrices
from depprobe.operators.dispatch import register_jacobian, registered_jacobian
from depprobe.units import counted

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


class AttendedConvolution(TemporalJacobian):
    """Temporal Jacobian of attention on the output of a convolution, J = J_attention J_convolution."""

    method = "composed"

    def __init__(self, attention: AttentionJacobian, convolution: ToeplitzJacobian, memory: int) -> None:
        self._attention, self._convolution, self._memory = attention, convolution, memory
        self.shape = (*attention.shape[:2], *convolution.shape[2:])
        self._taps = convolution.taps

    @property
    def position(self) -> NDArray[np.float64]:
        """Input position that each output sits at, (n_out,): that of the convolution."""
        return self._convolution.position

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        """Natural logs of the norms of J[t,k]; ``error`` bounds what rounding changed."""
        require(
            24.0 * len(targets) * self.shape[2],
            self._memory,
            f"the norms of {counted(len(targets), 'target')}",
            "ask for fewer targets",
        )
        values, lost = (np.full((len(targets), self.shape[2]), -np.inf) for _ in range(2))
        for row, changed, t in zip(values, lost, targets, strict=True):
            where, found, changed_there = self._row_log_norms(t)
            row[where], changed[where] = found, changed_there
            if norm != "fro":
                blocks, log_scale = self.row(t)
                row[:] = log_norms(Scaled(blocks, log_scale), norm, (0, 2)).cpu().numpy()
        with np.errstate(invalid="ignore", over="ignore"):
            share = np.where(np.isneginf(values), 0.0, np.exp(lost - values))
        share = share * share_of_bounds(self.shape[1], norm)
        values, error = with_rounding(values, share)
        if sources is not None:
            values, error = (part[:, np.asarray(sources, dtype=np.int64)] for part in (values, error))
        return LogNorms(values, error)

    def row(self, t: int) -> Scaled:
        """Row t: values (d_out, n_in, d_in), log_scale (d_out, n_in, 1)."""
        return self._convolution.pull(self._attention.row(t))

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Sum over t of cotangent_t^T J[t,:]: (n_out, d_out) to (n_in, d_in)."""
        return self._convolution.vjp(self._attention.vjp(cotangent))

    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n_in, d_in) to (n_out, d_out)."""
        return self._attention.jvp(self._convolution.jvp(tangent))

    def _row_log_norms(self, t: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Sources that output t depends on, ln norms of their blocks, and ln of what rounding changed."""
        constants, row = self._constants, self._attention._row_of(t)
        n, device = self._attention.shape[2], row.keys.device
        inside = row.keys < n
        keys, log_a, u = row.keys[inside], row._log_a[:, inside], row._u[:, inside]
        source = torch.from_numpy(self._taps.sources(keys.cpu().numpy())).to(device)
        own = self._taps.sources(np.array([t]))[0]
        own = np.unique(own[own >= 0])
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
        size = torch.where(again, bound.sqrt(), total.clamp_min(0).sqrt())
        of_products = (8 * torch.finfo(total.dtype).eps * bound / size).log() + peak
        lost = torch.logaddexp(self._lost(row, t, where), of_products)
        return where.cpu().numpy(), norms.cpu().numpy(), lost.cpu().numpy()

    def _lost(self, row: Row, t: int, where: Tensor) -> Tensor:
        """ln of what errors of the attention's blocks can change of the norms at some sources (S,)."""
        keys = torch.cat([row.keys, row.keys.new_tensor([t])]).unique()  # a masked key still moves as query
        keys = keys[keys < self._attention.shape[2]]
        source = torch.from_numpy(self._taps.sources(keys.cpu().numpy())).to(keys.device)
        off = row.rounding(keys)[:, None] + self._largest.log()
        reads = source >= 0
        total = torch.full((len(where),), -torch.inf, dtype=torch.float64, device=keys.device)
        at = torch.searchsorted(where, source[reads])
        peak = total.scatter_reduce(0, at, off[reads], "amax")
        base = torch.where(peak.isfinite(), peak, 0)
        unit = math.log(torch.finfo(self._attention._heads.q.dtype).eps / 2)
        return torch.zeros_like(total).index_add_(0, at, (off[reads] - base[at]).exp()).log() + base + unit

    def _block_log_norm(self, row: Row, keys: Tensor, source: Tensor, t: int, s: int) -> float:
        """ln norm of J[t,s], from the blocks of the attention that meet in it."""
        W = self._constants.W
        at, tap = (source == s).nonzero().unbind(1)
        key = keys[at]
        own = torch.from_numpy(np.flatnonzero(self._taps.sources(np.array([t]))[0] == s)).to(keys.device)
        if len(own) and not bool((key == t).any()):  # a masked key still moves as query
            key, tap = torch.cat([key, torch.full_like(own, t)]), torch.cat([tap, own])
        blocks = row.blocks(key)
        peak = blocks.log_scale.max()
        return float(log_norms(Scaled((blocks.relative_to(peak) @ W[tap]).sum(0), peak)))

    @cached_property
    def _largest(self) -> Tensor:
        """Largest singular values of the W_i, (K,)."""
        gram = self._constants.W.mT @ self._constants.W
        return torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).sqrt()

    @cached_property
    def _constants(self) -> _Constants:
        heads, conv = self._attention._heads.double(), self._convolution
        taps = tap_matrices(conv.weight.double(), conv.groups)
        W = torch.stack([torch.block_diag(*groups) for groups in taps])
        OB = torch.einsum("hde,hef,kfi->khdi", heads.W_O, heads.W_V, W).flatten(0, 1)
        flat = OB.flatten(1)
        return _Constants(W, heads.W_O, OB, flat @ flat.T)


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


@register_jacobian(nn.Sequential)
def attended_convolution(module: nn.Sequential, x: Tensor, options: Options) -> TemporalJacobian | None:
    """Of a convolution with time as the second last axis, and attention on it; other stacks are graphs."""
    if options.wrt != "x" or options.forward or len(module) != 2 or isinstance(module[0], nn.Conv1d):
        return None
    convolution = registered_jacobian(module[0], x, options)
    if not isinstance(convolution, ToeplitzJacobian) or isinstance(module[1], nn.MultiheadAttention):
        return None
    with torch.no_grad():
        attention = registered_jacobian(module[1], module[0](x), options)
    if not isinstance(attention, AttentionJacobian):
        return None
    return AttendedConvolution(attention, convolution, options.memory)
