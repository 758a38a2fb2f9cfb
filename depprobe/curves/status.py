r"""What is known of each norm: ``log_norm_status`` beside ``log_norm``.

    finite -> a number      zero -> -inf      underflow, overflow, undecided, not measured -> NaN

A norm that is not known is never taken for a zero: curves leave it out and count it by its kind.
"""

from __future__ import annotations

from collections.abc import Mapping

#: kinds of norms that exist and are not known
UNKNOWN: tuple[str, ...] = ("underflow", "overflow", "undecided")


def in_words(counts: Mapping[str, int]) -> str:
    """How many norms are not known, by kind; "" where all are.

    Examples
    --------
    >>> in_words({"underflow": 1200, "overflow": 0, "undecided": 3})
    '1,200 underflow, 3 undecided'
    """
    return ", ".join(f"{counts[name]:,} {name}" for name in UNKNOWN if counts.get(name))
