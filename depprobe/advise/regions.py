"""The layer to take over a grid of lengths and dependency distances: a map for one width."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from depprobe.advise.ranking import USABLE, advise
from depprobe.errors import BadInput
from depprobe.operators.budget import DEFAULT_MEMORY
from depprobe.store import provenance
from depprobe.vocabulary import describe

#: lengths and lags of the grid
LENGTHS = (64, 256, 1024, 4096, 16384, 65536)
LAGS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


def regions(
    d: int,
    *,
    stream: bool = False,
    memory: int | str = DEFAULT_MEMORY,
    folder: Path | None = None,
    lengths: tuple[int, ...] = LENGTHS,
    lags: tuple[int, ...] = LAGS,
    progress: Callable[[float, int, str], None] | None = None,
) -> xr.Dataset:
    """The best layer at each length and lag below it.

    Parameters
    ----------
    d, stream, memory, folder : as in ``advise``.
    lengths, lags : the grid, in positions.
    progress : called with (cells done, in all, what is under way).

    Returns
    -------
    Dataset with ``best`` over (lag, n): index into the attribute ``layers`` (names without options, separated
    by commas); NaN where the lag is not below n, or no layer is usable.

    Raises
    ------
    BadInput : an empty grid, or what ``advise`` refuses.
    """
    cells = [(lag, n) for n in lengths for lag in lags if lag < n]
    if not cells:
        raise BadInput(f"no lag of {lags} is below a length of {lengths}")
    best: dict[tuple[int, int], str | None] = {}
    for done, (lag, n) in enumerate(cells):
        if progress:
            progress(done, len(cells), f"n = {n}, lag {lag}")
        found = advise(n, d, lag, stream=stream, memory=memory, folder=folder)
        usable = float(found["group"][0]) == USABLE
        best[lag, n] = str(found["layer"].values[0]).partition(":")[0] if usable else None
    names = sorted({name for name in best.values() if name})
    values = np.full((len(lags), len(lengths)), np.nan)
    for (lag, n), name in best.items():
        if name:
            values[lags.index(lag), lengths.index(n)] = names.index(name)
    ds = xr.Dataset({"best": (("lag", "n"), values)}, coords={"lag": list(lags), "n": list(lengths)})
    for variable in ds.variables:
        ds[variable].attrs = describe(str(variable))
    ds.attrs = {
        **{
            name: found.attrs[name]
            for name in ("seed", "dtype", "memory", "depprobe_version", "schema_version")
        },
        "title": f"The layer to take at d = {d}" + ", streamed" * stream,
        "layer": ", ".join(names),
        "layers": ",".join(names),
        "n": list(lengths),
        "d": d,
        "stream": int(stream),
        "provenance": provenance(f"depprobe.advise.regions({d})"),
    }
    return ds
