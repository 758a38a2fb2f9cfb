"""The layer to take over a grid of lengths and dependency distances: a map for one width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from depprobe._version import __version__
from depprobe.advice.cost_model import refusal
from depprobe.advice.machine_costs import DEFAULT_GRID, Grid, Progress, fitted, kept_in
from depprobe.advice.ranking import USABLE, candidates, checked, ranked, require_measurable
from depprobe.core.options import DEFAULT_MEMORY
from depprobe.errors import BadInput
from depprobe.registry import Spec
from depprobe.runs.labelling import provenance
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
    grid: Grid = DEFAULT_GRID,
    progress: Progress | None = None,
) -> xr.Dataset:
    """The best layer at each length and each lag below it.

    Parameters
    ----------
    d, stream, memory, specs, folder : as in ``advise``.
    lengths, lags : the cells of the map, in positions.
    grid : what is measured to fit the costs.
    progress : called with (cells done, in all, what is under way).

    Returns
    -------
    Dataset with ``best`` over (lag, n): index into the attribute ``layers`` (names of layers, separated by
    semicolons), -1 where no layer is usable; and ``predicted_time`` over (layer, lag, n), inf where one is
    not usable. NaN where the lag is not below n.

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
    require_measurable(wanted, max(n for _, n in cells), d)
    costs = fitted(wanted, stream, kept, progress, grid)
    rows, columns, candidate = sorted(lags), sorted(lengths), list(dict.fromkeys(map(shorter, wanted)))
    times = np.full((len(candidate), len(rows), len(columns)), np.nan)
    first: dict[tuple[int, int], str] = {}
    for done, (lag, n) in enumerate(cells):
        if progress:
            progress(done, len(cells), f"map, n = {n}, lag {lag}")
        # a window or block longer than n is none of the layers
        able = [spec for spec in wanted if not refusal(spec, n, d)]
        found = _usable(ranked(costs, able, n, d, lag, budget, kept)) if able else {}
        at = rows.index(lag), columns.index(n)
        times[:, *at] = [found.get(name, math.inf) for name in candidate]
        first[at] = next(iter(found), "")
    names = sorted(set(first.values()) - {""})
    best = np.full(times.shape[1:], np.nan)
    for at, name in first.items():
        best[at] = names.index(name) if name else -1
    ds = xr.Dataset(
        {"best": (("lag", "n"), best), "predicted_time": (("layer", "lag", "n"), times)},
        coords={"lag": rows, "n": columns, "layer": candidate},
    )
    for variable in ds.variables:
        ds[variable].attrs = describe(str(variable))
    ds.attrs = {
        "title": f"The layer to take at d = {d}" + ", streamed" * stream,
        "layer": ", ".join(names),
        "layers": ";".join(names),
        "n": columns,
        "d": d,
        "seed": 0,
        "dtype": "float32",
        "stream": int(stream),
        "memory": budget,
        "depprobe_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(f"depprobe.decision_map({d})"),
    }
    return ds


def _usable(found: xr.Dataset) -> dict[str, float]:
    """Short names of the usable layers of a ranking with their times, the cheapest first."""
    rows = zip(found["layer"].values, found["predicted_time"].values, found["group"].values, strict=True)
    times: dict[str, float] = {}
    for spec, time, group in rows:
        if group == USABLE:
            times.setdefault(shorter(str(spec)), float(time))
    return times


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
