r"""What more threads bring, against sequence length: time at one thread over time at the most.

    S(n) = T_1(n) / T_p(n)        dotted lines: 1 (nothing gained) and p (every thread as good as the first)

Bars of S from the quartiles of both times: T_1 low / T_p high to T_1 high / T_p low.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from depprobe.errors import BadInput
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.cost_lines import costs_by_layer, length_axis, look
from depprobe.figures.drawing.style import COLUMN, GREY, figure_of, styled


class SpeedupDrawing(NamedTuple):
    """What ``speedup`` drew: figure, axes, and one line a layer."""

    figure: Figure
    axes: Axes
    lines: list[ErrorbarContainer]


def speedup(
    datasets: xr.Dataset | Sequence[xr.Dataset], *, phase: str | None = None, ax: Axes | None = None
) -> SpeedupDrawing:
    """Draw how many times faster layers are at the most threads than at one, against the sequence length.

    Parameters
    ----------
    datasets : one dataset or several, each what ``depprobe.cost`` gives with one thread and more.
    phase : which passes; by default the first that was measured.
    ax : where to draw; None makes a figure.

    Returns
    -------
    What was drawn. Bars go from lower quartile over upper to upper over lower: they err on the large side.

    Raises
    ------
    BadInput : not such datasets, or times at one number of threads only.

    Examples
    --------
    >>> ds = xr.Dataset(
    ...     {"flops": (("layer", "n"), [[1.0]]), "time": (("layer", "n", "threads"), [[[3.0, 2.0]]])},
    ...     coords={"layer": ["a"], "n": [8], "threads": [1, 2]},
    ... )
    >>> speedup(ds).lines[0].lines[0].get_ydata().tolist()
    [1.5]
    """
    most = set()
    for ds in wording.as_list(datasets):
        counts = [int(count) for count in ds["threads"].values] if "threads" in ds.coords else []
        if "time" not in ds or 1 not in counts or len(counts) < 2:
            raise BadInput("a speed-up needs times at one thread and at more")
        most.add(max(counts))
    alone, said = costs_by_layer(datasets, phase, 1)
    together, _ = costs_by_layer(datasets, phase, None)
    with styled():
        if ax is None:
            figure = Figure(figsize=(COLUMN, 2.6 + 0.16 * math.ceil(len(alone) / 2)), layout="constrained")
            panel = figure.add_subplot()
        else:
            panel, figure = ax, figure_of(ax)
        lines = []
        for i, ((_, one), (_, many)) in enumerate(zip(alone, together, strict=True)):
            ratio = (one["time"] / many["time"]).values
            bars = None
            if {"time_low", "time_high"} <= set(one):
                low, high = (
                    one[a] / many[b] for a, b in (("time_low", "time_high"), ("time_high", "time_low"))
                )
                bars = np.maximum([ratio - low.values, high.values - ratio], 0)
            lines.append(panel.errorbar(one["n"], ratio, bars, **look(i)))
        for level in {1, *most}:
            panel.axhline(level, color=GREY, linewidth=0.6, linestyle=":", zorder=0)
        panel.set_xscale("log")
        length_axis(panel, sorted({int(n) for _, part in alone for n in part["n"].values}))
        panel.set_ylim(bottom=0)
        panel.set_ylabel(f"time at 1 thread / time at {', '.join(str(count) for count in sorted(most))}")
        if ax is None:
            handles = [
                Line2D([], [], **look(i), label=wording.printable(name)) for i, (name, _) in enumerate(alone)
            ]
            figure.legend(
                handles=handles,
                loc="outside lower center",
                ncols=2,
                title=said.replace(", 1 thread", ""),
                title_fontsize=7,
            )
    return SpeedupDrawing(figure, panel, lines)
