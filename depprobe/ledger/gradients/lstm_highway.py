r"""C8: whether the product of forget gates stands for dc_t/dc_k, and whether the gradient lasts where f ~ 1.

    c_t = f_t * c_{t-1} + i_t * g_t        the product: diag(f_t ... f_{k+1})
    dc_t/dc_k = the product + every path c -> h -> gates -> c through the recurrent weights

Measured at forget biases b and recurrent weights N(0, gain^2/d), driven by noise. With gain 0 no path leads
through h and the product is all there is: that column is a check, not evidence.
Shapes: norms over (forget_bias, gain, seed, source), source k = 0 .. t, t the last position.
Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000 (forget gate).
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Claim, Measured
from depprobe.ledger.evidence import About, evidence, mean
from depprobe.ledger.progress import Progress, tracked
from depprobe.ledger.verdicts import CONFIRMED, QUALIFIED, UNMEASURED, verdict
from depprobe.probes.gates import gates

BIASES, GAINS = (-2, 0, 1, 2, 4, 6), (0.0, 0.1, 0.5, 1.0, 4.0)
#: (n, d, draws of the weights)
QUICK, FULL = (200, 32, 3), (1000, 256, 2)
KEPT = ("log_norm_cc", "log_norm_hc", "log_norm_product", "log_gap")
#: decades within which two norms count as alike, and a norm as kept
NEAR = 1.0
#: share of the cells that confirms, and the share at which or below which the rest refutes
MOST, HALF = 0.9, 0.5
LN10 = math.log(10)


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Norms of dc_t/dc_k and dh_t/dc_k and of the product over (forget_bias, gain, seed, source)."""
    n, d, seeds = QUICK if quick else FULL
    shape = (len(BIASES), len(GAINS), seeds, n)
    columns = {name: np.empty(shape) for name in KEPT}
    specs = {
        (i, j): f"lstm:forget_bias={bias},gain={gain:g}"
        for i, bias in enumerate(BIASES)
        for j, gain in enumerate(GAINS)
    }
    for at, spec in tracked(specs.items(), progress, lambda cell: cell[1]):
        ds = gates(spec, n=n, d=d, seeds=seeds, seed=seed)
        for name, values in columns.items():
            values[at] = ds[name].values.reshape(seeds, n)
    return evidence(
        About("C8", "The forget gate as a gradient highway", "lstm", n, d, quick, seed),
        {name: ("forget_bias gain seed source", values) for name, values in columns.items()},
        {"forget_bias": BIASES, "gain": GAINS, "seed": seed + np.arange(seeds), "source": range(n)},
        target=n - 1,
    )


def decades(ds: xr.Dataset) -> xr.Dataset:
    """Decades at the largest lag: true over product, and how far true norm and product are from lag 0."""
    far, near = ds.isel(source=0, drop=True), ds.isel(source=-1, drop=True)
    return xr.Dataset(
        {
            "gap": far["log_gap"] / LN10,
            "true": (far["log_norm_cc"] - near["log_norm_cc"]) / LN10,
            "product": (far["log_norm_product"] - near["log_norm_product"]) / LN10,
        }
    )


def _cells(ds: xr.Dataset) -> dict[str, dict[str, Measured]]:
    """Means over seeds of what ``decades`` gives, for every cell whose units are coupled."""
    found = decades(ds)
    return {
        f"gain {gain:g}, bias {bias:g}": {
            str(name): mean(found[name].sel(forget_bias=bias, gain=gain), "decades") for name in found
        }
        for gain in found["gain"].values
        if gain
        for bias in found["forget_bias"].values
    }


def _product(ds: xr.Dataset) -> tuple:
    gaps = {name: cell["gap"] for name, cell in _cells(ds).items()}
    near = [name for name, gap in gaps.items() if abs(gap.value) <= NEAR]
    worst, closest = (f(gaps, key=lambda name: abs(gaps[name].value)) for f in (max, min))
    return (
        verdict(len(near), len(gaps), MOST, HALF),
        {
            f"true over product, {worst}": gaps[worst],
            f"true over product, {closest}": gaps[closest],
            f"cells within {NEAR:g} decade": Measured(len(near), unit=f"of {len(gaps)}"),
        },
        "the paths through h, which the product leaves out, carry more than the cell from some lag on; the "
        f"product is exact without recurrent weights and holds at lag {ds.attrs['target']} for "
        + ("; ".join(near) or "no cell"),
    )


def _open_gates(ds: xr.Dataset) -> tuple:
    """Where the product loses less than ``NEAR``: does the true norm lose more, or gain?"""
    cells = {name: cell for name, cell in _cells(ds).items() if cell["product"].value > -NEAR}
    if not cells:
        needed = "needs forget biases so large that the product loses less than"
        return UNMEASURED, {}, f"{needed} {NEAR:g} decade by lag {ds.attrs['target']}"
    changes = {name: cell["true"] for name, cell in cells.items()}
    lowest, highest = (f(changes, key=lambda name: changes[name].value) for f in (min, max))
    lasting, kept = (
        sum(change.value >= -NEAR and change.value <= most for change in changes.values())
        for most in (math.inf, NEAR)
    )
    found = verdict(lasting, len(changes), MOST, HALF)
    grows = found == CONFIRMED and kept < MOST * len(changes)
    return (
        QUALIFIED if grows else found,
        {f"change of the true norm from lag 0 on, {name}": changes[name] for name in (lowest, highest)}
        | {
            f"change of the product, {highest}": cells[highest]["product"],
            f"cells that lose less than {NEAR:g} decade": Measured(lasting, unit=f"of {len(changes)}"),
            "cells that gain less than that too": Measured(kept, unit=f"of {len(changes)}"),
        },
        "they do not decay but grow, through h; they are kept only where recurrent weights are small"
        if grows
        else f"f ~ 1 does not save the gradient: it still decays with {lowest}",
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Without recurrent weights the product is all (V8), and dc_t/dc_t is the identity."""
    faults = []
    if 0.0 in ds["gain"].values and not float(np.abs(ds["log_gap"].sel(gain=0.0)).max()) < 1e-6:
        faults.append("without recurrent weights the true norm is not that of the product of f")
    own = ds["log_norm_cc"].isel(source=-1)
    if not float(np.abs(own - 0.5 * math.log(ds.attrs["d"])).max()) < 1e-6:
        faults.append("the norm of dc_t/dc_t is not sqrt(d)")
    return faults


CLAIM = Claim(
    "C8",
    "Through the cell of an LSTM gradients take a highway: dc_t/dc_k is about the product of the forget "
    "gates f_t, and does not decay when f_t ~ 1.",
    "At the largest lag, means over seeds, over every forget bias and gain > 0. A cell holds where the "
    f"true norm is within {NEAR:g} decade of the product; f ~ 1 is where the product itself loses less "
    f"than {NEAR:g} decade, and such a cell lasts where the true norm loses no more than that. Confirmed "
    f"if {MOST:.0%} of the cells hold or last, refuted if {HALF:.0%} or fewer do, qualified in between, "
    "and where they last by growing.",
    measure,
    {
        "dc_t/dc_k is about the product of f": _product,
        "gradients do not decay where f ~ 1": _open_gates,
    },
    checks,
)
