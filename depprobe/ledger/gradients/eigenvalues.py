r"""C7: whether the largest eigenvalue tells how gradients decay through a recurrence.

    h_t = phi(W h_{t-1} + x_t)        dh_t/dh_k = prod_{i=t..k+1} diag(phi'(a_i)) W
    the eigenvalue rule: rate of decay = ln rho(W), so gradients decay if rho(W) < 1

Measured for tanh and for the linear recurrence, with random (N(0, g^2/d)), orthogonal (g Q) and strongly
non-normal weights (g Q T Q^T, T triangular), all of spectral radius about g, driven by fresh noise.
Shapes: W (d, d), x (n, d). Rates are slopes of ln norm_F against the lag over its second third.
Source: Bengio et al. 1994, Pascanu et al. 2013 (the rule); Schoenholz et al. 2017 (mean field).
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Claim, Finding, Measured, Progress
from depprobe.ledger.evidence import About, evidence, mean
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


def product_norms(W: np.ndarray, states: np.ndarray) -> np.ndarray:
    """The same by the stated product, one factor diag(1 - h_i^2) W after another, its scale carried apart."""
    product, log, found = np.eye(len(W)), 0.0, []
    for state in states[::-1]:
        size = float(np.linalg.norm(product))
        log += math.log(size)
        found.append(log)
        product = (product / size) @ ((1 - state**2)[:, None] * W)
    return np.array(found)


def linear_norms(W: np.ndarray, n: int) -> np.ndarray:
    """ln ||W^lag||_F at lags 0 .. n - 1, the scale carried apart."""
    power, log, found = np.eye(len(W)), 0.0, []
    for _ in range(n):
        size = float(np.linalg.norm(power))
        log += math.log(size)
        found.append(log)
        power = W @ (power / size)
    return np.array(found)


def rate(log_norms: np.ndarray) -> float:
    """Slope of ln norm over the second third of the lags: past the transient, away from the start."""
    lags = np.arange(len(log_norms))
    part = slice(len(lags) // 3, 2 * len(lags) // 3)
    return float(np.polyfit(lags[part], log_norms[part], 1)[0])


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Rates over (layer, gain, seed), nats a step; ``layer`` is the kind of recurrent weights."""
    d, n, seeds = QUICK if quick else FULL
    shape = (len(WEIGHTS), len(GAINS), seeds)
    tanh, linear, rho, sigma, off = (np.empty(shape) for _ in range(5))
    for done, (i, j, s) in enumerate(np.ndindex(shape)):
        if progress:
            progress(done, math.prod(shape), f"{WEIGHTS[i]} weights, gain {GAINS[j]}")
        rng = np.random.default_rng([seed + s, i, j])
        W = weights(WEIGHTS[i], GAINS[j], d, rng)
        x = NOISE * rng.standard_normal((n, d))
        norms, states = tanh_norms(W, x)
        off[i, j, s] = np.abs(norms - product_norms(W, states)).max()
        tanh[i, j, s], linear[i, j, s] = rate(norms), rate(linear_norms(W, n))
        rho[i, j, s], sigma[i, j, s] = eigenvalue_rate(W), bound_rate(W)
    over, nats = ("layer", "gain", "seed"), "nats per step"
    return evidence(
        About("C7", "Decay of gradients against the largest eigenvalue", "rnn", n, d, quick, seed),
        {
            "rate_tanh": (over, tanh, "decay rate of dh_t/dh_k, tanh", nats),
            "rate_linear": (over, linear, "decay rate of dh_t/dh_k, linear", nats),
            "log_rho": (over, rho, "natural log of the spectral radius", nats),
            "log_sigma": (over, sigma, "natural log of the largest singular value", nats),
            "product_gap": (over, off, "largest difference in ln norm from the stated product", "ln 1"),
            "rate_mean_field": (
                ("gain",),
                [mean_field(gain, NOISE).exponent for gain in GAINS],
                "mean-field exponent ln(chi) / 2, random weights",
                nats,
            ),
        },
        {"layer": list(WEIGHTS), "gain": list(GAINS), "seed": seed + np.arange(seeds)},
        noise=NOISE,
    )


