r"""Means over a normal variable, integrated adaptively.

    E f(mu + s z) = integral of f(mu + s z) exp(-z^2 / 2) / sqrt(2 pi) dz

Gauss-Hermite quadrature fails where f varies over far less than s (at gain 10 it gives the wrong sign of an
exponent), so the interval is cut where f bends, within a few units of its argument's zero, and where the
normal weight lies.
Source: Piessens et al. 1983, QUADPACK (scipy.integrate.quad).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from scipy.integrate import quad

from depprobe.errors import BadInput

#: beyond this many standard deviations the weight is below the smallest float
_END = 38.0
_BENDS = (-20.0, -5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0, 20.0)
_WEIGHT = (-16.0, -8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0, 16.0)
#: error of an interval relative to itself, and to the sum of those nearer to zero
_OF_ITSELF, _OF_SUM = 1e-11, 1e-13


def normal_mean(f: Callable[[float], float], mu: float = 0.0, s: float = 1.0) -> float:
    """Mean of f(mu + s z) over z ~ N(0, 1), to about 1e-11 relative.

    Parameters
    ----------
    f : function of a float, of one sign, that bends within a few units of zero (tanh, sigma, their slopes).
    mu, s : mean and standard deviation of its argument.

    Raises
    ------
    BadInput : mu or s is not finite, or s is negative.

    Examples
    --------
    >>> round(normal_mean(lambda u: u * u, mu=1.0, s=2.0), 9)
    5.0
    """
    if not (math.isfinite(mu) and math.isfinite(s) and s >= 0):
        raise BadInput(
            f"a normal variable needs a finite mean and a standard deviation >= 0, not {mu} and {s}"
        )
    if s == 0:
        return float(f(mu))
    cuts = {*_WEIGHT, *((bend - mu) / s for bend in _BENDS)}
    ends = [-_END, *sorted(cut for cut in cuts if -_END < cut < _END), _END]
    scale = math.sqrt(2 * math.pi)

    def weighted(z: float) -> float:
        return f(mu + s * z) * math.exp(-z * z / 2) / scale

    total = 0.0
    # the weight is largest next to zero: beyond that most intervals add next to nothing
    for low, high in sorted(pairwise(ends), key=lambda ends: max(ends[0], -ends[1])):
        least = max(1e-300, _OF_SUM * abs(total))
        total += quad(weighted, low, high, epsabs=least, epsrel=_OF_ITSELF, limit=200, full_output=1)[0]
    return float(total)
