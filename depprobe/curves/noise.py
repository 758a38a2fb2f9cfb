r"""Residuals of a decay curve that are correlated from lag to lag: AR(1), from white noise to a random walk.

    y_i = a + g(L_i) + e_i,    e_i = phi^(L_i - L_j) e_j + u_i    (j the point before i),    0 <= phi <= 1
    u_i ~ N(0, s^2 v_i),       v_i = 1 + phi^2 + ... + phi^(2 (L_i - L_j - 1))

The likelihood is that of the contrasts of y, so that the level a, which every form has, is integrated out
(REML: Patterson and Thompson 1971, Biometrika 58, 545); unlike that of y it exists at phi = 1 too, and forms
that have all their other terms in g are compared by it as by any other likelihood. With u whitened and freed
of a, and N points,

    -2 ln l = (N - 1) (ln(2 pi s^2) + 1) + sum_i ln v_i + ln(1 + sum_i (1 - c_i)^2 / (v_i (1 - phi^2)))

c_i = phi^(L_i - L_j), sums over the points after the first. s^2 has N - 1 - p degrees of freedom for a form
of p parameters: with the N - 1 of maximum likelihood, forms with many would fit short curves too well. A mean
over the points is as uncertain as one over N (1 - phi) / (1 + phi) independent ones: so many lags are
independent.
Shapes: B curves at once, m distances, p rows of a design; what is missing of a curve is left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from depprobe.curves.align import Floats, Ints

Bools = NDArray[np.bool_]

#: correlations at which a likelihood is taken; 0 is white noise and 1 a random walk
PHIS = (0.0, 0.25, 0.5, 0.7, 0.8, 0.87, 0.92, 0.95, 0.97, 0.985, 1.0)
#: residuals of ln rms below this are rounding or compression, not a difference between forms
RESOLUTION = 1e-6


class Whitening:
    """Takes curves (B, m) with one correlation to uncorrelated ones without a level.

    Parameters
    ----------
    distance : (m,) ascending.
    seen : (B, m) which points of each curve there are.
    phi : correlation at distance 1, of all or of each.
    """

    def __init__(self, distance: Ints, seen: Bools, phi: float | Floats) -> None:
        rho = np.broadcast_to(np.asarray(phi, np.float64), len(seen))[:, None]
        self.seen = seen
        place = np.maximum.accumulate(np.where(seen, np.arange(seen.shape[1]), -1), axis=1)
        before = np.concatenate([np.full((len(seen), 1), -1), place[:, :-1]], axis=1)
        late, first = seen & (before >= 0), seen & (before < 0)
        self._before = np.maximum(before, 0)
        self._whole = bool(seen.all())
        gap = distance - distance[self._before]
        self._carried = np.where(late, rho**gap, 0.0)
        # of a random walk, whose start is free, each number is the limit
        walk, free = rho == 1, 1 - np.where(rho == 1, 0.0, rho) ** 2
        v = np.where(late, np.where(walk, gap, (1 - self._carried**2) / free), 1.0)
        self._scale = np.where(late, 1 / np.sqrt(v), np.where(first & ~walk, np.sqrt(free), 0.0))
        level = self.unmixed(np.ones(seen.shape))
        power = (level**2).sum(1, keepdims=True)
        self._level = level / np.sqrt(np.where(power > 0, power, 1.0))
        rest = np.where(late & ~walk, level**2, 0.0).sum(1)
        self.points = seen.sum(1)
        self.log_det = np.log(v).sum(1) + np.log1p(rest / free[:, 0])

    def unmixed(self, x: Floats) -> Floats:
        """Rows (..., B, m) whitened, their level kept; 0 where a curve has no point."""
        if self._whole:
            earlier = np.concatenate([x[..., :1], x[..., :-1]], axis=-1)
        else:
            earlier = np.take_along_axis(x, np.broadcast_to(self._before, x.shape), -1)
        return (x - self._carried * earlier) * self._scale

    def __call__(self, x: Floats) -> Floats:
        """Rows (..., B, m) whitened, without their level."""
        u = self.unmixed(x)
        return u - (u * self._level).sum(-1, keepdims=True) * self._level

    def carried(self, weight: Floats) -> Floats:
        """Standard deviation (B,), in units of s, of sums of residuals with weights (m,) that add up to 0."""
        scale = np.where(self._scale > 0, self._scale, np.inf)
        found = np.zeros(len(scale))
        carried = np.zeros(len(scale))
        for i in range(len(weight) - 1, -1, -1):
            # what u_i adds to the sum, through all points after it
            carried = weight[i] + carried
            found += (carried / scale[:, i]) ** 2
            carried = carried * self._carried[:, i]
        return np.sqrt(found)

    def criterion(self, square: Floats, size: int) -> Floats:
        """-2 ln l (B,) from sums of squares of whitened residuals of a form with ``size`` parameters."""
        free = np.maximum(self.points - 1, 1)
        variance = np.maximum(square / np.maximum(free - size, 1), RESOLUTION**2)
        return free * (np.log(2 * np.pi * variance) + 1) + self.log_det


def regress(u: Floats, designs: Floats) -> tuple[Floats, Floats]:
    """Least squares of curves u (B, m) on designs (B, p, m): coefficients (B, p) and residuals (B, m)."""
    gram = np.einsum("bpm,bqm->bpq", designs, designs)
    size = np.sqrt(np.einsum("bpp->bp", gram))
    size = np.where(size > 0, size, 1.0)
    # a column that another holds already, or none, gets nothing
    inverse = np.linalg.pinv(gram / (size[:, :, None] * size[:, None, :]), rcond=1e-12, hermitian=True)
    slope = np.einsum("bpq,bq->bp", inverse, np.einsum("bpm,bm->bp", designs, u) / size) / size
    return slope, u - np.einsum("bp,bpm->bm", slope, designs)


class Slope(NamedTuple):
    """A slope and how well it is known: standard error, 95 % interval, number of independent lags."""

    rate: float
    stderr: float
    low: float
    high: float
    lags: float

    def at_least(self, stderr: float) -> Slope:
        """The same with a standard error, and an interval as much wider, that are no smaller than this."""
        factor = max(1.0, stderr / self.stderr) if self.stderr > 0 else 1.0
        if not factor > 1:
            return self
        low, high = (self.rate + factor * (end - self.rate) for end in (self.low, self.high))
        return self._replace(stderr=stderr, low=low, high=high)


def slope_error(distance: Ints, slope: float, residual: Floats, tangents: Floats) -> Slope:
    """Error of the least squares slope against the distance, from the residuals about a form.

    A mixture over the correlations of t distributions about the slope, each with the variance of least
    squares under that correlation, weighed by its restricted likelihood and a prior: half for white noise,
    a quarter for a random walk (as which a trend hides one), a quarter uniform.

    Parameters
    ----------
    distance, residual : (m,) of the points of one curve.
    tangents : (p, m) derivatives of the form by its parameters.
    """
    free = len(distance) - 1 - np.linalg.matrix_rank(tangents - tangents.mean(1, keepdims=True))
    if free < 3:
        return Slope(slope, *[math.nan] * 4)
    noise = Whitening(distance, np.ones((len(_GRID), len(distance)), bool), _GRID)
    size = np.sqrt((tangents**2).sum(1, keepdims=True))
    scaled = tangents / np.where(size > 0, size, 1.0)
    designs = noise(np.broadcast_to(scaled[:, None], (len(scaled), *noise.seen.shape))).swapaxes(0, 1)
    _, r = regress(noise(np.broadcast_to(residual, noise.seen.shape)), designs)
    square = np.maximum((r**2).sum(1), len(distance) * RESOLUTION**2)
    information = np.linalg.eigvalsh(designs @ designs.swapaxes(1, 2))
    log = -0.5 * (free * np.log(square) + noise.log_det + np.log(np.maximum(information, 1e-18)).sum(1))
    share = _PRIOR * np.exp(log - log.max())
    share /= share.sum()
    dx = distance - distance.mean()
    spread = np.sqrt(square / free) * noise.carried(dx / (dx @ dx))

    # where the mixture leaves 2.5 % on either side: 60 bisections settle every digit
    low, half = 0.0, 100 * float(spread.max())
    for _ in range(60):
        middle = (low + half) / 2
        if float(share @ special.stdtr(free, -middle / spread)) > 0.025:
            low = middle
        else:
            half = middle
    phi = float(_GRID[np.searchsorted(np.cumsum(share), 0.5)])
    error = math.sqrt(float(share @ spread**2) * free / (free - 2))
    return Slope(slope, error, slope - half, slope + half, len(distance) * (1 - phi) / (1 + phi))


#: correlations over which a slope's error is mixed, and their prior
_GRID = np.r_[np.arange(0, 0.9, 0.03), np.arange(0.9, 0.98, 0.01), 0.98, 0.985, 0.99, 0.994, 0.997, 1.0]
_PRIOR = np.gradient(_GRID) / 4
_PRIOR[[0, -1]] += 0.5, 0.25
