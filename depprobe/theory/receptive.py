r"""The effective receptive field of a stack of convolutions with independent weights.

    E ||dy_t/dx_k||_F^2 over lags  =  convolution over levels of w_l uniform(taps) [+ delta, if residual]
    plain      sd = sqrt(L (k^2 - 1) / 12)
    dilated    variance sum_l r_l^2 (k^2 - 1) / 12,  for r_l = 2^l: (k^2 - 1) / 12 (4^L - 1) / 3

w_l is the mean-square gain of a level. Means and variances of levels add: deep stacks tend to a Gaussian.
Source: Luo et al. 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depprobe.errors import BadInput


@dataclass(frozen=True)
class Level:
    """One convolution: taps lie at lags ``first + dilation * i``, i = 0 .. kernel - 1.

    ``gain`` is its mean-square gain over all taps; ``residual`` adds the input with mean-square gain 1.
    """

    kernel: int
    dilation: int = 1
    first: int = 0
    gain: float = 1.0
    residual: bool = False

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Lags and the mean-square gain at each; a lag may stand twice."""
        if self.kernel < 1 or self.dilation < 1:
            raise BadInput(f"kernel and dilation must be at least 1, not {self.kernel} and {self.dilation}")
        lags = self.first + self.dilation * np.arange(self.kernel)
        gains = np.full(self.kernel, self.gain / self.kernel)
        return (np.append(lags, 0), np.append(gains, 1.0)) if self.residual else (lags, gains)


def exact_profile(levels: Sequence[Level]) -> tuple[np.ndarray, np.ndarray]:
    """Expected squared norm at every lag of the support, and those lags, both (m,).

    Raises
    ------
    BadInput : no level, or one with a kernel or dilation below 1.

    Examples
    --------
    >>> lags, profile = exact_profile([Level(3), Level(3)])
    >>> (9 * profile).round(9).tolist()
    [1.0, 2.0, 3.0, 2.0, 1.0]
    """
    _check(levels)
    start, profile = 0, np.ones(1)
    for level in levels:
        lags, gains = level.weights()
        low = int(lags.min())
        taps = np.bincount(lags - low, weights=gains)
        profile = np.convolve(profile, taps)
        start += low
    return np.arange(start, start + len(profile)), profile


def moments(levels: Sequence[Level]) -> tuple[float, float, float]:
    """Total mean-square gain, mean lag and variance of the lag of the expected squared profile.

    Examples
    --------
    >>> [round(value, 6) for value in moments([Level(3)] * 6)]
    [1.0, 6.0, 4.0]
    """
    _check(levels)
    total, mean, variance = 1.0, 0.0, 0.0
    for level in levels:
        lags, gains = level.weights()
        weight = float(gains.sum())
        centre = float(lags @ gains / weight)
        total, mean = total * weight, mean + centre
        variance += float((lags - centre) ** 2 @ gains / weight)
    return total, mean, variance


def log_gaussian_profile(levels: Sequence[Level], lags: np.ndarray) -> np.ndarray:
    """Natural log of the Gaussian with the moments of the expected squared profile, at ``lags`` (m,).

    Examples
    --------
    >>> log_gaussian_profile([Level(3)] * 6, np.array([6])).round(6).tolist()
    [-1.612086]
    """
    total, mean, variance = moments(levels)
    if variance == 0:
        return np.where(lags == mean, np.log(total), -np.inf)
    return np.log(total) - (lags - mean) ** 2 / (2 * variance) - 0.5 * np.log(2 * np.pi * variance)


def _check(levels: Sequence[Level]) -> None:
    if not levels:
        raise BadInput("a stack needs at least one convolution")
