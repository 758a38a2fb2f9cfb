"""Do 95 % intervals hold the truth in 95 % of cases?

Random probes of linear maps whose blocks are known: of rank one, rank three, full, and a GRU's. Norms of one
row from 1, 4 and 8 orthonormal probes; decay rate, mean distance and 95 % range of the curve from stratified
targets with one probe each. The truth is the same quantity from the exact norms, at all targets.

Fits of curves whose law is known, noise added (``_form_coverage``): how often the true form is named, how
often it is among those not told apart, and how often the decay rate's interval holds it.

Answer: of norms yes, from one probe on and for every kind of blocks; of what is pooled over targets yes,
within what these draws can tell; of decay rates from independent noise, or from AR(.9) noise and n = 1000,
yes.

Norms: 95 to 96 % of all intervals; as many orthonormal probes as outputs are exact. Of 500 draws with one
probe at each of 24 targets, decay rates are held in 93 (rank one), 93 (rank three), 94 (full) and 98 % (GRU),
mean distances in 93, 93, 97 and 96 %. Of single sources fewer: at the worst of a GRU, 80 % with 8 probes.

Forms, 200 seeds a law: with independent noise the true form is named in 95 % of the curves of n = 100 (the
worst of 11 laws: 86 %, two rates and a floor), 98 % from n = 300 on (worst: 93 %). With AR(.9) noise or a
random walk it is among those not told apart in 98 and 97 % at n = 100 (worst law: 95 and 94 %), in 98 % or
more from n = 300 on; at n = 50 in 97 and 96 % (worst: 96 and 91 %). The decay rate's interval holds it in 94
to 98 % with independent noise (n = 50 to 1000, 500 seeds), 94 % with AR(.9) noise and n = 300 or 1000; of a
random walk, and of AR(.9) noise at n = 100 and less, hardly any interval is stated, since fewer than 20 lags
are independent.

Numbers: n = 48, d = 12, 500 seeds; ``--quick`` takes 16, and three laws at n = 20 and 100.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr
from _form_coverage import NOISES, coverage
from _known_blocks import KINDS, curve, exact, known_blocks, probed
from _study import attributes, main, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import depprobe
from depprobe.core.options import wanted_positions
from depprobe.curves import distances
from depprobe.figures.drawing.style import COLOURS, GREY, MARKERS, PAGE, SMALL, styled
from depprobe.runs.labelling import stacked

N, D, TARGETS = 48, 12, "random:24"
SEEDS_QUICK, SEEDS = 16, 500
PROBES = (1, 4, 8)
CURVE = {"decay_rate": "decay rate", "mean_distance": "mean distance", "effective_range": "95 % range"}
QUANTITIES = (*(f"norm, {m} probe{'s' * (m > 1)}" for m in PROBES), *CURVE.values())
NOMINAL = 0.95
#: share of the intervals of one kind of number that must hold the truth, whatever the blocks
LEAST = 0.92


def compute(quick: bool) -> xr.Dataset:
    """Shares of intervals that hold the truth, (kind, quantity), of the worst source too; forms of laws."""
    seeds = SEEDS_QUICK if quick else SEEDS
    covered, worst = (np.full((len(KINDS), len(QUANTITIES)), np.nan) for _ in range(2))
    for i, kind in enumerate(KINDS):
        blocks = known_blocks(kind, N, D)
        truth = exact(blocks)
        whole = distances(truth, resamples=2)
        held: list[list[np.ndarray]] = []
        for seed in range(seeds):
            if seed % 10 == 0:
                report(i * seeds + seed, len(KINDS) * seeds, kind)
            norms = [_norms_held(blocks, truth, m, seed) for m in PROBES]
            held.append([*norms, *_curve_held(blocks, whole, seed)])
        for j, column in enumerate(zip(*held, strict=True)):
            covered[i, j] = np.mean(column)
            worst[i, j] = np.mean(column, 0).min()
    about = {"units": "1", "long_name": "share of intervals that hold the truth"}
    ds = xr.Dataset(
        {
            "covered": (("kind", "quantity"), covered, about),
            "worst": (
                ("kind", "quantity"),
                worst,
                about | {"long_name": about["long_name"] + ", worst source"},
            ),
        },
        {
            "kind": ("kind", list(KINDS), {"long_name": "kind of blocks", "units": "1"}),
            "quantity": ("quantity", list(QUANTITIES), {"long_name": "what is estimated", "units": "1"}),
        },
    )
    ds = ds.merge(coverage(quick, report))
    ds.attrs = attributes(
        __file__,
        quick,
        "Coverage of 95 % intervals",
        ["linear maps of known blocks"],
        n=N,
        d=D,
        seeds=seeds,
        dtype="float64",
    )
    return ds


def _norms_held(blocks: torch.Tensor, truth: xr.Dataset, probes: int, seed: int) -> np.ndarray:
    found = probed(blocks, probes, seed).log_norms([N - 1])
    true = truth["log_norm"].values[-1]
    assert found.low is not None
    assert found.high is not None
    return (found.low[0] <= true) & (true <= found.high[0])


def _curve_held(blocks: torch.Tensor, truth: xr.Dataset, seed: int) -> list[np.ndarray]:
    at = wanted_positions(TARGETS, N, seed)
    operator = probed(blocks, 1, seed)
    # a few targets at a time, as ``depprobe.jacobian`` asks for them
    parts = [operator.log_norms(some.tolist()) for some in np.array_split(at, len(at) // 8)]
    norms = stacked(parts, None, N)
    beside = {"log_norm_stderr": norms.stderr, "probe_loading": norms.loading}
    found = distances(curve(norms.values, at, **beside), resamples=100, seed=seed)
    return [
        np.array([float(found[f"{name}_low"]) <= float(truth[name]) <= float(found[f"{name}_high"])])
        for name in CURVE
    ]


def checks(ds: xr.Dataset) -> list[str]:
    """Intervals of norms within three standard errors of 95 %; as many probes as outputs are exact."""
    faults = []
    spread = 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / ds.attrs["seeds"])
    for kind in KINDS:
        for quantity in QUANTITIES[: len(PROBES)]:
            share = float(ds["covered"].sel(kind=kind, quantity=quantity))
            if abs(share - NOMINAL) > spread:
                faults.append(f"{quantity} of blocks, {kind}: {share:.3f} of the intervals hold the truth")
        for quantity in CURVE.values():
            share = float(ds["covered"].sel(kind=kind, quantity=quantity))
            if share < LEAST - spread:
                faults.append(f"{quantity}, {kind}: {share:.3f} of the intervals hold the truth")
    long = ds.sel(length=ds["length"] >= 100)
    right = float(long["right"].sel(noise="independent").mean())
    if right < 0.9:
        faults.append(f"independent noise: the true form is named in {right:.3f} of the curves")
    for noise in NOISES:
        among = float(long["among"].sel(noise=noise).mean())
        if among < 0.95:
            faults.append(
                f"{noise}: the true form is among those not told apart in {among:.3f} of the curves"
            )
    torch.manual_seed(0)
    module, x = torch.nn.GRU(5, 6, batch_first=True).double(), torch.randn(20, 5, dtype=torch.float64)
    given = {"targets": [19, 3], "method": "probes"}
    full = depprobe.jacobian(module, x, probes=6, **given)
    gap = full["log_norm"] - depprobe.jacobian(module, x, targets=[19, 3])["log_norm"]
    if not float(abs(gap.where(np.isfinite(gap), 0.0)).max()) < 1e-9:
        faults.append("as many orthonormal probes as outputs are not exact")
    return faults


def summary(ds: xr.Dataset) -> dict[str, float]:
    """Shares of intervals that hold the truth, and of forms; of these the worst law too."""
    forms = {
        f"{noise}, n = {n}: true form among those not told apart": float(
            ds["among"].sel(noise=noise, length=n).mean()
        )
        for noise in ds["noise"].values
        for n in ds["length"].values
    }
    worst = {}
    for name, words in (("right", "named"), ("among", "among those not told apart")):
        for noise in ds["noise"].values:
            for n in ds["length"].values:
                cells = ds[name].sel(noise=noise, length=n)
                law = str(cells["law"].values[int(cells.values.argmin())])
                worst[f"{noise}, n = {n}: least often {words}, {law}"] = float(cells.min())
    return (
        forms
        | worst
        | {
            f"{kind}: {quantity}": float(ds["covered"].sel(kind=kind, quantity=quantity))
            for kind in KINDS
            for quantity in QUANTITIES
        }
    )


def plot(ds: xr.Dataset) -> Figure:
    """Intervals from probes above; forms named, forms not told apart, and decay rates below."""
    with styled():
        figure = Figure(figsize=(PAGE, 5.6), layout="constrained")
        axes = figure.subplot_mosaic([["probes"] * 3, ["right", "among", "rate_covered"]])
        _draw_probes(axes["probes"], ds)
        for name, words in (
            ("right", "true form named"),
            ("among", "true form not told apart\nfrom the named one"),
            ("rate_covered", "decay rate within\nits 95 % interval"),
        ):
            _draw_by_length(axes[name], ds, name)
            axes[name].set_title(words, loc="left")
        axes["right"].set_ylabel("share of the curves (bars: to the worst law)")
        axes["right"].legend(loc="lower right", fontsize=SMALL)
    return figure


def _draw_probes(ax: Axes, ds: xr.Dataset) -> None:
    spread = 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / ds.attrs["seeds"])
    ax.axhspan(NOMINAL - spread, min(1, NOMINAL + spread), color="#e8e8e8", linewidth=0, zorder=0)
    ax.axhline(NOMINAL, color=GREY, linewidth=0.8, zorder=1)
    where = np.arange(len(QUANTITIES))
    for i, kind in enumerate(KINDS):
        at = where + 0.15 * (i - 1.5)
        ax.plot(at, ds["covered"][i], MARKERS[i], color=COLOURS[i], label=f"blocks: {kind}")
    low = min(0.85, float(ds["covered"].min()) - 0.03)
    ax.set_ylim(low, 1.01)
    ax.set_xticks(where, [words.replace(", ", "\n") for words in QUANTITIES])
    ax.set_ylabel("share of intervals that hold the truth")
    ax.set_title(
        f"95 % intervals from random probes, {ds.attrs['seeds']} seeds; grey: three standard errors",
        loc="left",
    )
    ax.legend(loc="lower left", fontsize=SMALL)


def _draw_by_length(ax: Axes, ds: xr.Dataset, name: str) -> None:
    """Means over the laws against the length, and the worst law as a bar."""
    ax.axhline(0.9 if name == "right" else NOMINAL, color=GREY, linewidth=0.8, zorder=1)
    for i, noise in enumerate(ds["noise"].values):
        here, stated = ds[name].sel(noise=noise), ds["rate_stated"].sel(noise=noise)
        by_law = "law" in here.dims
        mean = here.mean("law") if by_law else here.where(stated > 0.1)
        length = ds["length"].values * (1 + 0.06 * (i - 1))
        below = mean - (here.min("law") if by_law else mean)
        ax.errorbar(
            length,
            mean,
            [below, 0 * below],
            color=COLOURS[i],
            marker=MARKERS[i],
            linewidth=0.8,
            label=str(noise),
        )
    ax.set_xscale("log")
    ax.set_xticks(ds["length"].values, ds["length"].values)
    ax.minorticks_off()
    ax.set_xlabel("sequence length")


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=checks, tolerance=0.05)
