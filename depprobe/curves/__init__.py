"""Datasets -> curves by lag, distances in numbers, growth of costs. No torch here.

``decay_curve`` and ``distances`` take both stored forms of ``log_norm``; ``dense`` turns one into the other.
``scaling`` and ``crossovers`` take costs.
"""

from depprobe.curves.banded import dense
from depprobe.curves.decay import decay_curve
from depprobe.curves.distance import distances
from depprobe.curves.form import FORMS
from depprobe.curves.scaling import crossovers, scaling

__all__ = ["FORMS", "crossovers", "decay_curve", "dense", "distances", "scaling"]
