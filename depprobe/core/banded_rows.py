r"""Rows whose support is known, written by source or by lag.

    lag = p_t - k,    p_t = floor(position_t + 1/2)        (half a position rounds up)

An output of an even kernel, or one under strides, may sit between two inputs; ``position`` keeps the
fraction, and lags are counted from the nearest input so that they stay whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from depprobe.core.temporal_jacobian import LogNorms

#: the banded form is used where it is at least so many times smaller
_WORTH = 4


def anchors(position: NDArray[np.float64]) -> NDArray[np.int64]:
    """The input position that lags of each output are counted from, (n_out,)."""
    return np.floor(position + 0.5).astype(np.int64)


def is_banded(lags: NDArray[np.int64] | None, targets: int, n_in: int) -> bool:
    """Whether rows of several targets are better stored by lag than by source."""
    return lags is not None and targets > 1 and _WORTH * len(lags) <= n_in


def placed(
    target: NDArray[np.int64],
    source: NDArray[np.int64],
    values: NDArray[np.float64],
    anchor: NDArray[np.int64],
    n_in: int,
    lags: NDArray[np.int64] | None,
) -> LogNorms:
    """Norms of single blocks as rows: everything not listed is an exact zero.

    Parameters
    ----------
    target : (m,) row that each value belongs to, as an index into ``anchor``.
    source : (m,) input position of each.
    values : (m,) natural logs.
    anchor : (T,) input position that each row's lags are counted from.
    n_in : number of input positions.
    lags : columns of the banded form, ascending and holding every lag that occurs; None for the dense form.

    Returns
    -------
    (T, n_in), or (T, len(lags)) with NaN where a lag leads outside the sequence.
    """
    if lags is None:
        out = np.full((len(anchor), n_in), -np.inf)
        out[target, source] = values
        return LogNorms(out)
    at = anchor[:, None] - lags[None, :]
    out = np.where((at >= 0) & (at < n_in), -np.inf, np.nan)
    out[target, np.searchsorted(lags, anchor[target] - source)] = values
    return LogNorms(out, lags=lags)


def repeat(
    out: NDArray[np.float64],
    rows: NDArray[np.bool_],
    row: NDArray[np.float64],
    anchor: NDArray[np.int64],
    n_in: int,
    lags: NDArray[np.int64],
) -> None:
    """Write the same norms by lag (lags,) into some rows of ``out`` (T, lags), NaN where a lag leads outside.

    ``anchor`` (T,) is where the targets sit.
    """
    out[slice(None) if rows.all() else rows] = np.where(np.isnan(row), -np.inf, row)
    # only rows near an end lead outside: the others are many, and need no look at each entry
    edge = np.flatnonzero(rows & ((anchor < lags.max()) | (anchor - lags.min() >= n_in)))
    at = anchor[edge, None] - lags
    out[edge] = np.where((at >= 0) & (at < n_in), out[edge], np.nan)
