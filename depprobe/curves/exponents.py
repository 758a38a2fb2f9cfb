r"""Lyapunov exponents from the growth of a frame: means, standard errors, running means, and what follows.

    lambda_i = mean over steps of ln r_ii;  standard error: sd of block means / sqrt(blocks)
    Kaplan-Yorke dimension  j + (lambda_1 + ... + lambda_j) / |lambda_{j+1}|, j the last with a sum >= 0
    entropy rate            sum of the positive exponents (Pesin), nats a step; an upper bound

Neighbouring steps are correlated, so blocks must be longer than the memory of the growth rates: 20 blocks.
Source: Kaplan and Yorke 1979; Pesin 1977; Flyvbjerg and Petersen 1989 (block means).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCKS = 20
#: running means kept
_STOPS = 100


def stops_of(steps: int) -> NDArray[np.int64]:
    """Numbers of steps at which sums are kept: 100, evenly spaced, or every one.

    Examples
    --------
    >>> stops_of(1000)[:3].tolist(), len(stops_of(7))
    ([10, 20, 30], 7)
    """
    count = min(steps, _STOPS)
    return np.round(np.linspace(0, steps, count + 1)).astype(np.int64)[1:]


def running_means(increments: Floats, stops: NDArray[np.int64]) -> Floats:
    """Means from the start up to every stop: sums (stops, m) between stops to (stops, m)."""
    return np.cumsum(increments, 0) / stops[:, None]


def block_stderr(increments: Floats, stops: NDArray[np.int64]) -> tuple[Floats, int]:
    """Standard error (m,) of the mean growth rate from block means, and the number of blocks.

    NaN where there are too few steps for two blocks of 10, or a growth is not finite.
    """
    blocks = min(BLOCKS, int(stops[-1]) // 10)
    if blocks < 2:
        return np.full(increments.shape[1], np.nan), 0
    lengths = np.diff(stops, prepend=0)
    parts = np.array_split(np.arange(len(stops)), blocks)
    means = np.stack([increments[part].sum(0) / lengths[part].sum() for part in parts])
    with np.errstate(invalid="ignore"):  # -inf has no spread
        return means.std(0, ddof=1) / math.sqrt(blocks), blocks


def kaplan_yorke(exponents: Floats, whole: bool) -> float:
    """Kaplan-Yorke dimension of exponents in descending order; NaN where more of them would be needed.

    ``whole`` says that these are all the exponents there are.

    Examples
    --------
    >>> round(kaplan_yorke(np.array([0.9056, 0.0, -14.572]), True), 4)
    2.0621
    """
    known = np.isfinite(exponents) | np.isneginf(exponents)
    whole = whole and bool(known.all())
    ordered = np.sort(exponents[known])[::-1]
    sums = np.cumsum(ordered)
    below = np.flatnonzero(sums < 0)
    if not len(below):
        return float(len(ordered)) if whole and len(ordered) else math.nan
    j = int(below[0])
    return j + (float(sums[j - 1] / -ordered[j]) if j else 0.0)


def entropy_rate(exponents: Floats, whole: bool) -> float:
    """Sum of the positive exponents; NaN where exponents that were not measured may be positive too."""
    known = exponents[~np.isnan(exponents)]
    if (not whole or len(known) < len(exponents)) and (not len(known) or known.min() > 0):
        return math.nan
    return float(known[known > 0].sum())
