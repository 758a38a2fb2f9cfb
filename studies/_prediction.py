r"""How well one number predicts a yes or no, with intervals that resample whole groups.

    AUC = P(score of a yes > score of a no) + P(equal) / 2       0.5 is chance, 1 is perfect
    accuracy of a threshold: chosen for the best accuracy on all other groups, tried on the group left out

Cells of one group (the seeds and lags of one layer) are alike, so the group is the sampling unit: the
interval is the 2.5 to 97.5 % range over bootstrap resamples of groups.
Source: Mann and Whitney 1947; Efron and Tibshirani 1993 (bootstrap, chapter 13); Field and Welsh 2007
(groups).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Numbers = NDArray[np.float64]
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def auc(score: Numbers, yes: Numbers) -> float:
    """Probability that a yes scores higher than a no; NaN where all answers are alike. -inf ranks lowest."""
    hits = yes.sum()
    misses = len(yes) - hits
    if not hits or not misses:
        return np.nan
    return float((rankdata(score)[yes > 0].sum() - hits * (hits + 1) / 2) / (hits * misses))


def rank_correlation(score: Numbers, other: Numbers) -> float:
    """Spearman's correlation, ties at their mean rank; NaN where either is constant."""
    ranks = np.array([rankdata(score), rankdata(other)])
    centred = ranks - ranks.mean(1, keepdims=True)
    scale = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / scale) if scale else np.nan


def best_threshold(score: Numbers, yes: Numbers) -> float:
    """The threshold from which on "yes" is right most often: between two scores, or -inf.

    The lowest of equals; next to a score of -inf the threshold is the score above.
    """
    each = np.unique(score)
    finite = np.isfinite(each[:-1])
    between = np.where(finite, (np.where(finite, each[:-1], 0) + each[1:]) / 2, each[1:])
    tried = np.concatenate([[-np.inf], between])
    right = [np.mean((score >= limit) == (yes > 0)) for limit in tried]
    return float(tried[int(np.argmax(right))])


def left_out_accuracy(score: Numbers, yes: Numbers, group: NDArray) -> float:
    """Share of right answers when each group is judged by the threshold that suits all the others best."""
    right = np.zeros(len(yes))
    for name in np.unique(group):
        out = group == name
        right[out] = (score[out] >= best_threshold(score[~out], yes[~out])) == (yes[out] > 0)
    return float(right.mean())


def with_interval(
    statistic: Callable[[Numbers, Numbers], float],
    score: Numbers,
    other: Numbers,
    group: NDArray,
    seed: int = 0,
) -> Estimate:
    """A statistic of all cells, and its 95 % interval over resampled groups.

    Resamples in which the statistic does not exist (all answers alike) are left out.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(group == name) for name in np.unique(group)]
    drawn = []
    for choice in rng.integers(len(members), size=(RESAMPLES, len(members))):
        rows = np.concatenate([members[i] for i in choice])
        drawn.append(statistic(score[rows], other[rows]))
    known = np.array(drawn)[~np.isnan(drawn)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return Estimate(statistic(score, other), float(low), float(high))
