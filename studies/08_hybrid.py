"""Is attention faster after a convolution?

Claim C10: a convolution before multi-head attention, without a residual path, is three times faster than
attention alone on long texts. The hybrid as printed and with strides 2, 3 and 4 against attention alone:
processor time of passes taken in turn on one thread, FLOPs, and memory.

Answer: no; as printed all of attention remains and it takes longer at every length, 1.15 times the FLOPs and
1.2 times the memory at least; a factor 3 comes from a stride, which divides the n^2 part by its square: in
FLOPs from n = 13 d on at stride 2, 2.25 d at 3, 0.77 d at 4 (at n = 8 d: 2.67, 4.85, 7.27, and times follow);
or, in a forward pass of narrow layers, from fused attention being compared with weights that are written out
(at d = 512 that makes a factor 2).

Numbers: quick version, d = 128, n = 256 and 1024; FLOPs and memory are exact, times differ from run to run
and are judged by the quartiles of rounds.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from _study import main, quoted, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depprobe.figures.drawing.style import COLOURS, GREY, MARKERS, PAGE, styled
from depprobe.ledger.costs.hybrid import CLAIM
from depprobe.ledger.costs.hybrid_factors import ALONE, STATED, STRIDES, factor, faster

PASS = "forward+backward"


def compute(quick: bool) -> xr.Dataset:
    """Seconds, FLOPs and bytes of the hybrids and of attention alone."""
    return CLAIM.measure(quick, report)


def summary(ds: xr.Dataset) -> dict[str, float]:
    """What does not change from run to run: FLOPs and bytes."""
    numbers = quoted(CLAIM.judge(ds))
    return {name: value for name, value in numbers.items() if "FLOPs" in name or "memory" in name}


def plot(ds: xr.Dataset) -> Figure:
    """Left: how many times faster, with the factor in FLOPs. Right: how many times less memory."""
    with styled():
        figure = Figure(figsize=(PAGE, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for i, stride in enumerate((1, *STRIDES)):
            _draw_stride(left, right, ds, stride, COLOURS[i], MARKERS[i])
        left.plot([], [], color=GREY, linestyle="--", linewidth=0.9, label="factor in FLOPs")
        lengths = [int(n) for n in ds["n"].values]
        for ax in (left, right):
            ax.axhline(1, color=GREY, linewidth=0.5)
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xticks(lengths, [str(n) for n in lengths])
            ax.minorticks_off()
            top = ax.get_ylim()[1]
            ticks = [tick for tick in (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15) if tick <= top]
            ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.set_xlabel(f"sequence length $n$ (positions), $d$ = {ds.attrs['d']}")
        left.axhline(STATED, color=GREY, linewidth=0.9, linestyle=":", label="stated: 3")
        left.set_ylabel("time, attention / hybrid")
        right.set_ylabel("memory, attention / hybrid")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, title=f"{PASS}, float32")
    return figure


def _draw_stride(left: Axes, right: Axes, ds: xr.Dataset, stride: int, colour: str, marker: str) -> None:
    name = "conv-attention" if stride == 1 else f"conv-attention:stride={stride}"
    label = "as printed" if stride == 1 else f"stride {stride}"
    low, middle, high = (
        faster(ds, name).sel({"pass": PASS, "quantile": q}).values for q in (0.25, 0.5, 0.75)
    )
    n = ds["n"].values
    # side by side, where strides take about the same time
    beside = n * 1.03 ** (stride - 2.5)
    bars = [middle - low, high - middle]
    left.errorbar(beside, middle, bars, color=colour, marker=marker, linestyle="none", label=label)
    fine = np.geomspace(n.min(), n.max(), 50).round().astype(int)
    flops = [factor(m, int(ds.attrs["d"]), stride) for m in fine.tolist()]
    left.plot(fine, flops, color=colour, linestyle="--", linewidth=0.9)
    memory = ds["peak_bytes"].sel(phase=PASS)
    right.plot(n, memory.sel(layer=ALONE) / memory.sel(layer=name), color=colour, marker=marker)


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=CLAIM.checks)
