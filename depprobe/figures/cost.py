r"""Time, memory and FLOPs against sequence length, on log axes: a power of n is a straight line.

    q ~ n^p        the exponents p of all three stand in the legend

In the FLOPs panel markers are counted and dashed lines the layer's own formula. Per pair, a sparse pattern
whose cost is that of its pairs is flat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from depprobe.curves import scaling
from depprobe.curves.scaling import grow_tellably
from depprobe.errors import BadInput, require_known
from depprobe.figures.displaying import displayed
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.cost_lines import costs_by_layer, length_axis, look
from depprobe.figures.drawing.fitting import ABREAST, add_legend, add_title, fit_height, in_lines
from depprobe.figures.drawing.style import (
    GREY,
    axes_given,
    figure_of,
    line_style,
    new_figure,
    style_for,
    thin,
)
from depprobe.renaming import renamed_argument

#: panel -> what its axis says
PANELS = {
    "time": ("time", "s"),
    "peak_bytes": ("peak memory", "bytes"),
    "flops": ("FLOPs", "multiply-add = 2"),
}
#: what costs can be divided by
PER = ("pairs",)


@displayed
class CostDrawing(NamedTuple):
    """What ``cost`` drew.

    Attributes
    ----------
    figure, axes : where it was drawn; time, memory, FLOPs.
    lines : of each panel, one a layer; None where nothing is known.
    formulas : the dashed lines of the FLOPs panel, None where there is no formula.
    handles : what the legend shows, labelled.
    caption : a caption for a paper.
    """

    figure: Figure
    axes: list[Axes]
    lines: list[list[ErrorbarContainer | None]]
    formulas: list[Line2D | None]
    handles: list[Line2D]
    caption: str


@renamed_argument("axes", "ax", since="0.3")
@wording.asks
def cost(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    ax: Sequence[Axes] | None = None,
    title: str | None = None,
    legend: bool = True,
    labels: Sequence[str] | None = None,
    floor: Mapping[str, float] | None = None,
    per: str | None = None,
    phase: str | None = None,
    threads: int | None = None,
) -> CostDrawing:
    """Draw time (with quartiles), peak memory and FLOPs of layers against the sequence length.

    Parameters
    ----------
    datasets : one dataset or several, each what ``depprobe.cost`` gives; a line for each layer and width.
    ax : where to draw, three axes, in the settings of matplotlib that are in force and without a title; None
        makes a figure in the style of the house with a legend below.
    title : heads the figure, or the first of the axes given; None leaves it out.
    legend : whether to add a legend.
    labels : one name for each layer and width; None takes the spec strings.
    floor : log10 of the lowest value shown in a panel, such as ``{"time": -4}``; panels are ``time`` (s),
        ``peak_bytes`` and ``flops``.
    per : ``"pairs"`` divides all three by the unmasked pairs of positions, and leaves out layers without.
    phase : which passes; by default the first that was measured.
    threads : how many threads the time is that of; by default the most that were measured.

    Returns
    -------
    What was drawn. An exponent of time stands as a dash where the times do not tell it: disturbed ones, or
    two whose quartiles overlap.

    Raises
    ------
    BadInput : not such datasets, an unknown ``per`` or panel, a phase or threads that were not measured, a
        wrong number of axes or labels, no layer with pairs.

    Examples
    --------
    >>> n = np.array([128, 256, 512])
    >>> ds = xr.Dataset({"flops": (("layer", "n"), [5.0 * n**2])}, coords={"layer": ["a"], "n": n})
    >>> cost(ds).figure.legends[0].get_texts()[0].get_text()
    'a   –, –, 2.00'
    """
    if per is not None:
        require_known("per", per, PER)
    floors = wording.floors(floor, PANELS)
    parts, said = costs_by_layer(datasets, phase, threads, labels)
    shown = [(i, name, part) for i, (name, part) in enumerate(parts) if not per or _has_pairs(part)]
    if not shown:
        raise BadInput("no layer of these has a number of pairs of positions to divide by")
    given = axes_given(ax, len(PANELS), "a figure of costs")
    with style_for(given):
        panels = given or _panels()
        figure = figure_of(panels[0])
        lines = [
            [_measured(one, part, quantity, i, name, per) for i, name, part in shown]
            for one, quantity in zip(panels, PANELS, strict=True)
        ]
        formulas = [_formula(panels[-1], part, i, name, per) for i, name, part in shown]
        lengths = sorted({int(n) for *_, part in shown for n in part["n"].values})
        for one, (quantity, (words, unit)) in zip(panels, PANELS.items(), strict=True):
            one.set_ylabel(f"{words} / pairs ({unit})" if per else f"{words} ({unit})")
            _log_axes(one, lengths, floors.get(quantity))
        handles = [_handle(i, name, part) for i, name, part in shown]
        heading = said + (";  exponents in $n$ of time, memory, FLOPs" if len(lengths) > 1 else "")
        if any(formulas):
            look: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": thin(0.6)}
            handles.append(Line2D([], [], **look, label="FLOPs formula"))
        if legend and given is None:
            add_legend(figure, handles, title=in_lines(figure, heading.split(";  "), figure.get_figwidth()))
        elif legend:
            add_legend(panels[-1], handles)
        if given is None:
            if title:
                add_title(figure, title, [])
            fit_height(figure, panels if figure.get_figwidth() < ABREAST else panels[:1], 1.9)
        elif title:
            panels[0].set_title(title)
    return CostDrawing(figure, panels, lines, formulas, handles, _caption(said, per, formulas, lengths))


def _panels() -> list[Axes]:
    figure = new_figure(len(PANELS), 3.0)
    shape = (1, len(PANELS)) if figure.get_figwidth() >= ABREAST else (len(PANELS), 1)
    return [figure.add_subplot(*shape, i + 1) for i in range(len(PANELS))]


def _caption(said: str, per: str | None, formulas: Sequence[Any], lengths: Sequence[int]) -> str:
    divided = ", each divided by the unmasked pairs of positions" if per else ""
    sentences = [
        f"time (median, bars: quartiles), peak memory of tensors and FLOPs against the sequence length $n$"
        f"{divided}",
        said,
    ]
    if len(lengths) > 1:
        sentences.append(
            "numbers in the legend: exponents of growth with $n$ of time, memory and FLOPs; a dash where it "
            "is not known, or the times were disturbed"
        )
    if any(formulas):
        sentences.append("markers: FLOPs as counted; dashed lines: the layer's own formula")
    return wording.sentences(*sentences)


def _has_pairs(part: xr.Dataset) -> bool:
    return "pairs" in part and bool(np.isfinite(part["pairs"]).any())


def _values(part: xr.Dataset, name: str, per: str | None) -> Any:
    values = part[name].where(part[name] > 0)
    return (values / part[per] if per else values).values


def _measured(
    ax: Axes, part: xr.Dataset, name: str, index: int, layer: str, per: str | None
) -> ErrorbarContainer | None:
    if name not in part or not np.isfinite(part[name]).any():
        return None
    values, bars, style = _values(part, name, per), None, look(index, layer)
    if name == "time" and {"time_low", "time_high"} <= set(part):
        low, high = (_values(part, end, per) for end in ("time_low", "time_high"))
        bars = np.maximum([values - low, high - values], 0)
    if name == "flops" and "flops_formula" in part and np.isfinite(part["flops_formula"]).any():
        style["linestyle"] = "none"
    return ax.errorbar(part["n"], values, bars, elinewidth=thin(2 / 3), **style)


def _formula(ax: Axes, part: xr.Dataset, index: int, name: str, per: str | None) -> Line2D | None:
    if "flops_formula" not in part or not np.isfinite(part["flops_formula"]).any():
        return None
    values, colour = _values(part, "flops_formula", per), line_style(index, name)["color"]
    (line,) = ax.plot(part["n"], values, color=colour, linestyle="--", linewidth=thin(0.6), zorder=1)
    return line


def _handle(index: int, name: str, part: xr.Dataset) -> Line2D:
    label = wording.printable(name)
    if part.sizes["n"] > 1:
        found = scaling(part.expand_dims("layer"))["scaling_n"].squeeze("layer")
        there = found["quantity"].values.tolist()
        # what the table withholds
        there = [q for q in there if q != "time" or grow_tellably(part)]
        slopes = [found.sel(quantity=q).item() if q in there else math.nan for q in PANELS]
        label += "   " + ", ".join("–" if math.isnan(slope) else f"{slope:.2f}" for slope in slopes)
    return Line2D([], [], **look(index, name), label=label)


def _log_axes(ax: Axes, lengths: Sequence[int], floor: float | None) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    if floor is not None:
        ax.set_ylim(bottom=10.0**floor)
    length_axis(ax, lengths)
    ax.yaxis.set_major_locator(LogLocator(numticks=8))
    low, high = ax.get_ylim()
    if high / low < 100:
        # hardly two powers of ten to read a scale from
        ax.yaxis.set_major_locator(FixedLocator(_few_decades(low, high)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _few_decades(low: float, high: float) -> list[float]:
    """Three round numbers or more between two."""
    powers = 10.0 ** np.arange(math.floor(math.log10(low)), math.log10(high))
    fine = (np.arange(1, 10, step) for step in (0.5, 0.2, 0.1))
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), *fine):
        ticks = np.outer(powers, np.asarray(digits, dtype=float)).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if len(ticks) > 2:
            break
    return ticks.tolist()


def _short(value: float) -> str:
    """Plain where that is short, else as a product with a power of ten.

    Examples
    --------
    >>> _short(250.0), _short(1e-7), _short(2e-7)
    ('250', '$10^{-7}$', '$2\\\\times 10^{-7}$')
    """
    if 1e-2 <= value < 1e5:
        return f"{value:g}"
    power = math.floor(math.log10(value) + 1e-9)
    digit = f"{value / 10.0**power:g}"
    return f"$10^{{{power}}}$" if digit == "1" else rf"${digit}\times 10^{{{power}}}$"
