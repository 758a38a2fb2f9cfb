r"""C7: whether the largest eigenvalue tells how gradients decay through a recurrence.

    h_t = phi(W h_{t-1} + x_t)        dh_t/dh_k = prod_{i=t..k+1} diag(phi'(a_i)) W
    the eigenvalue rule: rate of decay = ln rho(W), so gradients decay if rho(W) < 1

Measured for tanh and for the linear recurrence, with random (N(0, g^2/d)), orthogonal (g Q) and strongly
non-normal weights (g Q T Q^T, T triangular), all of spectral radius about g, driven by fresh noise.
Shapes: W (d, d), x (n, d). Rates are slopes of ln norm_F against the lag over its second third.
Source: Bengio et al. 1994, Pascanu et al. 2013 (the rule); Schoenholz et al. 2016 (mean field).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Claim, Measured, definition
from depprobe.ledger.evidence import About, evidence, mean
from depprobe.ledger.progress import Progress, tracked
from depprobe.ledger.verdicts import CONFIRMED, QUALIFIED, REFUTED
from depprobe.probes.jacobian import jacobian
from depprobe.theory.eigenvalue import eigenvalue_rate
from depprobe.theory.meanfield import mean_field
from depprobe.theory.singular_bound import bound_rate

NOISE = 0.3
GAINS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0)
WEIGHTS = ("random", "orthogonal", "non-normal")
#: standard deviation, times sqrt(d), of what the non-normal weights have above the diagonal, at gain 1
STRENGTH = 3.0
#: (d, n, draws of the weights)
QUICK, FULL = (48, 120, 3), (128, 300, 4)
#: nats a step by which the rate of a linear recurrence may miss ln rho at finite lags
ASYMPTOTIC = 0.1


def weights(kind: str, gain: float, d: int, rng: np.random.Generator) -> np.ndarray:
    """Recurrent weights (d, d) whose spectral radius is about ``gain``."""
    random = rng.standard_normal((d, d)) / math.sqrt(d)
    if kind == "random":
        return gain * random
    Q, R = np.linalg.qr(random)
    Q = Q * np.sign(np.diag(R))
    if kind == "orthogonal":
        return gain * Q
    eigenvalues = rng.uniform(-1, 1, d)
    eigenvalues /= np.abs(eigenvalues).max()
    above = np.triu(rng.standard_normal((d, d)), 1) * STRENGTH / math.sqrt(d)
    return gain * Q @ (np.diag(eigenvalues) + above) @ Q.T


def tanh_norms(W: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln ||dh_t/dh_k||_F at lags 0 .. n - 1 for the last t, tanh, driven by x (n, d); states (n, d)."""
    import torch
    from torch import nn

    d = len(W)
    module = nn.RNN(d, d, batch_first=True, bias=False, dtype=torch.float64)
    with torch.no_grad():
        for name, value in (("weight_hh_l0", torch.from_numpy(W)), ("weight_ih_l0", torch.eye(d))):
            module.get_parameter(name).copy_(value)
        states = module(torch.from_numpy(x)[None])[0][0].numpy()
    return jacobian(module, x, wrt="h").log_norm.values[0, ::-1], states


def _norms(factors: Iterable[np.ndarray]) -> np.ndarray:
    """ln Frobenius norms of I and of its products with one factor after another, the scale carried apart."""
    product, logs = None, []
    for factor in factors:
        product = factor if product is None else product @ factor
        size = float(np.linalg.norm(product))
        product = product / size
        logs.append(math.log(size))
    return np.cumsum(logs)


def product_norms(W: np.ndarray, states: np.ndarray) -> np.ndarray:
    """What ``tanh_norms`` gives, by the stated product of factors diag(1 - h_i^2) W."""
    return _norms([np.eye(len(W)), *((1 - state**2)[:, None] * W for state in states[:0:-1])])


def linear_norms(W: np.ndarray, n: int) -> np.ndarray:
    """ln ||W^lag||_F at lags 0 .. n - 1."""
    return _norms([np.eye(len(W)), *[W] * (n - 1)])


