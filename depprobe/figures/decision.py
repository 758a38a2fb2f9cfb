"""Which layer to take over length and dependency distance, with the borders of a rule if the map has any."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from depprobe.errors import BadInput
from depprobe.figures.drawing.style import COLOURS, COLUMN, GREY, PAGE, SMALL, styled

_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "+++", "---", "|||", "***")
_NONE = "none of them"
_DASHED: dict[str, Any] = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.0}


class DecisionMap(NamedTuple):
    """The figure and its axes, one for each map."""

    figure: Figure
    axes: list[Axes]


def decision(*maps: xr.Dataset) -> DecisionMap:
    """Draw the regions of one map, or of several side by side.

    Parameters
    ----------
    maps : from ``depprobe.decision_map``; ``best`` over (lag, n). The borders of a rule are attributes:
        ``border_n``, two lengths; ``border_lag``, a lag between them; ``border_regions``, what the rule takes
        left of, between and right of them, separated by semicolons; ``border_name``, for the legend.

    Returns
    -------
    The figure: one colour and hatch for each layer, the same in every map. Dashed lines are the borders of
    the rule, what it would take stands above them.

    Raises
    ------
    BadInput : no map, or a dataset that is none.
    """
    if not maps or any(not isinstance(ds, xr.Dataset) or "best" not in ds for ds in maps):
        raise BadInput("this figure draws maps from depprobe.decision_map or depprobe advise --map")
    names = sorted({name for ds in maps for name in _names(ds)})
    looks: dict[str, tuple[Any, str]] = {
        name: (_pale(COLOURS[i % len(COLOURS)]), _HATCHES[i % len(_HATCHES)]) for i, name in enumerate(names)
    }
    looks[_NONE] = ("white", "xx")
    shown: set[str] = set()
    with styled(), matplotlib.rc_context({"hatch.linewidth": 0.5}):
        width = PAGE if len(maps) > 1 else 1.35 * COLUMN
        figure = Figure(layout="constrained")
        axes = list(figure.subplots(1, len(maps), sharey=True, squeeze=False)[0])
        for ax, ds in zip(axes, maps, strict=True):
            shown |= _draw_regions(ax, ds, looks)
            if "border_n" in ds.attrs:
                _draw_borders(ax, ds)
        axes[0].set_ylabel("lag of the dependency (positions)")
        keys = [
            Patch(facecolor=look[0], hatch=look[1], edgecolor="0.3", linewidth=0.4, label=name)
            for name, look in looks.items()
            if name in shown
        ]
        borders = dict.fromkeys(ds.attrs["border_name"] for ds in maps if "border_name" in ds.attrs)
        lines = [axes[0].plot([], [], **_DASHED, label=name)[0] for name in borders]
        columns = 3 if len(maps) > 1 else 2
        narrow: dict[str, Any] = {"handlelength": 2.2, "columnspacing": 1.0}
        figure.legend(handles=[*keys, *lines], loc="outside lower center", ncols=columns, **narrow)
        figure.set_size_inches(width, 2.8 + 0.16 * math.ceil((len(keys) + len(lines)) / columns))
    return DecisionMap(figure, axes)


def _draw_regions(ax: Axes, ds: xr.Dataset, looks: dict[str, tuple[Any, str]]) -> set[str]:
    """A rectangle for each cell of the map; gives the names that occur."""
    n, lag = _edges(ds["n"].values), _edges(ds["lag"].values)
    values, shown = ds["best"].transpose("lag", "n").values, set()
    ax.set(xscale="log", yscale="log", xlim=(n[0], n[-1]), ylim=(lag[0], lag[-1]))
    ax.set_facecolor("0.93")
    for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
        index = int(values[row, column])
        name = _names(ds)[index] if index >= 0 else _NONE
        shown.add(name)
        face, hatch = looks[name]
        size = n[column + 1] - n[column], lag[row + 1] - lag[row]
        ax.add_patch(
            Rectangle((n[column], lag[row]), *size, facecolor=face, hatch=hatch, edgecolor="0.3", linewidth=0)
        )
    ax.text(0.04, 0.96, "lag not below $n$", transform=ax.transAxes, va="top", fontsize=SMALL, color=GREY)
    ax.set_xlabel("sequence length $n$ (positions)")
    what = "per-token latency" if ds.attrs["stream"] else "training step"
    ax.set_title(f"{what}, $d$ = {ds.attrs['d']}", loc="left", pad=25)
    return shown


def _draw_borders(ax: Axes, ds: xr.Dataset) -> None:
    low, high = ax.get_xlim()
    borders = list(map(float, ds.attrs["border_n"]))
    for border in borders:
        ax.axvline(border, **_DASHED)
    ax.plot(borders, [float(ds.attrs["border_lag"])] * 2, **_DASHED)
    edges = (low, *borders, high)
    for leaf, left, right in zip(ds.attrs["border_regions"].split(";"), edges[:-1], edges[1:], strict=True):
        place = (np.sqrt(left * right), 1.02)
        where: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        ax.text(*place, leaf, fontsize=SMALL, linespacing=1.0, **where)


def _names(ds: xr.Dataset) -> list[str]:
    return str(ds.attrs["layers"]).split(";") if ds.attrs["layers"] else []


def _pale(colour: str) -> tuple[float, float, float]:
    """Most of the way to white, so that hatches and borders stand out."""
    red, green, blue = to_rgb(colour)
    return (0.6 + 0.4 * red, 0.6 + 0.4 * green, 0.6 + 0.4 * blue)


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges of cells around values, half way between them in the logarithm."""
    logs = np.log(values.astype(float))
    if len(logs) == 1:
        return np.exp([logs[0] - 1, logs[0] + 1])
    inner = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - inner[0]], inner, [2 * logs[-1] - inner[-1]]]))
