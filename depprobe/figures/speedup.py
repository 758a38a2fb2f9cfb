r"""What more threads bring, against sequence length: time at one thread over time at the most.

    S(n) = T_1(n) / T_p(n)        dotted lines: 1 (nothing gained) and p (every thread as good as the first)

Bars of S from the quartiles of both times: T_1 low / T_p high to T_1 high / T_p low.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from depprobe.errors import BadInput
from depprobe.figures.displaying import displayed
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.cost_lines import costs_by_layer, length_axis, look
from depprobe.figures.drawing.fitting import add_legend, add_title, fit_height
from depprobe.figures.drawing.style import GREY, axes_given, figure_of, new_figure, style_for, thin
from depprobe.renaming import renamed_argument


@displayed
class SpeedupDrawing(NamedTuple):
    """What ``speedup`` drew: figure, axes, one line a layer, what the legend shows, and a caption."""

    figure: Figure
    axes: Axes
    lines: list[ErrorbarContainer]
    handles: list[Line2D]
    caption: str


@renamed_argument("axes", "ax", since="0.3")
@wording.asks
def speedup(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    ax: Axes | None = None,
    title: str | None = None,
    legend: bool = True,
    labels: Sequence[str] | None = None,
    floor: float | None = None,
    phase: str | None = None,
) -> SpeedupDrawing:
    """Draw how many times faster layers are at the most threads than at one, against the sequence length.

    Parameters
    ----------
    datasets : one dataset or several, each what ``depprobe.cost`` gives with one thread and more.
    ax : where to draw, in the settings of matplotlib that are in force; None makes a figure in the style of
        the house with a legend below.
    title : heads the figure or the axes; None leaves it out.
    legend : whether to add a legend.
    labels : one name for each layer and width; None takes the spec strings.
    floor : the lowest speed-up shown; None shows 0.
    phase : which passes; by default the first that was measured.

    Returns
    -------
    What was drawn. Bars go from lower quartile over upper to upper over lower: they err on the large side.

    Raises
    ------
    BadInput : not such datasets, times at one number of threads only, a wrong number of labels or axes.

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
    wording.check_number("floor", floor)
    alone, said = costs_by_layer(datasets, phase, 1, labels)
    together, _ = costs_by_layer(datasets, phase, None, labels)
    given = axes_given(ax, 1, "a figure of speed-ups")
    with style_for(given):
        (panel,) = given or [new_figure(1, 3.0).add_subplot()]
        figure = figure_of(panel)
        lines = []
        for i, ((name, one), (_, many)) in enumerate(zip(alone, together, strict=True)):
            ratio = (one["time"] / many["time"]).values
            bars = None
            if {"time_low", "time_high"} <= set(one):
                low, high = (
                    one[a] / many[b] for a, b in (("time_low", "time_high"), ("time_high", "time_low"))
                )
                bars = np.maximum([ratio - low.values, high.values - ratio], 0)
            lines.append(panel.errorbar(one["n"], ratio, bars, **look(i, name)))
        for level in {1, *most}:
            panel.axhline(level, color=GREY, linewidth=thin(), linestyle=":", zorder=0)
        panel.set_xscale("log")
        length_axis(panel, sorted({int(n) for _, part in alone for n in part["n"].values}))
        panel.set_ylim(bottom=floor or 0)
        counted = ", ".join(map(str, sorted(most)))
        panel.set_ylabel(f"time at 1 thread / time at {counted}")
        handles = [
            Line2D([], [], **look(i, name), label=wording.printable(name))
            for i, (name, _) in enumerate(alone)
        ]
        said = said.replace(", 1 thread", "").replace("1 thread, ", "")
        if legend:
            add_legend(figure if given is None else panel, handles, title=said if given is None else None)
        if given is None:
            add_title(figure, title or "", [])
            fit_height(figure, [panel], 2.1)
        elif title:
            panel.set_title(title)
    caption = wording.sentences(
        f"time at one thread over time at {counted} threads against the sequence length $n$",
        said,
        "bars: from the quartiles of both times; dotted: no gain, and as many times as there are threads",
    )
    return SpeedupDrawing(figure, panel, lines, handles, caption)
