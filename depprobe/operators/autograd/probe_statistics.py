r"""How well a few random rows tell a Frobenius norm, and what their Gram matrices say of the blocks.

    est = (d/m) sum_i |v_i^T J|^2,    v_1..v_m orthonormal in R^d, Haar:    E est = |J|_F^2,  exact at m = d

    Var est / (E est)^2 = 2 d (d-m) / (m (d-1) (d+2)) (1/r - 1/d),    r = (tr B)^2 / tr B^2,    B = J J^T

r is the effective rank, 1 to d. Where q rows K of the blocks are known (see ``deflation``), v, d and m are
those of the rest, V = v J, and of the whole, with C the estimate of the rest,

    (tr B)^2 = |K|^4 + 2 |K|^2 C + (tr B_rest)^2,    tr B^2 = |K K^T|^2 + 2 d/m |K V^T|^2 + tr B_rest^2

 The errors of two sources of one target, which have the same rows, are
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
_NUMBERS = 1 << 16

Floats = NDArray[np.float64]


class Traces(NamedTuple):
    """Unbiased (tr B)^2 and tr B^2 of some blocks, each over the square of its own estimated norm^2.

    They are of the rest beside known rows, ``all_squared`` and ``all_of_square`` of the whole. ``across`` and
    ``of_product`` are the means of tr B tr B' and tr B B', likewise, over the other sources.
    """

    squared: Floats
    of_square: Floats
    across: Floats
    of_product: Floats
    all_squared: Floats
    all_of_square: Floats

    def effective_rank(self, d: int) -> Floats:
        """(tr B)^2 / tr B^2 between 1 and d, of whole blocks; NaN where a block is zero."""
        return _ratio(self.all_squared, self.all_of_square, d)

    def rank_of_rest(self, d: int) -> Floats:
        """The same of the rest in the d dimensions beside known rows."""
        return _ratio(self.squared, self.of_square, d)

    def loading(self, d: int) -> Floats:
        """How far the error at a source is that of all sources of its target: 0 to 1, NaN where unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            covariance = np.where(self.across > 0, self.of_product / self.across, 1.0) - 1 / d
            variance = np.maximum(1 / self.rank_of_rest(d) - 1 / d, 1e-9)
            seen = np.isfinite(self.squared)
            common, own = (float(one[seen].mean()) if seen.any() else 0.0 for one in (covariance, variance))
            told = common > LEAST_COMMON * own
            found = covariance / np.sqrt(variance * common) if told else np.zeros_like(variance)
        return np.where(seen, np.clip(found, 0.0, 1.0), np.nan)


def _ratio(squared: Floats, of_square: Floats, d: int) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        rank = np.where(squared > 0, squared / of_square, 1.0)
    return np.where(np.isnan(squared), np.nan, np.clip(rank, 1.0, d))


def told_by(traced: Traces, d: int, known: int = 0) -> Floats:
    """Effective rank, loading, and effective rank of the rest beside so many known rows: (3, n)."""
    rest = d - known
    return np.stack([traced.effective_rank(d), traced.loading(rest), traced.rank_of_rest(rest)])


def pooled(
    pilots: Sequence[tuple[NDArray[np.int64], Traces]], d: int, known: int = 0
) -> tuple[NDArray[np.int64], Floats]:
    """From pilots of some targets: lags ascending, and what is told at each, (3, lags)."""
    lag = np.concatenate([lags for lags, _ in pilots])
    columns = [np.concatenate([found[i] for _, found in pilots]) for i in range(len(Traces._fields))]
    seen = np.isfinite(columns[0])
    lags, at = np.unique(lag[seen], return_inverse=True)
    if not len(lags):
        return np.zeros(1, int), np.array([[1.0], [0.0], [1.0]])
    # neighbouring lags have similar ranks, and the farthest ones are those of a single target
    beside = np.minimum(BESIDE, np.abs(lags) // 2)
    low = np.searchsorted(lags, lags - beside)
    high = np.searchsorted(lags, lags + beside, side="right")
    sums = (np.append(0.0, np.cumsum(np.bincount(at, values[seen]))) for values in columns)
    every = Traces(*(one[high] - one[low] for one in sums))
    return lags, told_by(every, d, known)


def orthonormal_rows(seed: list[int], m: int, d: int, known: Floats | None = None) -> Floats:
    """m orthonormal rows of R^d, uniformly distributed in the complement of known ones (q, d): (m, d)."""
    drawn = np.random.default_rng(seed).standard_normal((d, m))
    if known is not None:
        for _ in range(2):  # what rounding leaves of the first projection goes with the second
            drawn = drawn - known.T @ (known @ drawn)
    q, r = np.linalg.qr(drawn)
    # the signs of R would otherwise say where Q points
    return (q * np.sign(np.diagonal(r))).T


def traces(rows: Tensor, d: int, known: Tensor | None = None) -> Traces:
    """Of blocks whose images (m, n, d_in) under m >= 2 orthonormal rows of d dimensions are given, and known
    rows (q, n, d_in) of the other dimensions: (n,) each.
    """
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
    solved = np.eye(2)
    if m < d:
        a, b = np.linalg.solve([[d * d, 2 * d], [d, d * (d + 1)]], [m * m, m])
        # over the square of the estimate (d/m) tr G
        solved = np.linalg.inv([[a, 2 * b], [b, a + b]]) * (m / d) ** 2
    found = [solved @ np.stack([np.ones(n), one.cpu().numpy()]) for one in (own, all_but_own / others)]
    # a block of zeros has no rank
    rest = np.where(zero.cpu().numpy(), np.nan, np.concatenate(found))
    return Traces(*rest, *(rest[:2] if known is None else _with_known(rest[:2], rows, known, d)))


def _with_known(rest: Floats, rows: Tensor, known: Tensor, d: int) -> Floats:
    """(tr B)^2 and tr B^2 of whole blocks over their estimated norm^4, (2, n), from those of the rest."""
    q, m = len(known), len(rows)
    parts = torch.cat([known, rows]).split(max(1, _NUMBERS // ((m + q) * rows.shape[2])), 1)
    every: list[Tensor] = []
    for unit in map(_unit, parts):
        exact, random = unit[:, :q], unit[:, q:]
        gram = exact @ unit.mT
        each = (exact, random, gram[:, :, :q], gram[:, :, q:])
        every.append(torch.stack([one.square().sum((1, 2)) for one in each]))
    exact, random, own, mixed = torch.cat(every, 1).cpu().numpy()
    random, mixed = d / m * random, d / m * mixed
    squared, of_square = np.nan_to_num(rest) * random**2
    found = np.stack([exact**2 + 2 * exact * random + squared, own + 2 * mixed + of_square])
    with np.errstate(invalid="ignore"):
        return np.asarray(found / (exact + random) ** 2)


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


def uncertainty(m: int, d: int, rank: Floats, share: Floats | float = 1.0) -> Floats:
    """Standard error of the ln of an estimated norm, and what to add for the ends of its 95 % interval.

    (3, ...) for ranks (...): all 0 at m = d, and NaN where the rank is. Of a ``share`` of the square alone,
    the rest of it being known, the standard error shrinks as the interval does.
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
    every = np.where(np.isnan(ranks), np.nan, found)[:, at].reshape(3, *rank.shape)
    widths = every[2] - every[1]
    every[1:] = 0.5 * np.log1p(share * np.expm1(2 * every[1:]))
    every[0] *= np.where(widths > 0, every[2] - every[1], 0.0) / np.where(widths > 0, widths, 1.0)
    return every
