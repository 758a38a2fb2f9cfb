r"""Mean field of a wide random recurrence: fixed point q*, factor chi, first exponent ln(chi) / 2.

    z_t = W phi(z_{t-1}) + u_t,   W ~ N(0, g^2 / N),   u ~ N(0, sb^2) (bias or input)
    q = g^2 E phi(sqrt(q) z)^2 + sb^2,   chi = g^2 E phi'(sqrt(q) z)^2
    E ||dh_t/dh_k||_F^2 / N = chi^(t-k)

phi is tanh, or erf(sqrt(pi) x / 2), which also has slope 1 at zero and has closed forms (Williams 1997):

    E phi^2 = (2 / pi) arcsin(pi q / (2 + pi q)),   E phi'^2 = 1 / sqrt(1 + pi q)

Source: Sompolinsky, Crisanti and Sommers 1988; Schoenholz et al. 2016; Chen, Pennington and Schoenholz 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from scipy.optimize import brentq
from scipy.special import erf

from depprobe.errors import BadInput, unknown
from depprobe.theory.gaussian import normal_mean


def _sech2(x: float) -> float:
    e = math.exp(-2 * abs(x))
    return 4 * e / (1 + e) ** 2


#: nonlinearity -> itself and its slope
PHI: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "tanh": (math.tanh, _sech2),
    "erf": (
        lambda x: float(erf(math.sqrt(math.pi) * x / 2)),
        lambda x: math.exp(-math.pi * min(abs(x), 1e9) ** 2 / 4),
    ),
}


class MeanField(NamedTuple):
    """Variance q of the arguments, mean-square ``slope``, ``chi``, first ``exponent`` (nats a step)."""

    q: float
    slope: float
    chi: float
    exponent: float


def mean_field(gain: float, bias: float = 0.0, phi: str = "tanh") -> MeanField:
    """Fixed point, chi and first Lyapunov exponent of a wide random recurrence.

    Parameters
    ----------
    gain : g, recurrent weights have variance g^2 / N.
    bias : sb, standard deviation of bias and input together, in units of the argument of phi.
    phi : ``tanh``, or ``erf`` for erf(sqrt(pi) x / 2).

    Returns
    -------
    ``MeanField(q, slope, chi, exponent)``; q is the stable fixed point. The exponent is -inf for gain 0.

    Raises
    ------
    BadInput : a gain or bias that is negative or not finite; an unknown phi.

    Examples
    --------
    >>> [round(value, 6) for value in mean_field(2.0)]
    [2.121474, 0.340668, 1.362673, 0.154724]
    """
    if not (math.isfinite(gain) and math.isfinite(bias) and gain >= 0 and bias >= 0):
        raise BadInput(f"gain and bias must be finite numbers >= 0, not {gain} and {bias}")
    if phi not in PHI:
        raise unknown("phi", phi, PHI)
    value, slope_of = PHI[phi]
    drive = bias * bias

    def excess(q: float) -> float:
        return gain**2 * normal_mean(lambda x: value(x) ** 2, s=math.sqrt(q)) + drive - q

    if drive == 0 and gain <= 1:
        q = 0.0
    elif drive == 0:
        # E phi^2 >= q - 2 q^2 puts the fixed point above this, and phi^2 < 1 below g^2
        q = brentq(excess, (gain**2 - 1) / (8 * gain**2), gain**2, xtol=1e-14, rtol=1e-13)
    else:
        q = brentq(excess, 0.0, (gain**2 + drive) * (1 + 1e-9), xtol=1e-14, rtol=1e-13)
    slope = normal_mean(lambda x: slope_of(x) ** 2, s=math.sqrt(q))
    chi = gain**2 * slope
    return MeanField(float(q), slope, chi, 0.5 * math.log(chi) if chi > 0 else -math.inf)
