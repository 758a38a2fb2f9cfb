r"""Spectra in the complex plane: eigenvalues, the unit circle, the circular law, the pseudospectrum.

One panel a matrix. Contours are log10 of the smallest singular value of zI - W: where the contour -2 leaves
the unit circle, a perturbation of norm 0.01 makes the recurrence unstable. The circular law is where
eigenvalues of a wide matrix with independent entries of this spread end (Girko 1984).
"""

from __future__ import annotations

import math
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
from matplotlib.ticker import MaxNLocator

from depprobe.errors import BadInput
from depprobe.figures import wording
from depprobe.figures.style import COLOURS, COLUMN, GREY, PAGE, SMALL, figure_of, styled

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
            pieces = name.split(" ") if len(panels) > 1 else [name]
            ax.set_title("\n".join(wording.printable(word, 20) for word in pieces), loc="left")
        if axes is None:
            for ax in panels:
                below = ax.get_subplotspec()
                if below is None or below.is_last_row():
                    ax.set_xlabel("real part (dimensionless)")
                if below is None or below.is_first_col():
                    ax.set_ylabel("imaginary part (dimensionless)")
            handles = _handles(drawn)
            if total > len(parts):
                words = f"first {len(parts)} of {total} matrices"
                handles.append(Line2D([], [], linestyle="None", label=words))
            figure.legend(
                handles=handles, loc="outside lower center", ncols=2 if len(parts) == 1 else len(handles)
            )
        else:
            for ax in panels:
                ax.set_xlabel("real part (dimensionless)")
                ax.set_ylabel("imaginary part (dimensionless)")
    points, circles, contours = (list(column) for column in zip(*drawn, strict=True))
    return SpectrumDrawing(figure, panels, points, circles, contours)


def _count(ds: xr.Dataset) -> int:
    if "eigenvalue" not in ds or "weight" not in ds["eigenvalue"].dims:
        raise BadInput("not a dataset of spectra: it has no eigenvalue(weight, mode, part)")
    return int(ds.sizes["weight"])


def _of_one(ds: xr.Dataset, index: int) -> xr.Dataset:
    return ds.isel(weight=index)


def _panels(count: int) -> tuple[list[Axes], Figure]:
    columns = min(count, 4 if count > 6 or count == 4 else 3)
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
    drawn = ax.contour(
        radius * part["column"].values,
        radius * part["row"].values,
        heights,
        levels=levels,
        colors=GREY,
        linewidths=0.6,
        linestyles="-",
        zorder=1,
    )
    ax.clabel(drawn, fmt=lambda level: f"{level:g}".replace("-", "\N{MINUS SIGN}"), fontsize=SMALL - 1)
    return drawn


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
