"""What do attention, convolution and recurrence cost in n and d, and where does one overtake another?

Claims C2 (orders of cost, parts of attention) and C3 (one LSTM step), counted in products and timed.

Answer: counted FLOPs have the stated orders exactly, attention 8 n d^2 + 4 n^2 d; its n^2 d term is half of
them at n = 2 d, where attention costs as much as an LSTM (as a GRU at n = d).

The stated parts of attention leave out the output projection, a fifth of the FLOPs at n = d / 2. At n = 1000,
d = 512 the n^2 d term has 49 % of them. The cell and hidden updates of an LSTM step take 5 operations a unit.

Numbers: with ``--quick`` n = 128 to 1024, d = 64 to 256, without it n to 4096, d to 512; counts are exact, in
float32, batch 1. Times are of one run on one thread and no part of the summary; attention has 8 heads there
and writes its weights out.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from _study import main, quoted, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depprobe import curves
from depprobe.figures.drawing.style import COLOURS, GREY, LINES, MARKERS, PAGE, styled
from depprobe.ledger.costs.cost_orders import (
    ATTENTION,
    CLAIM,
    CONVOLUTIONS,
    RECURRENCES,
    TIMED,
    quadratic_share,
)
from depprobe.ledger.costs.lstm_step import CLAIM as STEP

#: layers that are drawn, and what they are called
SHOWN = {TIMED[0]: "attention", CONVOLUTIONS[0]: "convolution, k = 3", "lstm": "LSTM", "gru": "GRU"}


def compute(quick: bool) -> xr.Dataset:
    """Counts over (layer, n, d), parts of attention, times of three layers; one LSTM step under ``step_``."""
    ds = CLAIM.measure(quick, report)
    step = STEP.measure(quick, report).drop_vars("share")
    step = step.rename({"d": "d_h", "quantity": "update"})
    return ds.merge(
        step.rename({name: f"step_{name}".replace("step_step", "step") for name in step.data_vars})
    )


def _step(ds: xr.Dataset) -> xr.Dataset:
    """The LSTM step as its claim reads it."""
    names = [name for name in ds.data_vars if str(name).startswith("step_")]
    step = ds[names].rename({name: str(name).removeprefix("step_") for name in names if name != "step_gap"})
    step = step.rename({"d_h": "d", "update": "quantity"})
    return step.assign(share=(step["share_low"] + step["share_high"]) / 2)


def summary(ds: xr.Dataset) -> dict[str, float]:
    """Exponents and shares of counts, and crossovers of FLOPs over width; no times."""
    findings = [one for one in CLAIM.judge(ds) if not one.part.startswith("time")]
    numbers = quoted(findings) | quoted(STEP.judge(_step(ds)))
    # round-off and times are not the same everywhere
    left_out = ("largest miss", "largest relative", "of its time")
    numbers = {name: value for name, value in numbers.items() if not any(word in name for word in left_out)}
    found = crossings(ds)
    for other in RECURRENCES[1:]:
        for d in ds["d"].values:
            at = float(found.sel(other=other, d=d))
            if 0 < at < math.inf:
                numbers[f"attention costs more than the {other}, d = {d}, from n / d"] = at / float(d)
    return numbers


def crossings(ds: xr.Dataset) -> xr.DataArray:
    """n from which attention counts more FLOPs than each other layer, over (other, d)."""
    costs = ds[["flops"]].sel(layer=[*ATTENTION[-1:], *CONVOLUTIONS, *RECURRENCES])
    found = curves.crossovers(costs)["crossover"]
    return found.sel(quantity="flops", layer=ATTENTION[-1])


def checks(ds: xr.Dataset) -> list[str]:
    """Those of both claims; attention overtakes the LSTM at 2 d and the GRU at d, within 6 %."""
    faults = [*CLAIM.checks(ds), *STEP.checks(_step(ds))]
    found = crossings(ds)
    for other, times in (("lstm", 2), ("gru", 1)):
        for d in ds["d"].values:
            at = float(found.sel(other=other, d=d))
            if 0 < at < math.inf and abs(at / (times * d) - 1) > 0.06:
                faults.append(
                    f"attention overtakes the {other} at n = {at:.0f}, not at {times * d} (d = {d})"
                )
    return faults


def plot(ds: xr.Dataset) -> Figure:
    """FLOPs and times against n at the largest width, and the share of attention's n^2 d term."""
    with styled():
        figure = Figure(figsize=(PAGE, 3.0), layout="constrained")
        axes = list(figure.subplots(1, 3))
        _draw_growth(axes[0], ds, "flops", "FLOPs (multiply-add = 2)")
        _draw_growth(axes[1], ds, "time", "time at 1 thread (s)")
        _draw_share(axes[2], ds)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def _draw_growth(ax: Axes, ds: xr.Dataset, name: str, label: str) -> None:
    d = int(ds["d"].max())
    here = ds.sel(d=d)
    n = here["n"].values
    for i, (layer, words) in enumerate(SHOWN.items()):
        one = here.sel(layer=layer)
        style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": LINES[i], "linewidth": 1.0}
        if name == "flops":
            ax.plot(n, one[name], label=words.replace("k =", "$k$ ="), **style)
        elif np.isfinite(one[name]).all():
            bars = np.maximum([one[name] - one["time_low"], one["time_high"] - one[name]], 0)
            ax.errorbar(n, one[name], bars, elinewidth=0.8, **style)
    if name == "flops":
        for times in (1, 2):
            if n.min() < times * d < n.max():
                ax.axvline(times * d, color=GREY, linewidth=0.6, linestyle=":")
                where = {"xy": (times * d, 0.02), "xycoords": ("data", "axes fraction"), "color": GREY}
                ax.annotate(f" ${times if times > 1 else ''}d$", fontsize=7, **where)
    ax.set(xscale="log", yscale="log", xlabel="sequence length $n$", ylabel=label)
    named = n[:: 2 if len(n) > 4 else 1]
    ax.set_xticks(named, [str(int(x)) for x in named])
    ax.minorticks_off()
    ax.set_title(f"$d$ = {d}", loc="left")


def _draw_share(ax: Axes, ds: xr.Dataset) -> None:
    ratio, share = quadratic_share(ds.sel(layer=list(ATTENTION)))
    fine = np.geomspace(ratio[0], ratio[-1], 100)
    ax.plot(fine, fine / (fine + 2), color=GREY, linewidth=0.8, linestyle="--", label="$n / (n + 2d)$")
    ax.plot(ratio, share, color=COLOURS[0], marker="o", linestyle="none", label="counted")
    ax.axhline(0.5, color=GREY, linewidth=0.6, linestyle=":")
    ax.axvline(2, color=GREY, linewidth=0.6, linestyle=":")
    ax.set(xscale="log", ylim=(0, 1), xlabel="$n / d$", ylabel="share of $n^2 d$ in attention's FLOPs")
    named = np.unique(ratio)
    named = named[:: 2 if len(named) > 6 else 1]
    ax.set_xticks(named, [f"{x:g}" for x in named])
    ax.minorticks_off()
    ax.legend(loc="lower right")


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=checks, tolerance=1e-6)
