r"""The singular-value bound on gradients through a plain recurrence h_t = phi(W h_{t-1} + ...).

    ||dh_t/dh_k||_2 <= product over i in (k, t] of ||diag phi'(z_i)||_2 ||W||_2

With |phi'| <= 1 the slope is at most ln sigma_max(W). Source: Pascanu, Mikolov and Bengio 2013.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from depprobe.theory.eigenvalue import square


def bound_rate(W: ArrayLike) -> float:
    """Natural log of the largest singular value of W (d, d): no decay curve is steeper upwards, nats a step.

    Examples
    --------
    >>> round(bound_rate([[0.0, 2.0], [0.0, 0.0]]), 6)
    0.693147
    """
    sigma = float(np.linalg.norm(square(W), 2))
    return math.log(sigma) if sigma > 0 else -math.inf


def log_bound(W: ArrayLike, slopes: ArrayLike) -> np.ndarray:
    """Natural log of the bound on ||dh_t/dh_k||_2 for k = 0 .. t, along a trajectory.

    Parameters
    ----------
    W : (d, d) recurrent weights.
    slopes : (t, d) phi'(z_i) for i = 1 .. t.

    Returns
    -------
    (t + 1,) with 0 at k = t.

    Examples
    --------
    >>> log_bound([[1.0]], [[0.5], [0.5]]).round(4).tolist()
    [-1.3863, -0.6931, 0.0]
    """
    with np.errstate(divide="ignore"):
        steps = np.log(np.abs(np.asarray(slopes, dtype=np.float64)).max(1)) + bound_rate(W)
    return np.append(np.cumsum(steps[::-1])[::-1], 0.0)
