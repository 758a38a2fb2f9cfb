"""Is the forget gate a gradient highway: does prod f_t stand for dc_t/dc_k, and does the gradient last?

Claim C8 (dc_t/dc_k ~ prod f_t, and gradients do not decay when f_t ~ 1) at forget biases -2 to 6 and
recurrent weights from N(0, gain^2/d), driven by noise. True norms include the path c -> h -> gates -> c.

Answer: the product falls short in every cell, and at lag 199 it stands for the true norm within a decade for
nearly uncoupled units only (gain 0.1, from bias 2 on, where it just does); at gain 1 it falls short by 2
decades at bias 6, 7 at bias 2, 23 at bias 0 and 76 at bias -2. Where f ~ 1 the gradient does not stay either
but grows: at bias 6 and gain 4 by 3.5 decades, while the product loses 0.3.

Numbers: d = 32, n = 200, 3 seeds (``--quick``). At gain 1 medians, whose standard deviation goes from 0.4
decades at bias 6 to 3.2 at -2; at gain 4 means, with standard errors of 0.3 and 0.01 decades. In full, at lag
999, not even those (1.4 decades at bias 6).
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from _study import main, quoted, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depprobe.figures.drawing.float_limits import draw_limits
from depprobe.figures.drawing.log_axis import log10_of, use_decades
from depprobe.figures.drawing.style import COLOURS, GREY, MARKERS, PAGE, styled
from depprobe.ledger.gradients.lstm_highway import CLAIM

#: curves drawn, of the cells of the map
SHOWN_GAIN, SHOWN_BIASES = 1.0, (-2, 0, 1, 2, 6)


def compute(quick: bool) -> xr.Dataset:
    """Norms and products over (forget_bias, gain, seed, source)."""
    return CLAIM.measure(quick, report)


def summary(ds: xr.Dataset) -> dict[str, float]:
    """The numbers of the verdict."""
    return quoted(CLAIM.judge(ds))


def plot(ds: xr.Dataset) -> Figure:
    """Left: true norm and product against the lag. Right: their ratio at the largest lag, in decades."""
    ds = ds.median("seed", keep_attrs=True)
    lag = int(ds.attrs["target"]) - ds["source"].values
    with styled():
        figure = Figure(figsize=(PAGE, 3.4), layout="constrained")
        curves, cells = figure.subplots(1, 2, width_ratios=(1.15, 1))
        for i, bias in enumerate(SHOWN_BIASES):
            here = ds.sel(forget_bias=bias, gain=SHOWN_GAIN)
            # markers tell colours apart in grey
            look = {"color": COLOURS[i], "marker": MARKERS[i], "markevery": len(lag) // 5}
            name = f"forget bias {_signed(bias)}"
            curves.plot(lag, log10_of(here["log_norm_cc"].values), label=name, **look)
            dots = {"linestyle": (0, (1, 1)), "fillstyle": "none"}
            curves.plot(lag, log10_of(here["log_norm_product"].values), **look, **dots)
        use_decades(curves.yaxis)
        shown = [(line.get_xdata()[::-1], line.get_ydata()[::-1]) for line in curves.lines]
        heights = np.concatenate([height for _, height in shown])
        draw_limits(curves, shown, heights.min(), heights.max())
        curves.plot([], [], color=GREY, label=r"true $\partial c_t/\partial c_k$")
        hollow = {"marker": "o", "fillstyle": "none"}
        curves.plot([], [], color=GREY, linestyle=(0, (1, 1)), label=r"product of $f$", **hollow)
        curves.set_xlabel("lag $t - k$ (positions)")
        curves.set_ylabel("Frobenius norm (dimensionless)")
        sizes = f"$n$ = {ds.attrs['n']}, $d$ = {ds.attrs['d']}"
        curves.set_title(f"gain {SHOWN_GAIN:g}, {sizes}, medians", loc="left")
        figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        # without recurrent weights there is nothing but the product
        coupled = ds.isel(gain=np.flatnonzero(ds["gain"].values > 0))
        _draw_cells(cells, coupled["log_gap"].isel(source=0).transpose("forget_bias", "gain"))
        cells.set_title(f"decades of true over product, lag {lag[0]}", loc="left")
    return figure


def _signed(number: int) -> str:
    return f"{number}".replace("-", "\N{MINUS SIGN}")


def _draw_cells(ax: Axes, log_gap: xr.DataArray) -> None:
    decades = log10_of(log_gap.values)
    most = float(np.nanmax(np.abs(decades)))
    # colour by the logarithm: a tenth of a decade and a hundred decades both show
    shade = np.sign(decades) * np.log1p(np.abs(decades)) / np.log1p(most)
    ax.imshow(shade, cmap="RdBu_r", vmin=-1.2, vmax=1.2, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(decades):
        text = f"{value:+.2f}" if abs(value) < 9.95 else f"{value:+.0f}"
        dark = abs(shade[row, column]) > 0.75
        ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    gains, biases = log_gap["gain"].values, log_gap["forget_bias"].values
    ax.set_xticks(range(len(gains)), [f"{gain:g}" for gain in gains])
    ax.set_yticks(range(len(biases)), [_signed(bias) for bias in biases])
    ax.set_xlabel("gain of the recurrent weights")
    ax.set_ylabel("forget bias")


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=CLAIM.checks, tolerance=1e-3)
