"""What figures of costs share: a line for each layer and width, against the sequence length n."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from depprobe.curves.scaling import disturbed
from depprobe.errors import BadInput, unknown
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.style import MARKERS, line_style, thin

_MOST_TICKS = 6


def costs_by_layer(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    phase: str | None,
    threads: int | None,
    labels: Sequence[str] | None = None,
) -> tuple[list[tuple[str, xr.Dataset]], str]:
    """Each layer at each width with its name, over n alone; and the conditions they were measured under.

    Parameters
    ----------
    datasets : one dataset or several, each what ``depprobe.cost`` gives.
    phase : which passes; None takes the first that was measured.
    threads : how many threads; None takes the most that were measured.
    labels : one name for each layer and width; None takes the spec strings.

    Raises
    ------
    BadInput : not such datasets, or a phase or threads that were not measured.
    """
    chosen, conditions = [], set()
    for ds in wording.as_list(datasets):
        if "flops" not in ds or not {"layer", "n"} <= set(ds.dims):
            raise BadInput("not a dataset of costs: it has no flops(layer, n, d, phase)")
        said = []
        if {"time_low", "time_high"} <= set(ds):
            ds = ds.assign(disturbed=disturbed(ds))
        for dim, wanted in (("phase", phase), ("threads", threads)):
            if dim not in ds.dims:
                continue
            there = ds[dim].values.tolist()
            if wanted is not None and wanted not in there:
                raise unknown(dim, str(wanted), [str(value) for value in there])
            value = (there[0] if dim == "phase" else max(there)) if wanted is None else wanted
            ds = ds.sel({dim: value}, drop=True)
            said.append(str(value) if dim == "phase" else f"{value} thread{'s' * (int(value) > 1)}")
        if "d" in ds.dims:
            widths = ds["d"].values.tolist()
            if len(widths) == 1:
                said.insert(0, f"$d$ = {widths[0]}")
            for d in widths:
                one = ds.sel(d=d, drop=True)
                if len(widths) > 1:
                    one = one.assign_coords(layer=[f"{layer} d={d}" for layer in one["layer"].values])
                chosen.append(one)
        else:
            chosen.append(ds)
        conditions.add(", ".join([*said, *filter(None, [str(ds.attrs.get("dtype", ""))])]))
    return wording.by_layer(chosen, labels), " or ".join(sorted(conditions))


def look(index: int, name: str | None = None) -> dict[str, Any]:
    """Colour, line and marker of the layer with this index."""
    # where markers begin anew, hollow ones tell layers apart that share one
    hollow = {"markerfacecolor": "white"} if index >= len(MARKERS) else {}
    return line_style(index, name) | hollow | {"linewidth": thin(5 / 6)}


def length_axis(ax: Axes, lengths: Sequence[int]) -> None:
    """Give the axis of the sequence length ticks at lengths that were measured, the longest among them."""
    every = math.ceil(len(lengths) / _MOST_TICKS)
    ax.xaxis.set_major_locator(FixedLocator(lengths[::-1][::every][::-1]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:.0f}"))
    ax.set_xlabel("sequence length $n$")
