r"""Frobenius norms from a few random rows, and how well they are known.

    est = (d/m) sum_i |v_i^T J|^2,    v_1..v_m orthonormal in R^d, Haar:    E est = |J|_F^2,  exact at m = d

    Var est / (E est)^2 = 2 d (d-m) / (m (d-1) (d+2)) (1/r - 1/d),    r = (tr B)^2 / tr B^2,    B = J J^T

r is the effective rank, 1 to d. From the Gram matrix G_ij = v_i^T B v_j follow unbiased (tr B)^2 and tr B^2:

    E (tr G)^2 = a (tr B)^2 + 2 b tr B^2,    E tr G^2 = b (tr B)^2 + (a + b) tr B^2
    m^2 = a d^2 + 2 b d,    m = a d + b d (d + 1)

est / |J|_F^2 is taken for (d/m) Beta(m p/2, (d-m) p/2), p such that the variance is right: exact for rank
one, chi-squared with m r degrees of freedom where m is far below d.
Source: Hutchinson 1990 (random rows); Mezzadri 2007 (Haar matrices by QR, signs corrected).
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.function import SequenceFunction
from depprobe.core.options import Options
from depprobe.core.scaled import Scaled
from depprobe.core.temporal_jacobian import LogNorms
from depprobe.operators.autograd import fisher
from depprobe.operators.autograd.operator import AutogradJacobian
from depprobe.operators.autograd.products import Gathered, Products
from depprobe.operators.autograd.rounding import beyond, farther

#: orthonormal rows from which effective ranks are estimated, at least (where there are so many) and at most
LEAST_ROWS, MOST_ROWS = 16, 64
#: rows of a pilot that settles how many probes there are, and its targets
PILOT_ROWS, PILOT_TARGETS = 8, 3
#: rows of a pilot beside probes that are too few to tell the rank
FEW_ROWS = 4
#: lags whose effective ranks are pooled
WINDOW = 7
#: neighbouring targets for which a causal forward is recorded up to the last of them
TOGETHER = 8

Floats = NDArray[np.float64]


class ProbedJacobian(AutogradJacobian):
    """Norms from ``options.probes`` orthonormal random rows a target, drawn anew for each from a seed.

    Zeros are proved by the structure of the calls in the forward where it can be traced: a single probe costs
    less than cotangents of NaN and replaced inputs would.

    ``probes`` of the form ``"10%"`` stands for as many as keep the relative standard error of a squared norm,
    at the effective rank that a pilot finds, within it. Blocks and products are exact.
    """

    method = "probes"
    norms = ("fro", "fisher")

    def __init__(
        self, function: SequenceFunction, options: Options, products: Products | None = None
    ) -> None:
        super().__init__(function, options, products)
        # every denominator of one input has the same probes, so that they can share backward passes
        self._seed = [options.seed, zlib.crc32(function.given)]
        d, asked = self.shape[1], options.probes
        #: lags and traces of the pilots of each norm
        self._pilots: dict[str, list[tuple[NDArray[np.int64], Traces]]] = {}
        self._ranks: dict[int, Floats] = {}
        self._ready: dict[int, Gathered] = {}
        #: rows a target
        self.probes = (
            min(asked, d)
            if isinstance(asked, int)
            else rows_for(float(asked[:-1]) / 100, d, self._typical_rank(options.norm))
        )

    @property
    def targets_at_once(self) -> int:
        """How many targets share a pass that ends at the last of them."""
        return TOGETHER

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        found = super().log_norms(targets, sources, norm)
        columns = np.arange(self.shape[2]) if sources is None else np.asarray(sources, dtype=np.int64)
        rank = np.stack([self._rank(t, columns, norm) for t in targets])
        self._ranks.clear()
        rank[~np.isfinite(found.values)] = np.nan
        # an exact zero is known
        stderr, low, high = np.where(
            np.isneginf(found.values), 0.0, uncertainty(self.probes, self.shape[1], rank)
        )
        return replace(found, stderr=stderr, rank=rank, low=found.values + low, high=found.values + high)

    @property
    def _ranks_itself(self) -> bool:
        """Whether the probes tell the effective rank."""
        return self.probes >= LEAST_ROWS or self.probes == self.shape[1]

    @contextlib.contextmanager
    def _prepared(self, group: list[int], columns: NDArray[np.int64], norm: str) -> Iterator[None]:
        """Rows of all targets at once; those at the ends are repeated where none yet reached as far."""
        d, m, rounding = self.shape[1], self.probes, self._rounding[norm]
        with self._products.up_to(group):
            ends = {t: self._heard(t) for t in (group[-1], group[0])}
            due = rounding.due(ends, len(group), m)
            drawn = [self._drawn(t, m) for t in group]
            most = MOST_ROWS if self._ranks_itself else 0
            found = self._rows(group, drawn, columns, most, norm, bool(due))
            self._ready = dict(zip(group, found, strict=True))
            for t in due:
                logs, weight, total = np.full(self.shape[2], np.nan), math.sqrt(d / m), self._ready[t].total
                logs[columns] = self._log_norms_of(self._ready[t])
                assert total is not None
                mix = (weight * drawn[group.index(t)].sum(0)).to(self._function.y)
                rounding.note(t, self._lags(t), logs, mix, Scaled.plain(weight * total))
            if not self._ranks_itself:
                for t in farther(ends, [lags for lags, _ in self._pilots.get(norm, [])]):
                    self._pilot(t, norm)
            yield
            self._ready = {}

    def _heard(self, t: int) -> NDArray[np.int64]:
        """Lags at which structure leaves a path."""
        lags, known = self._lags(t), self._products.structure(t)
        return lags if known is None or not known.any() else lags[known]

    def _drawn(self, t: int, m: int) -> Tensor:
        """Orthonormal probes (m, d_out) of one target, float64."""
        drawn = torch.from_numpy(orthonormal_rows([*self._seed, t, m], m, self.shape[1]))
        return drawn.to(self._function.y.device)

    def _rows(
        self,
        group: list[int],
        drawn: Sequence[Tensor],
        columns: NDArray[np.int64],
        most: int,
        norm: str,
        summed: bool = False,
        scale: float = 1.0,
    ) -> list[Gathered]:
        y = self._function.y
        if norm == fisher.NORM:
            drawn = [fisher.weighed(rows, y[t]) for t, rows in zip(group, drawn, strict=True)]
        return self._products.gathered(group, scale * torch.stack(list(drawn)).to(y), columns, most, summed)

    def _log_norms_of(self, found: Gathered) -> Floats:
        return found.log_norm.cpu().numpy() + 0.5 * math.log(self.shape[1] / self.probes)

    def _measured(self, t: int, columns: NDArray[np.int64], norm: str, log_scale: float) -> Floats:
        if log_scale:
            drawn = [self._drawn(t, self.probes)]
            (found,) = self._rows([t], drawn, columns, 0, norm, scale=math.exp(log_scale))
            return self._log_norms_of(found) - log_scale
        found = self._ready[t]
        if self._ranks_itself:
            self._ranks[t] = traces(torch.cat(found.rows), self.shape[1]).effective_rank(self.shape[1])
        return self._log_norms_of(found)

    def _rounded(self, t: int, logs: Floats, norm: str) -> Floats:
        return self._rounding[norm].stated(t, self._lags(t))

    def _reaches(self, t: int) -> NDArray[np.bool_]:
        known = self._products.structure(t)
        return super()._reaches(t) if known is None else known

    # -- effective ranks -----------------------------------------------------------------------------

    def _rank(self, t: int, columns: NDArray[np.int64], norm: str) -> Floats:
        """Effective ranks of a row; beyond the lags of all pilots they are taken to fall with the lag."""
        if t in self._ranks:
            return self._ranks[t]
        lags, ranks = pooled(self._pilots[norm], self.shape[1])
        here = self._lags(t)[columns]
        return np.maximum(1.0, np.interp(here, lags, ranks) / beyond(here, lags))

    def _pilot(self, t: int, norm: str, rows: int = FEW_ROWS) -> None:
        """A few rows of one target more."""
        rows, every = min(rows, self.shape[1]), np.arange(self.shape[2])
        with self._products.up_to([t]):
            (found,) = self._rows([t], [self._drawn(t, rows)], every, rows, norm)
        self._pilots.setdefault(norm, []).append(
            (self._lags(t), traces(torch.cat(found.rows), self.shape[1]))
        )

    def _typical_rank(self, norm: str) -> float:
        """From pilots of a few targets."""
        n_out, d = self.shape[:2]
        chosen = np.unique(np.linspace(0, n_out - 1, PILOT_TARGETS + 1).round().astype(int)[1:]).tolist()
        for t in chosen:
            self._pilot(t, norm, PILOT_ROWS)
        return float(np.nanmedian(pooled(self._pilots[norm], d)[1]))


class Traces(NamedTuple):
    """Unbiased (tr B)^2 and tr B^2 of some blocks, each over the square of its own estimated norm^2."""

    squared: Floats
    of_square: Floats

    def effective_rank(self, d: int) -> Floats:
        """(tr B)^2 / tr B^2 between 1 and d; NaN where a block is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            rank = np.where(self.squared > 0, self.squared / self.of_square, 1.0)
        return np.where(np.isnan(self.squared), np.nan, np.clip(rank, 1.0, d))


