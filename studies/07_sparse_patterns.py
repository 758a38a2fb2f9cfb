"""What do sparse attention patterns cost, and whom does their gradient reach?

Claim C11: a sliding window costs O(n k) and is for local dependence, dilated attention O(n log n) and for
periodic signals, block attention O(n sqrt n) and for documents. Costs of a forward pass up to n = 65,536,
divided by the pairs; and the share of squared gradient norms on the sources meant, beside full attention.

Answer: the pairs are 64 n, 2 n log2 n and 2 n sqrt n and lower terms by how the masks are built, and time and
memory grow no faster. A window keeps all gradient nearby, by its mask (11 times the share of full attention).
Block attention gives the own document 1.9 times the share of full attention (1.8 where boundaries are not
those of blocks) and reaches everything in two layers, yet is not the pattern for documents: a window gives
the own one 4 times and dilated attention 2 times, since near positions are mostly of one document. Dilated
attention gives multiples of 8 and 16 3.4 and 4.2 times the share of full attention, more than other patterns,
but those of 12 and 15 none at all: no power of two is a multiple of them.

Numbers: quick version, costs at d = 32, window 64; shares at n = 144, d = 8, window 16, blocks of 12, means
of 3 seeds, standard errors of the ratios 0.9 (window), 0.3 and 0.2 (documents), 0.5 and 1.4 (periods).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from _study import main, quoted, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depprobe.figures import cost
from depprobe.figures.drawing.style import COLOURS, GREY, MARKERS, PAGE, styled
from depprobe.ledger.patterns.sparse_patterns import CLAIM

#: pattern -> colour and marker, those of its line in the figures of cost
LOOKS = {
    "sliding-window": 0,
    "dilated-attention": 1,
    "block-attention": 2,
    "attention": 4,
}


def compute(quick: bool) -> xr.Dataset:
    """Costs over (layer, n, round), shares over (pattern, depth, input, seed)."""
    return CLAIM.measure(quick, report)


def summary(ds: xr.Dataset) -> dict[str, float]:
    """The numbers of the verdict but those of time, which differ from run to run."""
    return {name: value for name, value in quoted(CLAIM.judge(ds)).items() if not name.endswith(": time")}


def plot(ds: xr.Dataset) -> Figure:
    """Above: time, memory and FLOPs a pair against the length. Below: shares of gradient."""
    with styled():
        figure = Figure(figsize=(PAGE, 5.2), layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
        above, below = halves
        panels = list(above.subplots(1, 3))
        cost(_costs(ds), per="pairs", ax=panels)
        panels[0].set_title(f"a forward pass, $d$ = {ds.attrs['d']}, window 64", loc="left")
        _draw_shares(below.subplots(), ds)
        below.legend(loc="outside upper center", ncols=3)
    return figure


def _costs(ds: xr.Dataset) -> xr.Dataset:
    """In the words of the figures of cost."""
    low, middle, high = (ds["pass_time"].quantile(q, "round", keep_attrs=True) for q in (0.25, 0.5, 0.75))
    return xr.Dataset(
        {
            "time": middle.drop_vars("quantile"),
            "time_low": low.drop_vars("quantile"),
            "time_high": high.drop_vars("quantile"),
            "peak_bytes": ds["peak_bytes"],
            "flops": ds["flops_core"],
            "pairs": ds["pairs"],
        },
        attrs={"dtype": ds.attrs["dtype"]},
    )


def _draw_shares(ax: Axes, ds: xr.Dataset) -> None:
    """One layer: mean and standard error of the share over seeds, for every input and pattern."""
    shares = ds["share"].sel(depth=1)
    place = np.arange(ds.sizes["input"])
    ax.hlines(
        ds["share_chance"], place - 0.4, place + 0.4, color=GREY, linewidth=1, label="all positions alike"
    )
    for j, (name, i) in enumerate(LOOKS.items()):
        one = shares.sel(pattern=name)
        error = one.std("seed", ddof=1) / np.sqrt(ds.sizes["seed"])
        ax.errorbar(
            place + 0.18 * (j - 1.5),
            one.mean("seed"),
            error,
            linestyle="none",
            color=COLOURS[i],
            marker=MARKERS[i],
            label=name,
        )
    words = [str(name).replace("nearby", "within the\nwindow") for name in ds["input"].values]
    words = [
        word.replace("period ", "multiples\nof ").replace("documents of", "own\ndocument, of")
        for word in words
    ]
    ax.set_xticks(place, [word.replace(", ", ",\n") for word in words])
    ax.set_ylabel(r"share of $\Vert J_{t,k}\Vert_F^2$, $k \neq t$")
    ax.set_ylim(-0.03, 1.05)
    size, width, window = (ds.attrs[f"shares_{name}"] for name in ("n", "d", "window"))
    ax.set_title(f"$n$ = {size}, $d$ = {width}, window {window}", loc="left")


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=CLAIM.checks)
