r"""Lyapunov exponents: how each settles as steps are added, and the spectrum with its standard errors.

Left: the running mean of every exponent of a layer; of several layers, of the first exponent of each, with a
band of one standard error about the final value. Right: exponent against index. Zero, where neighbouring
states neither meet nor part, is a line. Exponents that are -inf or unknown have no place and are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from depprobe.errors import BadInput, NothingToDraw
from depprobe.figures.displaying import displayed
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.fitting import ABREAST, add_legend, add_title, fit_height
from depprobe.figures.drawing.style import (
    GREY,
    axes_given,
    figure_of,
    line_style,
    new_figure,
    style_for,
    thin,
    use_whole_numbers,
)
from depprobe.renaming import renamed_argument
from depprobe.units import counted

_UNIT = "nats per step"


@displayed
class LyapunovDrawing(NamedTuple):
    """What ``lyapunov`` drew.

    Attributes
    ----------
    figure, axes : where it was drawn: convergence, spectrum.
    curves : the running means, layer by layer; x is steps after the warm-up.
    spectra : the exponents of each layer with their standard errors; x is the index from 1.
    handles, words : what the legend shows, and what it says of each.
    caption : a caption for a paper.
    """

    figure: Figure
    axes: tuple[Axes, Axes]
    curves: list[list[Line2D]]
    spectra: list[ErrorbarContainer]
    handles: list[Any]
    words: list[str]
    caption: str


@renamed_argument("axes", "ax", since="0.3")
@wording.asks
def lyapunov(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    ax: Sequence[Axes] | None = None,
    title: str | None = None,
    legend: bool = True,
    labels: Sequence[str] | None = None,
    floor: float | None = None,
) -> LyapunovDrawing:
    """Draw the convergence of Lyapunov exponents, and their spectrum with error bars.

    Parameters
    ----------
    datasets : one dataset or several to overlay, each what ``depprobe.lyapunov`` gives.
    ax : two axes, for convergence and spectrum, in the settings of matplotlib that are in force and without a
        title; None makes a figure in the style of the house.
    title : heads the figure, or the first of the axes given; None names what was measured on a figure of its
        own, ``""`` leaves it out.
    legend : whether to add a legend.
    labels : one name for each layer of each dataset; None takes the spec strings.
    floor : the lowest exponent shown, in nats per step; None shows all.

    Returns
    -------
    What was drawn.

    Raises
    ------
    BadInput : not such datasets, or a wrong number of labels or axes.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> ds = xr.Dataset(
    ...     {
    ...         "exponent": ("mode", [0.42, -1.62]),
    ...         "exponent_stderr": ("mode", [0.01, 0.01]),
    ...         "exponent_running": (("step", "mode"), [[0.5, -1.7], [0.42, -1.62]]),
    ...     },
    ...     coords={"mode": [0, 1], "step": [10, 20]},
    ... )
    >>> len(lyapunov(ds).curves[0])
    2
    """
    wording.check_number("floor", floor)
    named = wording.by_layer(datasets, labels)
    parts = [part for _, part in named]
    for part in parts:
        missing = [v for v in ("exponent", "exponent_stderr", "exponent_running") if v not in part]
        if missing:
            raise BadInput(f"not a dataset of Lyapunov exponents: it has no {', '.join(missing)}")
    if not any(np.isfinite(part["exponent"]).any() for part in parts):
        raise NothingToDraw("nothing to draw: every exponent is -inf or unknown")
    given = axes_given(ax, 2, "a figure of Lyapunov exponents")
    with style_for(given):
        left, right = given or _panels()
        figure = figure_of(left)
        curves, spectra, hidden = [], [], 0
        for index, (name, part) in enumerate(named):
            look = line_style(index, name)
            curves.append(_convergence(left, part, look, every=len(named) == 1))
            spectra.append(_spectrum(right, part, look, wording.printable(name)))
            hidden += int((~np.isfinite(part["exponent"])).sum())
        for one in (left, right):
            if floor is not None:
                one.set_ylim(bottom=floor)
            low, high = one.get_ylim()
            if low < 0.15 * (high - low) and high > -0.15 * (high - low):
                one.axhline(0, color=GREY, linewidth=thin(), zorder=0.5)
        use_whole_numbers(left.xaxis)
        left.set_xlabel("steps after the warm-up")
        left.set_ylabel(
            "running mean" + (" of the first\nexponent" if len(named) > 1 else "") + f" ({_UNIT})"
        )
        right.set_xlabel("index of the exponent")
        right.set_ylabel(f"Lyapunov exponent\n({_UNIT})")
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        # the line of the left panel and the points of the right one are of one layer
        handles: list[Any] = [(lines[0], points) for lines, points in zip(curves, spectra, strict=True)]
        words = [str(points.get_label()) for points in spectra]
        if len(named) == 1 and len(curves[0]) > 1:
            handles.append(curves[0][1])
            words.append("running means of the further exponents")
        if left.patches:
            own = GREY if len(named) > 1 else curves[0][0].get_color()
            handles.append(Patch(color=own, alpha=0.2, linewidth=0))
            words.append("first exponent, one standard error either way")
        if hidden:
            handles.append(Line2D([], [], linestyle="None"))
            words.append(f"not shown, \N{MINUS SIGN}inf or unknown: {hidden}")
        said = [*wording.conditions(parts), _errors(parts)]
        if legend:
            add_legend(figure if given is None else right, handles, labels=words)
        if given is None:
            add_title(figure, title, said)
            fit_height(figure, [left] if figure.get_figwidth() >= ABREAST else [left, right], 2.0)
        elif title:
            left.set_title(title)
    return LyapunovDrawing(
        figure, (left, right), curves, spectra, handles, words, _caption(said, hidden, bool(left.patches))
    )


def _panels() -> list[Axes]:
    figure = new_figure(2, 2.9)
    shape = (1, 2) if figure.get_figwidth() >= ABREAST else (2, 1)
    return [figure.add_subplot(*shape, i + 1) for i in range(2)]


def _caption(said: Sequence[str], hidden: int, banded: bool) -> str:
    return wording.sentences(
        "Lyapunov exponents: running means over the steps, and the spectrum with standard errors",
        "band: one standard error either way of the first exponent" if banded else "",
        ", ".join(filter(None, said)),
        f"not shown: {counted(hidden, 'exponent')}, $-\\infty$ or not known" if hidden else "",
    )


def _convergence(ax: Axes, part: xr.Dataset, look: dict[str, Any], every: bool) -> list[Line2D]:
    steps, running = part["step"].values, part["exponent_running"].transpose("step", "mode").values
    shown = range(running.shape[1]) if every else range(1)
    lines = []
    for mode in shown:
        style = {
            "color": look["color"],
            "linestyle": look["linestyle"],
            "linewidth": thin(1.0 if mode == 0 else 0.5),
        }
        alpha = 1.0 if mode == 0 else 0.55
        finite = np.where(np.isfinite(running[:, mode]), running[:, mode], np.nan)
        lines += ax.plot(steps, finite, alpha=alpha, **style)
    final, error = float(part["exponent"][0]), float(part["exponent_stderr"][0])
    if np.isfinite(final) and np.isfinite(error):
        ax.axhspan(final - error, final + error, color=look["color"], alpha=0.2, linewidth=0)
    return lines


def _spectrum(ax: Axes, part: xr.Dataset, look: dict[str, Any], label: str) -> ErrorbarContainer:
    values, errors = part["exponent"].values, part["exponent_stderr"].values
    index = np.arange(1, len(values) + 1)
    keep = np.isfinite(values)
    many = len(values) > 20
    return ax.errorbar(
        index[keep],
        values[keep],
        # an error that is unknown has no bar
        yerr=np.nan_to_num(errors[keep]),
        color=look["color"],
        marker="." if many else look["marker"],
        linestyle="None",
        elinewidth=thin(2 / 3),
        capsize=0 if many else 2,
        label=label,
    )


def _errors(parts: Sequence[xr.Dataset]) -> str:
    """Where the standard errors are from, if all parts share it."""
    found = {str(part.attrs.get("stderr_from", "")) for part in parts}
    source = found.pop() if len(found) == 1 else ""
    return f"standard errors from {source}" if source else ""
