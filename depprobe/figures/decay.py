r"""The decay curve: how the norm of J[t,k] falls with the lag t - k.

Line: median over targets, samples and seeds. Band: 5 to 95 %. Axis: log10, however far beyond floats.
An exact zero has no place on a logarithmic axis, so a curve that reaches one ends in a marker there, and a
band whose lower edge is one shows its upper edge only; what is unknown is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

from depprobe.curves import decay_curve
from depprobe.errors import BadInput, unknown
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.drawn_curve import ENDS, Curve, end_marker
from depprobe.figures.drawing.float_limits import draw_limits
from depprobe.figures.drawing.log_axis import typical_floor, use_decades, with_room
from depprobe.figures.drawing.style import COLUMN, GREY, PAGE, figure_of, line_style, styled
from depprobe.figures.drawing.theory_curves import draw_theory

XSCALES = ("auto", "linear", "log")
#: "auto" goes logarithmic where some curve would fill less than this share of the axis
_SHARE_SEEN = 0.05


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
    """

    figure: Figure
    ax: Axes
    lines: list[Line2D]
    bands: list[PolyCollection | None]
    edges: list[Line2D | None]
    ends: list[Line2D]
    limits: list[Line2D]
    theory: list[Line2D]


def decay(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    ax: Axes | None = None,
    labels: Sequence[str] | None = None,
    xscale: Literal["auto", "linear", "log"] = "auto",
    floor: float | None = None,
    theory: xr.Dataset | None = None,
) -> DecayDrawing:
    """Draw decay curves: median and 5 to 95 % band of the norm of J[t,k] against the lag.

    Parameters
    ----------
    datasets : one dataset or several to overlay, each what ``depprobe.decay_curve`` gives, over (lag) or
        (layer, lag), or a Jacobian dataset, which is pooled first.
    ax : where to draw; None makes a figure.
    labels : one name for each layer of each dataset; None takes the spec strings.
    xscale : ``linear`` shows exponential decay as a straight line; ``log`` shows power laws as one, and short
        supports beside long ones (it is linear from lag -1 to 1, so that lag 0 and the future have a place);
        ``auto`` is ``log`` where some curve is shorter than 5 % of the longest, else ``linear``.
    floor : log10 of the lowest norm shown; None shows all, unless one layer among three or more would flatten
        the others, and then the legend says where the axis is cut; ``-math.inf`` shows all whatever happens.

    theory : what ``depprobe.probes.theory.theory`` gave; drawn thin and dashed, the axes staying as they are.

    Returns
    -------
    What was drawn. The y axis holds log10 of the norm: use ``ax.set_ylim(-300, 0)`` for 1e-300 to 1.

    Raises
    ------
    BadInput : not such datasets, no norm in them that is known and not zero, or a wrong number of labels.

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
    if xscale not in XSCALES:
        raise unknown("xscale", str(xscale), XSCALES)
    named = wording.by_layer([_pooled(ds) for ds in wording.as_list(datasets)], labels)
    parts = [part for _, part in named]
    curves = [Curve.of(part) for part in parts]
    lags = np.concatenate([curve.shown for curve in curves])
    if not lags.size:
        raise BadInput("nothing to draw: every norm is exactly zero or unknown")

    wording.check_number("floor", floor)
    with styled():
        own = ax is None
        if ax is None:
            figure = Figure(figsize=(COLUMN, 3.0), layout="constrained")
            ax = figure.add_subplot()
        figure = figure_of(ax)
        _scale_lags(ax, xscale, curves, float(lags.min()), float(lags.max()))
        shown, cut = _scale_norms(ax, curves, floor)

        lines, bands, edges, ends = [], [], [], []
        predicted: list[Line2D] = []
        kinds = set()
        for i, ((name, part), curve) in enumerate(zip(named, curves, strict=True)):
            look = line_style(i)
            bands.append(curve.draw_band(ax, look["color"]))
            edges.append(curve.draw_edge(ax, look["color"]))
            # a lone line needs no marker to be told from others
            lines.append(curve.draw_line(ax, look, marked=len(curves) > 1))
            lines[-1].set_label(wording.printable(name))
            if theory is not None:
                said = wording.printable(name)
                predicted += draw_theory(ax, theory, part, curve, look["color"], said)
            for end in filter(None, (curve.end(-1), curve.end(1))):
                lag, height, kind = end
                ends.append(ax.add_line(end_marker(kind, look["color"], [lag], [height])))
                kinds.add(kind)
        limits = draw_limits(ax, [(curve.lag, curve.median) for curve in curves], *shown)

        handles: list[Artist] = [*lines, *predicted]
        if any(band is not None for band in bands):
            handles.append(Patch(color=GREY, alpha=0.25, linewidth=0, label="5 to 95 %"))
        if any(edge is not None for edge in edges):
            handles.append(Line2D([], [], color=GREY, linewidth=0.6, label="95 %, the 5 % exactly zero"))
        handles += [end_marker(kind, GREY) for kind in ENDS if kind in kinds]
        if cut is not None:
            handles.append(_note(rf"axis cut; lowest norm $10^{{{cut:.0f}}}$"))
        horizon = min(
            (part.attrs["horizon_lag"] for part in parts if "horizon_lag" in part.attrs), default=None
        )
        if horizon is not None:
            words = f"lag {horizon}: rounding determines the states"
            handles.append(ax.axvline(horizon, color=GREY, lw=0.8, ls=":", zorder=0.5, label=words))
        blind = wording.unknown_norms(parts)
        if blind:
            handles.append(_note(f"{blind}, left out"))
        both = ", negative in the future" if lags.min() < 0 else ""
        ax.set_xlabel(f"lag $t - k$ (positions{both})")
        ax.set_ylabel(wording.norm_label(parts))
        ax.set_title(wording.conditions(parts), loc="left")
        _add_legend(figure, ax, handles, own)
    return DecayDrawing(figure, ax, lines, bands, edges, ends, limits, predicted)


def _pooled(ds: xr.Dataset) -> xr.Dataset:
    return decay_curve(ds) if "log_median" not in ds else ds


def _scale_lags(ax: Axes, xscale: str, curves: Sequence[Curve], low: float, high: float) -> None:
    if xscale == "auto":
        reach = [np.abs(curve.shown).max() for curve in curves if curve.shown.size]
        xscale = "log" if min(reach) < _SHARE_SEEN * max(reach) else "linear"
    if xscale == "log":
        ax.set_xscale("symlog", linthresh=1, linscale=0.5, subs=range(2, 10))
        ax.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1))
        ax.xaxis.set_major_formatter(
            FuncFormatter(lambda lag, _: f"{lag:.0f}".replace("-", "\N{MINUS SIGN}"))
        )
    transform = ax.xaxis.get_transform()
    ends = transform.transform(np.array([low, high]))
    pad = 0.03 * (ends[1] - ends[0]) or 0.5
    ax.set_xlim(*transform.inverted().transform(np.array([ends[0] - pad, ends[1] + pad])))
    if low < 0 < high:
        ax.axvline(0, color=GREY, linewidth=0.5, zorder=0.5)


def _scale_norms(
    ax: Axes, curves: Sequence[Curve], floor: float | None
) -> tuple[tuple[float, float], float | None]:
    """Set the y axis; returns the range of norms in view, and the lowest norm where that is cut off."""
    each = [np.concatenate([c.median, c.low, c.high]) for c in curves]
    each = [values[np.isfinite(values)] for values in each]
    bottoms = [float(values.min()) for values in each if values.size]
    lowest, high = min(bottoms), max(float(values.max()) for values in each if values.size)
    if floor is None:
        floor = typical_floor(bottoms, high)
    low = lowest if floor is None else max(lowest, floor)
    if low > high:
        raise BadInput(f"nothing to draw above floor {floor:g}: the largest norm is 1e{high:.1f}")
    if high - low < 2:
        # a flat curve should not lie on the edge
        low, high = with_room(low, high)
    pad = 0.04 * (high - low)
    ax.set_ylim(low - pad if low <= lowest else low, high + pad)
    use_decades(ax.yaxis)
    return (low, high), (lowest if lowest < low else None)


def _note(words: str) -> Line2D:
    return Line2D([], [], linestyle="None", label=words)


def _add_legend(figure: Figure, ax: Axes, handles: list[Artist], own: bool) -> None:
    labels = [str(handle.get_label()) for handle in handles]
    if not own:
        ax.legend(handles, labels, loc="best")
        return
    crowded = len(labels) > 6
    columns = 3 if crowded else 2 if len(labels) > 1 else 1
    rows = sum(1 + label.count("\n") for label in labels) / columns
    figure.set_size_inches(PAGE if crowded else COLUMN, (3.4 if crowded else 2.9) + 0.16 * rows)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
