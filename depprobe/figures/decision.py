"""Which layer to take over length and dependency distance, with the borders of a rule if the map has any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from depprobe.errors import BadInput, wrong_number
from depprobe.figures.displaying import displayed
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.fitting import ABREAST, add_legend, add_title, fit_height
from depprobe.figures.drawing.style import (
    GREY,
    axes_given,
    colour,
    figure_of,
    new_figure,
    style_for,
    thin,
)
from depprobe.renaming import renamed_argument

_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "+++", "---", "|||", "***")
_NONE = "none of them"


@displayed
class DecisionMap(NamedTuple):
    """The figure, its axes, one for each map, what the legend shows, and a caption for a paper."""

    figure: Figure
    axes: list[Axes]
    handles: list[Artist]
    caption: str


@renamed_argument("axes", "ax", since="0.3")
@wording.asks
def decision(
    *maps: xr.Dataset,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
    legend: bool = True,
    labels: Sequence[str] | None = None,
    floor: float | None = None,
) -> DecisionMap:
    """Draw the regions of one map, or of several side by side.

    Parameters
    ----------
    maps : from ``depprobe.decision_map``; ``best`` over (lag, n). The borders of a rule are attributes:
        ``border_n``, two lengths; ``border_lag``, a lag between them; ``border_regions``, what the rule takes
        left of, between and right of them, separated by semicolons; ``border_name``, for the legend.
    ax : one Axes for each map, drawn into in the settings of matplotlib that are in force and without a
        title; None makes a figure in the style of the house.
    title : heads the figure, or the first of the axes given; None leaves it out.
    legend : whether to add a legend.
    labels : one name for each layer, in the alphabetical order of their spec strings; None takes these.
    floor : log10 of the shortest lag shown; None shows all.

    Returns
    -------
    The figure: one colour and hatch for each layer, the same in every map. Dashed lines are the borders of
    the rule, what it would take stands above them.

    Raises
    ------
    BadInput : no map, a dataset that is none, a wrong number of axes or labels.
    """
    if not maps or any(not isinstance(ds, xr.Dataset) or "best" not in ds for ds in maps):
        raise BadInput("this figure draws maps from depprobe.decision_map or depprobe advise --map")
    wording.check_number("floor", floor)
    names = sorted({name for ds in maps for name in _names(ds)})
    if labels is not None and len(labels) != len(names):
        raise wrong_number(len(labels), "label", len(names), "layer")
    said = dict(zip(names, labels or names, strict=True)) | {_NONE: _NONE}
    given = axes_given(ax, len(maps), f"a figure of {len(maps)} maps")
    with style_for(given), matplotlib.rc_context({"hatch.linewidth": thin(0.4)}):
        looks: dict[str, tuple[Any, str]] = {
            name: (_pale(colour(i)), _HATCHES[i % len(_HATCHES)]) for i, name in enumerate(names)
        }
        looks[_NONE] = ("white", "xx")
        axes = given or _panels(len(maps))
        figure = figure_of(axes[0])
        shown: set[str] = set()
        for i, (panel, ds) in enumerate(zip(axes, maps, strict=True)):
            shown |= _draw_regions(panel, ds, looks)
            if floor is not None:
                panel.set_ylim(bottom=10.0**floor)
            if "border_n" in ds.attrs:
                _draw_borders(panel, ds)
            if given is None:
                panel.set_title(_subject(ds), loc="left", pad=25 if "border_n" in ds.attrs else None)
            elif title and i == 0:
                panel.set_title(title)
        axes[0].set_ylabel("lag of the dependency (positions)")
        handles: list[Artist] = [
            Patch(facecolor=face, hatch=hatch, edgecolor="0.3", linewidth=thin(1 / 3), label=said[name])
            for name, (face, hatch) in looks.items()
            if name in shown
        ]
        borders = dict.fromkeys(ds.attrs["border_name"] for ds in maps if "border_name" in ds.attrs)
        handles += [axes[0].plot([], [], **_dashed(), label=name)[0] for name in borders]
        if legend:
            add_legend(figure if given is None else axes[-1], handles)
        if given is None:
            add_title(figure, title or "", [])
            fit_height(figure, axes[:1] if figure.get_figwidth() >= ABREAST else axes, 1.9)
    return DecisionMap(figure, axes, handles, _caption(maps, bool(borders)))


def _panels(count: int) -> list[Axes]:
    figure = new_figure(count, 3.2)
    abreast = figure.get_figwidth() >= ABREAST
    shape = (1, count) if abreast else (count, 1)
    return list(figure.subplots(*shape, sharey=True, squeeze=False).ravel())


def _subject(ds: xr.Dataset) -> str:
    return f"{'per-token latency' if ds.attrs['stream'] else 'training step'}, $d$ = {ds.attrs['d']}"


def _caption(maps: Sequence[xr.Dataset], borders: bool) -> str:
    return wording.sentences(
        "the cheapest usable layer over sequence length $n$ and lag of the dependency, by predicted times",
        "; ".join(map(_subject, maps)),
        "dashed: borders of a rule, with what it takes above them" if borders else "",
    )


def _dashed() -> dict[str, Any]:
    return {"color": "black", "linestyle": (0, (4, 2)), "linewidth": thin(5 / 6)}


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
    ax.text(0.04, 0.96, "lag not below $n$", transform=ax.transAxes, va="top", fontsize="small", color=GREY)
    ax.set_xlabel("sequence length $n$ (positions)")
    return shown


def _draw_borders(ax: Axes, ds: xr.Dataset) -> None:
    low, high = ax.get_xlim()
    borders = list(map(float, ds.attrs["border_n"]))
    for border in borders:
        ax.axvline(border, **_dashed())
    ax.plot(borders, [float(ds.attrs["border_lag"])] * 2, **_dashed())
    edges = (low, *borders, high)
    for leaf, left, right in zip(ds.attrs["border_regions"].split(";"), edges[:-1], edges[1:], strict=True):
        place = (np.sqrt(left * right), 1.02)
        where: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        ax.text(*place, leaf, fontsize="small", linespacing=1.0, **where)


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
