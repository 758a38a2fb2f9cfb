"""How often the right form is named, and how often the decay rate's interval holds it, for known laws.

    ln rms(L) = law(L) + e_L      e: independent; AR(.9); random walk; sd .3 in ln (of its steps for the walk)

Each law has the weakest strength at which every form with no more parameters would fit it worse by 10 in BIC
without noise, at the known correlation and variance. Whole: 11 laws, 3 kinds of noise, n = 20 to 1000, 200
seeds; about 40 minutes of one processor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.curves.form import FORMS, SMOOTH, fit
from depprobe.curves.noise import Whitening, slope_error
from depprobe.curves.shapes import fit_shape

Floats = NDArray[np.float64]

SD = 0.3
#: BIC by which simpler forms fit worse
APART = 10.0
#: kind of noise -> its correlation and the standard deviation of what is new at each lag
NOISES = {"independent": (0.0, SD), "AR(.9)": (0.9, SD * np.sqrt(1 - 0.81)), "walk": (1.0, SD)}
LENGTHS = (20, 50, 100, 300, 1000)


def _sum(*logs: Floats | float) -> Floats:
    return np.logaddexp.reduce(np.broadcast_arrays(*logs))


#: form -> a law of that form at lags L of m and a strength s
LAWS: dict[str, Callable[[Floats, int, float], Floats]] = {
    "constant": lambda L, m, s: 0 * L,
    "exponential": lambda L, m, s: -s * L / m,
    "power law": lambda L, m, s: -s * np.log(L),
    "Gaussian": lambda L, m, s: -s * (L / m) ** 2,
    "stretched exponential": lambda L, m, s: -s * (L / m) ** 0.4,
    "two-rate exponential": lambda L, m, s: _sum(-4 * s * L / m, -0.9 * s - s * L / m),
    "exponential with floor": lambda L, m, s: _sum(-2 * s * L / m, -s),
    "power law with floor": lambda L, m, s: _sum(-s * np.log(L), -s * np.log(0.3 * m)),
    "Gaussian with floor": lambda L, m, s: _sum(-s * (2 * L / m) ** 2, -s),
    "stretched exponential with floor": lambda L, m, s: _sum(-s * (2 * L / m) ** 0.4, -s),
    "two-rate exponential with floor": lambda L, m, s: _sum(
        -8 * s * L / m, -0.9 * s - 1.5 * s * L / m, -1.8 * s
    ),
}


def noise(kind: str, curves: int, m: int, rng: np.random.Generator) -> Floats:
    """Residuals (curves, m)."""
    phi, new = NOISES[kind]
    e = rng.normal(size=(curves, m)) * new
    e[:, 0] *= SD / new
    for i in range(1, m):
        e[:, i] += phi * e[:, i - 1]
    return e


def law(form: str, n: int, kind: str) -> Floats:
    """The weakest law (n - 1,) of a form that no simpler one fits."""
    L = np.arange(1, n)
    phi, new = NOISES[kind]
    white = Whitening(L, np.ones((1, n - 1), bool), phi)
    size, strength = SMOOTH[form].size, 0.3
    while True:
        y = LAWS[form](L.astype(float), n - 1, strength)[None]
        worse = []
        for other, shape in SMOOTH.items():
            if other != form and shape.size <= size:
                theta, _ = fit_shape(shape, L, y, white)
                left = white(y - shape(theta[0], L)[0])
                worse.append((left**2).sum() / new**2 + (shape.size - size) * np.log(n - 1))
        if min(worse, default=np.inf) >= APART:
            return y[0]
        strength *= 1.3


def named(form: str, kind: str, n: int, seeds: int, seed: int = 0) -> tuple[float, float, float]:
    """Shares of curves of a law whose form is named best, and is among those not told apart; their number."""
    L, rng = np.arange(1, n), np.random.default_rng([seed, n])
    y = law(form, n, kind) + noise(kind, seeds, n - 1, rng)
    found = fit(L, y, np.zeros_like(y), np.array([], np.int64))
    at = FORMS.index(form)
    alike = found.alike
    return float((found.best == at).mean()), float(alike[:, at].mean()), float(alike.sum(1).mean())


def covered(kind: str, n: int, seeds: int, rate: float = -0.05, seed: int = 1) -> tuple[float, float]:
    """Share of curves with an interval of the decay rate that holds it, and share of curves with one."""
    L, rng = np.arange(1, n), np.random.default_rng([seed, n])
    held, stated = [], []
    for y in rate * L + noise(kind, seeds, n - 1, rng):
        slope, level = np.polyfit(L, y, 1)
        error = slope_error(L, slope, y - slope * L - level, L[None].astype(float))
        stated.append(error.lags >= 20)
        held.append(error.low <= rate <= error.high)
    at = np.array(stated)
    return (float(np.array(held)[at].mean()) if at.any() else np.nan), float(at.mean())


#: variable -> what it is, over (noise, length, law); over (noise, length)
SHARES = {
    "right": "share of curves whose true form is named",
    "among": "share of curves whose true form is among those not told apart",
    "alike": "number of forms not told apart",
}
RATES = {
    "rate_covered": "share of intervals of the decay rate that hold it",
    "rate_stated": "share of curves with an interval of the decay rate",
}


def coverage(quick: bool, report: Callable[[float, int, str], None]) -> xr.Dataset:
    """Shares over (noise, length, law) and (noise, length)."""
    lengths, seeds, draws = ((20, 100), 20, 40) if quick else (LENGTHS, 200, 500)
    laws = ("constant", "exponential", "exponential with floor") if quick else tuple(LAWS)
    shares = np.empty((len(NOISES), len(lengths), len(laws), len(SHARES)))
    rates = np.empty((len(NOISES), len(lengths), len(RATES)))
    for i, kind in enumerate(NOISES):
        for j, n in enumerate(lengths):
            report(i * len(lengths) + j, len(NOISES) * len(lengths), f"forms, {kind}, n = {n}")
            shares[i, j] = [named(form, kind, n, seeds) for form in laws]
            rates[i, j] = covered(kind, n, draws)
    over = ("noise", "length", "law")
    return xr.Dataset(
        {
            name: (over, shares[..., i], {"long_name": words, "units": "1"})
            for i, (name, words) in enumerate(SHARES.items())
        }
        | {
            name: (over[:2], rates[..., i], {"long_name": words, "units": "1"})
            for i, (name, words) in enumerate(RATES.items())
        },
        coords={
            "noise": ("noise", list(NOISES), {"long_name": "noise in ln rms", "units": "1"}),
            "length": ("length", list(lengths), {"long_name": "sequence length", "units": "positions"}),
            "law": ("law", list(laws), {"long_name": "true form", "units": "1"}),
        },
    )
