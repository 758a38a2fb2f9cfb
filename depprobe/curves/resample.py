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

Norms from random probes are drawn about smoothed ones, S:

    ||J[t,k]||^2  ~  S[t,k] Gamma(a, 1/a),    trigamma(a) = (2 log_norm_stderr)^2

two sources of a target from one quantile with probability g_k g_l, their loadings, else from two. S shrinks
norms towards the mean square at their lag until they vary as much as exact ones do. Targets, drawn one a
stratum from the sequence, weigh at random within pairs of neighbours, the less the more of all there are.
Curves are freed of the mean difference of draws from S, since E ln x < ln E x, and intervals are mirrored.
So they say where exact norms at all targets would lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import special

from depprobe.curves.align import Blocks, Floats, Ints
from depprobe.curves.pool import Curves, Units, weigh

#: 1 % point of m (1 - phi) for a random walk about a trend, and its correction for small m (fit to the table)
FULLER, FULLER_SMALL = 29.5, 7.7
#: shapes of a gamma distribution in a table, and equally probable parts of each
SHAPES, QUANTILES = np.geomspace(0.3, 1e5, 250), 256
#: fewest norms at one lag from which their spread is taken
ENOUGH = 4


def target_runs(targets: int) -> Ints:
    """First target of each run that is drawn as a whole.

    Examples
    --------
    >>> target_runs(20)
    array([ 0,  4,  8, 12, 16])
    """
    return np.arange(0, targets, math.isqrt(targets))


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
    ends = np.quantile(draws, [0.025, 0.975], method="inverted_cdf" if whole else "linear")
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


class Redrawn(NamedTuple):
    """Curves under other probes.

    Attributes
    ----------
    pooled : the curve, freed of what drawing probes changes in the mean.
    about : the curve that the draws vary about.
    drawn : curves of the draws, freed likewise.
    """

    pooled: Curves
    about: Curves
    drawn: Curves


def drawn_probes(
    blocks: Blocks,
    collected: Callable[[Blocks, Ints], Units],
    pooling: str,
    resamples: int,
    rng: np.random.Generator,
) -> Redrawn:
    """Curves of a layer from new probes, targets, samples and seeds; ``collected`` sums blocks over units."""
    assert blocks.probed is not None
    stderr, loading = blocks.probed
    targets = stderr.shape[1]
    each = np.arange(targets)
    noisy = (stderr > 0) & np.isfinite(blocks.values)
    spread = -np.log(special.polygamma(1, SHAPES))
    index = np.interp(-2 * np.log(2 * np.where(noisy, stderr, 1.0)), spread, np.arange(len(SHAPES)))
    index = index.round().astype(np.int64)
    smooth = replace(blocks, values=_smoothed(blocks.values, np.where(noisy, 1 / SHAPES[index], 0.0)))
    table = _log_gamma_quantiles()
    at_zero = np.flatnonzero(blocks.lags == 0)

    def curve(norms: Blocks, weight: Floats) -> Curves:
        return weigh(collected(norms, each), weight, pooling)

    sizes = (1, *blocks.repeats)
    drawn = []
    repeats = drawn_units(sizes, resamples, rng)
    strata = within_strata(targets, targets / (int(blocks.here.max()) + 1), resamples, rng)
    for b in range(resamples):
        own, common = (rng.integers(QUANTILES, size=(k, *stderr.shape[1:])) for k in (len(stderr), 1))
        quantile = np.where(rng.random(stderr.shape) < loading, common, own)
        change = np.where(noisy, 0.5 * table[index, quantile], 0.0)
        if blocks.normalised:
            change -= change[at_zero]
        weight = strata[b][:, None] * repeats[b]
        drawn.append(curve(replace(smooth, values=smooth.values + change), weight.reshape(1, -1)))
    every = Curves(
        drawn[0].distance,
        drawn[0].empty,
        *(np.concatenate([getattr(one, name) for one in drawn]) for name in _VARYING),
    )
    one = np.ones((1, targets * math.prod(sizes)))
    about, pooled = curve(smooth, one), curve(blocks, one)
    seen = np.isfinite(every.log_rms)
    with np.errstate(invalid="ignore"):
        added = np.where(seen, every.log_rms - about.log_rms, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
    shifted = (every.share - about.share).mean(0)
    return Redrawn(_freed(pooled, added, shifted), about, _freed(every, added, shifted))


@cache
def _log_gamma_quantiles() -> Floats:
    """Natural logs of numbers of mean 1 from gamma distributions: (shapes, quantiles)."""
    middle = (np.arange(QUANTILES) + 0.5) / QUANTILES
    logs = np.log(special.gammaincinv(SHAPES[:, None], middle))
    return np.asarray(logs - np.log(np.exp(logs).mean(1, keepdims=True)))


_VARYING = ("log_rms", "zero_share", "share", "first", "furthest")


def _freed(curves: Curves, added: Floats, shifted: Floats) -> Curves:
    share = np.maximum(curves.share - shifted, 0.0)
    total = share.sum(1, keepdims=True)
    share = share / np.where(total > 0, total, 1.0)
    return replace(curves, log_rms=curves.log_rms - added, share=share)


def _smoothed(values: Floats, variance: Floats) -> Floats:
    """Logs (m, T, R) whose spread about the mean square at their lag is without what probes add to it."""
    logs = np.where(np.isfinite(values), 2 * values, -np.inf)
    known = np.isfinite(logs)
    count = np.maximum(known.sum((1, 2)), 1)

    def log_mean(x: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            return (np.logaddexp.reduce(x, axis=(1, 2)) - np.log(count))[:, None, None]

    mean = np.nan_to_num(log_mean(logs), neginf=0.0)
    apart = np.where(known, logs - mean, 0.0)
    many = known & (count >= ENOUGH)[:, None, None]
    kept = 0.0
    if many.any():
        exact = np.exp(2 * apart[many]).mean() / (1 + variance[many].mean())
        kept = math.sqrt(math.log(max(exact, 1.0)) / max(float(apart[many].var()), 1e-12))
    shrunk = np.where(known, mean + min(kept, 1.0) * apart, -np.inf)
    again = np.nan_to_num(mean - log_mean(shrunk), posinf=0.0)
    return np.where(known, 0.5 * (shrunk + again), values)


def within_strata(targets: int, share: float, resamples: int, rng: np.random.Generator) -> Floats:
    """Weights (resamples, targets) of targets that are a ``share`` of all, random within pairs of neighbours.

    The variance of a weighted mean is that of a mean of one target a stratum, what differs from pair to pair
    left out.
    """
    weights = np.ones((resamples, targets))
    if share >= 1 or targets < 2:
        return weights
    starts = np.arange(0, targets - 1, 2)
    for start, end in zip(starts, [*starts[1:], targets], strict=True):
        size = end - start
        shape = max(((size - 1) / (1 - share) - 1) / size, 0.02)
        # none is left out whole, so that every lag stays
        drawn = np.maximum(rng.gamma(shape, size=(resamples, size)), 1e-6)
        weights[:, start:end] = size * drawn / drawn.sum(1, keepdims=True)
    return weights


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
