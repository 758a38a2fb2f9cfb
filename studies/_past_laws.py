r"""How a Transformer weighs its past: before training, and the law published for trained ones.

    E ||J_tk||^2 / d = sum over subsets S of the branches of [ (prod_(b in S) N_b)_tk ]^2

    attention  N = d s^2 sqrt(1 - 2/d) M diag(1 / sigma),    M_tk = 1/(t + 1) for k <= t
    MLP        N = 2 d s^2 sqrt(E gelu'^2 (1 - 2/d)) diag(1 / sigma)

for independent weights of standard deviation s and uniform attention; sigma is the standard deviation of what
the branch's LayerNorm reads at a position, which projects two of d directions out. With equal sigmas and no
MLP it is sum_j C(L, j) a^(2j) [(M^j)_tk]^2. Trained: gamma + beta (r + 1)^-p at lag r (arXiv 2606.29139).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from _character_model import WIDTH
from numpy.typing import NDArray
from scipy.optimize import curve_fit

Floats = NDArray[np.float64]


def law(inverse: Floats) -> Floats:
    """ln of the rms norm (n,) at the last target, from 1 / deviation of what branches read, (2 blocks, n)."""
    n = inverse.shape[1]
    spread = 0.25  # d s^2, s being the standard deviation of the weights
    z, w = np.polynomial.hermite_e.hermegauss(40)
    slope = torch.func.vmap(torch.func.grad(torch.nn.functional.gelu))(torch.tensor(z * math.sqrt(spread)))
    bent = float(w @ slope.numpy() ** 2 / w.sum())
    keep = 1 - 2 / WIDTH  # of directions, that a LayerNorm does not project out
    uniform = np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]
    rows = np.eye(n)[-1:]
    for branch in reversed(range(len(inverse))):
        if branch % 2:
            through = rows * inverse[branch] * math.sqrt(4 * spread**2 * bent * keep)
        else:
            through = (rows @ uniform) * inverse[branch] * math.sqrt(spread**2 * keep)
        rows = np.concatenate([rows, through])
    return 0.5 * np.log(WIDTH * (rows**2).sum(0))


def misses() -> list[str]:
    """A line if the law of 8 attentions of gain 1/2 over 64 positions is not its closed form."""
    inverse = np.zeros((16, 64))
    inverse[::2] = 0.5 / (0.25 * math.sqrt(1 - 2 / WIDTH))
    uniform = np.tril(np.ones((64, 64))) / np.arange(1, 65)[:, None]
    power = [math.comb(8, j) * (0.5**j * np.linalg.matrix_power(uniform, j)[-1]) ** 2 for j in range(9)]
    apart = float(abs(2 * law(inverse) - np.log(WIDTH * np.sum(power, 0))).max())
    return [f"the law is {apart:.3g} from its closed form"] if apart > 1e-9 else []


class Floor(NamedTuple):
    """Least squares of ln(gamma + beta (r + 1)^-p) to a curve, and of ln(beta (r + 1)^-p)."""

    gamma: float
    beta: float
    p: float
    p_alone: float
    left: float
    left_alone: float


def floor_of(lag: Floats, log_median: Floats) -> Floor:
    """V32's form; ``left`` is the standard deviation of the residuals."""
    x = np.log(lag + 1.0)

    def form(x: Floats, log_gamma: float, log_beta: float, p: float) -> Floats:
        return np.logaddexp(log_gamma, log_beta - p * x)

    slope, level = np.polyfit(x, log_median, 1)
    start = (log_median.min() - 0.5, log_median.max(), 0.8)
    (g, b, p), _ = curve_fit(form, x, log_median, start, bounds=([-30, -30, 0], [30, 30, 20]))
    left = float(np.std(form(x, g, b, p) - log_median))
    alone = float(np.std(level + slope * x - log_median))
    return Floor(math.exp(g), math.exp(b), float(p), float(-slope), left, alone)
