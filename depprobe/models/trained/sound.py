r"""Sound as models read it: one channel at their rate, and powers in mel bands.

    S_{t,j} = sum_f M_{jf} |F(w . x_{160 t - 200 .. 160 t + 200})|_f^2

M: triangles on Slaney's mel scale (linear below 1 kHz, logarithmic above), each of area 1 in Hz; w: Hann.
Source: Slaney 1998 (Auditory Toolbox).
"""

from __future__ import annotations

import abc

import numpy as np
from numpy.typing import NDArray

from depprobe.models.checkpoint import StoredWeights

Floats = NDArray[np.float64]
#: samples a second that the models were trained with
RATE = 16_000
#: mel scale: Hz of a band below the bend, the bend in Hz, and what a band above it multiplies by
_STEP, _BEND, _RATIO = 200 / 3, 1000.0, 6.4 ** (1 / 27)


class ReadsSound(StoredWeights, abc.ABC):
    """A factory of a model of sound."""

    @abc.abstractmethod
    def frames(self, sound: Floats, rate: float) -> Floats:
        """What the model reads of a sound (samples, channels) in -1 .. 1 at a rate in Hz: (n, d)."""


def at_rate(sound: Floats, rate: float, wanted: int) -> Floats:
    """The mean of the channels (samples, channels), resampled: (samples,)."""
    mono = sound.mean(1)
    common = np.gcd(round(rate), wanted)
    if round(rate) == wanted:
        return mono
    from scipy.signal import resample_poly  # slow to import, and only this needs it

    return np.asarray(resample_poly(mono, wanted // common, round(rate) // common))


def mel_powers(wave: Floats, bands: int = 40, window: int = 400, hop: int = 160) -> Floats:
    """Powers (n, bands) of windows centred at multiples of ``hop``; zeros stand around the sound."""
    padded = np.pad(wave, window // 2)
    parts = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    powers = np.abs(np.fft.rfft(parts * np.hanning(window + 1)[:-1])) ** 2
    return powers @ mel_bands(bands, window).T


def mel_bands(bands: int, window: int) -> Floats:
    """M (bands, window / 2 + 1).

    Examples
    --------
    >>> M = mel_bands(40, 400)
    >>> M.shape, bool((M >= 0).all()), round(float(M[-1].sum() * 40), 1)
    ((40, 201), True, 1.0)
    """
    edges = _hertz(np.linspace(0, _mel(RATE / 2), bands + 2))[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    f = np.linspace(0, RATE / 2, window // 2 + 1)
    rising, falling = (f - low) / (centre - low), (high - f) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


def _mel(hertz: float) -> float:
    return hertz / _STEP if hertz < _BEND else _BEND / _STEP + np.log(hertz / _BEND) / np.log(_RATIO)


def _hertz(mel: Floats) -> Floats:
    bend = _BEND / _STEP
    return np.where(mel < bend, mel * _STEP, _BEND * _RATIO ** (np.maximum(mel, bend) - bend))
