"""Titles, legends and heights that fit the width of a figure, by the boxes that the renderer gives.

A legend gets as many columns as fit; a title breaks between its parts; a figure is as high as its panels,
title and legend need together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import make_axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.transforms import Bbox, ScaledTranslation
from numpy.typing import NDArray

from depprobe.figures.drawing.style import figure_of

#: inches of a figure from which on several panels stand abreast
ABREAST = 5.0
#: most columns of a legend
_COLUMNS = 4
#: inches kept free beside a title and a legend
_FREE = 0.12
#: inches of height that are no matter
_CLOSE = 0.05
#: inches between panels and their colour bar
_APART = 0.08
#: inches of a colour bar with its labels
_BAR = 0.8
#: height of a colour bar over its width
_SLENDER = 25.0
#: share of their height that a layout may leave of axes
_SHRUNK = 0.8
#: share of the height of axes above which a legend covers too much of them
_MOST_OF = 0.5
#: what parts of a title stand between
_BETWEEN = ",  "
#: words of a title, formulas being one
_WORD = re.compile(r"(?:\$[^$]*\$|\S)+")


def text_width(figure: Figure, words: str, size: Any = None) -> float:
    """Inches that a text takes in a figure."""
    text = figure.text(0, 0, words, fontsize=size)
    box = text.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    text.remove()
    return float(box.width) / figure.dpi


def label_along(ax: Axes, labels: Sequence[str]) -> str:
    """The first label of a vertical axis that fits along axes that a layout may shrink, or the last."""
    figure, size, box = figure_of(ax), ax.yaxis.label.get_fontsize(), ax.get_window_extent()
    high = _SHRUNK * min(box.height, box.width * (ax.get_box_aspect() or math.inf)) / figure.dpi
    return next((one for one in labels if text_width(figure, one, size) <= high), labels[-1])


def in_lines(
    figure: Figure, parts: Sequence[str], width: float, size: Any = None, between: str = _BETWEEN
) -> str:
    """Parts in as few lines as fit a width in inches."""
    lines: list[str] = []
    for part in filter(None, parts):
        joined = f"{lines[-1]}{between}{part}" if lines else part
        if lines and text_width(figure, joined, size) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return "\n".join(lines)


def add_title(figure: Figure, title: str | None, parts: Sequence[str]) -> None:
    """Head a figure of our own with a title; without one, with what was measured, broken where it must."""
    width = figure.get_figwidth() - 2 * _FREE
    if title is None:
        words = in_lines(figure, parts, width)
    else:
        lines = (in_lines(figure, _WORD.findall(one), width, "medium", " ") for one in title.split("\n"))
        words = "\n".join(lines)
    if words:
        figure.suptitle(words, x=_FREE / figure.get_figwidth(), ha="left", fontsize="medium")


def add_legend(
    place: Figure | Axes,
    handles: Sequence[Any],
    *,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    corner: str = "center",
    taken: NDArray[np.bool_] | None = None,
) -> Legend | None:
    """A legend of the handles by their labels: below a figure in as many columns as fit, or within axes.

    ``taken`` (rows, columns), the first row at the top, says which cells of a picture in axes must be seen.
    """
    if not handles:
        return None
    labels = labels or [str(handle.get_label()) for handle in handles]
    if isinstance(place, Axes):
        legend = place.legend(list(handles), list(labels), loc="best", title=title)
        if taken is not None:
            _keep_off(legend, taken)
        elif figure_of(place).get_layout_engine() is not None and _crowds(legend):
            _put_below(legend)
        return legend
    renderer = FigureCanvasAgg(place).get_renderer()
    most = (place.get_figwidth() - _FREE) * place.dpi
    for columns in range(min(_COLUMNS, len(labels)), 0, -1):
        where: Any = f"outside lower {corner}"
        legend = place.legend(
            list(handles),
            list(labels),
            loc=where,
            ncols=columns,
            title=title,
            columnspacing=1.2,
            handlelength=None if place.get_figwidth() > 4 else 2.4,
        )
        if columns == 1 or legend.get_window_extent(renderer).width <= most:
            return legend
        legend.remove()
    return None


def _keep_off(legend: Legend, taken: NDArray[np.bool_]) -> None:
    """Move a legend within axes to a corner where no cell of their picture is taken, or else below them."""
    ax, (rows, columns) = legend.axes, taken.shape
    figure = figure_of(ax)
    renderer = FigureCanvasAgg(figure).get_renderer()
    _lay_out(figure)
    # white is a colour of the picture
    legend.set_frame_on(True)
    for corner in ("upper right", "upper left", "lower left", "lower right"):
        legend.set_loc(corner)
        box = legend.get_window_extent(renderer).transformed(ax.transAxes.inverted())
        top, left = math.floor((1 - box.y1) * rows), math.floor(box.x0 * columns)
        bottom, right = math.ceil((1 - box.y0) * rows), math.ceil(box.x1 * columns)
        if top >= 0 and left >= 0 and not taken[top:bottom, left:right].any():
            return
    _put_below(legend)


def _crowds(legend: Legend) -> bool:
    """Whether a legend is wider than its axes, or takes most of their height."""
    _lay_out(figure_of(legend.axes))
    box, held = (
        legend.get_window_extent(FigureCanvasAgg(figure_of(legend.axes)).get_renderer()),
        legend.axes.bbox,
    )
    return bool(box.width > held.width or box.height > _MOST_OF * held.height)


def _put_below(legend: Legend) -> None:
    """Move a legend within axes below their horizontal axis, where a layout leaves room for it."""
    ax, figure = legend.axes, figure_of(legend.axes)
    under = ax.xaxis.get_tightbbox(FigureCanvasAgg(figure).get_renderer()) or ax.bbox
    down = ScaledTranslation(0, (under.y0 - ax.bbox.y0) / figure.dpi - _APART, figure.dpi_scale_trans)
    legend.set_bbox_to_anchor((0.5, 0.0), ax.transAxes + down)
    legend.set_loc("upper center")
    legend.set_frame_on(False)


def fit_height(figure: Figure, rows: Sequence[Axes], inches: float) -> None:
    """Make a figure so high that panels, one of every row, are as many inches high as asked for."""
    _make_room(figure, inches * len(rows))
    for _ in range(2):
        _lay_out(figure)
        high = sum(float(ax.get_window_extent().height) for ax in rows) / figure.dpi
        missing = inches * len(rows) - high
        if abs(missing) < _CLOSE:
            return
        figure.set_size_inches(figure.get_figwidth(), max(1.0, figure.get_figheight() + missing))


def fit_shapes(figure: Figure, rows: Sequence[Axes]) -> None:
    """Make a figure so high that panels of a fixed shape, one of every row, are as wide as their place."""
    for ax in figure.axes:
        # where a panel leaves room, its labels at the left stay in the figure
        ax.set_anchor("NW")
    _make_room(figure, len(rows))
    for _ in range(2):
        _lay_out(figure)
        wide, high = figure.get_size_inches()
        missing = 0.0
        for ax in rows:
            place, shape = ax.get_position(original=True), ax.get_box_aspect() or 1.0
            missing += place.width * wide * shape - place.height * high
        if abs(missing) < _CLOSE:
            return
        figure.set_size_inches(wide, max(1.0, high + missing))


def _make_room(figure: Figure, inches: float) -> None:
    """Make a figure high enough for title, legends and panels; in too low a one nothing can be laid out."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    beside = [*figure.legends, *figure.texts]
    taken = sum(one.get_window_extent(renderer).height for one in beside) / figure.dpi
    if taken + inches > figure.get_figheight():
        figure.set_size_inches(figure.get_figwidth(), taken + inches + 1.0)


