"""How far apart are two positions, and how much can be done at once?

Claim C1: attention takes one step to anywhere, convolution O(n/k) layer by layer, recurrence O(n) in order.
Steps from the first input to the last output are counted on the support of the Jacobian, step by step back
from the last output; parallelism is FLOPs over those on the longest dependent chain.

Answer: attention 1; recurrence n - 1 steps, in order; a causal convolution ceil((n-1)/(k-1)) layers, one with
same padding twice as many, so O(n/k) is right, but without dilation only: at n = 1000, k = 3, dilations 1, 2,
4, ... need 9 layers and 1, 3, 9, ... need 7, where 500 are needed without. The work that can be done at once
grows as n for attention and convolution; FLOPs over those on the longest chain stay at 4,092 for the LSTM.

Numbers: counts and formulas, exact; n from 10 to 1000, parallelism at n = 1024, d = 512.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from _study import main, quoted, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depprobe.figures.drawing.style import PAGE, line_style, styled
from depprobe.ledger.gradients.path_length import CLAIM, CLOSED

#: layer -> its name in the figure; patterns lie on attention in parallelism, convolutions on one another
SHOWN = {
    "attention": "attention",
    "block-attention": "blocks",
    "dilated-conv:kernel=3": "dilated conv, $k$ = 3",
    "sliding-window:window=8,causal=true": "window of 8",
    "conv:kernel=9,causal=true": "conv, $k$ = 9",
    "conv:kernel=3,causal=true": "conv, $k$ = 3",
    "lstm": "LSTM",
}
PARALLEL = ("attention", "conv:kernel=3,causal=true", "lstm")


def compute(quick: bool) -> xr.Dataset:
    """Steps over (layer, n), counted and in closed form; parallelism over (layer, length)."""
    return CLAIM.measure(quick, report)


def summary(ds: xr.Dataset) -> dict[str, float]:
    """The numbers of the verdict, all of them counts."""
    return quoted(CLAIM.judge(ds))


def plot(ds: xr.Dataset) -> Figure:
    """Left: steps against length, counted on closed forms. Right: parallelism."""
    with styled():
        figure = Figure(figsize=(PAGE, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2)
        for i, (name, label) in enumerate(SHOWN.items()):
            look: dict[str, Any] = line_style(i)
            _draw_path(left, ds.sel(layer=name), name, look, label)
            if name in PARALLEL:
                right.plot(ds["length"], ds["parallelism"].sel(layer=name), **look)
        for ax, ticks in ((left, (10, 30, 100, 300, 1000)), (right, ds["length"].values)):
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.minorticks_off()
            ax.set_xticks(ticks, [str(n) for n in ticks])
            ax.set_xlabel("sequence length $n$ (positions)")
        left.set_title("markers counted, lines in closed form", loc="left")
        left.set_ylabel("steps from $x_1$ to $h_n$")
        right.set_title(f"work that can be done at once, $d$ = {ds.attrs['d']}", loc="left")
        right.set_ylabel("FLOPs / FLOPs on the longest chain")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _draw_path(ax: Axes, one: xr.Dataset, name: str, look: dict[str, Any], label: str) -> None:
    """Markers where steps were counted, on the line of the closed form."""
    fine = np.unique(np.geomspace(one["n"].min(), one["n"].max(), 200).round().astype(int))
    line = look | {"marker": None, "linewidth": 0.9}
    ax.plot(fine, [CLOSED[name](n) for n in fine.tolist()], **line)
    ax.plot(one["n"], one["path_counted"], **(look | {"linestyle": "none"}))
    ax.plot([], [], **look, label=label)


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=CLAIM.checks)
