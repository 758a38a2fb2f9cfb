r"""The eigenvalue prediction: gradients through h_t = W h_{t-1} decay like rho(W)^lag.

    ln ||W^lag|| / lag -> ln rho(W)      (Gelfand 1941), rho = largest |eigenvalue|

Exact for linear recurrences at large lags; leaves out phi' and departure from normality.
Source: Bengio, Simard and Frasconi 1994; Pascanu, Mikolov and Bengio 2013.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from depprobe.errors import BadInput


def eigenvalue_rate(W: ArrayLike) -> float:
    """Natural log of the spectral radius of W (d, d), in nats a step; -inf where it is zero.

    Raises
    ------
    BadInput : W is not a square matrix of finite numbers.

    Examples
    --------
    >>> round(eigenvalue_rate([[0.5, 100.0], [0.0, 0.25]]), 6)
    -0.693147
    """
    matrix = square(W)
    rho = float(np.abs(np.linalg.eigvals(matrix)).max())
    return math.log(rho) if rho > 0 else -math.inf


def square(W: ArrayLike) -> np.ndarray:
    """W as a float64 matrix; raises ``BadInput`` unless it is square and finite."""
    matrix = np.asarray(W, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise BadInput(f"recurrent weights must be a square matrix, not {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise BadInput("recurrent weights must be finite")
    return matrix
