r"""The numbers of pooled curves: how far a layer's dependencies reach, in positions, free of scale.

    mean distance     sum_L L s_L            s_L = mean over targets of the share at distance L = |lag|
    effective range   smallest R with        s_0 + ... + s_R >= 0.95
    decay rate        b of                   ln rms(L) = a + b L, least squares over L >= 1
    half-life         ln 2 / -b                      where the form is exponential and falls, else none
    threshold lag     smallest distance from which on      rms < threshold x rms of the peak, or of lag 0

Multiplying every norm by a constant changes none of them.
"""

from __future__ import annotations

import math

import numpy as np

from depprobe.curves.align import Floats
from depprobe.curves.form import FORMS, NONE, SMOOTH, UNDETERMINED, ZERO, Fit, fit
from depprobe.curves.noise import RESOLUTION, Slope, slope_error
from depprobe.curves.pool import Curves
from depprobe.curves.shapes import line

#: share that lies within the effective range
HELD = 0.95


def fit_forms(curves: Curves, skip_lags: int, like: Fit | None = None) -> Fit:
    """Every form fitted to the distances from 1 on, or from ``skip_lags`` on; see ``fit``."""
    first = max(1, skip_lags)
    apart = curves.distance >= first
    return fit(
        curves.distance[apart],
        curves.log_rms[:, apart],
        curves.zero_share[:, apart],
        curves.empty[curves.empty >= first],
        like,
    )


def threshold_lag(curves: Curves, threshold: float, relative_to: str, skip_lags: int) -> Floats:
    """First distance (B,) from which norms stay below a fraction; inf where they do not at the last one."""
    known = np.isfinite(curves.log_rms)
    at_zero = curves.distance == 0
    if relative_to == "lag0" and not at_zero.any():
        return np.full(len(known), np.nan)
    counts = known & (curves.distance >= skip_lags)
    about = known & at_zero if relative_to == "lag0" else counts
    peak = np.max(np.where(about, curves.log_rms, -np.inf), axis=1, initial=-np.inf, keepdims=True)
    above = counts & (curves.log_rms >= peak + math.log(threshold))
    last = np.max(np.where(above, curves.distance, -1), axis=1, initial=skip_lags - 1)
    every = np.append(np.union1d(curves.distance, curves.empty), np.inf)
    return np.where(np.isfinite(peak[:, 0]), every[np.searchsorted(every, last, side="right")], np.nan)


def numbers(
    curves: Curves, form: Fit, threshold: float, relative_to: str, skip_lags: int
) -> dict[str, Floats]:
    """The seven numbers of each of B curves."""
    L = curves.distance.astype(np.float64)
    held = np.cumsum(curves.share, axis=1)
    # a share that reaches 95 % exactly must not miss it by rounding
    within = held >= HELD * (1 - 1e-12)
    reached = np.where(within.any(1), L[within.argmax(1)], np.nan) if len(L) else np.full(len(held), np.nan)
    past, future = curves.furthest.T
    live = np.isfinite(past)
    rate = form.slope[:, FORMS.index("exponential")]
    # any other form halves in a number of steps that changes along the way, or never
    falls = (form.best == FORMS.index("exponential")) & (rate < 0)
    return {
        "decay_rate": rate,
        "half_life": np.where(falls, math.log(2) / np.where(falls, -rate, 1.0), np.nan),
        "mean_distance": curves.share @ L if len(L) else np.full(len(held), np.nan),
        "effective_range": reached,
        "threshold_lag": threshold_lag(curves, threshold, relative_to, skip_lags),
        "receptive_field": np.where(live, np.maximum(past, future), np.nan),
        "receptive_width": np.where(live, past + np.where(live, future, 0) + 1, np.nan),
    }


def residuals(form: Fit) -> tuple[float, float]:
    """Standard deviation of the residuals, and their correlation from one distance to the next."""
    residual = form.residual[0][np.isfinite(form.residual[0])]
    if len(residual) < 3:
        return math.nan, math.nan
    sd = float(residual.std())
    if sd < RESOLUTION:
        return sd, math.nan
    return sd, float(residual[1:] @ residual[:-1] / (residual @ residual))


def dominance(curves: Curves) -> dict[str, float]:
    """Whether lag 0 or the first source holds most of the shares."""
    heights = {int(L): float(y) for L, y in zip(curves.distance[:4], curves.log_rms[0, :4], strict=False)}
    falls = [heights.get(i, math.nan) - heights.get(i + 1, math.nan) for i in range(2)]
    at_zero = curves.share[0][curves.distance == 0]
    return {
        "lag_zero_share": float(at_zero[0]) if len(at_zero) else 0.0,
        "lag_zero_excess": falls[0] - falls[1],
        "first_source_share": float(curves.first[0]),
    }


def best_form(form: Fit, pooled: Curves, unknown: int) -> str:
    """Name of the form, or what is said in its place; ``unknown`` counts the norms that are not known."""
    if not len(pooled.distance) and not unknown:
        return ZERO
    if form.best[0] < 0 or not len(pooled.distance):
        return UNDETERMINED
    return NONE if form.unfit[0] else FORMS[form.best[0]]


def slope_of(pooled: Curves, form: Fit, skip_lags: int) -> Slope:
    """How well the lags of one curve fix its decay rate."""
    if form.smooth[0] < 0:
        return Slope(*[math.nan] * 5)
    apart = pooled.distance >= max(1, skip_lags)
    shape, theta = list(SMOOTH.values())[form.smooth[0]], form.theta[form.smooth[0]]
    seen = np.isfinite(form.residual[0])
    _, tangents = shape(theta, pooled.distance[apart])
    rate = float(form.slope[0, FORMS.index("exponential")])
    return slope_error(pooled.distance[apart][seen], rate, form.residual[0][seen], tangents[0][:, seen])


def rates_of(curves: Curves, skip_lags: int) -> Floats:
    """Decay rates (B,) by plain least squares."""
    apart = curves.distance >= max(1, skip_lags)
    y = curves.log_rms[:, apart]
    seen = np.isfinite(y)
    return line(curves.distance[apart].astype(np.float64), np.where(seen, y, 0.0), seen)[1]
