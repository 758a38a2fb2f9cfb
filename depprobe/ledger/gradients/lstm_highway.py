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

from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Claim, Finding, Measured, Progress, verdict
from depprobe.ledger.evidence import About, evidence, mean
from depprobe.probes.gates import gates

BIASES, GAINS = (-2, 0, 1, 2, 4, 6), (0.0, 0.1, 0.5, 1.0, 4.0)
#: (n, d, draws of the weights)
QUICK, FULL = (200, 32, 3), (1000, 256, 2)
KEPT = ("log_norm_cc", "log_norm_hc", "log_norm_product", "log_gap")
#: decades within which two norms count as alike, and a norm as kept
NEAR = 1.0
LN10 = math.log(10)


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Norms of dc_t/dc_k and dh_t/dc_k and of the product over (forget_bias, gain, seed, source)."""
    n, d, seeds = QUICK if quick else FULL
    shape = (len(BIASES), len(GAINS), seeds, n)
    columns = {name: np.empty(shape) for name in KEPT}
    cells = [(i, j) for i in range(len(BIASES)) for j in range(len(GAINS))]
    for done, (i, j) in enumerate(cells):
        spec = f"lstm:forget_bias={BIASES[i]},gain={GAINS[j]:g}"
        if progress:
            progress(done, len(cells), spec)
        ds = gates(spec, n=n, d=d, seeds=seeds, seed=seed)
        for name, values in columns.items():
            values[i, j] = ds[name].values.reshape(seeds, n)
    return evidence(
        About("C8", "The forget gate as a gradient highway", "lstm", n, d, quick, seed),
        {name: (("forget_bias", "gain", "seed", "source"), values) for name, values in columns.items()},
        {
            "forget_bias": list(BIASES),
            "gain": list(GAINS),
            "seed": seed + np.arange(seeds),
            "source": np.arange(n),
        },
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


def _cells(found: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """Every cell whose units are coupled, with its name."""
    return [
        (f"gain {gain:g}, bias {bias:g}", found.sel(forget_bias=bias, gain=gain))
        for gain in found["gain"].values
        if gain
        for bias in found["forget_bias"].values
    ]


def judge(ds: xr.Dataset) -> list[Finding]:
    """Whether the product stands for the true norm, and whether the gradient lasts where the product does."""
    lag = int(ds.attrs["target"])
    cells = _cells(decades(ds))
    gaps = {name: mean(cell["gap"], "decades") for name, cell in cells}
    near = [name for name, gap in gaps.items() if abs(gap.value) <= NEAR]
    worst = max(gaps, key=lambda name: abs(gaps[name].value))
    closest = min(gaps, key=lambda name: abs(gaps[name].value))
    alike = verdict(len(near), len(gaps))
    paths = "the paths through h, which the product leaves out, carry more than the cell from some lag on"
    findings = [
        Finding(
            f"dc_t/dc_k is about the product of f (lag {lag})",
            alike,
            {
                f"true over product, {worst}": gaps[worst],
                f"true over product, {closest}": gaps[closest],
                f"cells within {NEAR:g} decade": Measured(len(near), unit=f"of {len(gaps)}"),
            },
            f"{paths}; the product is exact without recurrent weights and holds at this lag for "
            + ("; ".join(near) or "no cell"),
        )
    ]

    open_gates = [(name, cell) for name, cell in cells if mean(cell["product"]).value > -NEAR]
    if not open_gates:
        needed = f"forget biases so large that the product loses less than {NEAR:g} decade by lag {lag}"
        return [*findings, Finding("gradients do not decay where f ~ 1", verdict(0, 0), {}, needed)]
    changes = {name: mean(cell["true"], "decades") for name, cell in open_gates}
    lowest, highest = (f(changes, key=lambda name: changes[name].value) for f in (min, max))
    decays, grows = changes[lowest].value < -NEAR, changes[highest].value > NEAR
    numbers = {f"change of the true norm from lag 0 on, {name}": changes[name] for name in (lowest, highest)}
    product = dict(open_gates)[highest]["product"]
    numbers[f"change of the product, {highest}"] = mean(product, "decades")
    findings.append(
        Finding(
            f"gradients do not decay where f ~ 1 (lag {lag})",
            REFUTED if decays else QUALIFIED if grows else CONFIRMED,
            numbers,
            f"f ~ 1 does not save the gradient: it still decays with {lowest}"
            if decays
            else "they do not decay but grow, through h; they are kept only where recurrent weights are small"
            if grows
            else "",
        )
    )
    return findings


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
    f"At the largest lag, means over seeds. The product is confirmed if the true norm is within {NEAR:g} "
    "decade of it with every forget bias and gain > 0, refuted if with none, qualified in between. f ~ 1 "
    f"is where the product itself loses less than {NEAR:g} decade: refuted if the true norm loses more "
    "than that with one such cell, qualified if it gains more than that with one.",
    measure,
    judge,
    checks,
)
