r"""Numbers of rows that were not looked at, from those that were: lag by lag, and beyond the lags of any.

e(lag) = e interpolated among known lags; beyond the last of these, in proportion to the lag, or as over the
farther half of the known ones, whichever is more
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

Floats = NDArray[np.float64]

#: how many times farther rows reach, before another is looked at
_FARTHER = 3
#: a row is one of the farthest if it reaches so far, as a share of what any can
_LAST = 0.9
#: estimated error from which nothing is said of a norm: where all is rounding, it may come out at half a nat
LOST = 0.5
#: by how much a norm may lie higher or lower in rows that are alike: nats, and a share of how far down it is
_ALIKE, _ALIKE_SHARE = 5.0, 0.1
#: neighbouring errors of which the median is taken
_POOLED = 5
#: ln of the most that errors are taken to grow beyond known lags
_MOST_GROWTH = 50.0


class Known(NamedTuple):
    """What a row that was looked at tells of each of its lags (n,), which descend one by one.

    Attributes
    ----------
    relative : error.
    log_norm : ln of the norm, -inf or NaN where it is zero or not known.
    """

    lags: NDArray[np.int64]
    relative: Floats
    log_norm: Floats


def alike(lags: NDArray[np.int64], log_norm: Floats, known: Known, limit: float) -> bool:
    """Whether a known row stands for another at lags (n,): it has lost no norm that the other may have kept,
    itself or, where it has none, at lags nearby, and none of the other (ln, finite) is so many nats smaller
    that it may be what rounding left.
    """
    place = known.lags[0] - lags
    seen = (place >= 0) & (place < len(known.lags))
    place, own = place[seen], log_norm[seen]
    other, depth = known.log_norm[place], log_norm.max() - own
    finite = np.isfinite(other)
    peak = known.log_norm[np.isfinite(known.log_norm)].max(initial=-np.inf)
    below = np.where(finite, other, peak) - own
    lost = (known.relative[place] >= LOST) & ((below < -_ALIKE) | ~finite)
    return not (lost | (below > max(limit, _ALIKE) + _ALIKE_SHARE * depth)).any()


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


def grown_with(lags: NDArray[np.int64], relative: Floats, seen: NDArray[np.bool_]) -> Floats:
    """The most that errors came to between lag 0 and each lag, but for single ones that stand out."""
    most = np.zeros(len(lags))
    for side in (lags >= 0, lags < 0):
        (here,) = np.nonzero(side & seen)
        here = here[np.argsort(np.abs(lags[here]), kind="stable")]
        if len(here):
            most[here] = np.maximum.accumulate(median_filter(relative[here], _POOLED, mode="nearest"))
    return most
