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

from depprobe.errors import BadInput
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.style import COLOURS, COLUMN, GREY, PAGE, RC, SMALL, figure_of, styled

Floats = NDArray[np.float64]

#: most panels of a figure
PANELS = 12
#: contours that are drawn, as log10
_LEVELS = (-5.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5)


class SpectrumDrawing(NamedTuple):
    """What ``spectrum`` drew, one entry a panel.

    Attributes
    ----------
    figure, axes : where it was drawn.
    eigenvalues : the points.
    circles : the circular law's circle, None where there is none (step Jacobians).
    contours : of the pseudospectrum, None where the dataset holds none.
    """

    figure: Figure
    axes: list[Axes]
    eigenvalues: list[PathCollection]
    circles: list[Circle | None]
    contours: list[QuadContourSet | None]


def spectrum(
    datasets: xr.Dataset | Sequence[xr.Dataset], *, axes: Sequence[Axes] | Axes | None = None
) -> SpectrumDrawing:
    """Draw eigenvalues in the complex plane, one panel for each matrix.

    Parameters
    ----------
    datasets : one dataset or several, each what ``depprobe.spectrum`` gives.
    axes : where to draw, one for each matrix; None makes a figure, of the first 12 matrices.

    Returns
    -------
    What was drawn; all panels have equal aspect.

    Raises
    ------
    BadInput : not such datasets, or a wrong number of axes.

    Examples
    --------
    >>> ds = xr.Dataset(
    ...     {"eigenvalue": (("weight", "mode", "part"), [[[0.5, 0.5], [0.5, -0.5]]])},
    ...     coords={"weight": ["W"], "part": ["real", "imag"]},
    ... )
    >>> spectrum(ds).eigenvalues[0].get_offsets().tolist()
    [[0.5, 0.5], [0.5, -0.5]]
    """
    given = wording.as_list(datasets)
    parts = [_of_one(ds, i) for ds in given for i in range(_count(ds))]
    if not parts:
        raise BadInput("nothing to draw: no dataset was given")
    total = len(parts)
    with styled():
        if axes is None:
            parts = parts[:PANELS]
            panels, figure = _panels(len(parts))
        else:
            panels = [axes] if isinstance(axes, Axes) else list(axes)
            if len(panels) != total:
                raise BadInput(f"{total} matrices need {total} axes, not {len(panels)}")
            figure = figure_of(panels[0])
        drawn: list[tuple[PathCollection, Circle | None, QuadContourSet | None]] = []
        layers = {str(part.attrs.get("layer", "")) for part in parts}
        for ax, part in zip(panels, parts, strict=True):
            drawn.append(_draw(ax, part))
            name = str(part["weight"].item())
            if len(layers) > 1:
                name = f"{part.attrs.get('layer')} {name}"
            # narrow panels: a line for each word of the name
            pieces = re.split(r" (?!\d)", name) if len(panels) > 1 else [name]
            ax.set_title("\n".join(wording.printable(word, 20) for word in pieces), loc="left")
        x, y = "real part (dimensionless)", "imaginary part (dimensionless)"
        if axes is None:
            # labels no longer than a small panel
            size = SMALL if len(parts) > 3 else RC["axes.labelsize"]
            for ax in panels:
                below = ax.get_subplotspec()
                if below is None or below.is_last_row():
                    ax.set_xlabel(x, fontsize=size)
                if below is None or below.is_first_col():
                    ax.set_ylabel(y, fontsize=size)
            figure.suptitle(_conditions(parts), x=0.02, ha="left", fontsize="medium")
            handles = _handles(drawn)
            if total > len(parts):
                words = f"first {len(parts)} of {total} matrices"
                handles.append(Line2D([], [], linestyle="None", label=words))
            figure.legend(
                handles=handles,
                loc="outside lower center",
                ncols=2 if len(parts) == 1 else min(len(handles), 4),
            )
            _fit_height(figure, panels)
        else:
            for ax in panels:
                ax.set_xlabel(x)
                ax.set_ylabel(y)
    points, circles, contours = (list(column) for column in zip(*drawn, strict=True))
    return SpectrumDrawing(figure, panels, points, circles, contours)


def _conditions(parts: Sequence[xr.Dataset]) -> str:
    """One line on where the matrices are from, of what they share."""
    layers = {str(part.attrs.get("layer", "")) for part in parts}
    named = [wording.printable(layers.pop(), 50)] if len(layers) == 1 else []
    # a matrix of every seed stands along weight
    seeds = {int(part["matrix_seed"]) for part in parts if "matrix_seed" in part}
    sizes = wording.sizes([part.assign_attrs(seeds=len(seeds)) for part in parts])
    return ",  ".join([*filter(None, named), *sizes])


