"""Times that something else on the machine disturbed, told from what was measured. No torch here.

    upper quartile > APART x lower          runs of one pass took too different times
    time at k threads > SLOWER x at one     threads waited for processors that others had

Threads that do not help slow a pass down little; threads that wait for a busy processor, a hundred times.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

#: quartiles further apart than this factor, undisturbed within some 1.3
APART = 2.0
#: more threads that take more times as long as one
SLOWER = 3.0


def disturbed(ds: xr.Dataset) -> xr.DataArray:
    """Which times of a dataset of costs are disturbed, over their dimensions; unknown times are not."""
    found = ds["time_high"] > APART * ds["time_low"]
    if "threads" in ds["time"].dims and 1 in ds["threads"].values:
        found = found | slowed(ds["time"], ds["time"].sel(threads=1, drop=True))
    return found


def slowed(many: Any, one: Any) -> Any:
    """Whether a pass with many threads took so much longer than with one that it was disturbed.

    Examples
    --------
    >>> slowed(2.0, 1.0), slowed(40.0, 0.2)
    (False, True)
    """
    return many > SLOWER * one
