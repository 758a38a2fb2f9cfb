r"""Does the largest eigenvalue tell how gradients decay?

Claim C7: dh_t/dh_k = product of diag(phi') W, so gradients decay when the largest |eigenvalue| < 1.
Measured: slope of ln ||dh_t/dh_k||_F against the lag, for tanh and linear recurrences driven by fresh
noise of standard deviation 0.3, with random, orthogonal and strongly non-normal weights of spectral radius
about 0.2 to 3, against ln rho(W) and the mean field of random weights.

Answer: only for linear recurrences (largest difference 0.05 nats a step, non-normal weights); with tanh
the rule is neither sufficient nor necessary: non-normal weights of spectral radius 0.9 let gradients grow by
0.080 nats a step (rule -0.105), random and orthogonal weights of gain 1 still lose 0.16 and 0.18 (rule +0.05
and 0), and at gain 3 gradients grow by 0.28 and 0.30 where the rule says 1.1.
Mean field is within 0.06 for random weights.

Numbers: d = 128, n = 300, means of 4 seeds, standard errors 0.02 (random) and 0.01 (others) at most in these.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr
from _study import main
from matplotlib.figure import Figure
from torch import nn

import depprobe
from depprobe import store
from depprobe.figures.style import COLOURS, GREY, PAGE, styled
from depprobe.theory.eigenvalue import eigenvalue_rate
from depprobe.theory.meanfield import mean_field
from depprobe.theory.singular_bound import bound_rate
from depprobe.vocabulary import SCHEMA_VERSION, describe

NOISE = 0.3
GAINS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0)
WEIGHTS = ("random", "orthogonal", "non-normal")
#: standard deviation, times sqrt(d), of what the non-normal weights have above the diagonal, at gain 1
STRENGTH = 3.0


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


def tanh_norms(W: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """ln ||dh_t/dh_k||_F at lags 0 .. n - 1 for the last t, tanh."""
    d = len(W)
    module = nn.RNN(d, d, batch_first=True, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.from_numpy(W))
        module.weight_ih_l0.copy_(torch.eye(d))
    ds = depprobe.jacobian(module, NOISE * rng.standard_normal((n, d)), wrt="h")
    return ds.log_norm.values[0, ::-1]


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


def compute(quick: bool) -> xr.Dataset:
    """Decay rates (layer, gain, seed), nats a step; ``layer`` is the kind of recurrent weights."""
    d, n, seeds = (48, 120, 2) if quick else (128, 300, 4)
    shape = (len(WEIGHTS), len(GAINS), seeds)
    tanh, linear, rho, sigma = (np.empty(shape) for _ in range(4))
    for i, j, seed in np.ndindex(shape):
        rng = np.random.default_rng([seed, i, j])
        W = weights(WEIGHTS[i], GAINS[j], d, rng)
        tanh[i, j, seed], linear[i, j, seed] = rate(tanh_norms(W, n, rng)), rate(linear_norms(W, n))
        rho[i, j, seed], sigma[i, j, seed] = eigenvalue_rate(W), bound_rate(W)
    field = [mean_field(gain, NOISE).exponent for gain in GAINS]

    def of(values: np.ndarray, words: str) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
        return ("layer", "gain", "seed"), values, {"long_name": words, "units": "nats per step"}

    return xr.Dataset(
        {
            "rate_tanh": of(tanh, "decay rate of dh_t/dh_k, tanh"),
            "rate_linear": of(linear, "decay rate of dh_t/dh_k, linear"),
            "log_rho": of(rho, "natural log of the spectral radius"),
            "log_sigma": of(sigma, "natural log of the largest singular value"),
            "rate_mean_field": (
                "gain",
                np.array(field),
                {"long_name": "mean-field exponent ln(chi) / 2, random weights", "units": "nats per step"},
            ),
        },
        coords={
            "layer": ("layer", list(WEIGHTS), {"long_name": "kind of recurrent weights", "units": "1"}),
            "gain": ("gain", list(GAINS), describe("gain")),
            "seed": ("seed", np.arange(seeds), describe("seed")),
        },
        attrs={
            "title": "Decay of gradients against the largest eigenvalue",
            "n": n,
            "d": d,
            "noise": NOISE,
            "dtype": "float64",
            "depprobe_version": depprobe.__version__,
            "schema_version": SCHEMA_VERSION,
            "provenance": store.provenance("studies/02_eigenvalues.py" + (" --quick" if quick else "")),
        },
    )


def plot(ds: xr.Dataset) -> Figure:
    """Rates against ln rho: linear on the left, tanh on the right, seeds as points."""
    with styled():
        figure = Figure(figsize=(PAGE, 3.4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, name in zip(axes, ("rate_linear", "rate_tanh"), strict=True):
            for i, kind in enumerate(ds["layer"].values):
                here = ds.sel(layer=kind)
                ax.plot(
                    here["log_rho"].values.ravel(),
                    here[name].values.ravel(),
                    "os^"[i],
                    color=COLOURS[i],
                    fillstyle="none",
                    label=f"{kind} weights",
                )
            span = np.array([ds["log_rho"].min(), ds["log_rho"].max()])
            ax.plot(span, span, color=GREY, linewidth=0.8, label=r"eigenvalue rule: rate = $\ln\rho$")
            ax.axhline(0, color=GREY, linewidth=0.5, linestyle=":")
            ax.axvline(0, color=GREY, linewidth=0.5, linestyle=":")
            ax.set_xlabel(r"$\ln\rho(W)$ (nats per step)")
            ax.set_title(ds[name].attrs["long_name"].rpartition(", ")[2], loc="left")
        random = ds.sel(layer="random")["log_rho"].mean("seed")
        axes[1].plot(
            random, ds["rate_mean_field"], "k--", linewidth=1, label=r"mean field $\ln(\chi)/2$, random"
        )
        axes[0].set_ylabel(r"slope of $\ln\Vert\partial h_t/\partial h_k\Vert_F$ (nats per step)")
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    main(compute, plot, "02_eigenvalues")
