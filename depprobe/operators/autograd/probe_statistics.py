r"""How well a few random rows tell a Frobenius norm, and what their Gram matrices say of the blocks.

    est = (d/m) sum_i |v_i^T J|^2,    v_1..v_m orthonormal in R^d, Haar:    E est = |J|_F^2,  exact at m = d

    Var est / (E est)^2 = 2 d (d-m) / (m (d-1) (d+2)) (1/r - 1/d),    r = (tr B)^2 / tr B^2,    B = J J^T

r is the effective rank, 1 to d. The errors of two sources of one target, which have the same rows, are
correlated likewise, with tr B B' / (tr B tr B') in place of 1/r. From Gram matrices G_ij = v_i^T B v_j follow
unbiased products of traces, those with B' = B among them:

    E tr G tr G' = a tr B tr B' + 2 b tr B B',    E tr G G' = b tr B tr B' + (a + b) tr B B'
    m^2 = a d^2 + 2 b d,    m = a d + b d (d + 1)

est / |J|_F^2 is taken for (d/m) Beta(m p/2, (d-m) p/2), p such that the variance is right: exact for rank
one, chi-squared with m r degrees of freedom where m is far below d. Of the errors of all sources of a target
a common factor is kept: those at k and l have the correlation g_k g_l.
Source: Hutchinson 1990 (random rows); Mezzadri 2007 (Haar matrices by QR, signs corrected).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.scaled import Scaled

#: lags to either side whose effective ranks are pooled, at most; near lag 0, where ranks fall fast, fewer
BESIDE = 3

#: mean correlation of errors below which pilots do not tell it from none
LEAST_COMMON = 0.05

#: numbers of rows that are looked at together, in float64
_NUMBERS = 1 << 22

Floats = NDArray[np.float64]


class Traces(NamedTuple):
    """Unbiased (tr B)^2 and tr B^2 of some blocks, each over the square of its own estimated norm^2.

    ``across`` and ``of_product`` are the means of tr B tr B' and tr B B', likewise, over the other sources.
    """

    squared: Floats
    of_square: Floats
    across: Floats
    of_product: Floats

    def effective_rank(self, d: int) -> Floats:
        """(tr B)^2 / tr B^2 between 1 and d; NaN where a block is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            rank = np.where(self.squared > 0, self.squared / self.of_square, 1.0)
        return np.where(np.isnan(self.squared), np.nan, np.clip(rank, 1.0, d))

    def loading(self, d: int) -> Floats:
        """How far the error at a source is that of all sources of its target: 0 to 1, NaN where unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            covariance = np.where(self.across > 0, self.of_product / self.across, 1.0) - 1 / d
            variance = np.maximum(1 / self.effective_rank(d) - 1 / d, 1e-9)
            seen = np.isfinite(self.squared)
            common, own = (float(one[seen].mean()) if seen.any() else 0.0 for one in (covariance, variance))
            told = common > LEAST_COMMON * own
            found = covariance / np.sqrt(variance * common) if told else np.zeros_like(variance)
        return np.where(seen, np.clip(found, 0.0, 1.0), np.nan)


def pooled(
    pilots: Sequence[tuple[NDArray[np.int64], Traces]], d: int
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """From pilots of some targets: lags ascending, and the effective rank and the loading at each."""
    lag = np.concatenate([lags for lags, _ in pilots])
    columns = [np.concatenate([found[i] for _, found in pilots]) for i in range(len(Traces._fields))]
    seen = np.isfinite(columns[0])
    lags, at = np.unique(lag[seen], return_inverse=True)
    if not len(lags):
        return np.zeros(1, int), np.ones(1), np.zeros(1)
    # neighbouring lags have similar ranks, and the farthest ones are those of a single target
    beside = np.minimum(BESIDE, np.abs(lags) // 2)
    low = np.searchsorted(lags, lags - beside)
    high = np.searchsorted(lags, lags + beside, side="right")
    sums = (np.append(0.0, np.cumsum(np.bincount(at, values[seen]))) for values in columns)
    every = Traces(*(one[high] - one[low] for one in sums))
    return lags, every.effective_rank(d), every.loading(d)


def orthonormal_rows(seed: list[int], m: int, d: int) -> Floats:
    """m <= d orthonormal rows of R^d, uniformly distributed, (m, d)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, m)))
    # the signs of R would otherwise say where Q points
    return (q * np.sign(np.diagonal(r))).T


def traces(rows: Tensor, d: int) -> Traces:
    """Of blocks whose images (m, n, d_in) under m >= 2 orthonormal rows are given: (n,) each."""
    m, n, d_in = rows.shape
    # copies of all rows in float64 would take several times their memory
    parts = rows.split(max(1, _NUMBERS // (m * d_in)), 1)
    gram = torch.zeros(m, m, dtype=torch.float64, device=rows.device)
    for unit in map(_unit, parts):
        flat = unit.transpose(0, 1).flatten(1)
        gram += flat @ flat.T
    every: list[Tensor] = []
    for unit in map(_unit, parts):
        own = (unit @ unit.mT if m <= d_in else unit.mT @ unit).square().sum((1, 2))
        all_but_own = ((gram @ unit) * unit).sum((1, 2)) - own
        every.append(torch.stack([own, all_but_own, unit.square().sum((1, 2))]))
    own, all_but_own, size = torch.cat(every, 1)
    zero = size == 0
    others = max(n - int(zero.sum()) - 1, 1)
    a, b = np.linalg.solve([[d * d, 2 * d], [d, d * (d + 1)]], [m * m, m])
    # over the square of the estimate (d/m) tr G
    solved = np.linalg.inv([[a, 2 * b], [b, a + b]]) * (m / d) ** 2
    found = [solved @ np.stack([np.ones(n), one.cpu().numpy()]) for one in (own, all_but_own / others)]
    # a block of zeros has no rank
    return Traces(*np.where(zero.cpu().numpy(), np.nan, np.concatenate(found)))


def _unit(rows: Tensor) -> Tensor:
    """Blocks (n, m, d_in) over their norms, of rows (m, n, d_in); a block of zeros stays."""
    scaled = Scaled.plain(rows.transpose(0, 1).double()).rescaled((1, 2)).values
    size = scaled.square().sum((1, 2), keepdim=True).sqrt()
    return scaled / torch.where(size == 0, 1.0, size)


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
