"""The efficiency table as an image: a row for each layer under its length and pass, rules as in a book.

Ratios to the reference stand in brackets after times and bytes; the article's figures stand beside them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from depprobe.errors import BadInput
from depprobe.figures.displaying import displayed
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.style import GREY, SMALL, figure_of, styled
from depprobe.ledger.costs.efficiency_table import efficiency as efficiency_table
from depprobe.units import scaled, seconds, three

HEADINGS = (
    *("layer", "n", "pass", "time", "article", "memory"),
    *("article", "path", "article", "steps", "parallelism", "article"),
)
#: what is said of several rows at once, above them
_SHARED = ("n", "pass")
#: inches: height of a row, space between columns at least
_ROW, _GAP = 0.17, 0.08


@displayed
class EfficiencyTable(NamedTuple):
    """What ``efficiency`` drew: figure, axes, and the cells, a list of texts for each row.

    Above the rows of one length and pass stands a row of one text, which names both.
    """

    figure: Figure
    axes: Axes
    cells: list[list[Text]]


def efficiency(
    datasets: xr.Dataset | Sequence[xr.Dataset], *, reference: str | None = None, ax: Axes | None = None
) -> EfficiencyTable:
    """Draw the table of time, memory, gradient path and parallelism beside the article's figures.

    Parameters
    ----------
    datasets : one dataset that ``depprobe.cost`` gives, at one width.
    reference : the layer whose cost at the shortest length is 1; by default the last.
    ax : where to draw, as wide as a page; None makes a figure.

    Returns
    -------
    What was drawn.

    Raises
    ------
    BadInput : more than one dataset, or what ``depprobe.efficiency`` raises.

    Examples
    --------
    >>> ds = xr.Dataset(
    ...     {"flops": (("layer", "n"), [[1.0]]), "time": (("layer", "n"), [[3.0]])},
    ...     coords={"layer": ["lstm"], "n": [1000], "d": 512},
    ... )
    >>> [cell.get_text() for cell in efficiency(ds).cells[2]][:3]
    ['lstm', '3 s (1)', '38.5 ms (1)']
    """
    given = wording.as_list(datasets)
    if len(given) != 1:
        raise BadInput(f"the efficiency table shows one dataset, not {len(given)}")
    table = efficiency_table(given[0], reference)
    rows = [[head for head in HEADINGS if head not in _SHARED]]
    for (n, phase), group in itertools.groupby(rows_of(table), key=lambda row: row[1:3]):
        rows.append([", ".join(filter(None, [f"$n$ = {n}", phase]))])
        rows += [[layer, *rest] for layer, _, _, *rest in group]
    with styled():
        page, height = float(matplotlib.rcParams["figure.figsize"][0]), _ROW * (len(rows) + 2.2)
        if ax is None:
            ax = Figure(figsize=(page, height)).add_axes((0, 0, 1, 1))
        figure = figure_of(ax)
        ax.set_axis_off()
        ax.set_xlim(0, page)
        ax.set_ylim(height, 0)
        cells = [
            [
                ax.text(0, 0, cell if len(row) == 1 else wording.printable(cell), fontsize=SMALL)
                for cell in row
            ]
            for row in rows
        ]
        _place(figure, ax, cells, page)
        below: Any = {"fontsize": cells[0][0].get_fontsize(), "ha": "center", "va": "center", "color": GREY}
        ax.text(page / 2, _ROW * (len(rows) + 1.3), _caption(table), **below)
    return EfficiencyTable(figure, ax, cells)


def rows_of(table: xr.Dataset) -> list[list[str]]:
    """Cells of an efficiency table, in the order of ``HEADINGS``: by pass, then length, then layer."""
    if "phase" not in table.dims:
        table = table.expand_dims(phase=[""])
    rows = []
    for phase in table["phase"].values:
        for n in table["n"].values:
            for layer in table["layer"].values:
                row = table.sel(layer=layer, n=n, phase=phase)
                if not math.isnan(_value(row, "time")):
                    rows.append([str(layer), str(n), str(phase), *_cells(row)])
    return rows


def _cells(row: xr.Dataset) -> list[str]:
    def beside(text: str, ratio: str) -> str:
        known = _value(row, ratio)
        return text if math.isnan(known) else f"{text} ({three(known)})"

    return [
        beside(seconds(_value(row, "time")), "time_ratio"),
        beside(seconds(_value(row, "article_time")), "article_time_ratio"),
        beside(scaled(_value(row, "peak_bytes"), "B"), "memory_ratio"),
        beside(scaled(_value(row, "article_bytes"), "B"), "article_memory_ratio"),
        _whole(_value(row, "path_length")),
        _whole(_value(row, "article_path")),
        _whole(_value(row, "sequential_steps")),
        scaled(_value(row, "parallelism")),
        str(row["article_parallelism"].item()) or "-",
    ]


def _value(row: xr.Dataset, name: str) -> float:
    return float(row[name]) if name in row else math.nan


def _whole(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}"


def _place(figure: Figure, ax: Axes, cells: list[list[Text]], page: float) -> None:
    """Columns as wide as their widest cell, spread over the page; rules around, under heads, over groups."""
    renderer, dpi = FigureCanvasAgg(figure).get_renderer(), figure.dpi
    full = [row for row in cells if len(row) > 1]
    for cell in cells[0]:
        cell.set_fontweight("bold")
    widths = np.array([[cell.get_window_extent(renderer).width / dpi for cell in row] for row in full]).max(0)
    gap = (page - widths.sum() - 2 * _GAP) / (len(widths) - 1)
    if gap < _GAP:
        # too wide for a page: smaller type
        factor = (page - (len(widths) + 1) * _GAP) / widths.sum()
        for row in cells:
            for cell in row:
                cell.set_fontsize(SMALL * factor)
        widths, gap = widths * factor, _GAP
    left = _GAP + np.concatenate([[0], np.cumsum(widths + gap)[:-1]])
    rules = [(0.5, 0.9, "black"), (1.5, 0.5, "black"), (len(cells) + 0.5, 0.9, "black")]
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            flush = "left" if j == 0 else "right"
            cell.set_position((left[j] + (0 if flush == "left" else widths[j]), _ROW * (i + 1)))
            cell.set(ha=flush, va="center")
        if len(row) == 1:
            row[0].set_color(GREY)
            if i > 1:
                rules.append((i + 0.5, 0.3, GREY))
    for y, thick, colour in rules:
        ax.plot([_GAP, page - _GAP], [y * _ROW] * 2, color=colour, linewidth=thick)


def _caption(table: xr.Dataset) -> str:
    said = f"$d$ = {table.attrs['d']}, {table.attrs.get('dtype', '')}, batch 1"
    return f"{said}; in brackets: over {table.attrs['reference']} at $n$ = {table.attrs['reference_n']}"
