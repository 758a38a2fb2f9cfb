r"""Time, memory and FLOPs against sequence length, on log axes: a power of n is a straight line.

    q ~ n^p        the exponents p of all three stand in the legend

In the FLOPs panel markers are counted and dashed lines the layer's own formula. Per pair, a sparse pattern
whose cost is that of its pairs is flat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatterSciNotation, LogLocator, NullLocator

from depprobe.curves import scaling
from depprobe.errors import BadInput, unknown
from depprobe.figures import wording
from depprobe.figures.style import COLUMN, GREY, MARKERS, PAGE, SMALL, figure_of, line_style, styled

#: panel -> what its axis says
PANELS = {
    "time": ("time", "s"),
    "peak_bytes": ("peak memory", "bytes"),
    "flops": ("FLOPs", "multiply-add = 2"),
}
#: what costs can be divided by
PER = ("pairs",)
_MOST_TICKS = 6


class CostDrawing(NamedTuple):
    """What ``cost`` drew.

    Attributes
    ----------
    figure, axes : where it was drawn; time, memory, FLOPs.
    lines : of each panel, one a layer; None where nothing is known.
    formulas : the dashed lines of the FLOPs panel, None where there is no formula.
    """

    figure: Figure
    axes: list[Axes]
    lines: list[list[ErrorbarContainer | None]]
    formulas: list[Line2D | None]


class SpeedupDrawing(NamedTuple):
    """What ``speedup`` drew: figure, axes, and one line a layer."""

    figure: Figure
    axes: Axes
    lines: list[ErrorbarContainer]


def cost(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    per: str | None = None,
    phase: str | None = None,
    threads: int | None = None,
    axes: Sequence[Axes] | None = None,
) -> CostDrawing:
    """Draw time (with quartiles), peak memory and FLOPs of layers against the sequence length.

    Parameters
    ----------
    datasets : one dataset or several, each what ``depprobe.cost`` gives; a line for each layer and width.
    per : ``"pairs"`` divides all three by the unmasked pairs of positions, and leaves out layers without.
    phase : which passes; by default the first that was measured.
    threads : how many threads the time is that of; by default the most that were measured.
    axes : where to draw, three of them; None makes a figure with a legend below.

    Returns
    -------
    What was drawn.

    Raises
    ------
    BadInput : not such datasets, an unknown ``per``, a phase or threads that were not measured, a wrong
        number of axes, no layer with pairs.

    Examples
    --------
    >>> n = np.array([128, 256, 512])
    >>> ds = xr.Dataset({"flops": (("layer", "n"), [5.0 * n**2])}, coords={"layer": ["a"], "n": n})
    >>> cost(ds).figure.legends[0].get_texts()[0].get_text()
    'a   –, –, 2.00'
    """
    if per is not None and per not in PER:
        raise unknown("per", per, PER)
    parts, said = _parts(datasets, phase, threads)
    shown = [(i, name, part) for i, (name, part) in enumerate(parts) if not per or _has_pairs(part)]
    if not shown:
        raise BadInput("no layer of these has a number of pairs of positions to divide by")
    with styled():
        if axes is None:
            figure = Figure(
                figsize=(PAGE, 2.5 + 0.16 * math.ceil((len(shown) + 1) / 2)), layout="constrained"
            )
            panels = list(figure.subplots(1, 3))
        else:
            panels = list(axes)
            if len(panels) != len(PANELS):
                raise BadInput(f"costs need {len(PANELS)} axes, not {len(panels)}")
            figure = figure_of(panels[0])
        lines = [
            [_measured(ax, part, name, i, per) for i, _, part in shown]
            for ax, name in zip(panels, PANELS, strict=True)
        ]
        formulas = [_formula(panels[-1], part, i, per) for i, _, part in shown]
        lengths = sorted({int(n) for *_, part in shown for n in part["n"].values})
        for ax, (words, unit) in zip(panels, PANELS.values(), strict=True):
            ax.set_ylabel(f"{words} / pairs ({unit})" if per else f"{words} ({unit})")
            _log_axes(ax, lengths)
        if axes is None:
            handles = [_handle(i, name, part) for i, name, part in shown]
            title = said
            if len(lengths) > 1:
                title += ";  exponents in $n$ of time, memory, FLOPs"
            if any(formulas):
                handles.append(
                    Line2D([], [], color=GREY, linestyle="--", linewidth=0.7, label="FLOPs formula")
                )
            figure.legend(handles=handles, loc="outside lower center", ncols=2, title=title, title_fontsize=7)
    return CostDrawing(figure, panels, lines, formulas)


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
    alone, said = _parts(datasets, phase, 1)
    together, _ = _parts(datasets, phase, None)
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
            lines.append(panel.errorbar(one["n"], ratio, bars, **_style(i)))
        for level in {1, *most}:
            panel.axhline(level, color=GREY, linewidth=0.6, linestyle=":", zorder=0)
        panel.set_xscale("log")
        _length_axis(panel, sorted({int(n) for _, part in alone for n in part["n"].values}))
        panel.set_ylim(bottom=0)
        panel.set_ylabel(f"time at 1 thread / time at {', '.join(str(count) for count in sorted(most))}")
        if ax is None:
            handles = [
                Line2D([], [], **_style(i), label=wording.printable(name))
                for i, (name, _) in enumerate(alone)
            ]
            figure.legend(
                handles=handles,
                loc="outside lower center",
                ncols=2,
                title=said.replace(", 1 thread", ""),
                title_fontsize=7,
            )
    return SpeedupDrawing(figure, panel, lines)


def _parts(
    datasets: xr.Dataset | Sequence[xr.Dataset], phase: str | None, threads: int | None
) -> tuple[list[tuple[str, xr.Dataset]], str]:
    """Each layer at each width with its name, over n alone; and the conditions they were measured under."""
    chosen, conditions = [], set()
    for ds in wording.as_list(datasets):
        if "flops" not in ds or not {"layer", "n"} <= set(ds.dims):
            raise BadInput("not a dataset of costs: it has no flops(layer, n, d, phase)")
        said = []
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
    return wording.by_layer(chosen, None), " or ".join(sorted(conditions))


def _has_pairs(part: xr.Dataset) -> bool:
    return "pairs" in part and bool(np.isfinite(part["pairs"]).any())


def _style(index: int) -> dict[str, Any]:
    # where markers begin anew, hollow ones tell layers apart that share one
    hollow = {"markerfacecolor": "white"} if index >= len(MARKERS) else {}
    return line_style(index) | hollow | {"linewidth": 1.0}


def _values(part: xr.Dataset, name: str, per: str | None) -> Any:
    values = part[name].where(part[name] > 0)
    return (values / part[per] if per else values).values


def _measured(ax: Axes, part: xr.Dataset, name: str, index: int, per: str | None) -> ErrorbarContainer | None:
    if name not in part or not np.isfinite(part[name]).any():
        return None
    values, bars, style = _values(part, name, per), None, _style(index)
    if name == "time" and {"time_low", "time_high"} <= set(part):
        low, high = (_values(part, end, per) for end in ("time_low", "time_high"))
        bars = np.maximum([values - low, high - values], 0)
    if name == "flops" and "flops_formula" in part and np.isfinite(part["flops_formula"]).any():
        style["linestyle"] = "none"
    return ax.errorbar(part["n"], values, bars, elinewidth=0.8, **style)


def _formula(ax: Axes, part: xr.Dataset, index: int, per: str | None) -> Line2D | None:
    if "flops_formula" not in part or not np.isfinite(part["flops_formula"]).any():
        return None
    values, colour = _values(part, "flops_formula", per), line_style(index)["color"]
    (line,) = ax.plot(part["n"], values, color=colour, linestyle="--", linewidth=0.7, zorder=1)
    return line


def _handle(index: int, name: str, part: xr.Dataset) -> Line2D:
    label = wording.printable(name, 60)
    if part.sizes["n"] > 1:
        found = scaling(part.expand_dims("layer"))["scaling_n"].squeeze("layer")
        there = found["quantity"].values.tolist()
        slopes = [found.sel(quantity=q).item() if q in there else math.nan for q in PANELS]
        label += "   " + ", ".join("–" if math.isnan(slope) else f"{slope:.2f}" for slope in slopes)
    return Line2D([], [], **_style(index), label=label)


def _log_axes(ax: Axes, lengths: Sequence[int]) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    _length_axis(ax, lengths)
    ax.yaxis.set_major_locator(LogLocator(numticks=8))
    low, high = ax.get_ylim()
    if high / low < 100:
        # hardly two powers of ten to read a scale from
        ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        ax.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf)))
        ax.tick_params(axis="y", which="minor", labelsize=SMALL)


def _length_axis(ax: Axes, lengths: Sequence[int]) -> None:
    every = math.ceil(len(lengths) / _MOST_TICKS)
    ax.xaxis.set_major_locator(FixedLocator(lengths[::-1][::every][::-1]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:.0f}"))
    ax.set_xlabel("sequence length $n$")
