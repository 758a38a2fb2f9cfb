"""What does plain autodiff print where a gradient is tiny, and what is true?

dh_t/dx_k of default recurrent layers: torch's autograd in float32 and float64 beside products whose exponent
is carried apart; products of one constant factor, multiplied out in float32; and two measures of reach that
the arithmetic spoils: counting what is > 0, and the effective receptive field by log10(1 + gradient).

Answer: at lag 999 the LSTM's Jacobian is 1e-214.6 and the RNN's 1e-337, where float32 autograd prints 0
from lag 199 and 128 on, and float64 0 for the RNN from lag 951 on.

The norm of such gradients comes out 0 long before they do, as its squares underflow: for the LSTM from lag 98
in float32 and from 746 in float64. Counting what is > 0 gives 199 sources where 1000 have an effect. The
opposite happens too: in float32 a constant factor above 1/2 never multiplies to 0; 0.9 sticks at 5.6e-45 from
lag 964 on. An effective receptive field by log10(1 + gradient) goes from 0.54 to 1.00 of the input when the
gradient is only multiplied by a constant, where the range of squared norms does not move.

Numbers: n = 1000, d = 512, seed 0; with ``--quick`` d = 48, 1e-218 and lags 198, 97 and 740 for the LSTM.
Where floats have their digits, autograd and the products agree within 1e-3 (float32) and 1e-6 (float64) in ln
norm; a small LSTM agrees with 40 digits within 1e-12.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import xarray as xr
from _floats import FACTORS, VALUES, many_digits, powers
from _study import attributes, main, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor, nn

import depprobe
from depprobe.curves import distances
from depprobe.figures.drawing.log_axis import LN10, log10_of, use_decades
from depprobe.figures.drawing.style import COLOURS, GREY, MARKERS, PAGE, SMALL, styled
from depprobe.vocabulary import describe

LAYERS = {"lstm": nn.LSTM, "rnn": nn.RNN}
#: (n, d, rows of the Jacobian at a time)
QUICK, FULL = (1000, 48, 48), (1000, 512, 64)
#: factors of the whole gradient, by which nothing changes that is free of scale
SCALES = 10.0 ** np.arange(-6, 19, 2)
#: share of log10(1 + gradient) inside the effective receptive field (Ding et al. 2022)
WITHIN = 0.99
#: positions of the row whose reach is measured
N_REACH = 65
SMALLEST = {"float32": -149 * math.log(2), "float64": -1074 * math.log(2)}


def compute(quick: bool) -> xr.Dataset:
    """Norms over (layer, lag), powers over (factor, power), measures of reach over scale."""
    n, d, rows = QUICK if quick else FULL
    parts = []
    for done, name in enumerate(LAYERS):
        report(done, len(LAYERS) + 1, name)
        parts.append(recurrence(LAYERS[name], n, d, rows).expand_dims(layer=[name]))
    report(len(LAYERS), len(LAYERS) + 1, "many digits, constant factors")
    ds = xr.concat(parts, "layer").merge(many_digits()).merge(powers()).merge(reach())
    for key in ("layer", "lag"):
        ds[key].attrs = describe(key)
    ds.attrs = attributes(
        __file__, quick, "What plain autodiff prints and what is true", LAYERS, n=n, d=d, dtype="float64"
    )
    return ds


def recurrence(kind: type[nn.RNNBase], n: int, d: int, rows: int) -> xr.Dataset:
    """ln of the norm of dh_t/dx_k for the last t: true, and as autograd prints it."""
    torch.manual_seed(0)
    module, x = kind(d, d, batch_first=True).double(), torch.randn(n, d, dtype=torch.float64)
    log_norm = depprobe.jacobian(module, x).log_norm.values[0, ::-1]
    found = {"log_norm": (log_norm, "true norm of dh_t/dx_k")}
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        entries, own = autodiff(copy.deepcopy(module).to(dtype), x.to(dtype), rows)
        found[f"log_{name}"] = (entries, f"norm of the entries that autograd prints in {name}")
        found[f"log_own_{name}"] = (own, f"that norm taken in {name}, as grad.norm() does")
    return xr.Dataset(
        {
            key: ("lag", values, {"long_name": f"natural log of the {words}", "units": "ln 1"})
            for key, (values, words) in found.items()
        },
        {"lag": np.arange(n)},
    )


def autodiff(module: nn.RNNBase, x: Tensor, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """ln of the norms of dh_t/dx_k at every lag, by vectorized vector-Jacobian products of so many rows.

    The first is of the entries as printed, without squaring tiny numbers; the second squares them.
    """
    leaf = x.clone().requires_grad_()
    h = module(leaf[None])[0][0, -1]
    logs, norms = [], []
    for some in torch.eye(len(h), dtype=x.dtype).split(rows):
        J = torch.autograd.grad(h, leaf, some, retain_graph=True, is_grads_batched=True)[0].flip(1)
        largest = J.abs().amax((0, 2)).double()
        scaled = J.double() / torch.where(largest > 0, largest, 1.0)[:, None]
        logs.append((largest.log() + scaled.norm(dim=(0, 2)).log()).numpy())
        norms.append(J.norm(dim=(0, 2)))
    own = torch.stack(norms).norm(dim=0).double().log()
    return np.logaddexp.reduce(2 * np.stack(logs)) / 2, own.numpy()


def reach() -> xr.Dataset:
    """Measures of one row's reach while its gradient is multiplied by constants that change nothing."""
    n = N_REACH
    spec = "dilated-conv:depth=32,kernel=3,base=1,causal=false,nonlinearity=none"
    ds = depprobe.jacobian(spec, n=n, d=16, targets=[n // 2])
    copied, ours = [], []
    for scale in SCALES:
        scaled = ds.assign(log_norm=ds.log_norm + math.log(scale))
        score = np.log10(1 + np.exp(scaled.log_norm.values[0]))
        inside = [score[n // 2 - i : n // 2 + i + 1].sum() / score.sum() for i in range(n // 2 + 1)]
        copied.append((2 * int(np.argmax(np.array(inside) > WITHIN)) + 1) / n)
        ours.append(float(distances(scaled).effective_range))
    return xr.Dataset(
        {
            "copied_ratio": (
                "scale",
                copied,
                {"long_name": "share of the input by log10(1 + g)", "units": "1"},
            ),
            "effective_range": ("scale", ours, describe("effective_range")),
        },
        {"scale": ("scale", SCALES, {"long_name": "factor of the whole gradient", "units": "1"})},
    )


def zero_from(log_norms: np.ndarray) -> int:
    """Lag from which all norms are exactly zero; the number of lags where the last is not."""
    return int(np.flatnonzero(log_norms > -math.inf).max()) + 1


def checks(ds: xr.Dataset) -> list[str]:
    """The chain against many digits and against autograd where it has digits; where powers leave floats."""
    faults = []
    if not float(np.abs(ds["gap_many_digits"]).max()) < 1e-6:
        faults.append("the chain and 40 digits differ by more than 1e-6 in ln norm")
    for name, within, above in (("float32", 1e-3, 40.0), ("float64", 1e-6, 40.0)):
        normal = ds["log_norm"].values > SMALLEST[name] + above
        off = np.abs(ds[f"log_{name}"].values - ds["log_norm"].values)[normal].max()
        if not off < within:
            faults.append(f"autograd in {name} differs by {off:.1e} in ln norm where it has its digits")
    if not (ds["log_norm"] > -math.inf).all():
        faults.append("the chain prints a zero that is none")
    if not 180 < zero_from(ds["log_float32"].sel(layer="lstm").values) < 220:
        faults.append("float32 autograd through the default LSTM does not print zeros from lag 200 or so")
    for index, (name, wanted) in enumerate(FACTORS.items()):
        row = ds.isel(factor=index)
        got = [float(row[key]) for key in ("lag_float32", "lag_float64", "lag_normal", "lag_flushed")]
        for lag, true in zip(got, (*wanted, wanted[2]), strict=True):
            if not math.isnan(lag) and lag != true:
                faults.append(f"powers of {name} leave the floats at {lag:g}, not {true}")
    ends = ds["sticks_at"].values
    if ends[0] != 0 or float(ds["lag_stops"][0]) != FACTORS["0.5"][0]:
        faults.append("the float32 product of 0.5 is not 0 from lag 150")
    if abs(ends[3] / 2.0**-147 - 1) > 1e-12:
        faults.append(f"the float32 product of 0.9 sticks at {ends[3]:.2g}, not at 5.6e-45")
    if np.ptp(ds["effective_range"].values) > 1e-9 * float(ds["effective_range"].max()):
        faults.append("the effective range changes with the scale of the gradient")
    return faults


def summary(ds: xr.Dataset) -> dict[str, float]:
    """True norms, lags from which zeros are printed, and measures of reach."""
    numbers: dict[str, float] = {}
    for name in LAYERS:
        row = ds.sel(layer=name)
        numbers[f"{name}: log10 of the true norm at the last lag"] = float(row["log_norm"][-1]) / LN10
        for key in ("float32", "own_float32", "float64", "own_float64"):
            numbers[f"{name}: zeros from lag, {key}"] = zero_from(row[f"log_{key}"].values)
    for name, stops, ends in zip(
        ds["factor"].values, ds["lag_stops"].values, ds["sticks_at"].values, strict=True
    ):
        numbers[f"{name}: float32 product stays from lag"] = float(stops)
        numbers[f"{name}: float32 product stays at, units of 2^-149"] = float(ends) * 2.0**149
    for at in (0, -1):
        numbers[f"share of the input by log10(1 + g), scale {SCALES[at]:g}"] = float(ds["copied_ratio"][at])
    numbers["effective range"] = float(ds["effective_range"][0])
    return numbers


def plot(ds: xr.Dataset) -> Figure:
    """Left: true norms and what autograd prints. Right: float32 products that stick; reach against scale."""
    with styled():
        figure = Figure(figsize=(PAGE, 4.8), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.6, 1))
        _draw_norms(left.add_subplot(), ds)
        above, below = right.subfigures(2, 1)
        _draw_powers(above, ds)
        _draw_reach(below, ds)
    return figure


#: how the end of a curve is marked
END = {"markerfacecolor": "white", "markeredgewidth": 1.2, "markersize": 5}
SHADES = ("#efefef", "#d6d6d6")


def _draw_norms(ax: Axes, ds: xr.Dataset) -> None:
    lag = ds["lag"].values
    bottom = 50 * math.floor(float(ds["log_norm"].min()) / LN10 / 50 - 0.1)
    for (name, limit), shade, side in zip(SMALLEST.items(), SHADES, ("right", "left"), strict=True):
        ax.axhspan(bottom, limit / LN10, color=shade, linewidth=0, zorder=0)
        words = f"below the smallest {name}, $2^{{{limit / math.log(2):.0f}}}$"
        x = 8 if side == "left" else lag[-1] - 8
        ax.text(x, limit / LN10 - 5, words, va="top", ha=side, fontsize=SMALL, color="#444444")
    for i, name in enumerate(ds["layer"].values):
        row, colour = ds.sel(layer=name), COLOURS[i]
        true = log10_of(row["log_norm"].values)
        ax.plot(lag, true, color=colour, linewidth=0.9)
        for key, width in (("float64", 2.6), ("float32", 5.0)):
            values = log10_of(row[f"log_{key}"].values)
            end = zero_from(values)
            ax.plot(lag[:end], values[:end], color=colour, linewidth=width, alpha=0.35, solid_capstyle="butt")
            for at, marker in ((end, "x"), (zero_from(row[f"log_own_{key}"].values), "o")):
                if at < len(lag):
                    words = f"{at}" if i and key == "float32" else f"{key}: {at}"
                    _draw_end(ax, at, true[at], words, marker, colour)
        words = f"{str(name).upper()}: $10^{{{true[-1]:.0f}}}$ at lag {lag[-1]}"
        # above the upper curve from where it is highest, below the lower one where that is lowest
        x, beside, va = (lag[-1] - 8, 0.48, "bottom") if i == 0 else (int(0.53 * len(lag)), 0.55, "top")
        ax.text(x, true[int(beside * len(lag))], words, ha="right", va=va, color=colour)
    use_decades(ax.yaxis)
    ax.set_xlim(0, lag[-1])
    ax.set_ylim(bottom, 12)
    for words, width in (("true", 0.9), ("autograd, float64", 2.6), ("autograd, float32", 5.0)):
        ax.plot([], [], color=GREY, linewidth=width, alpha=1 if width < 1 else 0.45, label=words)
    for marker, words in (("x", "every entry is 0 from here on"), ("o", "its norm comes out 0 from here on")):
        ax.plot([], [], marker, color=GREY, label=words, **END)
    ax.set_xlabel("lag $t - k$ (positions)")
    ax.set_ylabel("norm of $\\partial h_t/\\partial x_k$ (dimensionless)")
    ax.set_title(f"layers as torch makes them, $n$ = {ds.attrs['n']}, $d$ = {ds.attrs['d']}", loc="left")
    above = (SMALLEST["float64"] / LN10 - bottom) / (12 - bottom)
    ax.legend(loc="lower left", bbox_to_anchor=(0, above), fontsize=SMALL)


def _draw_end(ax: Axes, lag: int, height: float, words: str, marker: str, colour: str) -> None:
    ax.plot(lag, height, marker, color=colour, **END)
    right = colour == COLOURS[0]
    ax.annotate(
        words,
        (lag, height),
        xytext=(6, 3) if right else (-6, -4),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=SMALL,
        color=colour,
    )


def _draw_powers(part: SubFigure, ds: xr.Dataset) -> None:
    ax = part.add_subplot()
    power = ds["power"].values
    ax.axhspan(-60, SMALLEST["float32"] / LN10, color=SHADES[0], linewidth=0, zorder=0)
    for i, (name, factor) in enumerate(zip(ds["factor"].values[:4], VALUES, strict=False)):
        ax.plot(power, power * math.log10(factor), color=COLOURS[i], linewidth=0.7, linestyle=(0, (2, 1.5)))
        logs = log10_of(ds["log_power"].values[i])
        look = {"color": COLOURS[i], "marker": MARKERS[i], "markevery": 110, "label": _factor(str(name))}
        ax.plot(power, np.where(np.isfinite(logs), logs, np.nan), **look)
        if not np.isfinite(logs[-1]):
            end = zero_from(logs)
            ax.plot(end - 1, logs[end - 1], "x", color=COLOURS[i], **END)
    use_decades(ax.yaxis)
    ax.set_xlim(0, power[-1])
    ax.set_ylim(-52, 1)
    ax.set_xlabel("number of factors")
    ax.set_ylabel("product")
    ax.set_title("float32 (lines), exact (dashes)", loc="left")
    part.legend(loc="outside lower center", ncols=4, handlelength=1.6, columnspacing=1.0)


def _factor(name: str) -> str:
    return {"1/sqrt(3)": "$1/\\sqrt{3}$", "sigma(1)": "$\\sigma(1)$"}.get(name, name)


def _draw_reach(part: SubFigure, ds: xr.Dataset) -> None:
    ax = part.add_subplot()
    ax.plot(ds["scale"], ds["copied_ratio"], color=COLOURS[1], marker="o", label="by $\\log_{10}(1+g)$")
    ours = (2 * ds["effective_range"] + 1) / N_REACH
    ax.plot(ds["scale"], ours, color=COLOURS[0], marker="s", label="by squared norms")
    ax.set_xscale("log")
    ax.set_ylim(0, 1.05)
    ax.set_xlabel("factor of the whole gradient")
    ax.set_ylabel("share of the input")
    ax.set_title("effective receptive field", loc="left")
    part.legend(loc="outside lower center", ncols=2, handlelength=1.6, columnspacing=1.0)


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=checks, tolerance=1e-3)
