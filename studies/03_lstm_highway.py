"""Is the forget gate a gradient highway: does prod f_t stand for dc_t/dc_k, and does the gradient last?

Claim C8 (dc_t/dc_k ~ prod f_t, and gradients do not decay when f_t ~ 1) at forget biases -2 to 6 and
recurrent weights from N(0, gain^2/d), driven by noise. True norms include the path c -> h -> gates -> c.

Answer: the product falls short in every cell, and at lag 199 it holds within one decade only for nearly
uncoupled units (gain 0.1, bias 2 and up: 0.3 to 0.8 decades); at gain 1 it falls short by 2.3 decades at
bias 6, 7 at bias 2, 22 at bias 0 and 74 at bias -2, and where f ~ 1 the gradient does not stay but grows
(gain 1, bias 6: by 2.1 decades, while the product loses 0.2).

Numbers: d = 64, n = 200, medians of 3 seeds (``--quick``), whose standard deviation at gain 1 goes from
0.1 decades at bias 6 over 1.1 at 2 and 3.7 at 0 to 5.2 at -2. With d = 256, n = 1000 and one seed the
product at gain 1 and lag 999 falls short by 6.8 decades at bias 6, 13.8 at bias 4 and 411 at bias -2; at gain
0.1 by 1.3 at bias 6 and 6.2 at bias 2, so even there it does not last a thousand steps.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from _study import main
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import depprobe
from depprobe import store
from depprobe.figures.limits import draw_limits
from depprobe.figures.logaxis import log10_of, use_decades
from depprobe.figures.style import COLOURS, GREY, PAGE, styled
from depprobe.vocabulary import describe

BIASES = (-2, -1, 0, 1, 2, 3, 4, 5, 6)
GAINS = (0.1, 0.3, 0.5, 1.0, 2.0, 4.0)
QUICK, FULL = {"d": 64, "n": 200, "seeds": 3}, {"d": 512, "n": 1000, "seeds": 1}
#: curves drawn, of the cells of the map
SHOWN_GAIN, SHOWN_BIASES = 1.0, (-2, 0, 1, 2, 5)
KEPT = ("log_norm_cc", "log_norm_hc", "log_norm_product", "log_gap", "hold_share")


def compute(quick: bool) -> xr.Dataset:
    """Norms and products over (forget_bias, gain, seed, source)."""
    rows = []
    for bias in BIASES:
        row = []
        for gain in GAINS:
            ds = depprobe.gates(f"lstm:forget_bias={bias},gain={gain}", **(QUICK if quick else FULL))
            row.append(ds[list(KEPT)].expand_dims(gain=[gain]))
        rows.append(xr.concat(row, "gain").expand_dims(forget_bias=[bias]))
    found = xr.concat(rows, "forget_bias")
    for name in found.variables:
        found[name].attrs = describe(str(name))
    inputs = "seeded noise, the same for every cell of a seed"
    found.attrs = ds.attrs | {
        "title": "The forget gate as a gradient highway",
        "layer": "lstm",
        "provenance": store.provenance("studies/03_lstm_highway.py" + " --quick" * quick, inputs=inputs),
    }
    return found


def plot(ds: xr.Dataset) -> Figure:
    """Left: true norm and product against the lag. Right: their ratio at the largest lag, in decades."""
    ds = ds.median("seed", keep_attrs=True) if "seed" in ds.dims else ds
    lag = int(ds.attrs["target"]) - ds["source"].values
    with styled():
        figure = Figure(figsize=(PAGE, 3.4), layout="constrained")
        curves, cells = figure.subplots(1, 2, width_ratios=(1.15, 1))
        for i, bias in enumerate(SHOWN_BIASES):
            here = ds.sel(forget_bias=bias, gain=SHOWN_GAIN)
            colour = COLOURS[i]
            name = f"forget bias {_signed(bias)}"
            curves.plot(lag, log10_of(here["log_norm_cc"].values), color=colour, label=name)
            curves.plot(lag, log10_of(here["log_norm_product"].values), color=colour, linestyle=(0, (1, 1)))
        use_decades(curves.yaxis)
        shown = [(line.get_xdata()[::-1], line.get_ydata()[::-1]) for line in curves.lines]
        draw_limits(curves, shown, *curves.get_ylim())
        curves.plot([], [], color=GREY, label=r"true $\partial c_t/\partial c_k$")
        curves.plot([], [], color=GREY, linestyle=(0, (1, 1)), label=r"product of $f$")
        curves.set_xlabel("lag $t - k$ (positions)")
        curves.set_ylabel("Frobenius norm (dimensionless)")
        sizes = f"$n$ = {ds.attrs['n']}, $d$ = {ds.attrs['d']}"
        curves.set_title(f"gain {SHOWN_GAIN:g},  {sizes}", loc="left")
        figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        _draw_cells(cells, log10_of(ds["log_gap"].isel(source=0).transpose("forget_bias", "gain").values))
        cells.set_title(f"true over product at lag {lag[0]}: decades", loc="left")
    return figure


def _signed(number: int) -> str:
    return f"{number}".replace("-", "\N{MINUS SIGN}")


def _draw_cells(ax: Axes, decades: np.ndarray) -> None:
    most = float(np.nanmax(np.abs(decades)))
    # colour by the logarithm: a tenth of a decade and a hundred decades both show
    shade = np.sign(decades) * np.log1p(np.abs(decades)) / np.log1p(most)
    ax.imshow(shade, cmap="RdBu_r", vmin=-1.2, vmax=1.2, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(decades):
        text = f"{value:+.2f}" if abs(value) < 9.95 else f"{value:+.0f}"
        dark = abs(shade[row, column]) > 0.75
        ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    ax.set_xticks(range(len(GAINS)), [f"{gain:g}" for gain in GAINS])
    ax.set_yticks(range(len(BIASES)), [_signed(bias) for bias in BIASES])
    ax.set_xlabel("gain of the recurrent weights")
    ax.set_ylabel("forget bias")


if __name__ == "__main__":
    main(compute, plot, "03_lstm_highway")