def rate(log_norms: np.ndarray) -> float:
    """Slope of ln norm over the second third of the lags: past the transient, away from the start."""
    lags = np.arange(len(log_norms))
    part = slice(len(lags) // 3, 2 * len(lags) // 3)
    return float(np.polyfit(lags[part], log_norms[part], 1)[0])


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Rates over (layer, gain, seed), nats a step; ``layer`` is the kind of recurrent weights."""
    d, n, seeds = QUICK if quick else FULL
    shape = (len(WEIGHTS), len(GAINS), seeds)
    found = np.empty((5, *shape))
    cells = tracked(np.ndindex(shape), progress, lambda at: f"{WEIGHTS[at[0]]} weights, gain {GAINS[at[1]]}")
    for i, j, s in cells:
        rng = np.random.default_rng([seed + s, i, j])
        W = weights(WEIGHTS[i], GAINS[j], d, rng)
        norms, states = tanh_norms(W, NOISE * rng.standard_normal((n, d)))
        gap = np.abs(norms - product_norms(W, states)).max()
        found[:, i, j, s] = rate(norms), rate(linear_norms(W, n)), eigenvalue_rate(W), bound_rate(W), gap
    over, nats = "layer gain seed", "nats per step"
    field = [mean_field(gain, NOISE).exponent for gain in GAINS]
    return evidence(
        About("C7", "Decay of gradients against the largest eigenvalue", "rnn", n, d, quick, seed),
        {
            "rate_tanh": (over, found[0], "decay rate of dh_t/dh_k, tanh", nats),
            "rate_linear": (over, found[1], "decay rate of dh_t/dh_k, linear", nats),
            "log_rho": (over, found[2], "natural log of the spectral radius", nats),
            "log_sigma": (over, found[3], "natural log of the largest singular value", nats),
            "product_gap": (over, found[4], "largest difference in ln norm from the stated product", "ln 1"),
            "rate_mean_field": ("gain", field, "mean-field exponent ln(chi) / 2, random weights", nats),
        },
        {"layer": WEIGHTS, "gain": GAINS, "seed": seed + np.arange(seeds)},
        noise=NOISE,
    )


def _gap(ds: xr.Dataset) -> float:
    return float(np.abs(ds["product_gap"]).max())


def _against(ds: xr.Dataset, side: int) -> tuple[dict[str, Measured], bool]:
    """Cells with rho < 1 (side -1) or rho > 1 (1): the one farthest from the rule, and whether it breaks it.

    A cell breaks the rule where its mean rate has the other sign by two standard errors.
    """
    cells = [
        (kind, gain, mean(one["rate_tanh"], "nats per step"), float(one["log_rho"].max()))
        for kind in ds["layer"].values
        for gain in ds["gain"].values
        for one in [ds.sel(layer=kind, gain=gain)]
    ]
    cells = [cell for cell in cells if side * cell[3] > 0]
    broken = [cell for cell in cells if -side * cell[2].value > 2 * np.nan_to_num(cell[2].stderr)]
    # the fastest growth inside; outside, the largest radius at which gradients decay
    order = (lambda cell: cell[2].value) if side < 0 else (lambda cell: cell[3])
    kind, gain, found, rho = max((broken if side > 0 else []) or cells, key=order)
    return {f"rate with {kind} weights of gain {gain:g}, ln rho = {rho:.3f}": found}, bool(broken)


def _sufficient(ds: xr.Dataset) -> tuple:
    numbers, growing = _against(ds, -1)
    return (
        REFUTED if growing else CONFIRMED,
        numbers,
        "with weights far from normal gradients grow although the spectral radius is below 1; sufficient "
        "is that the product of the largest singular values of diag(phi') W decays",
    )


def _necessary(ds: xr.Dataset) -> tuple:
    numbers, fading = _against(ds, 1)
    return (
        REFUTED if fading else CONFIRMED,
        numbers,
        "phi' < 1 makes gradients decay at spectral radii above 1; the rate is the first Lyapunov exponent, "
        "ln(chi) / 2 of mean field for random weights",
    )


def _rate(ds: xr.Dataset) -> tuple:
    rates = ds[["rate_linear", "rate_tanh", "log_rho"]].mean("seed")
    linear, tanh = (
        float(np.abs(rates[f"rate_{kind}"] - rates["log_rho"]).max()) for kind in ("linear", "tanh")
    )
    field = float(np.abs(rates["rate_tanh"].sel(layer="random") - ds["rate_mean_field"]).max())
    right = linear < ASYMPTOTIC
    misses = {"ln rho, linear": linear, "ln rho, tanh": tanh, "mean field, tanh with random weights": field}
    return (
        REFUTED if not right else CONFIRMED if tanh < ASYMPTOTIC else QUALIFIED,
        {f"largest miss of {name}": Measured(miss, unit="nats per step") for name, miss in misses.items()},
        "for linear recurrences at large lags; with tanh phi' shifts the rate"
        if right
        else "not even the linear recurrence follows ln rho at these lags",
    )


def checks(ds: xr.Dataset) -> list[str]:
    """The chain rule; no tanh gradient outgrows ln sigma_max; g Q decays at ln g where it is linear."""
    faults = []
    if not _gap(ds) < 1e-4:
        faults.append(f"dh_t/dh_k is not the product of diag(phi') W: ln norms differ by {_gap(ds):.1e}")
    if not (ds["rate_tanh"] <= ds["log_sigma"] + 1e-6).all():
        faults.append("a tanh gradient grows faster than the largest singular value allows")
    off = ds["rate_linear"].sel(layer="orthogonal") - np.log(ds["gain"])
    if not float(np.abs(off).max()) < 1e-8:
        faults.append("orthogonal weights of gain g do not decay at ln g")
    return faults


CLAIM = Claim(
    "C7",
    "The gradient through a recurrence is a product of factors diag(phi') W; if the largest |eigenvalue| "
    "of W is below 1 it decays exponentially.",
    "The product is the chain rule. Sufficiency is refuted "
    "by one kind of weights and gain with rho < 1 whose mean rate exceeds 0 by two standard errors; "
    "necessity by one with rho > 1 whose rate is below 0 by two. The rate is ln rho if it is within "
    f"{ASYMPTOTIC:g} nats a step everywhere; qualified if that holds for the linear recurrence only.",
    measure,
    {
        "dh_t/dh_k is the product of diag(phi') W": definition(
            "it is the chain rule", lambda ds: {"largest difference in ln norm": Measured(_gap(ds))}
        ),
        "largest |eigenvalue| < 1 is sufficient for exponential decay (tanh)": _sufficient,
        "largest |eigenvalue| < 1 is necessary for decay (tanh)": _necessary,
        "the largest eigenvalue gives the rate": _rate,
    },
    checks,
)
