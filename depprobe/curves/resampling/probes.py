r"""Curves under other probes and targets, from which the intervals of what probes measured follow.

Norms are drawn about smoothed ones, S:

    ||J[t,k]||^2  ~  S[t,k] Gamma(a, 1/a),    trigamma(a) = (2 log_norm_stderr)^2

two sources of a target from one quantile with probability g_k g_l, their loadings, else from two. S shrinks
norms towards the mean square at their lag until they vary as much as exact ones do. What targets that were
not measured add to norms: ``other_targets``. Curves are freed of the mean difference of draws from S, since
E ln x < ln E x, and intervals are mirrored. So they say where exact norms at all targets would lie.

Shares are means over targets, whose probes are independent, so that neighbours tell their spread without S.
Of a share f of all targets the deviations of draws are, with t the 97.5 % point over that of the normal,

    sqrt(f) (from S) + sqrt(1 - f) t (of measured shares, neighbours weighed at random),    t: T/2 degrees

with targets alike in the first, so that the variance is that of the probes, and that of targets without what
a finite sequence takes off. A ratio of squares of few probes moves less than its truth does: deviations are
divided by the difference between the mean distances of draws about S e^(a L) and about S, over the difference
of their own.
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
from depprobe.curves.resampling.intervals import drawn_units
from depprobe.curves.resampling.other_targets import other_targets

#: shapes of a gamma distribution in a table, and equally probable parts of each
SHAPES, QUANTILES = np.geomspace(0.3, 1e5, 250), 256
#: fewest norms at one lag from which their spread is taken
ENOUGH = 4
#: by how much the heights of S are changed over the spread of its lags, and least that the draws' move
TILT, LEAST_MOVE = 0.1, 0.3
#: draws, one of so many, from which that is taken
TILTED = 4


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
    values, kept = _smoothed(blocks.values, np.where(noisy, 1 / SHAPES[index], 0.0))
    smooth = replace(blocks, values=values)
    table = _log_gamma_quantiles()
    at_zero = np.flatnonzero(blocks.lags == 0)

    def curve(norms: Blocks, weight: Floats) -> Curves:
        return weigh(collected(norms, each), weight, pooling)

    sizes = (1, *blocks.repeats)
    drawn, moved = [], []
    repeats = drawn_units(sizes, resamples, rng)
    # of a single target others say nothing: intervals are of its own numbers
    share = min(1.0, targets / (int(blocks.here.max()) + 1)) if targets > 1 else 1.0
    one = np.ones((1, targets * math.prod(sizes)))
    about, pooled = curve(smooth, one), curve(blocks, one)
    tilt = _tilt(about) * np.abs(blocks.lags)[:, None, None]
    for b in range(resamples):
        own, common = (rng.integers(QUANTILES, size=(k, *stderr.shape[1:])) for k in (len(stderr), 1))
        quantile = np.where(rng.random(stderr.shape) < loading, common, own)
        change = np.where(noisy, 0.5 * table[index, quantile], 0.0)
        if blocks.normalised:
            change -= change[at_zero]
        weight = (np.ones((targets, 1)) * repeats[b]).reshape(1, -1)
        drawn.append(curve(replace(smooth, values=smooth.values + change), weight))
        if b % TILTED == 0:
            tilted = curve(replace(smooth, values=smooth.values + change + tilt), weight)
            moved.append(_mean_distance(tilted)[0] - _mean_distance(drawn[-1])[0])
    every = Curves(
        about.distance,
        about.empty,
        *(np.concatenate([getattr(one, name) for one in drawn]) for name in _VARYING),
    )
    seen = np.isfinite(every.log_rms)
    with np.errstate(invalid="ignore"):
        added = np.where(seen, every.log_rms - about.log_rms, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
    shifted = (every.share - about.share).mean(0)
    weights = within_strata(targets, 0.0, resamples, rng)[:, :, None] * repeats[:, None, :]
    measured = curve(blocks, weights.reshape(resamples, -1))
    free = _freed(every, added, shifted)
    if share < 1:
        noise = np.where(noisy, 4 * stderr**2, 0.0)
        apart = other_targets(blocks, noise, kept, repeats, pooled.distance, rng)
        free = replace(free, log_rms=free.log_rms + _small_sample(targets) * apart)
    deviation = math.sqrt(share) * (every.share - shifted - about.share)
    deviation += math.sqrt(1 - share) * _small_sample(targets) * (measured.share - pooled.share)
    tilted = curve(replace(smooth, values=smooth.values + tilt), one)
    whole = float((_mean_distance(tilted) - _mean_distance(about))[0])
    if whole > 0:
        deviation /= min(max(float(np.mean(moved)) / whole, LEAST_MOVE), 1.0)
    return Redrawn(_freed(pooled, added, shifted), about, replace(free, share=about.share + deviation))


def _mean_distance(curves: Curves) -> Floats:
    return curves.share @ curves.distance


def _tilt(about: Curves) -> float:
    """What is added to log norms at each further lag."""
    apart = about.distance - _mean_distance(about)[0]
    variance = float((about.share @ apart**2)[0])
    return 0.5 * TILT / math.sqrt(variance) if variance > 0 else 0.0


def _small_sample(targets: int) -> float:
    """The 97.5 % point of t with a degree of freedom for two targets, over that of the normal."""
    degrees = max(2, targets // 2)
    return float(special.stdtrit(degrees, 0.975) / special.ndtri(0.975))


@cache
def _log_gamma_quantiles() -> Floats:
    """Natural logs of numbers of mean 1 from gamma distributions: (shapes, quantiles)."""
    middle = (np.arange(QUANTILES) + 0.5) / QUANTILES
    logs = np.log(special.gammaincinv(SHAPES[:, None], middle))
    return np.asarray(logs - np.log(np.exp(logs).mean(1, keepdims=True)))


_VARYING = ("log_rms", "zero_share", "share", "first", "furthest")


def _freed(curves: Curves, added: Floats, shifted: Floats) -> Curves:
    return replace(curves, log_rms=curves.log_rms - added, share=curves.share - shifted)


def _smoothed(values: Floats, variance: Floats) -> tuple[Floats, float]:
    """Logs (m, T, R) whose spread about the mean square at their lag is without what probes add to it, and
    which share of it that is.
    """
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
        added = variance[many].mean()
        # over a mean of few, squares vary less: the factor is exact for gamma distributions
        few = 1 + added / np.broadcast_to(count[:, None, None], many.shape)[many]
        exact = (few * np.exp(2 * apart[many])).mean() / (1 + added)
        kept = math.sqrt(math.log(max(exact, 1.0)) / max(float(apart[many].var()), 1e-12))
    shrunk = np.where(known, mean + min(kept, 1.0) * apart, -np.inf)
    again = np.nan_to_num(mean - log_mean(shrunk), posinf=0.0)
    return np.where(known, 0.5 * (shrunk + again), values), min(kept, 1.0)


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
        shape = max(((size - 1) / (1 - share) - 1) / size, 1e-3)
        # in logs, since most numbers of so small a shape are below the range of floats
        logs = np.log(rng.gamma(shape + 1, size=(resamples, size)))
        logs += np.log1p(-rng.random((resamples, size))) / shape
        # none is left out whole, so that every lag stays
        drawn = np.maximum(np.exp(logs - logs.max(1, keepdims=True)), 1e-9)
        weights[:, start:end] = size * drawn / drawn.sum(1, keepdims=True)
    return weights
