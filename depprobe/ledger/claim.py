"""A statement, the measurement that decides it, and the rule that reads a verdict on each part from the data.

    part = what is said + a rule: dataset -> (verdict, numbers, note)

No verdict is stored. What restates how a layer is built is ``definition``: no data could overturn it, so it
is no evidence; that it comes out so is a check of the program. Every other rule can fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, NamedTuple

import xarray as xr

from depprobe.errors import DepprobeError
from depprobe.ledger.verdicts import CONFIRMED, DEFINED, VERDICTS


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
    note : for ``qualified`` the condition, for ``refuted`` the corrected form, for ``by definition`` why it
        cannot be otherwise, for ``not measured here`` what would be needed; none of these may be empty. A
        confirmed part keeps ``remark`` instead.

    Examples
    --------
    >>> Finding("it rains", "maybe", {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    depprobe.errors.DepprobeError: no verdict 'maybe'; known: confirmed, qualified, refuted, ...
    """

    part: str
    verdict: str
    numbers: Mapping[str, Measured] = field(default_factory=dict)
    note: str = ""
    remark: InitVar[str] = ""

    def __post_init__(self, remark: str) -> None:
        if self.verdict not in VERDICTS:
            raise DepprobeError(f"no verdict {self.verdict!r}; known: {', '.join(VERDICTS)}")
        if self.verdict == CONFIRMED:
            object.__setattr__(self, "note", remark)
        elif not self.note:
            raise DepprobeError(f"{self.part!r} is {self.verdict} without a word why")


#: from a dataset to verdict, numbers, note and, where there is one, remark of a finding
Rule = Callable[[xr.Dataset], tuple[Any, ...]]


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
    parts : what each part says, and the rule that judges it.
    checks : from that dataset to one line for each truth it breaks that holds whatever the verdict.
    """

    id: str
    statement: str
    rule: str
    measure: Callable[..., xr.Dataset]
    parts: Mapping[str, Rule]
    checks: Callable[[xr.Dataset], list[str]] = _no_checks

    def judge(self, ds: xr.Dataset) -> list[Finding]:
        return [Finding(part, *rule(ds)) for part, rule in self.parts.items()]


def definition(why: str, numbers: Callable[[xr.Dataset], dict[str, Measured]] = lambda ds: {}) -> Rule:
    """The rule of a part that restates a construction: what is measured is shown, and proves nothing."""
    return lambda ds: (DEFINED, numbers(ds), why)
