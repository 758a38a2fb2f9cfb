r"""Is attention loss-free?

Claim C9: attention gives loss-free global dependency.
Measured: norms of J[t,k] over the past of the last position against n, on untrained weights, without
positions and with sinusoidal ones added; in stacks, with and without a residual stream, at the far end of the
past; and at the lag a copy task needs, before and after training on it.

Answer: with distance nothing is lost, with length it is. Untrained and without positions that cannot be
otherwise: positions are exchangeable, and weights that add up to 1 stay near 1/n (entropy 0.986 of ln n), so
that norms fall as n^-1.006 +- 0.006. With positions the far end still gets as much as the near one (1.02
times at n = 4096, 0.77 times at n = 64). Training takes the loss away where the task needs it: at lag 100 the
norm goes from 0.015 to 20, and no longer falls with the lag (slope 0.1 +- 0.2). Through 8 untrained layers
what comes from far grows 3.7 times on a residual stream and falls to 0.0012 without one, where all outputs
become alike.

Numbers: ``--quick``, means and standard errors of 3 seeds (2 for training); d = 64 with 8 heads, stacks of
d = 16 with 4 heads at n = 64, trained d = 32 with 4 heads, at most 200 steps of 16 sequences.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from _study import main, quoted, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from depprobe.figures.drawing.log_axis import log10_of, use_decades
from depprobe.figures.drawing.style import COLOURS, GREY, LINES, MARKERS, PAGE, SMALL, styled
from depprobe.ledger.gradients.attention_loss import CLAIM

#: parts of the past above which the name of a line stands
PARTS_NAMED = 4
STREAMS = {"none": "layers alone", "residual": "residual stream"}
MOMENTS = {"before": "before training", "after": "after training"}


def compute(quick: bool) -> xr.Dataset:
    """Norms by length and distance, by depth, and by lag before and after training."""
    return CLAIM.measure(quick, report)


def summary(ds: xr.Dataset) -> dict[str, float]:
    """The numbers of the verdict, without those after training, which amplifies a processor's rounding."""
    return quoted(one for one in CLAIM.judge(ds) if "trained to" not in one.part)


def plot(ds: xr.Dataset) -> Figure:
    """Norms over the past for every n; depth with and without a residual stream; training."""
    with styled():
        figure = Figure(figsize=(PAGE, 2.9), layout="constrained")
        past, depth, trained = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
        _draw_past(past, ds)
        _draw_depth(depth, ds)
        _draw_trained(trained, ds)
        for ax in (past, depth, trained):
            use_decades(ax.yaxis)
        past.set_ylabel(r"$\Vert J_{t,k}\Vert_F$ (dimensionless)")
    return figure


def _draw_past(ax: Axes, ds: xr.Dataset) -> None:
    norms = log10_of(ds["log_norm_past"].mean("seed").transpose("n", "past").values)
    lengths = ds["n"].values
    # a few lengths, light to dark as they grow, each named beside its line
    shown = range(0, len(lengths), max(1, (len(lengths) - 1) // 3))
    for place, i in enumerate(shown):
        ax.plot(
            ds["past"].values,
            norms[i],
            color=COLOURS[0],
            alpha=0.4 + 0.6 * place / max(1, len(shown) - 1),
            marker=MARKERS[place],
            markevery=(0, 5),
        )
        ax.annotate(
            f"$n$ = {lengths[i]}",
            (0.98, norms[i, -PARTS_NAMED:].max()),
            xytext=(0, 5),
            textcoords="offset points",
            ha="right",
            fontsize=SMALL,
        )
    height = float(np.mean(norms[0] + np.log10(lengths[0])))
    for i in shown:
        ax.axhline(height - np.log10(lengths[i]), color=GREY, linewidth=0.6, linestyle=":", zorder=0.5)
    ax.set_xlim(0, 1)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.35)
    ax.text(0.02, 0.97, "dotted: as $1/n$", transform=ax.transAxes, va="top", fontsize=SMALL, color=GREY)
    ax.set_xlabel("distance $t - k$ over $n$")
    ax.set_title("one untrained layer", loc="left")


def _draw_depth(ax: Axes, ds: xr.Dataset) -> None:
    depth = ds["depth"].values
    for i, (stream, name) in enumerate(STREAMS.items()):
        norms = log10_of(ds["log_norm_far"].sel(stream=stream).transpose("depth", "seed").values)
        colour = COLOURS[1 + i]
        ax.plot(depth, norms, linestyle="", marker=MARKERS[i], color=colour, alpha=0.4, markersize=2.5)
        ax.plot(depth, norms.mean(1), linestyle=LINES[i], color=colour)
        ax.annotate(
            name,
            (depth[-1], norms.mean(1)[-1]),
            xytext=(0, -17) if stream == "residual" else (-12, -3),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=SMALL,
        )
    ax.set_xticks(range(1, int(depth[-1]) + 1))
    ax.set_xlabel("untrained layers")
    ax.set_title(f"far half of $n$ = {ds.attrs['stack_n']}", loc="left")


def _draw_trained(ax: Axes, ds: xr.Dataset) -> None:
    lags = ds["task_lag"].values
    x = np.log10(lags + 1.0)
    for i, (moment, name) in enumerate(MOMENTS.items()):
        norms = log10_of(ds["log_norm_trained"].sel(snapshot=moment).transpose("task_lag", "seed").values)
        colour = COLOURS[i]
        ax.plot(x, norms, linestyle="", marker=MARKERS[i], color=colour, alpha=0.4, markersize=2.5)
        middle = np.nanmean(norms, 1)
        ax.plot(x, middle, linestyle=LINES[i], color=colour)
        ax.annotate(
            name,
            (x[1], middle[1]),
            xytext=(0, 9 if moment == "before" else -19),
            textcoords="offset points",
            ha="left" if moment == "before" else "center",
            color=colour,
            fontsize=SMALL,
        )
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(x)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value - 1:.0f}"))
    ax.set_xlabel("lag of the task (positions)")
    ax.set_title("at that lag, copy task", loc="left")


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=CLAIM.checks, tolerance=1e-3)