def pooled(pilots: Sequence[tuple[NDArray[np.int64], Traces]], d: int) -> tuple[NDArray[np.int64], Floats]:
    """Effective rank by lag, from pilots of some targets: lags ascending, and the rank at each."""
    lag = np.concatenate([lags for lags, _ in pilots])
    squared, of_square = (np.concatenate([found[i] for _, found in pilots]) for i in (0, 1))
    seen = np.isfinite(squared)
    lags, at = np.unique(lag[seen], return_inverse=True)
    # neighbouring lags have similar ranks, and the farthest ones are those of a single target
    window = np.ones(min(WINDOW, len(lags)))
    sums = (np.bincount(at, values[seen]) for values in (squared, of_square))
    every = Traces(*(np.convolve(one, window, "same") for one in sums))
    return (lags, every.effective_rank(d)) if len(lags) else (np.zeros(1, int), np.ones(1))


def orthonormal_rows(seed: list[int], m: int, d: int) -> Floats:
    """m <= d orthonormal rows of R^d, uniformly distributed, (m, d)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, m)))
    # the signs of R would otherwise say where Q points
    return (q * np.sign(np.diagonal(r))).T


def traces(rows: Tensor, d: int) -> Traces:
    """Of blocks whose images (m, n, d_in) under m >= 2 orthonormal rows are given: (n,) each."""
    m = rows.shape[0]
    unit = Scaled.plain(rows.transpose(0, 1).double()).rescaled((1, 2)).values
    gram = unit @ unit.mT if m <= unit.shape[2] else unit.mT @ unit
    square = unit.square().sum((1, 2)).square()
    ratio = (gram.square().sum((1, 2)) / square).cpu().numpy()
    a, b = np.linalg.solve([[d * d, 2 * d], [d, d * (d + 1)]], [m * m, m])
    found = np.linalg.solve([[a, 2 * b], [b, a + b]], np.stack([np.ones_like(ratio), ratio]))
    # over the square of the estimate (d/m) tr G; a block of zeros has no rank
    return Traces(*np.where(np.isnan(ratio), np.nan, found * (m / d) ** 2))


def relative_variance(m: int, d: int, rank: Floats) -> Floats:
    """Of the estimated squared norm."""
    return 2 * d * (d - m) / (m * max(1, d - 1) * (d + 2)) * (1 / rank - 1 / d)


def rows_for(error: float, d: int, rank: float) -> int:
    """Fewest rows with which the squared norm has at most this relative standard deviation."""
    one = 2 * d / (max(1, d - 1) * (d + 2)) * (1 / rank - 1 / d)
    return min(d, max(1, int(np.ceil(one * d / (error**2 + one) - 1e-9))))


def uncertainty(m: int, d: int, rank: Floats) -> Floats:
    """Standard error of the ln of an estimated norm, and what to add for the ends of its 95 % interval.

    (3, ...) for ranks (...): all 0 at m = d, and NaN where the rank is.
    """
    from scipy.special import betaincinv  # slow to import, and only this needs it

    ranks, at = np.unique(rank, return_inverse=True)
    variance = relative_variance(m, d, ranks)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.clip(((d - m) / (m * variance) - 1) / d, 1e-6, 1e12)
    a, b = (torch.from_numpy(k * half) for k in (m, d))
    spread = (torch.special.polygamma(1, a) - torch.special.polygamma(1, b)).clamp_min(0).sqrt().numpy()
    ends = [0.5 * np.log(m / d / betaincinv(m * half, (d - m) * half, q)) for q in (0.975, 0.025)]
    found = np.where(variance > 0, np.stack([spread / 2, *ends]), 0.0)
    return np.where(np.isnan(ranks), np.nan, found)[:, at].reshape(3, *rank.shape)
