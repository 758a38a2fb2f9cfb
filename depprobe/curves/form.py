r"""Which form a decay curve has: least squares on ln rms, and BIC with the zeros counted.

    constant          ln rms = a
    exponential       ln rms = a + b L
    power law         ln rms = a + b ln L
    Gaussian          ln rms = a + b L^2,  b <= 0
    compact support   the best of these up to a last lag R, exact zeros beyond

Fit space: natural log of the root mean square against the distance L = |lag| in positions, every distance
L >= 1 weighed alike. A zero has no logarithm, so each form is a hurdle model (Cragg 1971): at each distance
a block is an exact zero with probability q, and ln rms is normal about the form with one variance where it
is finite. A distance where the share z of the blocks is zero counts as z zeros and 1 - z others. Forms
without an end have the same q everywhere and pay for zeros behind the last non-zero block; compact support
has q only up to R and certain zeros beyond, for one parameter more. With m distances and p parameters
(variance and q among them),

    BIC = p ln m - 2 ln likelihood        (Schwarz 1978; the smallest is best)

The residuals of neighbouring lags are correlated, which BIC ignores: it describes, it is not a test.
Shapes: B curves at once, m distances, F forms.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from depprobe.curves.align import Floats, Ints

FORMS = ("exponential", "power law", "Gaussian", "constant", "compact support")
SMOOTH = FORMS[:-1]
#: the word for a curve with too few distances to tell
UNDETERMINED = "undetermined"

#: fewest distances with which any form is named
FEWEST = 3
#: residuals of ln rms below this are rounding or compression, not a difference between forms
RESOLUTION = 1e-6


class Fit(NamedTuple):
    """Forms fitted to B curves.

    Attributes
    ----------
    slope : (B, F) b of each form, NaN where it cannot be fitted; compact support has that of its smooth part.
    bic : (B, F) criterion, NaN where the form cannot be fitted.
    best : (B,) index into ``FORMS``, -1 where none can be named.
    residual : (B, m) ln rms minus the best smooth form, NaN where there is none.
    """

    slope: Floats
    bic: Floats
    best: Ints
    residual: Floats


def fit(distance: Ints, log_rms: Floats, zero_share: Floats, empty: Ints) -> Fit:
    """Fit every form to curves over the same distances.

    Parameters
    ----------
    distance : (m,) distances >= 1 in positions, ascending.
    log_rms : (B, m) natural logs; -inf where all blocks are zero, NaN where nothing is known.
    zero_share : (B, m) share of exact zeros among the blocks at each distance.
    empty : (z,) further distances >= 1, at which all blocks are zero, ascending.
    """
    seen = np.isfinite(log_rms)
    known = ~np.isnan(log_rms)
    points = seen.sum(1)
    total = known.sum(1) + len(empty)
    zeros = np.where(known, zero_share, 0.0)
    end = np.max(np.where(seen, distance, 0), axis=1, initial=0)
    within = known & (distance <= end[:, None])
    empty_within = np.searchsorted(empty, end, side="right")
    everywhere = _log_hurdle(zeros.sum(1) + len(empty), total)
    up_to_end = _log_hurdle((zeros * within).sum(1) + empty_within, within.sum(1) + empty_within)
    cut = total > within.sum(1) + empty_within

    slopes, residuals, logs, sizes = [], [], [], []
    for name in SMOOTH:
        slope, residual = _least_squares(name, distance, log_rms, seen)
        size = 1 if name == "constant" else 2
        enough = (points > size) & (total >= FEWEST)
        slopes.append(np.where(enough, slope, np.nan))
        residuals.append(np.where(enough[:, None], residual, np.nan))
        logs.append(np.where(enough, _log_normal(residual, seen), np.nan))
        sizes.append(size + 2)
    smooth = np.array(sizes)[:, None] * np.log(np.maximum(total, 1)) - 2 * np.array(logs)
    inner = _argmin(smooth)
    pick = np.maximum(inner, 0), np.arange(len(log_rms))
    # one or no non-zero distance before certain zeros has an end, whatever the shape in front of it
    bare = np.where(cut & (total >= FEWEST), 0.0, np.nan)
    front = np.where(inner >= 0, smooth[pick], bare)
    compact = front + np.log(np.maximum(total, 1)) - 2 * up_to_end

    bic = np.column_stack([*(smooth - 2 * everywhere), compact])
    slope = np.column_stack([*slopes, np.array(slopes)[pick]])
    return Fit(slope, bic, _argmin(bic.T), np.array(residuals)[pick])


def _least_squares(name: str, distance: Ints, y: Floats, seen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Slope (B,) and residuals (B, m), NaN where there is no finite y."""
    weight = seen / np.maximum(seen.sum(1), 1)[:, None]
    value = np.where(seen, y, 0.0)
    residual = value - (weight * value).sum(1)[:, None]
    slope = np.zeros(len(y))
    if name != "constant":
        L = distance.astype(np.float64)
        x = {"exponential": L, "power law": np.log(L), "Gaussian": L**2}[name]
        dx = x - (weight @ x)[:, None]
        spread = (weight * dx**2).sum(1)
        slope = (weight * dx * residual).sum(1) / np.where(spread > 0, spread, 1.0)
        if name == "Gaussian":
            slope = np.minimum(slope, 0.0)
        residual = residual - slope[:, None] * dx
    return slope, np.where(seen, residual, np.nan)


def _log_normal(residual: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Log likelihood of residuals at their own variance."""
    points = seen.sum(1)
    variance = np.nansum(residual**2, axis=1) / np.maximum(points, 1)
    return -0.5 * points * (np.log(2 * np.pi * np.maximum(variance, RESOLUTION**2)) + 1)


def _log_hurdle(zeros: Floats, total: Ints) -> Floats:
    """Log likelihood of so many zeros in total, at their own probability."""
    # shares of zeros add up to the total only to rounding
    q = np.clip(zeros / np.maximum(total, 1), 0, 1)
    return np.asarray(xlogy(zeros, q) + xlogy(np.maximum(total - zeros, 0), 1 - q), np.float64)


def _argmin(criterion: Floats) -> Ints:
    """Index of the smallest along the first axis, -1 where all are NaN."""
    filled = np.where(np.isnan(criterion), np.inf, criterion)
    return np.where(np.isinf(filled).all(0), -1, filled.argmin(0))
