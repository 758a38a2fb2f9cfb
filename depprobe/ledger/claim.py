"""A statement, the measurement that decides it, and the rule that reads a verdict from the data.

No verdict is stored: ``judge`` computes it from a dataset, by the rule that stands beside it in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import NamedTuple

import xarray as xr

from depprobe.errors import DepprobeError

CONFIRMED, QUALIFIED, REFUTED, UNMEASURED = "confirmed", "qualified", "refuted", "not measured here"
VERDICTS = (CONFIRMED, QUALIFIED, REFUTED, UNMEASURED)

#: called with (parts done, parts in all, what is under way)
Progress = Callable[[float, int, str], None]


class Measured(NamedTuple):
    """A number, its standard error (NaN where it is exact or has none) and its unit."""

    value: float
    stderr: float = math.nan
    unit: str = ""


@dataclass(frozen=True)
class Finding:
    """The verdict on one part of a statement.

    Attributes
    ----------
    part : what is said, in a few words.
    verdict : one of ``VERDICTS``.
    numbers : what was measured, by name.
    note : for ``qualified`` the condition, for ``refuted`` the corrected form, for ``not measured here`` what
        would be needed; none of these may be empty. A confirmed part keeps ``remark`` instead.

    Examples
    --------
    >>> Finding("it rains", "maybe", {})
    Traceback (most recent call last):
    depprobe.errors.DepprobeError: no verdict 'maybe'; known: confirmed, qualified, refuted, not measured here
    """

    part: str
    verdict: str
    numbers: dict[str, Measured] = field(default_factory=dict)
    note: str = ""
    remark: InitVar[str] = ""

    def __post_init__(self, remark: str) -> None:
        if self.verdict not in VERDICTS:
            raise DepprobeError(f"no verdict {self.verdict!r}; known: {', '.join(VERDICTS)}")
        if self.verdict == CONFIRMED:
            object.__setattr__(self, "note", remark)
        elif not self.note:
            raise DepprobeError(f"{self.part!r} is {self.verdict} without a word why")


def _no_checks(ds: xr.Dataset) -> list[str]:
    return []


@dataclass(frozen=True)
class Claim:
    """One statement of the ledger.

    Attributes
    ----------
    id : its number, ``C1`` to ``C15``.
    statement : what it says.
    rule : how verdicts follow from the data, in a plain sentence or two.
    measure : ``measure(quick, progress=None, seed=0)`` to the dataset that decides it.
    judge : from that dataset to one finding for each part.
    checks : from that dataset to one line for each truth it breaks that holds whatever the verdict.
    """

    id: str
    statement: str
    rule: str
    measure: Callable[..., xr.Dataset]
    judge: Callable[[xr.Dataset], list[Finding]]
    checks: Callable[[xr.Dataset], list[str]] = _no_checks


def verdict(holds: int, of: int) -> str:
    """Confirmed if all of the cases hold, refuted if none does, qualified in between.

    Examples
    --------
    >>> verdict(3, 3), verdict(1, 3), verdict(0, 3)
    ('confirmed', 'qualified', 'refuted')
    """
    if not of:
        return UNMEASURED
    return CONFIRMED if holds == of else QUALIFIED if holds else REFUTED
