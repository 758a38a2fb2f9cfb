r"""What is drawn again, with replacement, to get standard errors.

Seeds, samples and targets, each that there are several of, are drawn independently of one another, and a
block weighs as often as its seed, sample and target were drawn (pigeonhole bootstrap: Owen 2007, Annals of
Applied Statistics 1, 386; it errs on the large side). Neighbouring targets share most of their past, so they
are drawn in runs of sqrt T (block bootstrap: Kunsch 1989, Annals of Statistics 17, 1217).

A single curve offers only its lags. Its residuals about the best smooth form follow

    e_L = phi e_(L-1) + u_L

and the u are drawn in runs of sqrt m; zeros stay zeros. phi is 1 unless a random walk can be ruled out at 1 %
(Fuller 1976, Introduction to Statistical Time Series, table 8.5.1, with trend: m (1 - phi) > 29.5), because
the log norm of a product of many steps is one; taking it for stationary makes errors ten times too small.
Norms from random probes: ``probes``.
"""

from __future__ import annotations

import math

import numpy as np

from depprobe.curves.align import Floats, Ints
from depprobe.curves.pool import Curves
from depprobe.errors import BadInput

#: draws times values of each that memory holds, a GiB an array, and draws that are never too many
_VALUES, _ALWAYS = 1 << 27, 1000

#: 1 % point of m (1 - phi) for a random walk about a trend, and its correction for small m (fit to the table)
FULLER, FULLER_SMALL = 29.5, 7.7


def target_runs(targets: int) -> Ints:
    """First target of each run that is drawn as a whole.

    Examples
    --------
    >>> target_runs(20)
    array([ 0,  4,  8, 12, 16])
    """
    return np.arange(0, targets, math.isqrt(targets))


def generator(seed: int, resamples: int, lags: int, targets: int, repeats: int) -> np.random.Generator:
    """What draws new curves of so many lags, targets and repeats; refuses more than memory can hold."""
    most = max(_ALWAYS, _VALUES // max(1, lags, targets * repeats))
    if resamples > most:
        raise BadInput(
            f"resamples={resamples} draws of this dataset need too much memory; give at most {most}"
        )
    return np.random.default_rng(seed)


def drawn_units(sizes: tuple[int, ...], resamples: int, rng: np.random.Generator) -> Floats:
    """How often each unit of a crossed design is drawn: (resamples, product of sizes).

    Examples
    --------
    >>> drawn_units((2, 3), 1, np.random.default_rng(0)).shape
    (1, 6)
    """
    weights = np.ones((resamples, 1))
    for size in sizes:
        drawn = rng.multinomial(size, np.full(size, 1 / size), resamples)
        weights = (weights[:, :, None] * drawn[:, None, :]).reshape(resamples, -1)
    return weights


def spread_factor(sizes: tuple[int, ...]) -> float:
    """What the spread over draws lacks where units are few: sqrt(u / (u - 1)), u the fewest drawn."""
    fewest = min(size for size in sizes if size > 1)
    return math.sqrt(fewest / (fewest - 1))


def drawn_residuals(residual: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Series like the residuals (m,), m >= 2: (resamples, m)."""
    m = len(residual)
    phi = _persistence(residual)
    shock = residual[1:] - phi * residual[:-1]
    shock = shock - shock.mean()
    length = math.isqrt(m)
    first = rng.integers(0, m - 1, (resamples, math.ceil(m / length)))
    # runs go around a circle, so that every shock is drawn equally often
    index = (first[:, :, None] + np.arange(length)).reshape(resamples, -1)[:, :m] % (m - 1)
    series = shock[index]
    series[:, 0] = residual[rng.integers(0, m, resamples)]
    for i in range(1, m):
        series[:, i] += phi * series[:, i - 1]
    return series


def _persistence(residual: Floats) -> float:
    m = len(residual)
    power = float(residual[:-1] @ residual[:-1])
    phi = float(residual[1:] @ residual[:-1]) / power if power > 0 else 0.0
    walk = m * (1 - phi) < FULLER / (1 + FULLER_SMALL / m)
    return 1.0 if walk else max(phi, -1.0)


def standard_error(draws: Floats, value: float, factor: float) -> float:
    """Spread of a number over its resamples.

    NaN where the number is not finite or two draws do not exist; infinite where some draw is.
    """
    draws = draws[~np.isnan(draws)]
    if not math.isfinite(value) or len(draws) < 2:
        return math.nan
    return float(draws.std(ddof=1)) * factor if np.isfinite(draws).all() else math.inf


def interval(draws: Floats, value: float, factor: float, top: float, whole: bool) -> tuple[float, float]:
    """95 % interval of a number from its resamples: quantiles, widened by ``factor``, within its range.

    Of what cannot be negative the distances of the quantiles from the value are widened as ratios, so that no
    end passes zero; none passes ``top``. NaN where the number is not known or two draws do not exist.
    """
    draws = draws[~np.isnan(draws)]
    if math.isnan(value) or len(draws) < 2:
        return math.nan, math.nan
    # of B draws the i-th leaves i / (B + 1) below it
    ends = np.quantile(draws, [0.025, 0.975], method="inverted_cdf" if whole else "weibull")
    if math.isfinite(value) and np.isfinite(ends).all():
        if value > 0 and (ends > 0).all():
            ends = value * (ends / value) ** factor
        else:
            ends = value + factor * (ends - value)
        if whole:
            ends = np.array([np.floor(ends[0]), np.ceil(ends[1])])
    if top < math.inf or whole:
        ends = np.clip(ends, 0, top)
    low, high = float(min(ends[0], value)), float(max(ends[1], value))
    return low, high


def drawn_lags(
    pooled: Curves, residual: Floats, fitted: Ints, power: int, resamples: int, rng: np.random.Generator
) -> Curves:
    """Curves like the only one there is, its residuals at the distances ``fitted`` drawn again in runs."""
    change = np.full((resamples, len(pooled.distance)), np.nan)
    if len(fitted):
        change[:] = 0.0
        change[:, fitted] = drawn_residuals(residual, resamples, rng) - residual
        # lag 0 has no residual and moves with its neighbour, so that a common offset changes no share
        change[:, pooled.distance == 0] = change[:, fitted[:1]]
    return pooled.moved(change, power)


def mirrored(draws: Floats, value: float, about: float, whole: bool) -> Floats:
    """Where the truth lies if the value errs as the draws do ``about`` what they were made from.

    Of what is positive, ratios are mirrored. Of whole numbers differences are, and where draws differ at all
    each counts one more, since a whole number does not say how nearly it is the next.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if whole:
            apart = np.where(draws == about, 0.0, about - draws)
            side = np.where(apart == 0, (-1.0) ** np.arange(len(draws)), np.sign(apart))
            return np.asarray(value + apart + side * apart.any())
        if about > 0 and (draws > 0).all():
            return np.asarray(value * about / draws)
        return value + about - draws
