r"""The temporal Jacobian of a convolution: Toeplitz, corrected at the edges.

    J[t,k] = sum of W_i over the taps i of output t that read input k

Inside, every tap reads an input of its own, so a block depends on stride * t - k only and the norms of all
blocks are the K norms of the kernel's taps. At the edges several taps may read one input (reflected,
replicated or wrapped), and each set of taps that meet is summed once, however many blocks it stands for.

Shapes: W_i (d_out, d_in), block-diagonal with the groups; kernel K. Source: Gray 2006 (Toeplitz matrices).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.options import DEFAULT_MEMORY, Options, require
from depprobe.core.scaled import Scaled, gathered, log_norms, log_norms_of_squares, with_rounding
from depprobe.core.temporal_jacobian import (
    LogNorms,
    TemporalJacobian,
    anchors,
    is_banded,
    placed,
    repeat,
)
from depprobe.errors import wrong_width
from depprobe.layers.convolution import Convolution
from depprobe.operators.convolution.taps import Taps
from depprobe.operators.dispatch import register_jacobian
from depprobe.units import counted

#: numbers in the sums of taps that are made at once
_NUMBERS = 1 << 21
#: relative error that rounding may leave in a norm from products of taps; beyond it the sum is made
_ACCURACY = 2e-12
#: ln of a unit in the last place of the sums of taps
_LOG_PLACE = math.log(np.finfo(np.float64).eps)


class ToeplitzJacobian(TemporalJacobian):
    """Temporal Jacobian of one convolution; it does not depend on the input.

    Parameters
    ----------
    conv : the convolution whose weights these are.
    taps : which input each tap of each output reads.
    memory : bytes that the job may take.

    Examples
    --------
    >>> conv = nn.Conv1d(3, 5, 3, padding=1).double()
    >>> J = ToeplitzJacobian(conv, Taps.of(conv, 9))
    >>> J.shape
    (9, 5, 9, 3)
    """

    method = "toeplitz"

    def __init__(self, conv: nn.Conv1d, taps: Taps, *, memory: int = DEFAULT_MEMORY) -> None:
        self.weight = conv.weight.detach()
        self.groups, self.taps, self._memory = conv.groups, taps, memory
        self.shape = (taps.n_out, conv.out_channels, taps.n_in, conv.in_channels)
        self._norms: dict[tuple[str, bytes], tuple[float, float]] = {}
        self._lags: NDArray[np.int64] | None = None

    @property
    def position(self) -> NDArray[np.float64]:
        """Input position that each output sits at, (n_out,); see ``Taps.origin``."""
        return self.taps.origin + self.taps.stride * np.arange(self.shape[0], dtype=np.float64)

    @property
    def targets_at_once(self) -> int:
        """As many as cost little more than one, where they fit."""
        return max(1, min(100, self._memory // (128 * self.shape[2])))

    @property
    def lags(self) -> NDArray[np.int64]:
        """Every lag at which some block stands, ascending."""
        if self._lags is None:
            t = np.arange(self.shape[0])
            inner = self.taps.is_inner(t)
            # every inner output has the lags of the first one
            t = np.concatenate([t[~inner], t[inner][:1]])
            source = self.taps.sources(t)
            self._lags = np.unique((anchors(self.position)[t][:, None] - source)[source >= 0])
        return self._lags

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        """Natural logs of the norms of J[t,k], by lag for several targets of a narrow kernel."""
        t = np.asarray(targets, dtype=np.int64)
        lags = self.lags if sources is None and is_banded(self.lags, len(t), self.shape[2]) else None
        columns = self.shape[2] if lags is None else len(lags)
        require(
            8.0 * len(t) * (4 * columns + 4 * self.taps.kernel),
            self._memory,
            f"the norms of {counted(len(t), 'target')}",
            "ask for fewer targets",
        )
        if lags is not None:
            values, shares = self._banded(t, lags, norm)
        else:
            values, shares = self._placed(t, None, norm)
        values, error = with_rounding(values, np.exp(shares))
        if sources is not None:
            values, error = (part[:, np.asarray(sources, dtype=np.int64)] for part in (values, error))
        return LogNorms(values, error, lags=lags)

    def _banded(self, t: NDArray[np.int64], lags: NDArray[np.int64], norm: str) -> NDArray[np.float64]:
        """Norms and ln relative errors by lag, (2, T, lags): one row stands for all away from the edges."""
        inner = self.taps.is_inner(t)
        out = np.empty((2, len(t), len(lags)))
        out[:, ~inner] = self._placed(t[~inner], lags, norm)
        if inner.any():
            for part, row in zip(out, self._placed(t[inner][:1], lags, norm)[:, 0], strict=True):
                repeat(part, inner, row, anchors(self.position)[t], self.shape[2], lags)
        return out

    def _placed(self, t: NDArray[np.int64], lags: NDArray[np.int64] | None, norm: str) -> NDArray[np.float64]:
        """Norms and ln relative errors (2, T, columns)."""
        source = self.taps.sources(t)
        row, tap = np.nonzero(source >= 0)
        where = row, source[row, tap]
        anchor = anchors(self.position)[t]
        found = self._tap_norms(t, source, norm)[row, tap].T
        return np.stack([placed(*where, part, anchor, self.shape[2], lags).values for part in found])

    def _tap_norms(self, t: NDArray[np.int64], source: NDArray[np.int64], norm: str) -> NDArray[np.float64]:
        """ln norm and error of the block that each tap belongs to: (T, K, 2), the same for taps that meet."""
        K = self.taps.kernel
        logs = np.tile(self._norms_of(np.eye(K, dtype=bool), norm), (len(t), 1, 1))
        edge = np.flatnonzero(~self.taps.is_inner(t))
        if len(edge) and self.taps.mode != "zeros":
            meeting = source[edge][:, :, None] == source[edge][:, None, :]
            kinds, which = np.unique(np.packbits(meeting.reshape(-1, K), axis=1), axis=0, return_inverse=True)
            sets = np.unpackbits(kinds, axis=1, count=K).astype(bool)
            logs[edge] = self._norms_of(sets, norm)[which.reshape(-1, K)]
        return logs

    @cached_property
    def _flat(self) -> Tensor:
        """The taps as rows: (K, d_out d_in / groups) float64."""
        return self.weight.movedim(2, 0).flatten(1).double()

    def _from_products(self, sets: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """ln Frobenius norms of sums of taps and errors (M, 2) from products, and which keep their digits."""
        unit, peak = Scaled.plain(self._flat).rescaled((0, 1))
        gram, chosen = unit @ unit.T, torch.from_numpy(sets).to(unit)
        bound = (chosen @ gram.diagonal().sqrt()).square()
        squares = ((chosen @ gram) * chosen).sum(1)
        logs, known = log_norms_of_squares(squares, bound, _ACCURACY)
        errors = bound.log() - 2 * logs + _LOG_PLACE
        return torch.stack([logs + peak[:, 0], errors], 1).cpu().numpy(), known.cpu().numpy()

    def _norms_of(self, sets: NDArray[np.bool_], norm: str) -> NDArray[np.float64]:
        """ln norms of sums of taps, and ln of their relative errors, (M, 2), one for each set (M, K)."""
        keys = [(norm, taps.tobytes()) for taps in sets]
        new = sets[[key not in self._norms for key in keys]]
        if norm == "fro" and len(new) > 1:
            found, known = self._from_products(new)
            pairs = zip(new[known], found[known].tolist(), strict=True)
            self._norms |= {(norm, taps.tobytes()): tuple(log) for taps, log in pairs}
            new = new[~known]
        flat = self._flat
        step = max(1, _NUMBERS // flat.shape[1])
        for part in (new[first : first + step] for first in range(0, len(new), step)):
            chosen = torch.from_numpy(part).to(flat)
            total, size = chosen @ flat, chosen @ flat.abs()
            blocks = Scaled.plain(total.view(len(part), self.groups, -1, self.weight.shape[1]))
            # of blocks on a diagonal, squares add for Frobenius and the largest counts for the spectral norm
            logs = blocks.log_norm((1, 2, 3)) if norm == "fro" else log_norms(blocks, norm).amax(1)
            # a single tap is no sum
            errors = Scaled.plain(size).log_norm(1) - logs + (chosen.sum(1) - 1).log() + _LOG_PLACE
            measured = zip(part, logs.tolist(), errors.tolist(), strict=True)
            self._norms |= {(norm, taps.tobytes()): (log, error) for taps, log, error in measured}
        return np.array([self._norms[key] for key in keys])

    def _summed(self, taps: NDArray[np.bool_]) -> Tensor:
        """Sum of some taps of the kernel, as stored: (d_out, d_in / groups)."""
        return self.weight[:, :, np.flatnonzero(taps)].sum(2)

    def _spread(self, stored: Tensor) -> Tensor:
        """(d_out, d_in / groups) as (d_out, d_in)."""
        return torch.block_diag(*stored.unflatten(0, (self.groups, -1)))

    def block(self, t: int, k: int) -> Scaled:
        """Block J[t,k]: values (d_out, d_in)."""
        source = self.taps.sources(np.array([t]))[0]
        return Scaled(self._spread(self._summed(source == k)), self._no_scale(1, 1))

    def row(self, t: int) -> Scaled:
        """Row t: values (d_out, n_in, d_in); log_scale 0."""
        _, d_out, n_in, d_in = self.shape
        size = n_in * d_out * d_in * self.weight.element_size()
        require(size, self._memory, f"the row of {n_in} blocks", "ask for norms or for single blocks")
        values = self.weight.new_zeros(d_out, n_in, d_in)
        source = self.taps.sources(np.array([t]))[0]
        for k in np.unique(source[source >= 0]):
            values[:, k] = self._spread(self._summed(source == k))
        return Scaled(values, self._no_scale(1, 1, 1))

    def _no_scale(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.weight.device)

    def pull(self, rows: Scaled) -> Scaled:
        """Rows (r, n_out, d_out) through the Jacobian: (r, n_in, d_in)."""
        n_out, _, n_in, d_in = self.shape
        values, scale = (part.expand(-1, n_out, -1).transpose(0, 1) for part in rows.rescaled((2,)))
        every = torch.arange(n_out, device=values.device)
        matrices = tap_matrices(self.weight, self.groups)
        (values, scale), where = through_taps(matrices, self.taps, Scaled(values, scale), every)
        P, r = values.shape[:2]
        out, log_scale = values.new_zeros(r, n_in, d_in), scale.new_full((r, n_in, 1), -torch.inf)
        out[:, where] = values.transpose(0, 1)
        log_scale[:, where] = scale.expand(P, r, 1).transpose(0, 1)
        return Scaled(out, log_scale)

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Sum over t of cotangent_t^T J[t,:]: (n_out, d_out) to (n_in, d_in)."""
        with torch.enable_grad():
            zero = self.weight.new_zeros(self.shape[2:], requires_grad=True)
            (pulled,) = torch.autograd.grad(self.jvp(zero), zero, cotangent.to(self.weight))
        return pulled

    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n_in, d_in) to (n_out, d_out)."""
        taps = self.taps
        mode = "constant" if taps.mode == "zeros" else taps.mode
        padded = nn.functional.pad(tangent.to(self.weight).T[None], taps.pad, mode=mode)
        out = nn.functional.conv1d(
            padded, self.weight, stride=taps.stride, dilation=taps.dilation, groups=self.groups
        )
        return out[0].T


def tap_matrices(weight: Tensor, groups: int) -> Tensor:
    """W_i of a kernel (d_out, d_in / groups, K): (K, groups, d_out / groups, d_in / groups)."""
    return weight.permute(2, 0, 1).unflatten(1, (groups, -1)).contiguous()


def through_taps(matrices: Tensor, taps: Taps, rows: Scaled, where: Tensor) -> tuple[Scaled, Tensor]:
    """Rows (P, r, d_out) on some outputs as rows on the inputs that these read, and which those are.

    Rows times each tap's matrix, added up where taps meet; exponents are (P, r, 1) or (1, 1, 1).
    """
    source = torch.from_numpy(taps.sources(where.cpu().numpy())).to(where.device)
    parts = []
    for tap, weight in enumerate(matrices):
        read = source[:, tap] >= 0
        values, scale = rows
        if not bool(read.all()):
            values, scale = values[read], scale if len(scale) == 1 else scale[read]
        if len(weight) == 1:
            values = values @ weight[0]
        else:
            values = torch.einsum("prgo,goi->prgi", values.unflatten(2, (len(weight), -1)), weight).flatten(2)
        parts.append((Scaled(values, scale), source[read, tap]))
    return gathered(parts)


@register_jacobian(nn.Conv1d, Convolution)
def convolution_jacobian(module: nn.Module, x: Tensor, options: Options) -> TemporalJacobian | None:
    """Toeplitz, where every tap is a plain weight."""
    taps = Taps.of(module, x.shape[0])
    if options.wrt != "x" or options.forward or taps is None:
        return None
    conv = module.conv if isinstance(module, Convolution) else module
    assert isinstance(conv, nn.Conv1d)
    if x.shape[1] != conv.in_channels:
        raise wrong_width(x.shape[1], conv.in_channels, "convolution")
    return ToeplitzJacobian(conv, taps, memory=options.memory)
