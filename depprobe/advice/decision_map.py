"""The layer to take over a grid of lengths and dependency distances: a map for one width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

import depprobe
from depprobe.advice.measuring import Progress, fitted, kept_in
from depprobe.advice.ranking import USABLE, candidates, checked, ranked
from depprobe.errors import BadInput
from depprobe.operators.budget import DEFAULT_MEMORY
from depprobe.registry import Spec
from depprobe.store import provenance
from depprobe.vocabulary import SCHEMA_VERSION, describe

#: lengths and lags of the grid
LENGTHS = (64, 256, 1024, 4096, 16384, 65536)
LAGS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


def decision_map(
    d: int,
    *,
    stream: bool = False,
    memory: int | str = DEFAULT_MEMORY,
    specs: Sequence[str] = (),
    folder: Path | None = None,
    lengths: Sequence[int] = LENGTHS,
    lags: Sequence[int] = LAGS,
    progress: Progress | None = None,
) -> xr.Dataset:
    """The best layer at each length and each lag below it.

    Parameters
    ----------
    d, stream, memory, specs, folder : as in ``advise``.
    lengths, lags : the grid, in positions.
    progress : called with (cells done, in all, what is under way).

    Returns
    -------
    Dataset with ``best`` over (lag, n): index into the attribute ``layers`` (names of layers, separated by
    commas); NaN where the lag is not below n, -1 where no layer is usable.

    Raises
    ------
    BadInput : an empty grid, or what ``advise`` refuses.
    """
    cells = [(lag, n) for n in sorted(lengths) for lag in sorted(lags) if lag < n]
    if not cells:
        raise BadInput(f"no lag of {list(lags)} is below a length of {list(lengths)}")
    for lag, n in cells:
        _, budget = checked(n, d, lag, memory)
    kept, wanted = kept_in(folder), candidates(d, stream, specs)
    costs = fitted(wanted, stream, kept, progress)
    best: dict[tuple[int, int], str] = {}
    for done, (lag, n) in enumerate(cells):
        if progress:
            progress(done, len(cells), f"map, n = {n}, lag {lag}")
        found = ranked(costs, wanted, n, d, lag, budget, kept)
        usable = float(found["group"][0]) == USABLE
        best[lag, n] = str(found["layer"].values[0]) if usable else ""
    shown = {spec: shorter(spec) for spec in best.values() if spec}
    names = sorted(set(shown.values()))
    values = np.full((len(lags), len(lengths)), np.nan)
    for (lag, n), spec in best.items():
        values[sorted(lags).index(lag), sorted(lengths).index(n)] = names.index(shown[spec]) if spec else -1
    ds = xr.Dataset({"best": (("lag", "n"), values)}, coords={"lag": sorted(lags), "n": sorted(lengths)})
    for variable in ds.variables:
        ds[variable].attrs = describe(str(variable))
    ds.attrs = {
        "title": f"The layer to take at d = {d}" + ", streamed" * stream,
        "layer": ", ".join(names),
        "layers": ",".join(names),
        "n": sorted(lengths),
        "d": d,
        "seed": 0,
        "dtype": "float32",
        "stream": int(stream),
        "memory": budget,
        "depprobe_version": depprobe.__version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(f"depprobe.decision_map({d})"),
    }
    return ds


def shorter(spec: str) -> str:
    """A layer without what its width or the lag settled: name, and the pattern of its attention.

    Examples
    --------
    >>> shorter("dilated-conv:depth=9"), shorter("conv-attention:attention=sliding-window,causal=true")
    ('dilated-conv', 'conv-attention:attention=sliding-window')
    """
    parsed = Spec.parse(spec)
    dropped = ("depth", "heads", "causal")
    return str(Spec(parsed.name, {k: v for k, v in parsed.settings.items() if k not in dropped}))
