r"""Lyapunov exponents of products of independent (N, N) matrices with N(0, 1/N) entries.

    lambda_i = (ln(2 / N) + psi((N - i + 1) / 2)) / 2,   i = 1 .. N

Source: Newman 1986.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import digamma

from depprobe.errors import BadInput


def newman_exponents(n: int) -> np.ndarray:
    """All n exponents in descending order, nats a step.

    Raises
    ------
    BadInput : n is below 1.

    Examples
    --------
    >>> newman_exponents(2).round(6).tolist()
    [-0.288608, -0.981755]
    """
    if n < 1:
        raise BadInput(f"n must be at least 1, not {n}")
    i = np.arange(1, n + 1)
    return 0.5 * (math.log(2 / n) + digamma((n - i + 1) / 2))
