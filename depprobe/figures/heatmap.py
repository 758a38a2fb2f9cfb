"""The heat map: norms of J[t,k] over output position t and input position k, on a logarithmic colour scale.

An exact zero and an unknown are not small norms: each has a colour that is not on the scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, ListedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from depprobe.curves.align import UNKNOWN as UNKNOWN_KINDS
from depprobe.errors import BadInput
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.grid_cells import Cells, cells
from depprobe.figures.drawing.log_axis import LN10, typical_floor, use_decades, whole_decades
from depprobe.figures.drawing.style import COLUMN, GREY, PAGE, SMALL, figure_of, styled
from depprobe.vocabulary import STATUS

Floats = NDArray[np.float64]

#: colours off the scale
ZERO, UNKNOWN = "#FFFFFF", "#CC79A7"

#: share of the smallest norms of a layer that the scale may leave out
_LEFT_OUT = 0.02
#: most tokens on an inch of an axis, and their size
_TOKENS_PER_INCH, _TOKEN_SIZE = 15, 5
#: panels in a row
_ACROSS = 4
#: cells an inch; at 300 dots an inch none falls between two dots
_PER_INCH = 200


class HeatmapDrawing(NamedTuple):
    """What ``heatmap`` drew.

    Attributes
    ----------
    figure, axes : where it was drawn, one Axes per layer.
    images : one RGBA image per layer, (rows, columns, 4); a cell stands for one block, or in large pictures
        for several, of which it shows the largest norm.
    colorbar : its scale is log10 of the norm; None where no norm is known and not zero.
    legend : the colours off the scale, None where there are none.
    """

    figure: Figure
    axes: list[Axes]
    images: list[AxesImage]
    colorbar: Colorbar | None
    legend: Legend | None


def heatmap(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    ax: Axes | Sequence[Axes] | None = None,
    labels: Sequence[str] | None = None,
    floor: float | None = None,
    ceiling: float | None = None,
) -> HeatmapDrawing:
    """Draw the norms of J[t,k] as one picture per layer, side by side on one logarithmic colour scale.

    Parameters
    ----------
    datasets : Jacobian datasets, ``log_norm`` over (target, source) or (target, lag), with or without
        (layer, seed, sample) before them; over seeds and samples the median is shown. Targets may be sparse:
        each row then reaches half way to the next.
    ax : one Axes per layer; None makes a figure.
    labels : one title for each layer of each dataset; None takes the spec strings.
    floor, ceiling : log10 of the norms at the ends of the colour scale. None fits them to the data: the scale
        may leave out the smallest 2 % of a layer, and more of one that would leave no colours to the others.
        An arrow on the colour bar says so.

    Returns
    -------
    What was drawn.

    Raises
    ------
    BadInput : not Jacobian datasets, a wrong number of axes or labels, or floor above ceiling.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> t = np.arange(10)
    >>> lag = t[:, None] - t
    >>> ds = xr.Dataset(
    ...     {"log_norm": (("target", "source"), np.where(lag < 0, -np.inf, -500.0 * lag))},
    ...     coords={"target": t, "source": t, "position": ("target", t.astype(float))},
    ... )
    >>> heatmap(ds).images[0].get_array().shape
    (10, 10, 4)
    """
    named = wording.by_layer(datasets, labels)
    parts = [part for _, part in named]
    wording.check_number("floor", floor)
    wording.check_number("ceiling", ceiling)
    given = None if ax is None else [ax] if isinstance(ax, Axes) else list(ax)
    if given is not None and len(given) != len(parts):
        raise BadInput(f"{len(given)} axes were given for {len(parts)} layers")

    with styled():
        axes = _panels(len(parts)) if given is None else given
        figure = figure_of(axes[0])
        side = max(panel.get_window_extent().width for panel in axes) / figure.dpi
        pictures = [cells(part, max(1, round(side * _PER_INCH))) for part in parts]
        known = [picture.values[np.isfinite(picture.values)] for picture in pictures]
        scale = _scale([values for values in known if values.size], floor, ceiling)
        colours = _colours()
        images = []
        for panel, (name, _), picture in zip(axes, named, pictures, strict=True):
            images.append(_draw(panel, picture, colours, scale))
            if len(parts) == 1:
                _name_tokens(panel, parts[0], side)
            alone = len(axes) == 1
            title = wording.printable(name, width=50 if alone else max(12, round(side * 17)))
            panel.set_title(title, fontsize="medium" if alone else SMALL)
        _label(figure, axes, pictures, own=given is None)
        colorbar = None
        if any(values.size for values in known):
            colorbar = _draw_scale(figure, axes, colours, scale, np.concatenate(known))
            colorbar.set_label(wording.norm_label(parts))
        legend = _add_legend(figure, axes, parts, pictures, own=given is None)
        if given is None:
            figure.suptitle(wording.conditions(parts), x=0.02, ha="left", fontsize="medium")
    return HeatmapDrawing(figure, axes, images, colorbar, legend)


def _scale(known: Sequence[Floats], floor: float | None, ceiling: float | None) -> tuple[float, float]:
    """Ends of the colour scale, log10 of norms, a decade apart at least where they come from the data."""
    low, high = -1.0, 0.0
    if known:
        # adding 0 turns -0 into 0
        high = max(float(values.max()) for values in known) + 0.0
        lows = [_robust_low(values) for values in known]
        low = max(min(lows), typical_floor(lows, high) or -math.inf)
    if high - low < 1:
        low, high = whole_decades(low, high)
    ends = (low if floor is None else floor), (high if ceiling is None else ceiling)
    if not ends[0] < ends[1]:
        raise BadInput(f"the colour scale needs floor < ceiling, not {ends[0]:g} and {ends[1]:g}")
    return ends


def _robust_low(values: Floats) -> float:
    lowest, high = float(values.min()), float(values.max())
    low = float(np.quantile(values, _LEFT_OUT))
    # few outliers are left out only if they would cost much of the scale
    return low if low - lowest > 0.3 * (high - lowest) else lowest


def _colours() -> Colormap:
    """Viridis without its brightest end, which on paper is too near to the white of a zero."""
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.93, 256)))


def _rgba(values: Floats, colours: Colormap, scale: tuple[float, float]) -> NDArray[np.uint8]:
    share = np.clip((values - scale[0]) / (scale[1] - scale[0]), 0, 1)
    picture = np.asarray(colours(np.where(np.isnan(share), 0, share), bytes=True))
    for cells_off, colour in ((np.isneginf(values), ZERO), (np.isnan(values), UNKNOWN)):
        picture[cells_off] = np.round(255 * np.array(to_rgba(colour)))
    return picture


def _panels(count: int) -> list[Axes]:
    across = min(count, _ACROSS)
    down = -(-count // across)
    width = COLUMN if count == 1 else PAGE
    side = (width - 1.2) / across
    figure = Figure(figsize=(width, down * (side + 0.25) + 0.7), layout="constrained")
    return [figure.add_subplot(down, across, i + 1) for i in range(count)]


def _draw(ax: Axes, picture: Cells, colours: Colormap, scale: tuple[float, float]) -> AxesImage:
    image = ax.imshow(
        _rgba(picture.values, colours, scale),
        extent=(*picture.k_edges, picture.t_edges[1], picture.t_edges[0]),
        aspect="auto",
        # smoothing would mix zeros with norms
        interpolation="nearest",
    )
    ax.set_xlim(*picture.k_view)
    ax.set_ylim(picture.t_view[1], picture.t_view[0])
    ax.set_box_aspect(1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return image


def _name_tokens(ax: Axes, part: xr.Dataset, side: float) -> None:
    """Tokens in place of positions, where there is room for each."""
    for axis, name, column in ((ax.xaxis, "source_token", "source"), (ax.yaxis, "target_token", "target")):
        if name not in part.coords or part.sizes[column] > _TOKENS_PER_INCH * side:
            continue
        words = [_readable(str(word)) for word in part[name].values]
        turned = 90 if axis is ax.xaxis and max(map(len, words)) > 2 else 0
        axis.set_major_locator(FixedLocator(part[column].values.tolist()))
        axis.set_ticklabels(words, fontsize=_TOKEN_SIZE, rotation=turned)


def _readable(word: str) -> str:
    """A token with its blanks and line ends to be seen, and no mathematics read into it."""
    marks = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5", "$": r"\$"}
    return "".join(marks.get(letter, letter if letter.isprintable() else "\u00b7") for letter in word)


def _label(figure: Figure, axes: Sequence[Axes], pictures: Sequence[Cells], own: bool) -> None:
    targets = {picture.targets for picture in pictures}
    spans = any(p.t_view[1] - p.t_view[0] > p.targets + 0.5 for p in pictures)
    rows = f", {targets.pop()} targets" if spans and len(targets) == 1 else ""
    x, y = r"input position $k$", rf"output position $t${rows}"
    if own and len(axes) > 1:
        figure.supxlabel(x, fontsize="medium")
        figure.supylabel(y, fontsize="medium")
        same = len({(p.t_view, p.k_view) for p in pictures}) == 1
        for i, ax in enumerate(axes):
            # ticks only where no neighbour shows the same ones
            ax.tick_params(
                labelleft=not same or i % _ACROSS == 0, labelbottom=not same or i + _ACROSS >= len(axes)
            )
    else:
        for ax in axes:
            ax.set_xlabel(x)
            ax.set_ylabel(y)


def _draw_scale(
    figure: Figure, axes: Sequence[Axes], colours: Colormap, scale: tuple[float, float], known: Floats
) -> Colorbar:
    below, above = bool((known < scale[0]).any()), bool((known > scale[1]).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    bar = figure.colorbar(
        ScalarMappable(Normalize(*scale), colours), ax=list(axes), extend=extend, fraction=0.05, pad=0.02
    )
    use_decades(bar.ax.yaxis)
    return bar


def _unknown(parts: Sequence[xr.Dataset]) -> str:
    """What kinds of norms the colour of unknown ones stands for."""
    stored = [part["log_norm_status"].values for part in parts if "log_norm_status" in part]
    kinds = [kind for kind in UNKNOWN_KINDS if any((one == STATUS[kind]).any() for one in stored)]
    floors = {part.attrs["log_floor"] for part in parts if "log_floor" in part.attrs}
    below = rf", below $10^{{{max(floors) / LN10:.0f}}}$" if floors and kinds != ["overflow"] else ""
    return (", ".join(kinds) or "unknown") + below


def _add_legend(
    figure: Figure, axes: Sequence[Axes], parts: Sequence[xr.Dataset], pictures: Sequence[Cells], own: bool
) -> Legend | None:
    handles = []
    if any(np.isneginf(picture.values).any() for picture in pictures):
        handles.append(Patch(facecolor=ZERO, edgecolor=GREY, linewidth=0.6, label="exactly zero"))
    if any(np.isnan(picture.values).any() for picture in pictures):
        handles.append(Patch(facecolor=UNKNOWN, edgecolor=GREY, linewidth=0.6, label=_unknown(parts)))
    if not handles:
        return None
    if own:
        return figure.legend(handles=handles, loc="outside lower right", ncols=2)
    return axes[-1].legend(handles=handles, loc="upper right", frameon=True)
