"""How do time, memory, gradient path and parallelism of attention, convolution and LSTM compare?

Claims C4 (the article's table at n = 1000, d = 512, as ratios to the LSTM) and C5 (attention at n = 5000
takes 500 MB).

Answer: it depends on the kind of attention and on the pass: at n = 5000 attention takes 1655 MB forward and
2477 MB with the backward pass where 8 heads write their weights out, 255 and 377 MB with one head, 66 and
108 MB fused.

Between n = 1000 and 5000 bytes grow as n^1.9 written out with 8 heads and as n^0.9 fused; 210 MB becoming
500 MB would be n^0.54. At n = 1000 a training pass of the LSTM takes 45.8 MB of tensors (the article: 45), of
the convolution 11.3 (15), of attention 109 written out and 19.5 fused (210). No stack of convolutions needs
10 layers from x_1 to h_1000: 500 alike and causal, 9 with dilations 2^l, 7 with 3^l.

Numbers: n = 1000 and 5000, d = 512, float32, batch 1, in both versions; bytes and paths are exact. Parameters
and input count at n = 5000 and not in the table. Times are at one thread and no part of the summary.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from _study import main, quoted, report
from matplotlib.figure import Figure, SubFigure

from depprobe.figures.drawing.style import COLOURS, LINES, MARKERS, PAGE, styled
from depprobe.ledger.costs.attention_memory import ARTICLE, PHASES, VARIANTS
from depprobe.ledger.costs.attention_memory import CLAIM as MEMORY
from depprobe.ledger.costs.efficiency_claim import CLAIM
from depprobe.ledger.costs.efficiency_figure import efficiency as efficiency_figure

NAMES = {
    VARIANTS[0]: "weights written out, 8 heads",
    VARIANTS[1]: "weights written out, 1 head",
    VARIANTS[2]: "fused",
}


def compute(quick: bool) -> xr.Dataset:
    """The efficiency table over (layer, n, phase), and attention's bytes over (variant, length, phase)."""
    table = CLAIM.measure(quick, report)
    memory = MEMORY.measure(quick, report).rename({"layer": "variant", "n": "length"})
    return table.merge(memory)


def _memory(ds: xr.Dataset) -> xr.Dataset:
    names = ["predicted_bytes", "measured_bytes"]
    return ds[names].rename({"variant": "layer", "length": "n"})


def summary(ds: xr.Dataset) -> dict[str, float]:
    """Ratios of memory, paths, parallelism, attention's bytes; no times."""
    findings = [one for one in CLAIM.judge(ds) if not one.part.startswith("time")]
    table = {
        f"{layer}, {phase}: MB": float(ds["peak_bytes"].sel(layer=layer, phase=phase, n=1000)) / 1e6
        for layer in map(str, ds["layer"].values)
        for phase in PHASES
    }
    return quoted(findings) | table | quoted(MEMORY.judge(_memory(ds)))


def checks(ds: xr.Dataset) -> list[str]:
    """Those of both claims."""
    return [*CLAIM.checks(ds), *MEMORY.checks(_memory(ds))]


def plot(ds: xr.Dataset) -> Figure:
    """The table, and below it attention's memory against n beside the article's two numbers."""
    with styled():
        figure = Figure(figsize=(PAGE, 5.0))
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.35))
        table = ds.drop_dims(["variant", "length", "other"])
        efficiency_figure(_costs(table), ax=above.add_axes((0, 0, 1, 1)))
        _draw_memory(below, _memory(ds))
    return figure


def _costs(table: xr.Dataset) -> xr.Dataset:
    """What the figure of the table reads."""
    return table.assign(flops=table["time"] * np.nan).assign_coords(d=int(table.attrs["d"]))


def _draw_memory(figure: SubFigure, ds: xr.Dataset) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.3, top=0.92, wspace=0.06)
    for ax, phase in zip(axes, PHASES, strict=True):
        for i, (layer, words) in enumerate(NAMES.items()):
            sizes = ds["predicted_bytes"].sel(layer=layer, phase=phase)
            power = math.log(float(sizes[-1] / sizes[0])) / math.log(float(ds["n"][-1] / ds["n"][0]))
            style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": LINES[i]}
            ax.plot(ds["n"], sizes / 1e6, label=words if ax is axes[0] else None, **style)
            middle = float(np.interp(math.log(3100), np.log(ds["n"]), np.log(sizes / 1e6)))
            at = {"xytext": (-3, 3), "textcoords": "offset points", "ha": "right", "fontsize": 7}
            ax.annotate(f"$n^{{{power:.2f}}}$", (3100, math.exp(middle)), **at)
        label = "stated in the article" if ax is axes[0] else None
        stated = [size / 1e6 for size in ARTICLE.values()]
        ax.plot(list(ARTICLE), stated, color="black", marker="*", markersize=7, linestyle=":", label=label)
        ax.set(xscale="log", yscale="log", xlabel="sequence length $n$", title=phase)
        ax.set_xticks(ds["n"].values, [str(int(n)) for n in ds["n"].values])
        ax.minorticks_off()
    axes[0].set_ylabel("most bytes alive (MB),\nwith weights and input")
    figure.legend(loc="lower center", ncols=2)


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=checks, tolerance=1e-3)
