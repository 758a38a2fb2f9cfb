r"""What other targets would have made of a curve of norms, of which some targets were measured.

    ln rms_measured(L) - ln rms_all(L)  ~  sqrt(1 - K/N) 1/2 ln mean_i y_i(L)

K of the N targets that reach lag L are measured. y_i is a row of squared norms over their mean at each lag,
drawn for target i among its five neighbours: a whole row, since the norms of a target deviate together. Lags
that few targets reach tell nothing of how rows differ; there a row goes on as its own mirror image.
Deviations of measured rows are shrunk until the variance of their logs is that without the probes'.
Draws are spread wider by 5/4, since a row is drawn for itself once in five times, in variance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from depprobe.curves.align import Blocks, Floats, Ints

#: targets from which on a lag counts as reached by many, and neighbours whose rows stand for one another
MANY, NEIGHBOURS = 8, 5


def other_targets(
    blocks: Blocks,
    noise: Floats,
    least: float,
    weights: Floats,
    distance: Ints,
    rng: np.random.Generator,
) -> Floats:
    """Draws of the difference, (resamples, distances), of mean 0.

    Parameters
    ----------
    blocks : log norms (m, T, R) of at least two targets.
    noise : (m, T, R) variance of the logs of their squares from probes.
    least : share of the deviations that is kept at least.
    weights : (resamples, R) of samples and seeds.
    distance : (n,) distances of the curve.
    """
    known = np.isfinite(blocks.values)
    targets = known.shape[1]
    rows = _rows(blocks.values, known, noise, least)
    n, measured = int(blocks.here.max()) + 1, known.any(2).sum(1)
    exist = np.maximum(n - np.abs(blocks.lags), measured)
    left = np.sqrt(np.maximum(1 - measured / np.maximum(exist, 1), 0.0) * NEIGHBOURS / (NEIGHBOURS - 1))
    order, at = np.argsort(blocks.here), np.searchsorted(distance, np.abs(blocks.lags))
    found = np.zeros((len(weights), len(distance)))
    picked = np.empty_like(rows)
    for one, weight in zip(found, weights, strict=True):
        near = np.arange(targets) + rng.integers(-(NEIGHBOURS // 2), NEIGHBOURS // 2 + 1, targets)
        picked[:, order] = rows[:, order[_mirrored(near, 0, targets - 1)]]
        counted = known * weight
        mean = (picked * counted).sum((1, 2)) / np.maximum(counted.sum((1, 2)), 1e-300)
        one[at] = 0.5 * left * np.log(np.where(mean > 0, mean, 1.0))
    return np.asarray(found - found.mean(0))


def _rows(values: Floats, known: NDArray[np.bool_], noise: Floats, least: float) -> Floats:
    """Squared norms over their mean at each lag, without probes and at all lags, (m, T, R)."""
    m, targets, _ = values.shape
    count = known.sum((1, 2), keepdims=True)
    logs = np.where(known, 2 * values, 0.0)
    apart = np.where(known, logs - logs.sum((1, 2), keepdims=True) / np.maximum(count, 1), 0.0)
    many = known.any(2).sum(1) >= min(MANY, targets / 3)
    among = many & (count[:, 0, 0] > 1)
    kept = least
    if among.any():
        seen = (apart[among] ** 2).sum() / (count[among] - 1).sum()
        kept = max(kept, np.sqrt(max(0.0, 1 - noise[among][known[among]].mean() / max(seen, 1e-12))))
    squares = np.where(known, np.exp(min(kept, 1.0) * apart), 0.0)
    squares /= np.where(count > 0, squares.sum((1, 2), keepdims=True) / np.maximum(count, 1), 1.0)
    rows = np.ones_like(squares)
    for i in range(targets):
        (inside,) = np.nonzero(known[:, i].all(1) & many)
        if len(inside) > 1:
            place = _mirrored(np.arange(m) - inside[0], 0, len(inside) - 1)
            rows[:, i] = squares[inside[place], i]
    return np.asarray(rows / rows.mean(1, keepdims=True))


def _mirrored(at: Ints, low: int, high: int) -> Ints:
    """Places folded back into low to high, as between two mirrors.

    Examples
    --------
    >>> _mirrored(np.arange(-2, 6), 0, 3).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    apart = high - low
    return np.asarray(low + apart - np.abs((at - low) % (2 * apart) - apart))
