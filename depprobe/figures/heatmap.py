"""The heat map: norms of J[t,k] over output position t and input position k, on a logarithmic colour scale.

An exact zero and an unknown are not small norms: each has a colour that is not on the scale.
"""

from __future__ import annotations

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

from depprobe.figures.displaying import displayed
from depprobe.figures.drawing import fitting, style, wording
from depprobe.figures.drawing.grid_cells import Cells, cells
from depprobe.figures.drawing.log_axis import shared_scale, use_decades
from depprobe.figures.drawing.style import GREY, axes_given, figure_of, new_figure, style_for, thin
from depprobe.renaming import renamed_argument
from depprobe.units import counted

Floats = NDArray[np.float64]

#: colours off the scale
ZERO, UNKNOWN, GAP = "#FFFFFF", "#CC79A7", "#E8E8E8"

#: most tokens on an inch of an axis
_TOKENS_PER_INCH = 14
#: most panels in a row, and how wide one is at least with its labels, in inches
_ACROSS, _NARROWEST = 4, 1.1
#: inches that pictures of a single row are high
_STRIP = 0.4
#: cells an inch; at 300 dots an inch none falls between two dots
_PER_INCH = 200


@displayed
class HeatmapDrawing(NamedTuple):
    """What ``heatmap`` drew.

    Attributes
    ----------
    figure, axes : where it was drawn, one Axes per layer.
    images : one RGBA image per layer, (rows, columns, 4); a cell stands for one block, or in large pictures
        for several, of which it shows the largest norm.
    colorbar : its scale is log10 of the norm; None where no norm is known and not zero, or none is wanted.
    legend : the colours off the scale, None where there are none, or none is wanted.
    handles : what the legend shows, labelled.
    caption : a caption for a paper.
    """

    figure: Figure
    axes: list[Axes]
    images: list[AxesImage]
    colorbar: Colorbar | None
    legend: Legend | None
    handles: list[Patch]
    caption: str


