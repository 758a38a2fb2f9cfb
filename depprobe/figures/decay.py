r"""The decay curve: how the norm of J[t,k] falls with the lag t - k.

Line: median over targets, samples and seeds. Band: 5 to 95 %. Axis: log10, however far beyond floats.
An exact zero has no place on a logarithmic axis, so a curve that reaches one ends in a marker there, and a
band whose lower edge is one shows its upper edge only; what is unknown is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

from depprobe.curves import decay_curve
from depprobe.errors import BadInput, NothingToDraw, require_known
from depprobe.figures.displaying import displayed
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.decay_marks import Marks
from depprobe.figures.drawing.drawn_curve import Curve
from depprobe.figures.drawing.fitting import ABREAST, add_legend, add_title, fit_height, label_along
from depprobe.figures.drawing.float_limits import draw_limits
from depprobe.figures.drawing.log_axis import typical_floor, use_decades, with_room
from depprobe.figures.drawing.style import (
    GREY,
    axes_given,
    figure_of,
    new_figure,
    style_for,
    thin,
    use_whole_numbers,
)
from depprobe.renaming import renamed_argument

XSCALES = ("auto", "linear", "log")
#: more curves than this take a page
_COLUMN_HOLDS = 4
#: inches that the axes are high, and of an axis too short for its label
_HIGH, _NARROW = 2.2, 2.4
#: "auto" goes logarithmic where some curve would fill less than this share of the axis
_SHARE_SEEN = 0.05


@displayed
class DecayDrawing(NamedTuple):
    """What ``decay`` drew.

    Attributes
    ----------
    figure, ax : where it was drawn.
    lines : the median of each curve; x is the lag, y log10 of the norm.
    bands : the 5 to 95 % band of each curve, None where every lag has one block only.
    edges : the 95 % quantile of each curve where the 5 % quantile is exactly zero, None where it never is.
    ends : markers where curves reach exact zeros.
    limits : lines at those limits of the floats that the curves cross.
    theory : predicted curves, layer by layer.
    axes : all axes: one for each kind of step that positions are, tokens and bytes say.
    handles : what the legend shows, labelled.
    caption : a caption for a paper: what was measured, and every mark that is in the figure.
    """

    figure: Figure
    ax: Axes
    lines: list[Line2D]
    bands: list[PolyCollection | None]
    edges: list[Line2D | None]
    ends: list[Line2D]
    limits: list[Line2D]
    theory: list[Line2D]
    axes: list[Axes]
    handles: list[Artist]
    caption: str


@renamed_argument("axes", "ax", since="0.3")
@wording.asks
def decay(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
    legend: bool = True,
    labels: Sequence[str] | None = None,
    xscale: Literal["auto", "linear", "log"] = "auto",
    floor: float | None = None,
    ceiling: float | None = None,
    theory: xr.Dataset | None = None,
) -> DecayDrawing:
    """Draw decay curves: median and 5 to 95 % band of the norm of J[t,k] against the lag.

    Parameters
    ----------
    datasets : one dataset or several to overlay, each what ``depprobe.decay_curve`` gives, over (lag) or
        (layer, lag), or a Jacobian dataset, which is pooled first. Curves whose positions are different
        things, bytes and tokens say, get a panel each.
    ax : where to draw, in the settings of matplotlib that are in force, and without a title; None makes a
        figure in the style of the house. One Axes for each kind of step.
    title : heads the figure, or the axes given; None names what was measured on a figure of its own, ``""``
        leaves it out.
    legend : whether to add a legend: below the figure, or in the axes given.
    labels : one name for each layer of each dataset; None takes the spec strings.
    xscale : ``linear`` shows exponential decay as a straight line; ``log`` shows power laws as one, and short
        supports beside long ones (it is linear from lag -1 to 1, so that lag 0 and the future have a place);
        ``auto`` is ``log`` where some curve is shorter than 5 % of the longest, else ``linear``.
    floor, ceiling : log10 of the lowest and highest norm shown; None shows all, unless one layer among three
        or more would flatten the others, and then the legend says where the axis is cut; a ``floor`` of
        ``-math.inf`` shows all whatever happens.
    theory : what ``depprobe.probes.theory.theory`` gave; drawn thin and dashed, the axes staying as they are.

    Returns
    -------
    What was drawn. The y axis holds log10 of the norm: use ``ax.set_ylim(-300, 0)`` for 1e-300 to 1.

    Raises
    ------
    BadInput : not such datasets, no norm in them that is known and not zero, or a wrong number of labels or
        axes.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> lag = np.arange(100)
    >>> curve = xr.Dataset(
    ...     {name: ("lag", -115.0 * lag) for name in ("log_median", "log_low", "log_high")}
    ...     | {"count": ("lag", lag * 0 + 1), "zeros": ("lag", lag * 0), "unknown": ("lag", lag * 0)},
    ...     coords={"lag": lag},
    ... )
    >>> float(decay(curve).lines[0].get_ydata()[-1].round())
    -4944.0
    """
    require_known("xscale", xscale, XSCALES)
    wording.check_number("floor", floor)
    wording.check_number("ceiling", ceiling)
    if theory is not None and not isinstance(theory, xr.Dataset):
        raise BadInput(f"theory is what depprobe.probes.theory.theory gave, or None; got {theory!r}")
    named = wording.by_layer([pooled(ds) for ds in wording.as_list(datasets)], labels)
    parts = [part for _, part in named]
    curves = [Curve.of(part) for part in parts]
    if not any(curve.shown.size for curve in curves):
        raise NothingToDraw("nothing to draw: every norm is exactly zero or unknown")
    steps = list(dict.fromkeys(map(wording.symbol, parts)))
    given = axes_given(ax, len(steps), f"a figure of curves over {' and '.join(map(_plural, steps))}")

    with style_for(given):
        axes = given or _axes(len(steps), len(curves))
        drawn = Marks(curves)
        for panel, step in zip(axes, steps, strict=True):
            here = [i for i, part in enumerate(parts) if wording.symbol(part) == step]
            _scale_lags(panel, xscale, [curves[i] for i in here])
            shown, drawn.cut = _scale_norms(panel, curves, floor, ceiling)
            for i in here:
                drawn.add(panel, i, *named[i], theory)
            drawn.limits += draw_limits(panel, [(curves[i].lag, curves[i].median) for i in here], *shown)
            both = any((curves[i].shown < 0).any() for i in here)
            panel.set_xlabel(f"lag $t - k$ ({_plural(step)}{_future(panel) if both else ''})")
            if given is not None and title:
                panel.set_title(title)
        known = [wording.norm_label(parts, short) for short in (False, True)]
        axes[0].set_ylabel(known[0] if given is None else label_along(axes[0], known))
        handles = drawn.handles(axes, parts)
        figure = figure_of(axes[0])
        if given is None:
            add_title(figure, title, wording.conditions(parts))
        if legend:
            add_legend(figure if given is None else axes[-1], handles)
        if given is None:
            fit_height(figure, axes if figure.get_figwidth() < ABREAST else axes[:1], _HIGH)
    return DecayDrawing(
        figure,
        axes[0],
        drawn.lines,
        drawn.bands,
        drawn.edges,
        drawn.ends,
        drawn.limits,
        drawn.theory,
        axes,
        handles,
        drawn.caption(parts),
    )


def _future(ax: Axes) -> str:
    narrow = ax.get_window_extent().width < _NARROW * figure_of(ax).dpi
    return ",\nnegative in the future" if narrow else ", negative in the future"


def _plural(step: str) -> str:
    return f"{step}s"


def _axes(panels: int, curves: int) -> list[Axes]:
    figure = new_figure(2 if panels > 1 or curves > _COLUMN_HOLDS else 1, 3.0)
    abreast = figure.get_figwidth() >= ABREAST
    shape = (1, panels) if abreast else (panels, 1)
    return [figure.add_subplot(*shape, i + 1) for i in range(panels)]


def pooled(ds: xr.Dataset) -> xr.Dataset:
    """The decay curves of a Jacobian dataset; decay curves as they are."""
    if "log_median" in ds:
        return ds
    curves = decay_curve(ds)
    # the file that it was read from, which may have to name it
    curves.encoding = dict(ds.encoding)
    return curves


def lag_scale(curves: Sequence[Curve]) -> Literal["linear", "log"]:
    """The scale of lags that ``auto`` takes."""
    reach = [np.abs(curve.shown).max() for curve in curves if curve.shown.size]
    return "log" if reach and min(reach) < _SHARE_SEEN * max(reach) else "linear"


def _scale_lags(ax: Axes, xscale: str, curves: Sequence[Curve]) -> None:
    lags = np.concatenate([curve.shown for curve in curves])
    low, high = (float(lags.min()), float(lags.max())) if lags.size else (0.0, 1.0)
    if (lag_scale(curves) if xscale == "auto" else xscale) == "log":
        ax.set_xscale("symlog", linthresh=1, linscale=0.5, subs=range(2, 10))
        ax.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1))
        ax.xaxis.set_major_formatter(
            FuncFormatter(lambda lag, _: f"{lag:.0f}".replace("-", "\N{MINUS SIGN}"))
        )
    else:
        use_whole_numbers(ax.xaxis)
    transform = ax.xaxis.get_transform()
    ends = transform.transform(np.array([low, high]))
    pad = 0.03 * (ends[1] - ends[0]) or 0.5
    ax.set_xlim(*transform.inverted().transform(np.array([ends[0] - pad, ends[1] + pad])))
    if low < 0 < high:
        ax.axvline(0, color=GREY, linewidth=thin(0.4), zorder=0.5)


def _scale_norms(
    ax: Axes, curves: Sequence[Curve], floor: float | None, ceiling: float | None
) -> tuple[tuple[float, float], float | None]:
    """Set the y axis; returns the range of norms in view, and the lowest norm where that is cut off."""
    each = [np.concatenate([c.median, c.low, c.high]) for c in curves]
    each = [values[np.isfinite(values)] for values in each]
    bottoms = [float(values.min()) for values in each if values.size]
    lowest, highest = min(bottoms), max(float(values.max()) for values in each if values.size)
    if floor is None:
        floor = typical_floor(bottoms, highest)
    low = lowest if floor is None or math.isinf(floor) else floor
    high = highest if ceiling is None or math.isinf(ceiling) else ceiling
    if low > high:
        where = f"above floor {floor:g}" if ceiling is None else f"between {low:g} and ceiling {ceiling:g}"
        raise BadInput(f"nothing to draw {where}: the largest norm is 1e{highest:.1f}")
    if high - low < 2 and low == lowest and high == highest:
        # a flat curve should not lie on the edge
        low, high = with_room(low, high)
    pad = 0.04 * (high - low)
    ax.set_ylim(low if low == floor else low - pad, high if high == ceiling else high + pad)
    use_decades(ax.yaxis)
    return (low, high), (lowest if lowest < low else None)
