"""Which columns of a table only say where a row stands: dates, times, row numbers. No torch here.

dates          text that is a date or a time of day in every row
Unix times     seconds (or thousandths, millionths, billionths) since 1970 that rise, of the years 1990 to
               2100, in the first column or in one whose name says time
times          other numbers that rise from row to row, in a column whose name says time
row numbers    a first column that rises by one
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DATES, ROW_NUMBERS = "dates", "the number of each row"
#: what a column may hold that is an index; the first that there is names the rows
KINDS = (DATES, "Unix times", "times", ROW_NUMBERS)
_UNIX_YEARS = np.array([631152000.0, 4102444800.0])
#: words of a name that say that its column holds times
_TIME = {"time", "times", "timestamp", "timestamps", "datetime", "date", "epoch", "unix", "unixtime", "ts"}
#: how dates and times of day are written; what else pandas takes for a date may be a number or a word
_DATE = re.compile(
    r"(\d{1,4}([-/.])\d{1,2}\2\d{1,4}|\d{4}[-/]\d{1,2}|\d{1,2}[-/]\d{4}"
    r"|(\d{1,2}[ -])?[A-Za-z]{3,9}\.?[ ,-]+(\d{1,2},? )?\d{4})([T ]+\d{1,2}:\d{2}.*)?"
    r"|\d{1,2}:\d{2}(:\d{2}.*)?"
)


def kind_of(j: int, name: str, cells: Sequence[str], values: Floats, alone: bool) -> str:
    """What column j holds that says where a row stands: one of ``KINDS``, or nothing.

    Parameters
    ----------
    j, name : its position from 0, and its name.
    cells, values : as text and as numbers, NaN where a cell is none.
    alone : whether the table has no other column, so that a column of numbers is the input.

    Examples
    --------
    >>> kind_of(0, "t", ["1600000000", "1600000060"], np.array([1.6e9, 1.60000006e9]), alone=False)
    'Unix times'
    """
    if np.isnan(values).all():
        return DATES if dates_of(cells) is not None else ""
    if alone or len(values) < 2 or not np.isfinite(values).all() or not (np.diff(values) > 0).all():
        return ""
    named = name.lower() == "t" or not _TIME.isdisjoint(re.split(r"[^a-z]+", name.lower()))
    if (named or j == 0) and _are_unix(values, whole=not named):
        return "Unix times"
    if named:
        return "times"
    return ROW_NUMBERS if j == 0 and len(values) > 2 and bool((np.diff(values) == 1).all()) else ""


def _are_unix(values: Floats, whole: bool) -> bool:
    if whole and (values != np.floor(values)).any():
        return False
    ends = values[[0, -1]]
    return any(
        _UNIX_YEARS[0] * unit <= ends[0] and ends[1] <= _UNIX_YEARS[1] * unit for unit in (1, 1e3, 1e6, 1e9)
    )


def is_date(cell: str) -> bool:
    """Whether a cell is a date or a time of day."""
    return dates_of([cell]) is not None


def dates_of(cells: Sequence[str]) -> NDArray[np.datetime64] | None:
    """Cells as dates, where all of them are; of two orders of day and month that in which they rise."""
    import pandas as pd

    if not all(map(_DATE.fullmatch, cells)):
        return None
    found: list[NDArray[np.datetime64]] = []
    for day_first in (False, True):
        with warnings.catch_warnings():
            # of the order of day and month, both of which are tried
            warnings.simplefilter("ignore")
            try:
                dates = pd.to_datetime(pd.Series(list(cells), dtype=object), utc=True, dayfirst=day_first)
            except (ValueError, TypeError, OverflowError):
                continue
        found.append(np.asarray(dates.dt.tz_localize(None).to_numpy()))
    return next((one for one in found if rises(one)), found[0] if found else None)


def rises(dates: NDArray[np.datetime64]) -> bool:
    """Whether no date is before the one above it."""
    return bool((np.diff(dates) >= np.timedelta64(0)).all())
