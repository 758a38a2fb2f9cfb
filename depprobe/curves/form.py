r"""Which form a decay curve has: least squares on ln rms with correlated residuals, and BIC, zeros counted.

    constant              ln rms = a
    exponential           ln rms = a + b L             stretched exponential  ln rms = a - (L / tau)^beta
    power law             ln rms = a + b ln L          two-rate exponential   rms = e^(a + b L) + e^(c + d L)
    Gaussian              ln rms = a + b L^2,  b <= 0  ... with floor         rms = e^(one of these) + e^c
    compact support       the best of these up to a last lag R, exact zeros beyond

Fit space: natural log of the root mean square against the distance L = |lag| in positions, every distance
L >= 1 weighed alike; residuals correlated from lag to lag as ``noise`` says. A zero has no logarithm, so each
form is a hurdle model (Cragg 1971): at each distance a block is an exact zero with probability q, and ln rms
is normal about the form with one variance where it is finite. A distance where the share z of the blocks is
zero counts as z zeros and 1 - z others. Forms without an end have the same q everywhere and pay for zeros
behind the last non-zero block; compact support has q only up to R and certain zeros beyond, for one parameter
more. With m distances and p parameters (variance, q, and the correlation where it is not 0, among them),

    BIC = p ln m - 2 ln likelihood        (Schwarz 1978; the smallest is best)

Of forms within 2 of the smallest, "not worth more than a bare mention" (Kass and Raftery 1995), the one with
the fewest parameters is named; those within 6 are not told apart. Where a free curve, straight between 8, 16
or 32 distances, is better than all of them by more than that, and they leave more than 5 % of the variance,
none fits.
Shapes: B curves at once, m distances, F forms.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from depprobe.curves.align import Floats, Ints
from depprobe.curves.noise import PHIS, Whitening, regress
from depprobe.curves.shapes import Shape, against, fit_shape, line

#: form -> its shape
SMOOTH: dict[str, Shape] = {
    "exponential": Shape(("exponential",)),
    "power law": Shape(("power law",)),
    "Gaussian": Shape(("Gaussian",)),
    "constant": Shape(()),
    "stretched exponential": Shape(("stretched",)),
    "two-rate exponential": Shape(("exponential", "exponential")),
    "exponential with floor": Shape(("exponential", "floor")),
    "power law with floor": Shape(("power law", "floor")),
    "Gaussian with floor": Shape(("Gaussian", "floor")),
    "stretched exponential with floor": Shape(("stretched", "floor")),
    "two-rate exponential with floor": Shape(("exponential", "exponential", "floor")),
}
FORMS = (*SMOOTH, "compact support")
#: the words for a curve with too few distances to tell, for one that no form describes, and for one of zeros
UNDETERMINED, NONE, ZERO = "undetermined", "none", "zero"

#: fewest distances with which any form is named
FEWEST = 3
#: forms whose BIC is no more than this above the smallest are not told apart
ALIKE = 6.0
#: of forms whose BIC differ by less the simplest is named
MENTION = 2.0
#: a form that is no straight line in some function of L needs so many points a parameter
FEWEST_BENT = 3
#: share of the variance of ln rms that the best form must leave where none is said to fit
LEFT = 0.05
#: numbers of distances between which a free curve is straight
KNOTS = (8, 16, 32)
#: forms that are worse by more than this are not fitted again to draws
BEHIND = 30.0
_EVERY = tuple(range(len(PHIS)))


class Fit(NamedTuple):
    """Forms fitted to B curves.

    Attributes
    ----------
    slope : (B, F) of each form, NaN where it cannot be fitted or is far behind; compact support has that of
        its smooth part.
    bic : (B, F) criterion, NaN where the form cannot be fitted.
    best : (B,) index into ``FORMS``, -1 where none can be named.
    smooth : (B,) index into ``SMOOTH`` of the best of these, -1 where none can be named.
    residual : (B, m) ln rms minus the best smooth form, NaN where there is none.
    contends : (B, F) forms not far behind the best that gain by the parameters they have more.
    unfit : (B,) where a free curve is better than all forms, so that none describes the curve.
    theta : of each smooth form its parameters (B, p).
    phi : (B, F - 1) index into ``PHIS`` of the correlation of its residuals.
    """

    slope: Floats
    bic: Floats
    best: Ints
    smooth: Ints
    residual: Floats
    contends: NDArray[np.bool_]
    unfit: NDArray[np.bool_]
    theta: list[Floats]
    phi: Ints

    @property
    def alike(self) -> NDArray[np.bool_]:
        """Which forms (B, F) are not told apart from the best, itself among them."""
        least = np.nanmin(self.bic, axis=1, initial=np.inf)[:, None]
        return self.contends & (self.bic <= least + ALIKE)


def fit(distance: Ints, log_rms: Floats, zero_share: Floats, empty: Ints, like: Fit | None = None) -> Fit:
    """Fit every form to curves over the same distances.

    Parameters
    ----------
    distance : (m,) distances >= 1 in positions, ascending.
    log_rms : (B, m) natural logs; -inf where all blocks are zero, NaN where nothing is known.
    zero_share : (B, m) share of exact zeros among the blocks at each distance.
    empty : (z,) further distances >= 1, at which all blocks are zero, ascending.
    like : the fit of a curve (B = 1) that these vary about; they take its correlations.
    """
    if not len(distance):
        # as one distance at which nothing is known
        nothing = np.full((len(log_rms), 1), np.nan)
        found = fit(np.array([1]), nothing, nothing, empty, like)
        return found._replace(residual=found.residual[:, :0])
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
    log_m = np.log(np.maximum(total, 1))

    y = np.where(seen, log_rms, 0.0)

    @cache
    def noise_of(chosen: tuple[int, ...]) -> Whitening:
        correlations = np.repeat([PHIS[i] for i in chosen], len(y))
        return Whitening(distance, np.tile(seen, (len(chosen), 1)), correlations)

    curves = np.arange(len(y))
    thetas, criteria, phis, residuals = [], [], [], []
    for index, shape in enumerate(SMOOTH.values()):
        enough = (points > shape.size + 1) & (total >= FEWEST)
        if not shape.linear:
            enough &= points >= FEWEST_BENT * (shape.size + 1)
        contending = like is None or shape.linear or like.contends[0, index]
        if not (enough.any() and contending):
            thetas.append(np.full((len(y), shape.size), np.nan))
            phis.append(np.zeros(len(y), np.int64))
            criteria.append(np.full(len(y), np.nan))
            residuals.append(np.full(y.shape, np.nan))
            continue
        chosen = _EVERY if like is None else (int(like.phi[0, index]),)
        start = None if like is None else np.repeat(like.theta[index], len(y), 0)
        theta, criterion = fit_shape(shape, distance, y, noise_of(chosen), start)
        pick = criterion.argmin(0)
        phis.append(np.array(chosen)[pick])
        thetas.append(theta[pick, curves])
        criteria.append(np.where(enough, criterion[pick, curves] + (shape.size + 3) * log_m, np.nan))
        residual = y - shape(thetas[-1], distance)[0]
        residual -= (np.where(seen, residual, 0).sum(1) / np.maximum(points, 1))[:, None]
        residuals.append(np.where(seen & enough[:, None], residual, np.nan))
    smooth = np.array(criteria)
    inner = _argmin(smooth)
    pick = np.maximum(inner, 0), curves
    # one or no non-zero distance before certain zeros has an end, whatever the shape in front of it
    bare = np.where(cut & (total >= FEWEST), 0.0, np.nan)
    front = np.where(inner >= 0, smooth[pick], bare)
    compact = front + log_m - 2 * up_to_end

    bic = np.column_stack([*(smooth - 2 * everywhere), compact])
    sizes = np.array([shape.size for shape in SMOOTH.values()])
    sizes = np.column_stack([np.broadcast_to(sizes, (len(y), len(sizes))), sizes[pick[0]] + 1])
    above = bic - np.nanmin(bic, axis=1, initial=np.inf)[:, None]
    # the fewest parameters first, then the smallest criterion
    best = _argmin(np.where(above <= MENTION, 2 * MENTION * sizes + above, np.nan).T)
    more = sizes - sizes[curves, best][:, None]
    behind = bic - bic[curves, best][:, None]
    # what has more parameters and gains nothing by them is the same curve
    contends = (behind <= BEHIND) & ((more <= 0) | (behind < more * log_m[:, None] - 1))
    slopes = [_slope(*one, distance, y, seen) for one in zip(SMOOTH.values(), thetas, strict=True)]
    told = np.where(np.isnan(smooth.T), False, contends[:, :-1] | [shape.linear for shape in SMOOTH.values()])
    slope = np.where(told, np.column_stack(slopes), np.nan)
    slope = np.column_stack([slope, slope[curves, pick[0]]])
    residual = np.array(residuals)[pick]
    unfit = np.zeros(len(y), bool)
    if like is None:
        square, whole = (
            np.where(seen, values, 0.0)
            for values in (residual, y - (y.sum(1) / np.maximum(points, 1))[:, None])
        )
        left = (square**2).sum(1) > LEFT * (whole**2).sum(1)
        unfit = (front - _free_curve(distance, y, noise_of(_EVERY), log_m) > ALIKE) & left
    phi = np.column_stack(phis)
    return Fit(slope, bic, best, inner, residual, contends, unfit, thetas, phi)


def _slope(shape: Shape, theta: Floats, distance: Ints, y: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Slope (B,) of a form; of a straight line by plain least squares, whatever the correlation."""
    if not (shape.linear and shape.size):
        return shape.slope(theta, distance)
    (name,) = shape.components
    _, slope = line(against(name, distance.astype(np.float64)), y, seen)
    return np.minimum(slope, 0.0) if name == "Gaussian" else slope


