r"""Spectra in the complex plane: eigenvalues, the unit circle, the circular law, the pseudospectrum.

One panel a matrix. Contours are log10 of the smallest singular value of zI - W: where the contour -2 leaves
the unit circle, a perturbation of norm 0.01 makes the recurrence unstable. The circular law is where
eigenvalues of a wide matrix with independent entries of this spread end (Girko 1984).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

from depprobe.errors import BadInput, wrong_number
from depprobe.figures.displaying import displayed
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.fitting import add_legend, add_title, fit_shapes
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
from depprobe.units import counted

Floats = NDArray[np.float64]

#: most panels of a figure
PANELS = 12
#: inches that a panel with its labels is wide at least
_NARROWEST = 1.6
#: contours that are drawn, as log10
_LEVELS = (-5.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5)


@displayed
class SpectrumDrawing(NamedTuple):
    """What ``spectrum`` drew, one entry a panel.

    Attributes
    ----------
    figure, axes : where it was drawn.
    eigenvalues : the points.
    circles : the circular law's circle, None where there is none (step Jacobians).
    contours : of the pseudospectrum, None where the dataset holds none.
    handles : what the legend shows, labelled.
    caption : a caption for a paper.
    """

    figure: Figure
    axes: list[Axes]
    eigenvalues: list[PathCollection]
    circles: list[Circle | None]
    contours: list[QuadContourSet | None]
    handles: list[Line2D]
    caption: str


@renamed_argument("axes", "ax", since="0.3")
@wording.asks
def spectrum(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
    legend: bool = True,
    labels: Sequence[str] | None = None,
    floor: float | None = None,
) -> SpectrumDrawing:
    """Draw eigenvalues in the complex plane, one panel for each matrix.

    Parameters
    ----------
    datasets : one dataset or several, each what ``depprobe.spectrum`` gives.
    ax : where to draw, one for each matrix, in the settings of matplotlib that are in force; None makes a
        figure in the style of the house, of the first 12 matrices. Axes that are given get titles only from
        ``labels``.
    title : heads the figure; None names what was measured on a figure of its own, ``""`` leaves it out.
    legend : whether to add a legend.
    labels : one title for each matrix; None takes their names.
    floor : log10 of the lowest contour drawn; None draws all that the grid resolves.

    Returns
    -------
    What was drawn; all panels have equal aspect.

    Raises
    ------
    BadInput : not such datasets, or a wrong number of axes or labels.

    Examples
    --------
    >>> ds = xr.Dataset(
    ...     {"eigenvalue": (("weight", "mode", "part"), [[[0.5, 0.5], [0.5, -0.5]]])},
    ...     coords={"weight": ["W"], "part": ["real", "imag"]},
    ... )
    >>> spectrum(ds).eigenvalues[0].get_offsets().tolist()
    [[0.5, 0.5], [0.5, -0.5]]
    """
    wording.check_number("floor", floor)
    given = wording.as_list(datasets)
    parts = [ds.isel(weight=i) for ds in given for i in range(_count(ds))]
    if not parts:
        raise BadInput("nothing to draw: no dataset was given")
    total = len(parts)
    names = _names(parts) if labels is None else list(labels)
    if len(names) != total:
        raise wrong_number(len(names), "label", total, "matrix")
    theirs = axes_given(ax, total, f"a figure of {counted(total, 'matrix')}")
    with style_for(theirs):
        parts = parts[:PANELS] if theirs is None else parts
        panels = theirs or _panels(len(parts))
        figure = figure_of(panels[0])
        drawn: list[tuple[PathCollection, Circle | None, QuadContourSet | None]] = []
        columns = _columns(len(parts), figure.get_figwidth())
        for i, (panel, part, name) in enumerate(zip(panels, parts, names, strict=False)):
            drawn.append(_draw(panel, part, floor))
            if theirs is None or labels is not None:
                # narrow panels: a line for each word of the name
                pieces = re.split(r" (?!\d)", name) if len(panels) > 1 else [name]
                panel.set_title("\n".join(wording.printable(word, 20) for word in pieces), loc="left")
            # labels no longer than a small panel
            size = "small" if theirs is None and len(parts) > 3 else None
            if theirs is not None or i + columns >= len(panels):
                panel.set_xlabel("real part", fontsize=size)
            if theirs is not None or i % columns == 0:
                panel.set_ylabel("imaginary part", fontsize=size)
        handles = _handles(drawn)
        if total > len(parts):
            handles.append(Line2D([], [], linestyle="None", label=f"first {len(parts)} of {total} matrices"))
        if legend:
            add_legend(figure if theirs is None else panels[-1], handles)
        if theirs is None:
            add_title(figure, title, _conditions(parts))
            fit_shapes(figure, panels[::columns])
        elif title:
            panels[0].set_title(title)
    points, circles, contours = (list(column) for column in zip(*drawn, strict=True))
    return SpectrumDrawing(figure, panels, points, circles, contours, handles, _caption(parts, handles))


def _names(parts: Sequence[xr.Dataset]) -> list[str]:
    layers = {str(part.attrs.get("layer", "")) for part in parts}
    lead = [f"{part.attrs.get('layer')} " if len(layers) > 1 else "" for part in parts]
    return [before + str(part["weight"].item()) for before, part in zip(lead, parts, strict=True)]


def _caption(parts: Sequence[xr.Dataset], handles: Sequence[Line2D]) -> str:
    contoured = any("sigma" in str(handle.get_label()) for handle in handles)
    return wording.sentences(
        "eigenvalues in the complex plane, one panel for each matrix, with the unit circle",
        f"measured: {', '.join(_conditions(parts))}",
        "dashed: the circular law for independent entries of this spread"
        if any("circular" in str(handle.get_label()) for handle in handles)
        else "",
        r"contours: $\log_{10}$ of the smallest singular value of $zI - W$" if contoured else "",
    )


def _conditions(parts: Sequence[xr.Dataset]) -> list[str]:
    """On where the matrices are from, of what they share."""
    layers = {str(part.attrs.get("layer", "")) for part in parts}
    named = [wording.printable(layers.pop(), 50)] if len(layers) == 1 else []
    # a matrix of every seed stands along weight
    seeds = {int(part["matrix_seed"]) for part in parts if "matrix_seed" in part}
    sizes = wording.sizes([part.assign_attrs(seeds=len(seeds)) for part in parts])
    return [*filter(None, named), *sizes]


def _count(ds: xr.Dataset) -> int:
    if "eigenvalue" not in ds or "weight" not in ds["eigenvalue"].dims:
        raise BadInput("not a dataset of spectra: it has no eigenvalue(weight, mode, part)")
    return int(ds.sizes["weight"])


def _columns(count: int, width: float) -> int:
    wanted = min(count, 4 if count > 6 or count == 4 else 3)
    fit = max(1, min(wanted, int(width / _NARROWEST)))
    return 2 if count == 4 and fit == 3 else fit


def _panels(count: int) -> list[Axes]:
    figure = new_figure(count, 4.0)
    columns = _columns(count, figure.get_figwidth())
    rows = math.ceil(count / columns)
    panels = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for panel in panels:
        panel.set_box_aspect(1)
    return panels


def _draw(
    ax: Axes, part: xr.Dataset, floor: float | None
) -> tuple[PathCollection, Circle | None, QuadContourSet | None]:
    values = part["eigenvalue"].transpose("mode", "part").sel(part=["real", "imag"]).values
    values = values[np.isfinite(values).all(1)]
    contours = _contours(ax, part, floor)
    ax.add_patch(Circle((0, 0), 1, fill=False, edgecolor="black", linewidth=thin(2 / 3)))
    radius = float(part["circular_radius"]) if "circular_radius" in part else math.nan
    circle = None
    if math.isfinite(radius) and radius > 0:
        look = {"edgecolor": colour(1), "linewidth": thin(5 / 6), "linestyle": "--"}
        circle = Circle((0, 0), radius, fill=False, **look)
        ax.add_patch(circle)
    size = 3.0 if len(values) > 100 else 8.0
    points = ax.scatter(values[:, 0], values[:, 1], s=size, color=colour(0), linewidths=0, zorder=3)
    reach = 1.15 * max(1.0, radius if circle else 0.0, float(np.abs(values).max(initial=0.0)))
    ax.set_xlim(-reach, reach)
    ax.set_ylim(-reach, reach)
    ax.set_aspect("equal")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    if contours is not None:
        _label_contours(ax, contours, values, [1.0, radius] if circle else [1.0])
    return points, circle, contours


def _contours(ax: Axes, part: xr.Dataset, floor: float | None) -> QuadContourSet | None:
    if "log_resolvent" not in part:
        return None
    heights = part["log_resolvent"].transpose("row", "column").values / math.log(10)
    radius = float(part["grid_radius"])
    spacing = math.log10(radius * float(np.diff(part["row"].values).max())) if radius > 0 else math.inf
    # a smaller contour around one eigenvalue is lost between the points
    seen = [level for level in _LEVELS if level > spacing or _is_wide(heights < level)]
    levels = [level for level in seen if level < heights.max() and (floor is None or floor < level)]
    if not math.isfinite(radius) or not levels:
        return None
    return ax.contour(
        radius * part["column"].values,
        radius * part["row"].values,
        heights,
        levels=levels,
        colors=GREY,
        linewidths=thin(),
        linestyles="-",
        zorder=1,
    )


def _is_wide(inside: NDArray[np.bool_]) -> bool:
    """Whether most points of a grid within a contour have all neighbours there, so that it is resolved."""
    return bool(2 * minimum_filter(inside, 3).sum() > inside.sum() > 0)


def _label_contours(ax: Axes, drawn: QuadContourSet, points: Floats, radii: Sequence[float]) -> None:
    """Label each contour where circles, eigenvalues and other labels are furthest away."""
    taken = points
    for level, path in zip(drawn.levels, drawn.get_paths(), strict=True):
        # a closed path ends in a vertex that is none
        line = np.asarray(path.vertices)[np.asarray(path.codes) != Path.CLOSEPOLY]
        inside = (np.abs(line) < 0.9 * ax.get_xlim()[1]).all(1)
        if not inside.any():
            continue
        line = line[inside]
        room = np.abs(np.hypot(*line.T)[:, None] - np.asarray(radii)).min(1)
        if len(taken):
            room = np.minimum(room, np.hypot(*(line[:, None] - taken).T).T.min(1))
        x, y = line[room.argmax()]
        taken = np.vstack([taken, [x, y]])
        before = len(drawn.labelTexts)
        words = f"{level:g}".replace("-", "\N{MINUS SIGN}")
        ax.clabel(drawn, [level], fmt={level: words}, fontsize="x-small", manual=[(x, y)], zorder=4)
        for text in drawn.labelTexts[before:]:
            # legible also where there is no room beside a line
            text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])


def _handles(drawn: Sequence[tuple[Any, Circle | None, QuadContourSet | None]]) -> list[Line2D]:
    handles = [
        Line2D([], [], linestyle="None", marker="o", color=colour(0), label="eigenvalues"),
        Line2D([], [], color="black", linewidth=thin(2 / 3), label="unit circle"),
    ]
    if any(circle for _, circle, _ in drawn):
        words = r"circular law, radius $\sqrt{d}$ sd(entries)"
        handles.append(Line2D([], [], color=colour(1), linestyle="--", linewidth=thin(5 / 6), label=words))
    if any(contours for _, _, contours in drawn):
        words = r"$\log_{10} \sigma_{\min}(zI - W)$"
        handles.append(Line2D([], [], color=GREY, linewidth=thin(), label=words))
    return handles
