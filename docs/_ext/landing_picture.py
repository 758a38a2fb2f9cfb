"""The picture of the landing page, legible on a telephone; ``python docs/_ext/landing_picture.py`` draws it.

Norms of the Jacobian of an untrained LSTM (n = 1000, d = 512), by depprobe and by float32 automatic
differentiation, which gives 0 from some lag on.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

import depprobe
from depprobe.figures.drawing.style import COLOURS, GREY, styled

PICTURE = Path(__file__).parents[1] / "images" / "landing.png"
LN10 = math.log(10)
#: points of type
TYPE = dict.fromkeys(("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 10)


def draw() -> Figure:
    """The figure, 3.9 inches wide."""
    torch.manual_seed(0)
    module, x = torch.nn.LSTM(512, 512, batch_first=True), torch.randn(1000, 512)
    ds = depprobe.jacobian(module, x)
    log_norm = ds["log_norm"].values[0][::-1] / LN10
    seen = x.clone().requires_grad_()
    # one output unit: where its gradient is 0, autodiff has lost the block
    module(seen[None])[0][0, -1, 0].backward()
    gradient = seen.grad.abs().amax(1).numpy()[::-1]
    end = int(np.flatnonzero(gradient)[-1])
    with styled(), matplotlib.rc_context(TYPE):
        figure = Figure(figsize=(3.9, 2.9), layout="constrained")
        ax = figure.add_subplot()
        ax.axvspan(end, 1000, color=GREY, alpha=0.15, linewidth=0)
        ax.plot(log_norm, color=COLOURS[0], linewidth=2)
        ax.plot(end, log_norm[end], "o", color=COLOURS[1], markersize=6)
        ax.text(end + 25, -8, f"float32 autodiff:\n0 from lag {end + 1} on", color=COLOURS[1], va="top")
        ax.text(560, -95, f"depprobe:\non to 1e{log_norm[-1]:.0f}", color=COLOURS[0], va="center")
        ax.set_xlim(0, 1000)
        ax.set_xlabel("lag $t - k$ (positions)")
        ax.set_ylabel(r"$\log_{10}\, \Vert J_{t,k}\Vert$ of an LSTM")
    return figure


if __name__ == "__main__":
    draw().savefig(PICTURE, dpi=200)
