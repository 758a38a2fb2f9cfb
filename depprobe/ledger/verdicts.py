"""The five verdicts, and how shares of cases and intervals of times lead to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONFIRMED, QUALIFIED, REFUTED = "confirmed", "qualified", "refuted"
DEFINED, UNMEASURED = "by definition", "not measured here"
VERDICTS = (CONFIRMED, QUALIFIED, REFUTED, DEFINED, UNMEASURED)
#: factor by which a ratio of times may be off beyond its quartiles, on a machine that is not idle
SHAKEN = 1.1


def verdict(holds: int, of: int, enough: float = 1.0, few: float = 0.0) -> str:
    """Confirmed if the share of cases that hold is ``enough``, refuted if it is ``few`` or less.

    Qualified in between; by default all, and none.

    Examples
    --------
    >>> verdict(3, 3), verdict(1, 3), verdict(0, 3), verdict(1, 3, enough=0.9, few=0.5)
    ('confirmed', 'qualified', 'refuted', 'refuted')
    """
    if not of:
        return UNMEASURED
    share = holds / of
    return CONFIRMED if share >= enough else REFUTED if share <= few else QUALIFIED


def timed(ends: Sequence[str], numbers: dict[str, Any], note: str) -> tuple[str, dict[str, Any], str]:
    """What times say where the verdicts at all ends of their intervals agree, else not measured here.

    Examples
    --------
    >>> timed(["confirmed", "refuted"], {}, "")[::2]
    ('not measured here', 'times measured here allow confirmed and refuted: it takes a quieter machine')
    """
    if len(set(ends)) == 1:
        return ends[0], numbers, note
    both = " and ".join(sorted(set(ends)))
    return UNMEASURED, numbers, f"times measured here allow {both}: it takes a quieter machine"
