r"""What is known of each norm: ``log_norm_status`` beside ``log_norm``.

    finite -> a number      zero -> -inf      underflow, overflow, undecided, not measured -> NaN

A norm that is not known is never taken for a zero: curves leave it out and count it by its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depprobe.vocabulary import STATUS

#: kinds of norms that exist and are not known
UNKNOWN: tuple[str, ...] = ("underflow", "overflow", "undecided")


def derived(log_norm: NDArray[np.float64], exists: Any = True) -> NDArray[np.int8]:
    """Status of norms of which nothing else is known: NaN is undecided, or not measured where none exists.

    Examples
    --------
    >>> derived(np.array([-3.0, -np.inf, np.nan, np.nan]), [True, True, True, False]).tolist()
    [1, 2, 5, 0]
    """
    status = np.full(log_norm.shape, STATUS["undecided"], np.int8)
    status[np.isfinite(log_norm)] = STATUS["finite"]
    status[np.isneginf(log_norm)] = STATUS["zero"]
    status[np.isnan(log_norm) & ~np.broadcast_to(exists, log_norm.shape)] = STATUS["not_measured"]
    return status


def in_words(counts: Mapping[str, int]) -> str:
    """How many norms are not known, by kind; "" where all are.

    Examples
    --------
    >>> in_words({"underflow": 1200, "overflow": 0, "undecided": 3})
    '1,200 underflow, 3 undecided'
    """
    return ", ".join(f"{counts[name]:,} {name}" for name in UNKNOWN if counts.get(name))