@renamed_argument("axes", "ax", since="0.3")
@wording.asks
def heatmap(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
    legend: bool = True,
    labels: Sequence[str] | None = None,
    floor: float | None = None,
    ceiling: float | None = None,
    colorbar: bool = True,
) -> HeatmapDrawing:
    """Draw the norms of J[t,k] as one picture per layer, side by side on one logarithmic colour scale.

    Parameters
    ----------
    datasets : Jacobian datasets, ``log_norm`` over (target, source) or (target, lag), with or without
        (layer, seed, sample) before them; over seeds and samples the median is shown. Sparse targets are thin
        rows with gaps between them.
    ax : one Axes per layer, drawn into in the settings of matplotlib that are in force; None makes a figure
        in the style of the house. Axes that are given get titles only from ``labels``.
    title : heads the figure; None names what was measured on a figure of its own, ``""`` leaves it out.
    legend : whether to add the legend of the colours that are off the scale.
    labels : one title for each layer of each dataset; None takes the spec strings.
    floor, ceiling : log10 of the norms at the ends of the colour scale. None fits them to the data: the scale
        may leave out the smallest 2 % of a layer, and more of one that would leave no colours to the others.
        An arrow on the colour bar says so.
    colorbar : whether to add the colour bar, as tall as the panels.

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
    given = axes_given(ax, len(parts), f"a figure of heat maps of {counted(len(parts), 'layer')}")
    with style_for(given):
        axes = given or _panels(len(parts))
        figure = figure_of(axes[0])
        side = max(one.get_window_extent().width for one in axes) / figure.dpi
        pictures = [cells(part, max(1, round(side * _PER_INCH))) for part in parts]
        known = [picture.values[np.isfinite(picture.values)] for picture in pictures]
        scale = shared_scale([values for values in known if values.size], floor, ceiling)
        colours = _colours()
        images = []
        for panel, (name, _), picture in zip(axes, named, pictures, strict=True):
            images.append(_draw(panel, picture, colours, scale))
            if len(parts) == 1:
                _name_tokens(panel, parts[0], side)
            alone = len(axes) == 1
            if given is None or labels is not None:
                words = wording.printable(name, width=max(12, round(side * 16)))
                panel.set_title(words, fontsize="medium" if alone else "small")
        _label(figure, axes, pictures, own=given is None)
        bar = None
        if colorbar and any(values.size for values in known):
            bar = _draw_scale(figure, axes, colours, scale, np.concatenate(known))
            known_as = [wording.norm_label(parts, short) for short in (False, True)]
            bar.set_label(
                known_as[not _high(pictures)] if given is None else fitting.label_along(axes[0], known_as)
            )
        handles = _handles(parts, pictures)
        off_scale = None
        if legend:
            seen = np.isfinite(pictures[-1].values)
            off_scale = fitting.add_legend(figure if given is None else axes[-1], handles, taken=seen)
        if given is None:
            fitting.add_title(figure, title, wording.conditions(parts))
            first = axes[:: _across(len(axes), figure.get_figwidth())]
            fitting.fit_shapes(figure, first) if _high(pictures) else fitting.fit_height(
                figure, first, _STRIP
            )
        elif title:
            axes[0].set_title(title)
    return HeatmapDrawing(
        figure, axes, images, bar, off_scale, handles, _caption(parts, handles, known, scale)
    )


def _caption(
    parts: Sequence[xr.Dataset], handles: Sequence[Patch], known: Sequence[Floats], scale: tuple[float, float]
) -> str:
    norm, _, _ = wording.norm_label(parts).partition(" (")
    pooled = any(part.sizes.get(dim, 1) > 1 for part in parts for dim in ("seed", "sample"))
    colours = {to_rgba(ZERO): "white", to_rgba(UNKNOWN): "pink", to_rgba(GAP): "grey"}
    cut = any((values < scale[0]).any() for values in known)
    return wording.sentences(
        f"{norm} of the temporal Jacobian over input position $k$ and output position $t$"
        + (", median over seeds and samples" if pooled else ""),
        ", ".join(wording.conditions(parts)),
        "; ".join(f"{colours[to_rgba(patch.get_facecolor())]}: {patch.get_label()}" for patch in handles),
        rf"the arrow of the colour bar stands for norms below $10^{{{scale[0]:.0f}}}$" if cut else "",
    )


def _colours() -> Colormap:
    """Viridis without its brightest end, which on paper is too near to the white of a zero."""
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.93, 256)))


def _rgba(values: Floats, colours: Colormap, scale: tuple[float, float]) -> NDArray[np.uint8]:
    share = np.clip((values - scale[0]) / (scale[1] - scale[0]), 0, 1)
    picture = np.asarray(colours(np.where(np.isnan(share), 0.0, share), bytes=True))
    off_scale = ((np.isneginf(values), ZERO), (np.isnan(values), UNKNOWN), (np.isposinf(values), GAP))
    for cells_off, colour in off_scale:
        picture[cells_off] = np.round(255 * np.array(to_rgba(colour)))
    return picture


def _panels(count: int) -> list[Axes]:
    width = style.width_for(min(count, 2))
    across = _across(count, width)
    down = -(-count // across)
    figure = new_figure(min(count, 2), down * ((width - 1.2) / across + 0.5) + 1.2)
    return [figure.add_subplot(down, across, i + 1) for i in range(count)]


def _across(count: int, width: float) -> int:
    return max(1, min(count, _ACROSS, int((width - 1.0) / _NARROWEST)))


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
    if picture.targets > 1:
        ax.set_box_aspect(1)
    ticks = max(2, min(5, int(ax.get_window_extent().width / ax.figure.figure.dpi / 0.4)))
    for axis in (ax.xaxis, ax.yaxis):
        fewest = 2 if abs(np.diff(axis.get_view_interval())) > 1 else 1  # a single row has one number
        axis.set_major_locator(MaxNLocator(ticks, integer=True, min_n_ticks=fewest))
    return image


def _name_tokens(ax: Axes, part: xr.Dataset, side: float) -> None:
    """Tokens in place of positions, where there is room for each."""
    for axis, name, column in ((ax.xaxis, "source_token", "source"), (ax.yaxis, "target_token", "target")):
        if name not in part.coords or part.sizes[column] > _TOKENS_PER_INCH * side:
            continue
        words = [wording.token(str(word)) for word in part[name].values]
        turned = 90 if axis is ax.xaxis and max(map(len, words)) > 2 else 0
        axis.set_major_locator(FixedLocator(part[column].values.tolist()))
        axis.set_ticklabels(words, fontsize="x-small", rotation=turned)


def _label(figure: Figure, axes: Sequence[Axes], pictures: Sequence[Cells], own: bool) -> None:
    targets = {picture.targets for picture in pictures}
    spans = any(p.t_view[1] - p.t_view[0] > p.targets + 0.5 for p in pictures)
    rows = f", {targets.pop()} targets" if spans and len(targets) == 1 else ""
    x, ys = r"input position $k$", ["$t$"]
    if _high(pictures):
        ys = [rf"output position $t${rows}", r"output position $t$", "$t$"]
    y = ys[0] if own else fitting.label_along(axes[0], ys)
    across = _across(len(axes), figure.get_figwidth())
    same = own and len({(p.t_view, p.k_view) for p in pictures}) == 1
    for i, ax in enumerate(axes):
        # ticks and labels only where no neighbour shows the same ones
        left, bottom = i % across == 0 or not same, i + across >= len(axes) or not same
        size = "small" if len(axes) > 1 and own else None
        ax.set_xlabel(x if bottom else "", fontsize=size)
        ax.set_ylabel(y if left else "", fontsize=size)
        if own:
            ax.tick_params(labelleft=left, labelbottom=bottom)


def _draw_scale(
    figure: Figure, axes: Sequence[Axes], colours: Colormap, scale: tuple[float, float], known: Floats
) -> Colorbar:
    beyond = bool((known < scale[0]).any()), bool((known > scale[1]).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    bar = figure.colorbar(
        ScalarMappable(Normalize(*scale), colours), cax=fitting.bar_beside(axes), extend=extend
    )
    use_decades(bar.ax.yaxis)
    return bar


def _high(pictures: Sequence[Cells]) -> bool:
    return any(picture.targets > 1 for picture in pictures)


def _handles(parts: Sequence[xr.Dataset], pictures: Sequence[Cells]) -> list[Patch]:
    every = np.concatenate([picture.values.ravel() for picture in pictures])
    off_scale = (
        ("exactly zero", ZERO, np.isneginf(every)),
        (wording.kinds_of_unknown(parts), UNKNOWN, np.isnan(every)),
        ("not measured", GAP, np.isposinf(every)),
    )
    return [
        Patch(facecolor=colour, edgecolor=GREY, linewidth=thin(), label=words)
        for words, colour, there in off_scale
        if there.any()
    ]
