"""One crowded example of every figure: name -> a function that draws it with the options it is given."""

from __future__ import annotations

import numpy as np
import xarray as xr
from test_figures import eight, falling, spotted, window
from test_gates_figure import dataset as gated

from depprobe import figures


def costs(layers=("lstm", "attention:fused=false", "sliding-window:window=64", "gru"), slow=1.0):
    """Costs of layers at four lengths, with one thread and with two, in forward and backward."""
    n = np.array([128, 256, 512, 1024])
    powers = np.linspace(1, 2, len(layers))[:, None]
    flops = 1e4 * n**powers
    time = (1e-9 * flops)[..., None] * np.array([1.0, 0.7 * slow])
    return xr.Dataset(
        {
            "flops": (("layer", "n"), flops),
            "flops_formula": (("layer", "n"), 0.98 * flops),
            "peak_bytes": (("layer", "n"), 8 * flops / 64),
            "time": (("layer", "n", "threads"), time),
            "time_low": (("layer", "n", "threads"), 0.9 * time),
            "time_high": (("layer", "n", "threads"), 1.1 * time),
        },
        coords={"layer": list(layers), "n": n, "threads": [1, 2]},
        attrs={"layer": ", ".join(layers), "dtype": "float32"},
    )


def exponents(layer="lstm", modes=6):
    """Lyapunov exponents that settle."""
    step, final = np.arange(10, 400, 10), np.linspace(0.1, -2.3, modes)
    running = final + np.sin(np.arange(modes)) * 5 / step[:, None]
    return xr.Dataset(
        {
            "exponent": ("mode", final),
            "exponent_stderr": ("mode", np.full(modes, 0.05)),
            "exponent_running": (("step", "mode"), running),
        },
        coords={"mode": np.arange(modes), "step": step},
        attrs={"layer": layer, "n": 500, "d": 8, "seed": 0, "stderr_from": "8 seeds"},
    )


def matrices(names=("forget gate 0", "input gate 0", "candidate 0", "output gate 0")):
    """Spectra of four matrices with their circular laws."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.4, (len(names), 30, 2))
    return xr.Dataset(
        {
            "eigenvalue": (("weight", "mode", "part"), values),
            "circular_radius": ("weight", np.full(len(names), 0.8)),
        },
        coords={"weight": list(names), "part": ["real", "imag"]},
        attrs={"layer": "lstm", "d": 30, "seed": 0},
    )


def decisions(stream=0):
    """A map of three layers, with the borders of a rule."""
    n, lag = np.geomspace(32, 8192, 9), np.geomspace(1, 4096, 7)
    best = np.add.outer(np.arange(7), np.arange(9)) % 4 - 1.0
    best[lag[:, None] >= n] = np.nan
    attrs = {"layers": "gru;attention:fused=false;dilated-conv:kernel=3", "stream": stream, "d": 512}
    attrs |= {"border_n": [500.0, 5000.0], "border_lag": 16.0, "border_name": "borders of the rule"}
    return xr.Dataset(
        {"best": (("lag", "n"), best)},
        coords={"n": n, "lag": lag},
        attrs=attrs | {"border_regions": "attention;conv or\nLSTM;sparse"},
    )


def over(ds, symbol):
    """The same dataset, of an input whose positions are these."""
    return ds.assign_attrs(symbol=symbol)


CASES = {
    "decay": lambda **how: figures.decay(eight(), **how),
    "decay of one": lambda **how: figures.decay(falling(5000 / 39), **how),
    "decay with unknowns": lambda **how: figures.decay(
        spotted().assign_attrs(falling().attrs, log_floor=-103.0, horizon_lag=7), **how
    ),
    "decay over bytes and tokens": lambda **how: figures.decay(
        [over(falling(), "byte"), over(window(4), "token"), over(falling(3, layer="gru"), "token")], **how
    ),
    "heat maps": lambda **how: figures.heatmap(eight(), **how),
    "heat map of sparse targets": lambda **how: figures.heatmap(
        falling(n=1000, targets=range(0, 1000, 100)), **how
    ),
    "heat map of one target": lambda **how: figures.heatmap(falling(targets=[N_LAST]), **how),
    "cost": lambda **how: figures.cost(costs(), **how),
    "speed-up": lambda **how: figures.speedup(costs(), **how),
    "gates": lambda **how: figures.gates(gated(), **how),
    "gates of two": lambda **how: figures.gates([gated(), gated(per_step=-3.0)], **how),
    "exponents": lambda **how: figures.lyapunov(exponents(), **how),
    "exponents of two": lambda **how: figures.lyapunov([exponents(), exponents("gru:gain=2")], **how),
    "spectra": lambda **how: figures.spectrum(matrices(), **how),
    "spectrum": lambda **how: figures.spectrum(matrices(["recurrent 0"]), **how),
    "decision": lambda **how: figures.decision(decisions(), **how),
    "decisions": lambda **how: figures.decision(decisions(), decisions(1), **how),
    "panels": lambda **how: figures.panels(
        {"recurrent": [falling(), falling(2, layer="gru")], "windows": [window(4), falling()]},
        share_floor=True,
        **how,
    ),
}
N_LAST = 39