def _cells(ds: xr.Dataset, name: str) -> list[tuple[str, float, Measured, float]]:
    """(kind of weights, gain, rate with its error, ln rho) of every cell."""
    return [
        (
            str(kind),
            float(gain),
            mean(ds[name].sel(layer=kind, gain=gain), "nats per step"),
            float(ds["log_rho"].sel(layer=kind, gain=gain).max()),
        )
        for kind in ds["layer"].values
        for gain in ds["gain"].values
    ]


def judge(ds: xr.Dataset) -> list[Finding]:
    """The product; whether rho < 1 is sufficient, and whether ln rho is the rate, linear and with tanh."""
    gap = float(np.abs(ds["product_gap"]).max())
    exact = gap < 1e-4
    findings = [
        Finding(
            "dh_t/dh_k is the product of diag(phi') W",
            CONFIRMED if exact else REFUTED,
            {"largest difference in ln norm": Measured(gap)},
            "" if exact else "the measured Jacobian is not that product",
        )
    ]
    cells = _cells(ds, "rate_tanh")
    inside = [cell for cell in cells if cell[3] < 0]
    growing = [cell for cell in inside if cell[2].value - 2 * np.nan_to_num(cell[2].stderr) > 0]
    worst = max(inside, key=lambda cell: cell[2].value)
    findings.append(
        Finding(
            "largest |eigenvalue| < 1 is sufficient for exponential decay (tanh)",
            REFUTED if growing else CONFIRMED,
            {f"rate with {worst[0]} weights of gain {worst[1]:g}, ln rho = {worst[3]:.3f}": worst[2]},
            "with weights far from normal gradients grow although the spectral radius is below 1; sufficient "
            "is that the product of the largest singular values of diag(phi') W decays"
            if growing
            else "",
        )
    )
    outside = [cell for cell in cells if cell[3] > 0]
    fading = [cell for cell in outside if cell[2].value + 2 * np.nan_to_num(cell[2].stderr) < 0]
    numbers = {}
    if fading:
        most = max(fading, key=lambda cell: cell[3])
        numbers[f"rate with {most[0]} weights of gain {most[1]:g}, ln rho = {most[3]:.3f}"] = most[2]
    findings.append(
        Finding(
            "largest |eigenvalue| < 1 is necessary for decay (tanh)",
            REFUTED if fading else CONFIRMED,
            numbers,
            "phi' < 1 makes gradients decay at spectral radii above 1; the rate is the first Lyapunov "
            "exponent, ln(chi) / 2 of mean field for random weights"
            if fading
            else "",
        )
    )
    misses = {
        name: np.abs(ds[f"rate_{name}"].mean("seed") - ds["log_rho"].mean("seed"))
        for name in ("linear", "tanh")
    }
    far = {name: float(miss.max()) for name, miss in misses.items()}
    field = np.abs(ds["rate_tanh"].sel(layer="random").mean("seed") - ds["rate_mean_field"])
    right = {name: miss < ASYMPTOTIC for name, miss in far.items()}
    findings.append(
        Finding(
            "the largest eigenvalue gives the rate",
            CONFIRMED if all(right.values()) else QUALIFIED if right["linear"] else REFUTED,
            {
                "largest miss of ln rho, linear": Measured(far["linear"], unit="nats per step"),
                "largest miss of ln rho, tanh": Measured(far["tanh"], unit="nats per step"),
                "largest miss of mean field, tanh with random weights": Measured(
                    float(field.max()), unit="nats per step"
                ),
            },
            "for linear recurrences at large lags; with tanh phi' shifts the rate"
            if right["linear"]
            else "not even the linear recurrence follows ln rho at these lags",
        )
    )
    return findings


def checks(ds: xr.Dataset) -> list[str]:
    """No tanh gradient grows faster than ln sigma_max; g Q decays at ln g exactly where it is linear."""
    faults = []
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
    "The product is confirmed if its norms equal the probe's within 1e-4 in ln. Sufficiency is refuted "
    "by one kind of weights and gain with rho < 1 whose mean rate exceeds 0 by two standard errors; "
    "necessity by one with rho > 1 whose rate is below 0 by two. The rate is ln rho if it is within "
    "0.1 nats a step everywhere; qualified if that holds for the linear recurrence only.",
    measure,
    judge,
    checks,
)
