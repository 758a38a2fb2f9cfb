r"""Gates: does the product of forget gates tell how the gradient decays, and how long do units hold.

Left: norms of the true dc_t/dc_k and dh_t/dc_k (GRU: dh_t/dh_k) and of the product of gates against the
lag, medians over samples and seeds, on an axis of powers of ten however far beyond floats. Right: the
distribution of gate values over positions and units, and the share of units
whose time constant exceeds a lag.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from depprobe.errors import BadInput, NothingToDraw
from depprobe.figures.displaying import displayed
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.fitting import ABREAST, add_legend, add_title, fit_height
from depprobe.figures.drawing.float_limits import draw_limits
from depprobe.figures.drawing.log_axis import log10_of, use_decades, with_room
from depprobe.figures.drawing.style import (
    GREY,
    axes_given,
    colour,
    figure_of,
    line_style,
    new_figure,
    style_for,
    use_whole_numbers,
)
from depprobe.renaming import renamed_argument

#: variable -> what it is the norm of, and the line it is drawn with
QUANTITIES: dict[str, tuple[str, Any]] = {
    "log_norm_cc": (r"$\partial c_t/\partial c_k$", "-"),
    "log_norm_hc": (r"$\partial h_t/\partial c_k$", "--"),
    "log_norm_hh": (r"$\partial h_t/\partial h_k$", "-"),
    "log_norm_product": ("product of gates", (0, (1, 1))),
}
#: gates by tanh, which share no axis with those between 0 and 1
_CANDIDATES = ("g", "n")
#: inches of an axis too short for its outermost ticks
_NARROW = 2.6
#: gate values lie between 0 and 1 on an axis of log-odds, as far as this, and what lies beyond at its ends
_BINS, _ODDS = 60, 8.0


@displayed
class GatesDrawing(NamedTuple):
    """What ``gates`` drew.

    Attributes
    ----------
    figure, axes : where it was drawn: norms, gate values, time constants.
    norms : the curves of norms, layer by layer; x is the lag, y log10 of the norm.
    values : the distributions of gate values.
    holding : the share of units against the lag they hold for, one curve a layer.
    limits : lines at those limits of the floats that the norms cross.
    handles : what the legend shows, labelled.
    caption : a caption for a paper.
    """

    figure: Figure
    axes: tuple[Axes, Axes, Axes]
    norms: list[Line2D]
    values: list[Line2D]
    holding: list[Line2D]
    limits: list[Line2D]
    handles: list[Artist]
    caption: str


@renamed_argument("axes", "ax", since="0.3")
@wording.asks
def gates(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    ax: Sequence[Axes] | None = None,
    title: str | None = None,
    legend: bool = True,
    labels: Sequence[str] | None = None,
    floor: float | None = None,
) -> GatesDrawing:
    """Draw norms against the product of gates, gate values, and time constants.

    Parameters
    ----------
    datasets : one dataset or several to overlay, each what ``depprobe.gates`` gives.
    ax : three axes to draw into, in the settings of matplotlib that are in force and without a title; None
        makes a figure in the style of the house.
    title : heads the figure, or the first of the axes given; None names what was measured on a figure of its
        own, ``""`` leaves it out.
    legend : whether to add legends.
    labels : one name for each layer of each dataset; None takes the spec strings.
    floor : log10 of the lowest norm shown; None shows all.

    Returns
    -------
    What was drawn. The y axis of the norms holds log10.

    Raises
    ------
    BadInput : not such datasets; no norm that is known and not zero; a wrong number of labels or axes.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> k, f = np.arange(100), np.full((1, 100, 3), 0.1)
    >>> ds = xr.Dataset(
    ...     {name: ("source", np.log(0.1) * (99.0 - k)) for name in ("log_norm_cc", "log_norm_product")}
    ...     | {"gate_value": (("gate", "target", "unit"), f), "time_constant": ("unit", np.full(3, 0.43))},
    ...     coords={"source": k, "gate": ["f"]}, attrs={"target": 99, "keeper": "f"},
    ... )
    >>> float(gates(ds).norms[0].get_ydata()[0].round())
    -99.0
    """
    for ds in wording.as_list(datasets):
        if "gate_value" not in ds or "log_norm_product" not in ds:
            raise BadInput("the figure of gates takes datasets that depprobe.gates gave")
    wording.check_number("floor", floor)
    named = wording.by_layer(datasets, labels)
    parts = [part for _, part in named]
    given = axes_given(ax, 3, "a figure of gates")
    with style_for(given):
        left, upper, lower = given or _panels()
        norms, limits = _draw_norms(left, named, floor)
        values = _draw_values(upper, named)
        holding = _draw_holding(lower, named)
        figure = figure_of(left)
        handles: list[Artist] = [
            Line2D([], [], color=_colour(name, None, len(parts)), linestyle=line, label=words)
            for name, (words, line) in QUANTITIES.items()
            if any(name in part for part in parts)
        ]
        if len(parts) > 1:
            handles += [
                Line2D([], [], color=line_style(i, name)["color"], label=wording.printable(name))
                for i, (name, _) in enumerate(named)
            ]
        if legend:
            add_legend(figure if given is None else left, handles)
            if len(parts) == 1:
                upper.legend(loc="best", ncols=1, handlelength=1.5)
        if given is None:
            add_title(figure, title, _conditions(parts))
            narrow = figure.get_figwidth() < ABREAST
            fit_height(figure, [left, upper, lower] if narrow else [left], 1.7 if narrow else 2.5)
        elif title:
            left.set_title(title)
    return GatesDrawing(
        figure, (left, upper, lower), norms, values, holding, limits, handles, _caption(parts, limits)
    )


def _panels() -> list[Axes]:
    figure = new_figure(3, 3.3)
    if figure.get_figwidth() < ABREAST:
        return [figure.add_subplot(3, 1, i + 1) for i in range(3)]
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    return [figure.add_subplot(cell) for cell in (grid[:, 0], grid[0, 1], grid[1, 1])]


def _caption(parts: Sequence[xr.Dataset], limits: Sequence[Line2D]) -> str:
    return wording.sentences(
        "first panel: norms of the true Jacobian and of the product of gates against the lag, medians over "
        "samples and seeds",
        "second panel: distribution of gate values over positions and units, on an axis of log-odds",
        r"third panel: share of units whose time constant $-1/\langle \ln f \rangle$ exceeds a lag",
        f"measured: {', '.join(_conditions(parts))}",
        "dotted horizontal lines: limits of floating-point numbers" if limits else "",
    )


def _draw_norms(
    ax: Axes, named: Sequence[tuple[str, xr.Dataset]], floor: float | None
) -> tuple[list[Line2D], list[Line2D]]:
    lines, curves = [], []
    for i, (layer, part) in enumerate(named):
        lag = int(part["source"].values[-1]) - part["source"].values
        for name, (words, line) in QUANTITIES.items():
            if name not in part:
                continue
            log10 = log10_of(_median(part[name]))
            log10[~np.isfinite(log10)] = np.nan
            curves.append((lag[::-1], log10[::-1]))
            own = line_style(i, layer)["color"]
            lines += ax.plot(lag, log10, color=_colour(name, own, len(named)), linestyle=line, label=words)
    each = np.concatenate([y for _, y in curves])
    each = each[np.isfinite(each)]
    if not each.size:
        raise NothingToDraw("nothing to draw: every norm is exactly zero or unknown")
    lowest, high = float(each.min()), float(each.max())
    low = lowest if floor is None else max(lowest, floor)
    if low > high:
        raise BadInput(f"nothing to draw above floor {floor:g}: the largest norm is 1e{high:.1f}")
    if high - low < 2:
        low, high = with_room(low, high)
    pad = 0.04 * (high - low)
    ax.set_ylim(low - pad if low <= lowest else low, high + pad)
    longest = max(float(x.max()) for x, _ in curves)
    # one lag alone has room on both sides
    longest = max(longest, 1.0)
    ax.set_xlim(-0.03 * longest, 1.03 * longest)
    use_decades(ax.yaxis)
    use_whole_numbers(ax.xaxis)
    ax.set_xlabel("lag $t - k$ (positions)")
    ax.set_ylabel("Frobenius norm (dimensionless)")
    return lines, draw_limits(ax, curves, low, high)


def _colour(name: str, own: Any, count: int) -> Any:
    """Colour of a curve: by layer where there are several (grey for none of them), else by quantity."""
    if count > 1:
        return own or GREY
    return colour({"log_norm_hc": 1, "log_norm_product": 4}.get(name, 0))


def _median(values: xr.DataArray) -> NDArray[np.float64]:
    """Median over samples and seeds: (source,). Unknown where any is unknown."""
    pooled = [dim for dim in values.dims if dim != "source"]
    return np.asarray(values.median(pooled, skipna=False).values, dtype=np.float64)


def _draw_values(ax: Axes, named: Sequence[tuple[str, xr.Dataset]]) -> list[Line2D]:
    """Gate values binned in log-odds: of every gate of a single layer, of the carrying ones of several."""
    edges = np.linspace(-_ODDS, _ODDS, _BINS + 1)
    lines, parts = [], [part for _, part in named]
    for i, (layer, part) in enumerate(named):
        names = [str(gate) for gate in part["gate"].values if str(gate) not in _CANDIDATES]
        shown = names if len(parts) == 1 else [str(part.attrs["keeper"])]
        for j, gate in enumerate(sorted(shown, key=lambda gate: gate != part.attrs["keeper"])):
            values = part["gate_value"].sel(gate=gate).values
            with np.errstate(divide="ignore"):
                odds = np.log(values) - np.log1p(-values)
            counts, _ = np.histogram(np.clip(odds, -_ODDS, _ODDS), edges)
            share = np.append(counts, counts[-1]) / counts.sum()
            own = line_style(i, layer)["color"] if len(parts) > 1 else colour(j)
            lines += ax.plot(edges, share, drawstyle="steps-post", color=own, label=f"${gate}$")
    marks = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    if ax.get_window_extent().width < _NARROW * figure_of(ax).dpi:
        marks = marks[1:-1]
    ax.set_xticks(np.log(marks / (1 - marks)), [f"{mark:g}" for mark in marks])
    ax.set_xlim(-_ODDS, _ODDS)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    kinds = sorted({str(part.attrs["keeper"]) for part in parts})
    ax.set_xlabel(f"value of gate ${'$, $'.join(kinds)}$" if len(parts) > 1 else "value of the gates")
    ax.set_ylabel("share in a bin")
    return lines


def _draw_holding(ax: Axes, named: Sequence[tuple[str, xr.Dataset]]) -> list[Line2D]:
    """Share of units whose time constant exceeds a lag, against the lag."""
    constants = [np.sort(part["time_constant"].values.ravel()) for _, part in named]
    finite = np.concatenate([one[np.isfinite(one) & (one > 0)] for one in constants])
    low, high = (finite.min(), finite.max()) if finite.size else (1.0, 10.0)
    # a decade at least, so that a tick has a label
    middle, reach = np.sqrt(low * high), max(1.3 * np.sqrt(high / low), np.sqrt(10.0))
    low, high = middle / reach, middle * reach
    lines = []
    for i, one in enumerate(constants):
        held = np.append(1.0, 1 - np.arange(1, len(one) + 1) / len(one))
        lag = np.clip(np.append(low, one), low, high)
        # units that never let go keep the curve above zero up to the edge
        lag, held = np.append(lag, high), np.append(held, np.isinf(one).mean())
        own = line_style(i, named[i][0])["color"]
        lines += ax.plot(lag, held, drawstyle="steps-post", color=own)
    ax.set_xscale("log")
    if high / low < 100:
        # whole powers alone would leave one label
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda lag, _: f"{lag:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(low, high)
    ax.set_ylim(-0.04, 1.04)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("time constant (positions)")
    ax.set_ylabel("units above")
    return lines


def _conditions(parts: Sequence[xr.Dataset]) -> list[str]:
    """What was measured, of what all parts share."""
    layers = {str(part.attrs.get("layer", "")) for part in parts}
    named = [wording.printable(layers.pop(), 60)] if len(parts) == 1 else []
    return [*filter(None, named), *wording.sizes(parts)]
