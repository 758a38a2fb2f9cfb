r"""Gates: does the product of forget gates tell how the gradient decays, and how long do units hold.

Left: norms of the true dc_t/dc_k and dh_t/dc_k (GRU: dh_t/dh_k) and of the product of gates against the
lag, medians over samples and seeds, on an axis of powers of ten however far beyond floats. Right: the
distribution of gate values over positions and units, and the share of units
whose time constant exceeds a lag.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from depprobe.errors import BadInput
from depprobe.figures.drawing import wording
from depprobe.figures.drawing.float_limits import draw_limits
from depprobe.figures.drawing.log_axis import log10_of, use_decades, with_room
from depprobe.figures.drawing.style import COLOURS, GREY, PAGE, figure_of, styled

#: variable -> what it is the norm of, and the line it is drawn with
QUANTITIES: dict[str, tuple[str, Any]] = {
    "log_norm_cc": (r"$\partial c_t/\partial c_k$", "-"),
    "log_norm_hc": (r"$\partial h_t/\partial c_k$", "--"),
    "log_norm_hh": (r"$\partial h_t/\partial h_k$", "-"),
    "log_norm_product": ("product of gates", (0, (1, 1))),
}
#: gates by tanh, which share no axis with those between 0 and 1
_CANDIDATES = ("g", "n")
#: gate values lie between 0 and 1 on an axis of log-odds, as far as this, and what lies beyond at its ends
_BINS, _ODDS = 60, 8.0


class GatesDrawing(NamedTuple):
    """What ``gates`` drew.

    Attributes
    ----------
    figure, axes : where it was drawn: norms, gate values, time constants.
    norms : the curves of norms, layer by layer; x is the lag, y log10 of the norm.
    values : the distributions of gate values.
    holding : the share of units against the lag they hold for, one curve a layer.
    limits : lines at those limits of the floats that the norms cross.
    """

    figure: Figure
    axes: tuple[Axes, Axes, Axes]
    norms: list[Line2D]
    values: list[Line2D]
    holding: list[Line2D]
    limits: list[Line2D]


def gates(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    axes: Sequence[Axes] | None = None,
    labels: Sequence[str] | None = None,
) -> GatesDrawing:
    """Draw norms against the product of gates, gate values, and time constants.

    Parameters
    ----------
    datasets : one dataset or several to overlay, each what ``depprobe.gates`` gives.
    axes : three axes to draw into; None makes a figure.
    labels : one name for each layer of each dataset; None takes the spec strings.

    Returns
    -------
    What was drawn. The y axis of the norms holds log10.

    Raises
    ------
    BadInput : not such datasets; no norm that is known and not zero; a wrong number of labels or axes.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> k, f = np.arange(100), np.full((1, 100, 3), 0.1)
    >>> ds = xr.Dataset(
    ...     {name: ("source", np.log(0.1) * (99.0 - k)) for name in ("log_norm_cc", "log_norm_product")}
    ...     | {"gate_value": (("gate", "target", "unit"), f), "time_constant": ("unit", np.full(3, 0.43))},
    ...     coords={"source": k, "gate": ["f"]}, attrs={"target": 99, "keeper": "f"},
    ... )
    >>> float(gates(ds).norms[0].get_ydata()[0].round())
    -99.0
    """
    for ds in wording.as_list(datasets):
        if "gate_value" not in ds or "log_norm_product" not in ds:
            raise BadInput("the figure of gates takes datasets that depprobe.gates gave")
    named = wording.by_layer(datasets, labels)
    parts = [part for _, part in named]
    with styled():
        own = axes is None
        if axes is None:
            figure = Figure(figsize=(PAGE, 3.3), layout="constrained")
            grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
            panels = [figure.add_subplot(cell) for cell in (grid[:, 0], grid[0, 1], grid[1, 1])]
        else:
            panels = list(axes)
            if len(panels) != 3:
                raise BadInput(f"the figure of gates needs 3 axes, not {len(panels)}")
        left, upper, lower = panels
        norms, limits = _draw_norms(left, parts)
        values = _draw_values(upper, parts)
        holding = _draw_holding(lower, parts)
        left.set_title(_conditions(parts), loc="left")
        figure = figure_of(left)
        handles: list[Artist] = [
            Line2D([], [], color=_colour(name, None, len(parts)), linestyle=line, label=words)
            for name, (words, line) in QUANTITIES.items()
            if any(name in part for part in parts)
        ]
        if len(parts) > 1:
            handles += [
                Line2D([], [], color=COLOURS[i % len(COLOURS)], label=wording.printable(name))
                for i, (name, _) in enumerate(named)
            ]
        if own:
            figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
            rows = -(-len(handles) // 4)
            figure.set_size_inches(PAGE, 3.2 + 0.17 * rows)
        else:
            left.legend(handles=handles, loc="best")
    return GatesDrawing(figure, (left, upper, lower), norms, values, holding, limits)


def _draw_norms(ax: Axes, parts: Sequence[xr.Dataset]) -> tuple[list[Line2D], list[Line2D]]:
    lines, curves = [], []
    for i, part in enumerate(parts):
        lag = int(part.attrs["target"]) - part["source"].values
        for name, (words, line) in QUANTITIES.items():
            if name not in part:
                continue
            log10 = log10_of(_median(part[name]))
            log10[~np.isfinite(log10)] = np.nan
            curves.append((lag[::-1], log10[::-1]))
            lines += ax.plot(lag, log10, color=_colour(name, i, len(parts)), linestyle=line, label=words)
    each = np.concatenate([y for _, y in curves])
    each = each[np.isfinite(each)]
    if not each.size:
        raise BadInput("nothing to draw: every norm is exactly zero or unknown")
    low, high = float(each.min()), float(each.max())
    if high - low < 2:
        low, high = with_room(low, high)
    pad = 0.04 * (high - low)
    ax.set_ylim(low - pad, high + pad)
    longest = max(float(x.max()) for x, _ in curves)
    ax.set_xlim(-0.03 * longest, 1.03 * longest)
    use_decades(ax.yaxis)
    ax.set_xlabel("lag $t - k$ (positions)")
    ax.set_ylabel("Frobenius norm (dimensionless)")
    return lines, draw_limits(ax, curves, low, high)


def _colour(name: str, index: int | None, count: int) -> str:
    """Colour of a curve: by layer where there are several (grey for none of them), else by quantity."""
    if count > 1:
        return GREY if index is None else COLOURS[index % len(COLOURS)]
    return {"log_norm_hc": COLOURS[1], "log_norm_product": COLOURS[4]}.get(name, COLOURS[0])


def _median(values: xr.DataArray) -> NDArray[np.float64]:
    """Median over samples and seeds: (source,). Unknown where any is unknown."""
    pooled = [dim for dim in values.dims if dim != "source"]
    return np.asarray(values.median(pooled, skipna=False).values, dtype=np.float64)


def _draw_values(ax: Axes, parts: Sequence[xr.Dataset]) -> list[Line2D]:
    """Gate values binned in log-odds: of every gate of a single layer, of the carrying ones of several."""
    edges = np.linspace(-_ODDS, _ODDS, _BINS + 1)
    lines = []
    for i, part in enumerate(parts):
        names = [str(gate) for gate in part["gate"].values if str(gate) not in _CANDIDATES]
        shown = names if len(parts) == 1 else [str(part.attrs["keeper"])]
        for j, gate in enumerate(sorted(shown, key=lambda gate: gate != part.attrs["keeper"])):
            values = part["gate_value"].sel(gate=gate).values
            with np.errstate(divide="ignore"):
                odds = np.log(values) - np.log1p(-values)
            counts, _ = np.histogram(np.clip(odds, -_ODDS, _ODDS), edges)
            share = np.append(counts, counts[-1]) / counts.sum()
            colour = COLOURS[(i if len(parts) > 1 else j) % len(COLOURS)]
            lines += ax.plot(edges, share, drawstyle="steps-post", color=colour, label=f"${gate}$")
    marks = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    ax.set_xticks(np.log(marks / (1 - marks)), [f"{mark:g}" for mark in marks])
    ax.set_xlim(-_ODDS, _ODDS)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    kinds = sorted({str(part.attrs["keeper"]) for part in parts})
    ax.set_xlabel(f"value of gate ${'$, $'.join(kinds)}$" if len(parts) > 1 else "value of the gates")
    ax.set_ylabel("share in a bin")
    if len(parts) == 1:
        ax.legend(loc="best", ncols=1, handlelength=1.5)
    return lines


def _draw_holding(ax: Axes, parts: Sequence[xr.Dataset]) -> list[Line2D]:
    """Share of units whose time constant exceeds a lag, against the lag."""
    constants = [np.sort(part["time_constant"].values.ravel()) for part in parts]
    finite = np.concatenate([one[np.isfinite(one) & (one > 0)] for one in constants])
    low, high = (finite.min(), finite.max()) if finite.size else (1.0, 10.0)
    # a decade at least, so that a tick has a label
    middle, reach = np.sqrt(low * high), max(1.3 * np.sqrt(high / low), np.sqrt(10.0))
    low, high = middle / reach, middle * reach
    lines = []
    for i, one in enumerate(constants):
        held = np.append(1.0, 1 - np.arange(1, len(one) + 1) / len(one))
        lag = np.clip(np.append(low, one), low, high)
        # units that never let go keep the curve above zero up to the edge
        lag, held = np.append(lag, high), np.append(held, np.isinf(one).mean())
        lines += ax.plot(lag, held, drawstyle="steps-post", color=COLOURS[i % len(COLOURS)])
    ax.set_xscale("log")
    if high / low < 100:
        # whole powers alone would leave one label
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda lag, _: f"{lag:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(low, high)
    ax.set_ylim(-0.04, 1.04)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel(r"time constant $-1/\langle \ln f \rangle$ (positions)")
    ax.set_ylabel("units above")
    return lines


def _conditions(parts: Sequence[xr.Dataset]) -> str:
    """One line on what was measured, of what all parts share."""
    layers = {str(part.attrs.get("layer", "")) for part in parts}
    named = [wording.printable(layers.pop(), 60)] if len(parts) == 1 else []
    return ",  ".join([*filter(None, named), *wording.sizes(parts)])
