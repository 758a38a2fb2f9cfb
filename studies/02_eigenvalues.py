r"""Does the largest eigenvalue tell how gradients decay?

Claim C7: dh_t/dh_k = product of diag(phi') W, so gradients decay when the largest |eigenvalue| < 1.
Measured: slope of ln ||dh_t/dh_k||_F against the lag, for tanh and linear recurrences driven by fresh
noise of standard deviation 0.3, with random, orthogonal and strongly non-normal weights of spectral radius
about 0.2 to 3, against ln rho(W) and the mean field of random weights.

Answer: only for linear recurrences (largest difference 0.03 nats a step, non-normal weights); with tanh
the rule is neither sufficient nor necessary: non-normal weights of spectral radius 0.9 let gradients grow by
0.080 nats a step (rule -0.105), random and orthogonal weights of gain 1 still lose 0.16 and 0.18 (rule +0.05
and 0), and at gain 3 gradients grow by 0.28 and 0.30 where the rule says 1.1.
Mean field is within 0.06 for random weights.

Numbers: d = 128, n = 300, means of 4 seeds, standard errors 0.02 (random) and 0.01 (others) at most in these.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from _study import main, quoted, report
from matplotlib.figure import Figure

from depprobe.figures.drawing.style import COLOURS, GREY, PAGE, styled
from depprobe.ledger.gradients.eigenvalues import CLAIM


def compute(quick: bool) -> xr.Dataset:
    """Decay rates (layer, gain, seed), nats a step; ``layer`` is the kind of recurrent weights."""
    return CLAIM.measure(quick, report)


def summary(ds: xr.Dataset) -> dict[str, float]:
    """The numbers of the verdict."""
    return quoted(CLAIM.judge(ds))


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
    main(compute, plot, summary, __file__, checks=CLAIM.checks, tolerance=1e-3)
