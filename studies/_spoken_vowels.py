"""Sound that is like speech: a train of pulses through three resonances, vowel by vowel."""

from __future__ import annotations

import numpy as np
from scipy import signal

RATE = 16_000
#: centres of the resonances of vowels, in Hz (Peterson and Barney 1952, men)
FORMANTS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
_BANDWIDTHS, _VOWEL = (80, 100, 120), 3200


def spoken(vowels: str = "aieouaieou", pitch: float = 120, size: float = 1.0, seed: int = 0) -> np.ndarray:
    """Samples (length, 1), 0.2 s a vowel; ``size`` multiplies the resonances of the throat."""
    t = np.arange(len(vowels) * _VOWEL) / RATE
    wobbling = pitch * (1 + 0.1 * np.sin(3 * np.pi * t) + 0.02 * np.sin(10 * np.pi * t))
    pulses = np.diff(np.floor(np.cumsum(wobbling) / RATE), prepend=0)
    source = signal.lfilter([1], [1, -0.95], pulses)
    source = source + 0.002 * np.random.default_rng(seed).standard_normal(len(t))
    parts = []
    for vowel, part in zip(vowels, np.split(source, len(vowels)), strict=True):
        for centre, bandwidth in zip(FORMANTS[vowel], _BANDWIDTHS, strict=True):
            r = np.exp(-np.pi * bandwidth / RATE)
            a = [1, -2 * r * np.cos(2 * np.pi * centre * size / RATE), r * r]
            part = signal.lfilter([sum(a)], a, part)
        parts.append(part * np.hanning(_VOWEL) ** 0.5)
    sound = np.concatenate(parts)
    return 0.3 * sound[:, None] / np.abs(sound).max()
