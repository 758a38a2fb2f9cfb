"""Does the gradient curve at initialisation tell which lags are learned, and what does clipping change?

Claim C14 (recurrence can be used for long sequences with gradient clipping). Recurrent layers, causal
attention and a causal dilated convolution are trained on tasks that need one input from ``task_lag``
positions ago; the norm of J[t,k] at that lag, before training, is set against the loss after training, over
that of chance.

Answer: it tells what will hardly be learned soon, not what will: of 4 cells whose norm is below 1e-3 none was
learned, of 14 between 1e-3 and 1 10 were, of 3 above 1 one was; as a ranking it is weak (AUC 0.71, 95 %
interval over layers 0.17 to 1; a threshold is right for 0.71 of the cells of layers it was not chosen on,
always answering alike for 0.52). Clipping to norm 1 takes gradient descent from 1 to 3 learned of 7 whose
gradient arrives or explodes and Adam, which scales by itself, from 4 to 5; where the gradient has vanished it
does not act at these lags (0 % of the steps), and nothing is learned with either.

Numbers: ``--quick``, copy task, lags 10, 50, 100, one seed, d = 32, at most 120 steps of 16 sequences;
learned means a loss below a quarter of chance; a cell is one training run. Unlearned means within these
steps, and which cells near the edge are learned differs between processors, since training amplifies
rounding: where two numbers stand, they are of two processors.

In full (both tasks, six lags, 3 seeds, 500 steps of 32 sequences; 25 to 90 minutes of one core) the order
stays and the edge blurs: 12 of 83 learned below 1e-3 (one from 1e-10: training itself can raise the curve),
114 or 115 of 169 between, 16 or 14 of 36 above, AUC 0.70 or 0.69 (0.46 to 0.88), a threshold right for 0.55
or 0.66, always answering alike for 0.51. Clipping takes gradient descent from 10 or 9 to 17 learned of 55 and
leaves Adam where it is (19 or 20 with and without); of 17 vanished ones descent learns none, Adam 2 without
and at most 1 with it. It acts there too, on 12 to 28 % of the steps: in the adding task on what comes from
the nearer mark, in the copy task on the orthogonal recurrence at lag 200. Finished cells are kept, so the
full mode resumes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from _prediction import auc, left_out_accuracy, rank_correlation, with_interval
from _study import OUT, main, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from depprobe.figures.drawing.log_axis import LN10, log10_of, use_decades
from depprobe.figures.drawing.style import COLOURS, GREY, MARKERS, PAGE, SMALL, styled
from depprobe.ledger.training.grid import DIMS, Plan, grid
from depprobe.ledger.training.outcomes import KINDS, VANISHED, clipping, kinds
from depprobe.ledger.training.trained_cell import SNAPSHOTS

ATTENTION, CONVOLUTION = "attention:heads=4,causal=true", "dilated-conv:depth=7,residual=true"
VANISHING, ISOMETRIC, CHAOTIC = "rnn", "rnn:gain=1,orthogonal=true", "rnn:gain=2"
CLIPPED = (VANISHING, ISOMETRIC, CHAOTIC, "lstm:forget_bias=3")
QUICK = Plan(
    layers=(*CLIPPED, "lstm:forget_bias=0", ATTENTION, CONVOLUTION),
    clipped=CLIPPED,
    lags=(10, 50, 100),
    clipped_lags=(10, 50),
    seeds=1,
)
FULL = replace(
    QUICK,
    layers=(*CLIPPED, "lstm:forget_bias=0", "gru", ATTENTION, CONVOLUTION),
    tasks=("copy", "adding"),
    lags=(5, 10, 20, 50, 100, 200),
    clipped_lags=(10, 50, 200),
    seeds=3,
    batch=32,
    steps=500,
)
#: finished cells of both modes, taken up by the next run
KEPT = OUT / "12_training.cells"
#: largest loss over chance that is drawn
TOP = 1.25
MOMENTS = dict(zip(SNAPSHOTS, ("-", "--", (0, (1, 1))), strict=True))
SHOWN, SHOWN_LAG = (VANISHING, ISOMETRIC, CHAOTIC, ATTENTION), 50


def compute(quick: bool, folder: Path | None = None) -> xr.Dataset:
    """Losses, gradient norms and decay curves of every cell; NaN where a combination is not trained."""
    command = "studies/12_training.py" + " --quick" * quick
    return grid(QUICK if quick else FULL, command, folder or KEPT, report)


def columns_of(ds: xr.Dataset) -> dict[str, np.ndarray]:
    """The unclipped cells of Adam, one row each: layer, task_lag, norm, loss, learned."""
    here = ds.sel(clip=math.inf, optimizer="adam").drop_vars(["clip", "optimizer"])
    cell = here[["log_norm_needed", "relative_loss", "learned"]].stack(cell=DIMS[:4], create_index=False)
    cell = cell.isel(cell=np.flatnonzero(cell["relative_loss"].notnull()))
    return {str(name): cell[name].values for name in (*cell.data_vars, "layer", "task_lag")}


def summary(ds: xr.Dataset) -> dict[str, float]:
    """Those numbers of the answer that come out alike on every processor.

    Training amplifies rounding: which cells near the edge are learned differs between processors, but not
    what arrives before training, nor what clipping does where nothing arrives.
    """
    counts = [f"{kind}_cells" for kind in KINDS]
    clipped = [f"{how}_vanished_{what}" for how in ("adam", "sgd") for what in ("clipped_share", "cells")]
    learned = [f"{how}_vanished_{word}_learned" for how in ("adam", "sgd") for word in ("free", "clipped")]
    found = numbers(ds)
    return {name: found[name] for name in ("cells", *counts, *clipped, *learned)}


def numbers(ds: xr.Dataset) -> dict[str, float]:
    """The numbers of the answer; intervals are 95 % over resampled layers."""
    column = columns_of(ds)
    norm, yes, group = (column[name] for name in ("log_norm_needed", "learned", "layer"))
    found = {"cells": float(len(yes)), "learned": float(yes.sum())}
    for name, inside in kinds(norm).items():
        found |= {f"{name}_cells": float(inside.sum()), f"{name}_learned": float(yes[inside].sum())}
    estimates = {
        "auc": with_interval(auc, norm, yes, group),
        "rank_correlation": with_interval(rank_correlation, norm, column["relative_loss"], group),
    }
    for name, estimate in estimates.items():
        found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    found["accuracy"] = left_out_accuracy(norm, yes, group)
    found["base_rate"] = float(max(yes.mean(), 1 - yes.mean()))
    found["lowest_log10_learned"] = float(norm[yes > 0].min() / LN10) if yes.any() else math.nan
    return found | clipping(ds)


def plot(ds: xr.Dataset) -> Figure:
    """Left: loss against the norm at the task's lag. Middle: curves. Right: learned, free and clipped."""
    with styled():
        figure = Figure(figsize=(PAGE, 3.6), layout="constrained")
        losses, curves, counts = figure.subplots(1, 3, width_ratios=(1.25, 1.1, 1))
        looks = {
            str(layer): {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            for i, layer in enumerate(ds["layer"].values)
        }
        _draw_losses(losses, ds, looks)
        _draw_curves(curves, ds, looks)
        _draw_counts(counts, numbers(ds))
        layers = [
            Line2D([], [], linestyle="", fillstyle="none", label=layer, **look)
            for layer, look in looks.items()
        ]
        moments = [
            Line2D([], [], color=GREY, linestyle=MOMENTS[name], label=f"{name} training")
            for name in SNAPSHOTS
        ]
        figure.legend(handles=layers + moments, loc="outside lower center", ncols=3)
    return figure


def _draw_losses(ax: Axes, ds: xr.Dataset, looks: dict[str, dict]) -> None:
    column = columns_of(ds)
    decades = log10_of(column["log_norm_needed"])
    for layer, look in looks.items():
        here = column["layer"] == layer
        ax.plot(
            decades[here],
            np.minimum(column["relative_loss"][here], TOP),
            linestyle="",
            markerfacecolor="none",
            **look,
        )
    # norms span fifty decades where they vanish and a few where they do not
    ax.set_xscale("symlog", linthresh=4, linscale=1.3)
    ticks = [tick for tick in (-100, -20, -3, 0, 3) if decades.min() < tick]
    ax.set_xticks(ticks, [f"$10^{{{tick}}}$" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(min(1.2 * decades.min(), -4), max(1.4 * decades.max(), 1))
    ax.set_ylim(-0.04, 1.12 * TOP)
    ax.axhline(ds.attrs["threshold"], color=GREY, linewidth=0.6, linestyle=":")
    ax.text(
        0.01,
        ds.attrs["threshold"] + 0.01,
        "learned below",
        transform=ax.get_yaxis_transform(),
        fontsize=SMALL,
        color=GREY,
    )
    ends = (ax.get_xlim()[0], math.log10(VANISHED), 0, ax.get_xlim()[1])
    for name, low, high in zip(kinds(decades), ends, ends[1:], strict=False):
        ax.axvline(high, color=GREY, linewidth=0.6, linestyle=":")
        forward = ax.xaxis.get_transform()
        middle = forward.inverted().transform(forward.transform(np.array([low, high])).mean(keepdims=True))
        ax.text(middle[0], 1.1 * TOP, name, ha="center", va="top", fontsize=SMALL, color=GREY)
    ax.set_xlabel(r"norm of $J$ at the task's lag, untrained")
    ax.set_ylabel("loss after training, over chance")
    ax.set_title(f"Adam, no clipping (losses to {TOP:g})", loc="left")


def _draw_curves(ax: Axes, ds: xr.Dataset, looks: dict[str, dict]) -> None:
    lags = ds["task_lag"].values
    lag = int(lags[np.abs(lags - SHOWN_LAG).argmin()])
    cell = ds["log_rms"].isel(task=0, seed=0).sel(task_lag=lag, clip=math.inf, optimizer="adam")
    for layer in filter(set(ds["layer"].values).__contains__, SHOWN):
        for moment, line in MOMENTS.items():
            curve = log10_of(cell.sel(layer=layer, snapshot=moment, lag=slice(0, lag)).values)
            marks = [lag // 2, lag]
            ax.plot(np.arange(lag + 1), curve, linestyle=line, linewidth=1, markevery=marks, **looks[layer])
    use_decades(ax.yaxis)
    ax.set_xlabel("lag $t - k$ (positions)")
    ax.set_ylabel(r"$\Vert J_{t,k}\Vert_F$ (dimensionless)")
    ax.set_title(f"{ds['task'].values[0]} task, lag {lag}, Adam", loc="left")


def _draw_counts(ax: Axes, found: dict[str, float]) -> None:
    columns = [(optimizer, word) for optimizer in ("adam", "sgd") for word in ("free", "clipped")]
    for (i, kind), (j, (optimizer, word)) in product(enumerate(KINDS), enumerate(columns)):
        total = found[f"{optimizer}_{kind}_cells"]
        learned = found[f"{optimizer}_{kind}_{word}_learned"]
        share = learned / total if total else 0.0
        ax.add_patch(
            Rectangle(
                (j - 0.5, i - 0.5),
                1,
                1,
                facecolor=matplotlib.colormaps["Blues"](0.75 * share),
                edgecolor="white",
            )
        )
        text = f"{learned:.0f}/{total:.0f}"
        ax.text(
            j, i, text, ha="center", va="center", fontsize=SMALL, color="white" if share > 0.7 else "black"
        )
    ax.set_xlim(-0.5, 3.5)
    ax.set_ylim(-0.5, 2.5)
    ax.set_xticks(range(4), [f"{'Adam' if o == 'adam' else 'SGD'}\n{word}" for o, word in columns])
    ax.set_yticks(range(3), KINDS, rotation=90, va="center")
    ax.tick_params(length=0)
    ax.set_title("learned of trained", loc="left")


if __name__ == "__main__":
    main(compute, plot, summary, __file__)
