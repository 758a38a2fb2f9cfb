"""How far does a stack of convolutions see, and how is what it sees spread over the lags?

Claim C6 (L layers with dilations 1, 2, 4, ... see k (2^L - 1) positions) against the support of the last
output's row, and the squared norms in that row against what independent weights must give (Luo et al. 2016).

Answer: the support has 1 + (k-1)(2^L - 1) positions in every stack, 2^L - 2 fewer than stated, so that four
layers see 16 (k = 2), 31 (k = 3) or 61 (k = 5) and 15 are three layers at k = 3.

What is seen is spread as independent weights demand. Without dilation the row is close to a Gaussian of sd
sqrt(L (k^2-1)/12), which at 16 layers misplaces 0.6 % of the squared norm. Doubling dilations have sd
sqrt((k^2-1)/12 (4^L-1)/3), 0.24 of the support at k = 3 from four layers on, but no Gaussian: 20 % is
misplaced, and neighbouring lags differ up to 5-fold, as the ways to write a lag as a sum of powers of 2 do.

Numbers: n = 1000, d = 512, 3 seeds, k = 2 to 5 and L to 7 for supports and sd (within 0.12 % of theory,
standard error 0.05 %); n = 200, d = 128, 32 seeds for the two rows. With ``--quick`` d = 16, L to 5: the same
supports, sd within 1.6 % of theory (standard error 0.8 %).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr
from _study import finished, main, quoted, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

import depprobe
from depprobe.figures.drawing.style import COLOURS, GREY, MARKERS, PAGE, styled
from depprobe.layers.sparse_attention import SparseAttention, Window
from depprobe.ledger.gradients.receptive_field import CANDIDATES, CLAIM, ERRORS, STATED, TRUE
from depprobe.theory.receptive import Level, exact_profile, log_gaussian_profile

#: (L, k, base) of the stacks whose row is drawn
PROFILES = ((16, 3, 1), (5, 3, 2))
#: (n, d, draws of the weights) of these rows
QUICK, FULL = (80, 16, 32), (200, 128, 32)
#: (window, layers), every position of a window weighed alike
WINDOWS = ((2, 1), (3, 2), (5, 3), (4, 4))
#: (kernel, stride) of each layer of strided stacks
STRIDED = (((3, 2), (3, 2), (3, 1)), ((5, 1), (2, 3), (3, 2)), ((7, 4), (1, 1), (3, 1), (2, 2)))


def compute(quick: bool) -> xr.Dataset:
    """What the claim measures, the squared norms of two rows, uniform windows and strided stacks."""
    ds = CLAIM.measure(quick, report)
    return ds.merge(profiles(*(QUICK if quick else FULL))).merge(windows()).merge(strided())


def profiles(n: int, d: int, seeds: int) -> xr.Dataset:
    """Share of the squared norm at each lag, mean over seeds, beside its expectation and the Gaussian."""
    lag = np.arange(n)
    share, error, expected, gaussian = (np.zeros((len(PROFILES), n)) for _ in range(4))
    for i, (L, k, base) in enumerate(PROFILES):
        spec = f"dilated-conv:depth={L},kernel={k},base={base},nonlinearity=none"
        ds = depprobe.jacobian(spec, n=n, d=d, seeds=seeds, finished=finished())
        squared = np.exp(2 * ds.log_norm.values[:, 0, ::-1])
        squared /= squared.sum(1, keepdims=True)
        share[i], error[i] = squared.mean(0), squared.std(0, ddof=1) / math.sqrt(seeds)
        levels = [Level(k, base**level) for level in range(L)]
        within, exact = exact_profile(levels)
        expected[i, within] = exact / exact.sum()
        gaussian[i] = np.exp(log_gaussian_profile(levels, lag))
    over = ("stack", "lag")
    words = {
        "share": (share, "share of the squared norm at a lag"),
        "share_stderr": (error, "standard error of the share over seeds"),
        "share_expected": (expected, "expected share, independent weights"),
        "share_gaussian": (gaussian, "Gaussian of the same mean and variance"),
    }
    return xr.Dataset(
        {name: (over, values, {"long_name": text, "units": "1"}) for name, (values, text) in words.items()},
        {"stack": [_name(*stack) for stack in PROFILES], "lag": lag},
    )


def _name(L: int, k: int, base: int) -> str:
    return f"{L} layers, k = {k}, " + ("no dilation" if base == 1 else f"dilations 1, {base}, {base**2}, ...")


def windows() -> xr.Dataset:
    """Support, mean lag and variance of stacks of uniform causal windows, shares of the norm itself."""
    n, d = 40, 4
    rows = []
    for window, layers in WINDOWS:
        torch.manual_seed(0)
        stack = nn.Sequential(*(_uniform(window, d) for _ in range(layers)))
        log = depprobe.jacobian(stack, torch.randn(n, d, dtype=torch.float64)).log_norm.values[0, ::-1]
        share = np.exp(log - log.max()) / np.exp(log - log.max()).sum()
        lag = np.arange(n)
        mean = share @ lag
        support = int((log > -math.inf).sum())
        true = (layers * (window - 1) + 1, layers * (window - 1) / 2, layers * (window**2 - 1) / 12)
        rows.append([(support, mean, share @ (lag - mean) ** 2), true])
    return _labelled(
        "window_moments", rows, "uniform windows: support, mean lag, variance of the lag", "window"
    )


def _uniform(window: int, d: int) -> nn.Module:
    """Causal attention over a window with equal weights."""
    module = SparseAttention(d, Window(window, causal=True), 1).double()
    with torch.no_grad():
        module.weights.in_proj_weight[:d] = 0
    return module


def strided() -> xr.Dataset:
    """Support of stacks with strides, against 1 + sum (k_l - 1) times the strides below."""
    rows = []
    for shapes in STRIDED:
        torch.manual_seed(0)
        stack = nn.Sequential(*(nn.Conv1d(2, 2, k, stride=s) for k, s in shapes)).double()
        ds = depprobe.jacobian(stack, torch.randn(60, 2, dtype=torch.float64))
        strides = np.cumprod([1, *(s for _, s in shapes[:-1])])
        true = 1 + sum((k - 1) * s for (k, _), s in zip(shapes, strides, strict=True))
        rows.append([(int((ds.log_norm > -math.inf).sum()),), (true,)])
    return _labelled("strided_support", rows, "support of strided stacks", "strided")


def _labelled(name: str, rows: list, words: str, dim: str) -> xr.Dataset:
    attrs = {"long_name": f"{words}; measured and true", "units": "positions"}
    return xr.Dataset({name: ((dim, "of", f"{dim}_number"), np.array(rows, dtype=float), attrs)})


def checks(ds: xr.Dataset) -> list[str]:
    """Those of the claim; windows and strides as arithmetic says; shares as independent weights give them."""
    faults = CLAIM.checks(ds)
    for name in ("window_moments", "strided_support"):
        measured, true = ds[name].values[:, 0], ds[name].values[:, 1]
        if not np.allclose(measured, true, rtol=1e-9, atol=0):
            faults.append(f"{name}: {measured.tolist()}, not {true.tolist()}")
    off = (ds["share"] - ds["share_expected"]).values
    allowed = ERRORS * ds["share_stderr"].values + 1e-3 * ds["share_expected"].values
    if (np.abs(off) > allowed).any():
        faults.append(f"a share of the squared norm misses its expectation by more than {ERRORS} errors")
    return faults


def summary(ds: xr.Dataset) -> dict[str, float]:
    """The numbers of the verdict, and how much of the squared norm a Gaussian misplaces."""
    numbers = quoted(CLAIM.judge(ds))
    for name in ("expected", "gaussian"):
        off = np.abs(ds["share"] - ds[f"share_{name}"]).sum("lag") / 2
        for stack, value in zip(ds["stack"].values, off.values, strict=True):
            numbers[f"share misplaced by share_{name}, {stack}"] = float(value)
    for base in (1, 2):
        deepest = ds.isel(layer=np.flatnonzero((ds["base"] == base) & (ds["kernel"] == 3)))
        deepest = deepest.isel(layer=int(np.argmax(deepest["layers_stacked"].values)))
        part = float(deepest["measured_width"] / deepest["receptive_width"])
        numbers[f"sd over support, {int(deepest['layers_stacked'])} layers, k = 3, base {base}"] = part
    return numbers


def plot(ds: xr.Dataset) -> Figure:
    """Left: support against depth. Right: the row of a plain and of a doubling stack."""
    with styled():
        figure = Figure(figsize=(PAGE, 3.5), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
        _draw_support(left.add_subplot(), ds)
        left.legend(loc="outside lower center", ncols=2)
        top, below = right.subplots(2, 1)
        for ax, index in ((top, 0), (below, 1)):
            _draw_profile(ax, ds.isel(stack=index))
        top.legend(loc="upper right")
        below.set_xlabel("lag $t - k$ (positions)")
    return figure


def _draw_support(ax: Axes, ds: xr.Dataset) -> None:
    doubling = ds.isel(layer=np.flatnonzero(ds["base"].values == 2))
    for i, k in enumerate((2, 3, 5)):
        here = doubling.isel(layer=np.flatnonzero(doubling["kernel"].values == k))
        L = here["layers_stacked"].values
        fine = np.linspace(L[0], L[-1], 100)
        look = {"color": COLOURS[i]}
        ax.plot(fine, CANDIDATES[TRUE](k, fine), linewidth=0.9, **look)
        ax.plot(fine, CANDIDATES[STATED](k, fine), linestyle=(0, (1, 1.5)), linewidth=0.9, **look)
        ax.plot(L, here["receptive_width"], marker=MARKERS[i], linestyle="None", label=f"$k$ = {k}", **look)
    ax.plot([], [], color=GREY, label="$1+(k-1)(2^L-1)$")
    ax.plot([], [], color=GREY, linestyle=(0, (1, 1.5)), label="stated: $k\\,(2^L-1)$")
    ax.set_yscale("log", base=2)
    ax.set_xticks(np.unique(doubling["layers_stacked"]))
    ax.set_xlabel("layers $L$, dilations 1, 2, 4, ...")
    ax.set_ylabel("sources that are not zero (positions)")
    ax.set_title("support of the last output's row", loc="left")


def _draw_profile(ax: Axes, one: xr.Dataset) -> None:
    one = one.isel(lag=slice(int(np.flatnonzero(one["share_expected"].values).max()) + 1))
    lag = one["lag"].values
    ax.bar(lag, one["share_expected"], width=1.0, color="#d0d0d0", label="expected")
    ax.errorbar(
        lag,
        one["share"],
        yerr=one["share_stderr"],
        fmt=".",
        color=COLOURS[0],
        markersize=3,
        elinewidth=0.6,
        label="measured",
    )
    ax.plot(lag, one["share_gaussian"], "--", color=COLOURS[1], label="Gaussian")
    ax.set_xlim(-1, lag[-1] + 1)
    ax.set_ylim(0, None)
    ax.set_ylabel("share of $\\Vert J_{t,k}\\Vert_F^2$")
    ax.set_title(str(one["stack"].values).replace("k =", "$k$ ="), loc="left")


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=checks, tolerance=1e-3)
