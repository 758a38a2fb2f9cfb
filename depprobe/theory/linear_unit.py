r"""A linear unit h_t = lambda h_{t-1} + x_t under white input of variance 1.

    Var h = 1 / (1 - l^2),   Var dh/dlambda = (1 + l^2) / (1 - l^2)^3

Forward signals grow with the memory 1 / (1 - l), gradients with its cube. Source: Zucchet and Orvieto 2024.
"""

from __future__ import annotations

from depprobe.errors import BadInput


def state_variance(decay: float) -> float:
    """Variance of the state.

    Examples
    --------
    >>> round(state_variance(0.6), 9)
    1.5625
    """
    _check(decay)
    return 1 / (1 - decay**2)


def gradient_variance(decay: float) -> float:
    """Variance of the derivative of the state in its decay.

    Examples
    --------
    >>> round(gradient_variance(0.9), 9)
    263.886863974
    """
    _check(decay)
    return (1 + decay**2) / (1 - decay**2) ** 3


def _check(decay: float) -> None:
    if not -1 < decay < 1:
        raise BadInput(f"decay must lie between -1 and 1, not {decay}")
