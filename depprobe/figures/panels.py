"""Several figures, of one kind or not, as the panels of one, with shared scales and one legend."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from depprobe.errors import BadInput, wrong_number
from depprobe.figures.cost import cost
from depprobe.figures.decay import decay, lag_scale, pooled
from depprobe.figures.displaying import displayed
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.drawn_curve import Curve
from depprobe.figures.drawing.fitting import ABREAST, add_legend, add_title, fit_height
from depprobe.figures.drawing.style import figure_of, new_figure, shared_looks, style_for
from depprobe.figures.gates import gates
from depprobe.figures.heatmap import heatmap
from depprobe.figures.lyapunov import lyapunov
from depprobe.figures.spectrum import spectrum
from depprobe.vocabulary import KINDS

#: how the legend's note on an axis that is cut begins
_CUT = "axis cut"
#: most panels in a row
_ACROSS = 3
#: kind of dataset -> its figure
_OF_KIND: dict[str, Callable[..., Any]] = {
    "jacobian": decay,
    "spectrum": spectrum,
    "lyapunov": lyapunov,
    "gates": gates,
    "cost": cost,
}
#: inches that panels are high
_HIGH = 2.0


@displayed
class Panels(NamedTuple):
    """What ``panels`` drew.

    Attributes
    ----------
    figure, axes : where it was drawn; the axes by the titles of the panels.
    drawn : what each panel's own function returned, by the same titles.
    handles : what the shared legend shows; empty without one.
    caption : a caption for a paper: what all panels share, then panel by panel what is theirs alone.
    """

    figure: Figure
    axes: dict[str, Axes]
    drawn: dict[str, Any]
    handles: list[Any]
    caption: str


@wording.asks
def panels(
    contents: Mapping[str, xr.Dataset | Sequence[xr.Dataset] | Callable[[Axes], Any]],
    *,
    draw: Callable[..., Any] | None = None,
    share_floor: bool = False,
    share_legend: bool = True,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
    legend: bool = True,
    labels: Sequence[str] | None = None,
    floor: float | None = None,
    across: int | None = None,
) -> Panels:
    """Draw several panels in one figure, each under its title.

    Parameters
    ----------
    contents : title -> the dataset or datasets of a panel, or a function that draws into the Axes it is given
        and returns what a figure function returns.
    draw : the figure function of panels given as datasets: one that fills one Axes, such as
        ``figures.decay``, ``figures.heatmap`` (of one layer each), ``figures.speedup`` or
        ``figures.spectrum`` (of one matrix). None takes that of each panel's kind: of a Jacobian ``decay``,
        with one scale of lags in all panels.
    share_floor : whether panels given as datasets show the same range of norms.
    share_legend : whether one legend below stands for all panels; curves of one name then look alike in all.
    ax : where to draw, one Axes a panel, in the settings of matplotlib that are in force; None makes a figure
        in the style of the house.
    title : heads the figure; None leaves it out.
    legend : whether to add legends.
    labels : one name for each layer of the panels given as datasets, in their order; a layer that several
        panels have may be named once, or in each.
    floor : log10 of the lowest norm shown in panels given as datasets.
    across : panels in a row; None takes as many as fit.

    Returns
    -------
    What was drawn.

    Raises
    ------
    BadInput : no panel, a wrong number of axes or labels, a figure of several axes, or what ``draw`` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> lag = np.arange(20.0)
    >>> ds = xr.Dataset(
    ...     {"log_norm": (("target", "source"), [-lag[::-1]])},
    ...     coords={"target": [19], "source": range(20), "position": ("target", [19.0])},
    ...     attrs={"layer": "lstm"},
    ... )
    >>> drawn = panels({"one": ds, "two": [ds, ds]}, share_floor=True)
    >>> drawn.axes["one"].get_ylim() == drawn.axes["two"].get_ylim()
    True
    """
    if not isinstance(contents, Mapping):
        form = "{'A': a, 'B': b}"
        raise BadInput(f"panels are a mapping from titles to datasets, {form}, not {type(contents).__name__}")
    if not contents:
        raise BadInput("nothing to draw: no panel was given")
    if across is not None and across < 1:
        raise BadInput(f"across must be a number of panels in a row, 1 or more, not {across!r}")
    if draw is not None and not callable(draw):
        raise BadInput(f"draw must be a figure function such as figures.decay, not {draw!r}")
    contents = {str(name): given for name, given in contents.items()}
    held = {name: wording.as_list(given) for name, given in contents.items() if not callable(given)}
    drawing = {name: draw or _figure_of_kind(given[0]) for name, given in held.items()}
    curves = {name: [pooled(ds) for ds in held[name]] for name, own in drawing.items() if own is decay}
    held |= curves
    called = _names(held, labels)
    lags = {"xscale": _lag_scale(curves)} if curves else {}
    options: dict[str, Any] = {} if floor is None else {"floor": floor}
    if share_floor and held:
        options |= _range(drawing, held, called, options)
    theirs = None if ax is None else [ax] if isinstance(ax, Axes) else list(ax)
    if theirs is not None and len(theirs) != len(contents):
        raise BadInput(f"{len(contents)} panels need {len(contents)} axes, not {len(theirs)}")
    every = dict.fromkeys(name for names in called.values() for name in names)
    drawn: dict[str, Any] = {}
    with style_for(theirs), shared_looks(list(every) if share_legend else []):
        axes = theirs or _axes(len(contents), across)
        for place, (name, given) in zip(axes, contents.items(), strict=True):
            # names of matrices are not those of layers, and one heat map goes by the title of its panel
            figured = drawing.get(name)
            nameless = figured is spectrum or (figured is heatmap and labels is None)
            names = None if nameless else called.get(name)
            own = {"labels": names, "legend": legend and not share_legend} | (lags if name in curves else {})
            try:
                drawn[name] = (
                    given(place) if callable(given) else drawing[name](held[name], ax=place, **own, **options)
                )
            except BadInput as error:
                if not re.search(r"needs \d+ axes, not 1", str(error)):
                    raise
                raise BadInput(f"panel {name!r}: {error}; a panel is one, so draw it by itself") from None
            own_title = place.get_title()
            place.set_title("")
            place.set_title(": ".join(filter(None, [wording.printable(name), own_title])), loc="left")
        figure = figure_of(axes[0])
        handles = _merged(drawn) if share_legend and legend else []
        if handles:
            add_legend(figure if theirs is None else axes[-1], handles)
        if theirs is None:
            add_title(figure, title or "", [])
            first = axes[:: _columns(len(axes), across, figure.get_figwidth())]
            fit_height(figure, first, _HIGH)
    return Panels(figure, dict(zip(contents, axes, strict=True)), drawn, handles, _caption(drawn))


def _names(held: Mapping[str, list[xr.Dataset]], labels: Sequence[str] | None) -> dict[str, list[str]]:
    """The names of the curves of each panel."""
    own = {name: [label for label, _ in wording.by_layer(given, None)] for name, given in held.items()}
    if labels is None:
        return own
    every = [label for found in own.values() for label in found]
    different = list(dict.fromkeys(every))
    if len(labels) == len(different):
        names = dict(zip(different, labels, strict=True))
        return {name: [names[label] for label in found] for name, found in own.items()}
    if len(labels) != len(every):
        raise wrong_number(len(labels), "label", len(different), "layer")
    rest = iter(labels)
    return {name: [next(rest) for _ in found] for name, found in own.items()}


def _lag_scale(curves: Mapping[str, list[xr.Dataset]]) -> str:
    """The scale of lags that all panels of decay curves share, logarithmic where one of them needs that."""
    parts = {name: wording.by_layer(given, None) for name, given in curves.items()}
    scales = {lag_scale([Curve.of(part) for _, part in named]) for named in parts.values()}
    return "log" if "log" in scales else "linear"


def _figure_of_kind(ds: xr.Dataset) -> Callable[..., Any]:
    """The figure function of a kind of dataset, decay curves where it has none of its own."""
    kind = next((kind for kind, variable in KINDS.items() if variable in ds.data_vars), "jacobian")
    return _OF_KIND[kind]


def _range(
    drawing: Mapping[str, Callable[..., Any]], held: Any, called: Any, options: dict[str, Any]
) -> dict[str, float]:
    """The lowest and highest norm that any panel shows by itself."""
    low, high = math.inf, -math.inf
    for name, given in held.items():
        place = Figure().add_subplot()
        own = drawing[name](given, ax=place, labels=called[name], legend=False, **options)
        bar = getattr(own, "colorbar", None)
        ends = bar.mappable.get_clim() if bar is not None else place.get_ylim()
        low, high = min(low, *ends), max(high, *ends)
    both = all(draw in (decay, heatmap) for draw in drawing.values())
    return {"floor": low, "ceiling": high} if both else {"floor": low}


def _columns(count: int, across: int | None, width: float) -> int:
    fit = min(_ACROSS, count if count < 4 else 2 if count == 4 else 3)
    return min(count, across or (fit if width >= ABREAST else 1))


def _axes(count: int, across: int | None) -> list[Axes]:
    figure = new_figure(count, 3.0)
    columns = _columns(count, across, figure.get_figwidth())
    rows = math.ceil(count / columns)
    return [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _merged(drawn: Mapping[str, Any]) -> list[Any]:
    """The handles of all panels, one for each label; an axis that is cut differently in each, as a note."""
    found: dict[str, Any] = {}
    for one in drawn.values():
        for handle in getattr(one, "handles", []):
            label = str(handle.get_label())
            # the lowest norms of panels stand in the caption
            key = _CUT if label.startswith(_CUT) else label
            if found.setdefault(key, handle).get_label() != label:
                found[key] = Line2D([], [], linestyle="None", label=_CUT)
    return list(found.values())


def _caption(drawn: Mapping[str, Any]) -> str:
    """The sentences that all captions share, once; then those of each panel alone, under its title."""
    said = {name: wording.split(getattr(one, "caption", "")) for name, one in drawn.items()}
    shared = [one for one in next(iter(said.values())) if all(one in each for each in said.values())]
    own = {name: [one for one in each if one not in shared] for name, each in said.items()}
    return " ".join([*shared, *(f"{name}: {' '.join(each)}" for name, each in own.items() if each)])