def _fit_height(figure: Figure, panels: Sequence[Axes]) -> None:
    """Give the figure the height that its panels of equal aspect, title and legend take, and no more."""
    figure.draw_without_rendering()
    columns = _columns(len(panels))
    tall = [ax.get_tightbbox() for ax in panels]
    rows = [max(box.height for box in tall[i : i + columns] if box) for i in range(0, len(tall), columns)]
    around = [figure.legends[0].get_window_extent(), *(text.get_window_extent() for text in figure.texts)]
    inches = (sum(rows) + sum(box.height for box in around)) / figure.dpi
    # what the layout keeps free above and below each of them
    free = 2 * 3 / 72 * (len(rows) + len(around)) + 0.02 * inches
    figure.set_size_inches(figure.get_figwidth(), inches + free)


def _count(ds: xr.Dataset) -> int:
    if "eigenvalue" not in ds or "weight" not in ds["eigenvalue"].dims:
        raise BadInput("not a dataset of spectra: it has no eigenvalue(weight, mode, part)")
    return int(ds.sizes["weight"])


def _of_one(ds: xr.Dataset, index: int) -> xr.Dataset:
    return ds.isel(weight=index)


def _columns(count: int) -> int:
    return min(count, 4 if count > 6 or count == 4 else 3)


def _panels(count: int) -> tuple[list[Axes], Figure]:
    columns = _columns(count)
    rows = math.ceil(count / columns)
    if count == 1:
        width, height = COLUMN, COLUMN + 0.6
    else:
        width = PAGE
        height = rows * (PAGE / columns + 0.25) + 0.5
    figure = Figure(figsize=(width, height), layout="constrained")
    return [figure.add_subplot(rows, columns, i + 1) for i in range(count)], figure


def _draw(ax: Axes, part: xr.Dataset) -> tuple[PathCollection, Circle | None, QuadContourSet | None]:
    values = part["eigenvalue"].transpose("mode", "part").sel(part=["real", "imag"]).values
    values = values[np.isfinite(values).all(1)]
    contours = _contours(ax, part)
    ax.add_patch(Circle((0, 0), 1, fill=False, edgecolor="black", linewidth=0.8))
    radius = float(part["circular_radius"]) if "circular_radius" in part else math.nan
    circle = None
    if math.isfinite(radius) and radius > 0:
        circle = Circle((0, 0), radius, fill=False, edgecolor=COLOURS[1], linewidth=1.0, linestyle="--")
        ax.add_patch(circle)
    size = 3.0 if len(values) > 100 else 8.0
    points = ax.scatter(values[:, 0], values[:, 1], s=size, color=COLOURS[0], linewidths=0, zorder=3)
    reach = 1.15 * max(1.0, radius if circle else 0.0, float(np.abs(values).max(initial=0.0)))
    ax.set_xlim(-reach, reach)
    ax.set_ylim(-reach, reach)
    ax.set_aspect("equal")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    if contours is not None:
        _label_contours(ax, contours, values, [1.0, radius] if circle else [1.0])
    return points, circle, contours


def _contours(ax: Axes, part: xr.Dataset) -> QuadContourSet | None:
    if "log_resolvent" not in part:
        return None
    heights = part["log_resolvent"].transpose("row", "column").values / math.log(10)
    radius = float(part["grid_radius"])
    # the smallest singular value changes by at most |dz|: what is below the grid's spacing was not resolved
    seen = math.log10(radius * float(np.diff(part["row"].values).max())) if radius > 0 else math.inf
    levels = [level for level in _LEVELS if seen < level < np.nanmax(heights, initial=-9)]
    if not math.isfinite(radius) or not levels:
        return None
    return ax.contour(
        radius * part["column"].values,
        radius * part["row"].values,
        heights,
        levels=levels,
        colors=GREY,
        linewidths=0.6,
        linestyles="-",
        zorder=1,
    )


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
        ax.clabel(drawn, [level], fmt={level: words}, fontsize=SMALL - 1, manual=[(x, y)], zorder=4)
        for text in drawn.labelTexts[before:]:
            # legible also where there is no room beside a line
            text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])


def _handles(drawn: Sequence[tuple[Any, Circle | None, QuadContourSet | None]]) -> list[Line2D]:
    handles = [
        Line2D([], [], linestyle="None", marker="o", color=COLOURS[0], label="eigenvalues"),
        Line2D([], [], color="black", linewidth=0.8, label="unit circle"),
    ]
    if any(circle for _, circle, _ in drawn):
        words = r"circular law, radius $\sqrt{d}$ sd(entries)"
        handles.append(Line2D([], [], color=COLOURS[1], linestyle="--", linewidth=1.0, label=words))
    if any(contours for _, _, contours in drawn):
        words = r"$\log_{10} \sigma_{\min}(zI - W)$"
        handles.append(Line2D([], [], color=GREY, linewidth=0.6, label=words))
    return handles
