r"""Numbers of rows that were not looked at, from those that were: lag by lag, and beyond the lags of any.

e(lag) = e interpolated among known lags; beyond the last of these, in proportion to the lag, or as over the
farther half of the known ones, whichever is more
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: how many times farther rows reach, before another is looked at
_FARTHER = 3
#: a row is one of the farthest if it reaches so far, as a share of what any can
_LAST = 0.9
#: ln of the most that errors are taken to grow beyond known lags
_MOST_GROWTH = 50.0


def beyond(lags: NDArray[np.int64], known: NDArray[np.int64]) -> Floats:
    """How many times farther than all known lags each lag is, (n,); 1 within.

    Examples
    --------
    >>> beyond(np.array([6, 2, -1]), np.array([3, 0, -2])).tolist()
    [2.0, 1.0, 1.0]
    """
    ahead, behind = max(1, int(known.max())), min(-1, int(known.min()))
    return np.maximum(np.where(lags > 0, lags / ahead, lags / behind), 1.0)


def carried(lags: NDArray[np.int64], known: NDArray[np.int64], relative: Floats) -> Floats:
    """Errors at lags (n,) from those at known lags, which descend."""
    return np.interp(lags, known[::-1], relative[::-1]) * _growth(lags, known, relative)


def _growth(lags: NDArray[np.int64], known: NDArray[np.int64], relative: Floats) -> Floats:
    """By what errors (n,) at lags beyond all known ones exceed those of the last of these; 1 within."""
    found = beyond(lags, known)
    for side in (1, -1):
        edge = int((side * known).max())
        half = side * known > edge / 2
        past = side * lags - edge
        if edge > 0 and half.sum() > 2 and (past > 0).any():
            slope = np.polyfit(side * known[half], np.log(relative[half]), 1)[0]
            found = np.maximum(found, np.exp(np.clip(slope * past.clip(0), 0, _MOST_GROWTH)))
    return found


def telling(
    ends: Mapping[int, NDArray[np.int64]], known: Sequence[NDArray[np.int64]], reach: tuple[int, int]
) -> list[int]:
    """Which of some rows, given by their lags, tell of lags that known ones and the rows before them do not.

    Those that reach far beyond, and one of the farthest that there are, ``reach`` being the largest and the
    smallest lag of any row.

    Examples
    --------
    >>> telling({5: np.arange(9), 4: np.arange(8), 0: -np.arange(9)}, [np.arange(2)], (99, -99))
    [5, 0]
    >>> [telling({9: np.arange(9)}, [np.arange(5)], reach) for reach in [(8, 0), (99, 0)]]
    [[9], []]
    """
    found, lags = [], list(known)
    ahead, behind = reach
    for t, own in ends.items():
        past = float(beyond(own, np.concatenate(lags)).max()) if lags else math.inf
        last = own.max() >= _LAST * ahead > 0 or own.min() <= _LAST * behind < 0
        if past > _FARTHER or (last and past > 1 / _LAST):
            found.append(t)
            lags.append(own)
    return found
