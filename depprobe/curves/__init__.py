"""Jacobian datasets -> curves by lag and distances in numbers. No torch here.

``decay_curve`` and ``distances`` take both stored forms of ``log_norm``; ``dense`` turns one into the other.
"""

from depprobe.curves.banded import dense
from depprobe.curves.decay import decay_curve
from depprobe.curves.distance import distances
from depprobe.curves.form import FORMS

__all__ = ["FORMS", "decay_curve", "dense", "distances"]