def _lay_out(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def bar_beside(panels: Sequence[Axes]) -> Axes:
    """Axes for a colour bar beside panels, as tall as they are wherever their layout puts them."""
    # a layout leaves this share of the panels free between them and the bar
    wide = Bbox.union([ax.get_window_extent() for ax in panels]).width / figure_of(panels[0]).dpi
    pad, alone = min(0.2, _APART / wide), figure_of(panels[0]).get_layout_engine() is None
    # without a layout nothing else leaves room for the labels of the bar
    fraction = min(0.3, _BAR / wide) if alone else 0.05
    place, _ = make_axes(list(panels), fraction=fraction, pad=pad, aspect=_SLENDER)

    def beside(own: Any, renderer: Any) -> Bbox:
        for ax in panels:
            ax.apply_aspect()
        tall = Bbox.union([ax.get_position() for ax in panels])
        # positions are shares of the part of the figure that the panels are in
        part, dpi = panels[0].figure.bbox, figure_of(place).dpi
        across, up = part.width / dpi, part.height / dpi
        left = tall.x1 + _APART / across
        # room for the width that follows from the height
        wide = 1.5 * tall.height * up / across / _SLENDER
        return Bbox.from_extents(left, tall.y0, left + wide, tall.y1)

    place.set_axes_locator(beside)
    return place