def _free_curve(distance: Ints, y: Floats, noise: Whitening, log_m: Floats) -> Floats:
    """BIC (B,) of the best curve that is straight between knots; inf where points are too few for any."""
    every = np.tile(y, (len(PHIS), 1))
    found = np.full(len(y), np.inf)
    for count in KNOTS:
        if len(distance) < FEWEST_BENT * count:
            break
        even, ratio = (
            space(distance[0], distance[-1], count // 2 + 1) for space in (np.linspace, np.geomspace)
        )
        knots = np.union1d(even, ratio)
        hats = np.stack([np.interp(distance, knots, row) for row in np.eye(len(knots))[1:]])
        designs = noise(np.broadcast_to(hats[:, None], (len(hats), *every.shape))).swapaxes(0, 1)
        _, r = regress(noise(every), designs)
        criteria = noise.criterion((r**2).sum(1), len(hats)).reshape(len(PHIS), -1).min(0)
        found = np.minimum(found, criteria + (len(hats) + 3) * log_m)
    return found


def _log_hurdle(zeros: Floats, total: Ints) -> Floats:
    """Log likelihood of so many zeros in total, at their own probability."""
    # shares of zeros add up to the total only to rounding
    q = np.clip(zeros / np.maximum(total, 1), 0, 1)
    return np.asarray(xlogy(zeros, q) + xlogy(np.maximum(total - zeros, 0), 1 - q), np.float64)


def _argmin(criterion: Floats) -> Ints:
    """Index of the smallest along the first axis, -1 where all are NaN."""
    filled = np.where(np.isnan(criterion), np.inf, criterion)
    return np.where(np.isinf(filled).all(0), -1, filled.argmin(0))
