r"""C15: how far recurrence, convolution and attention reach, in theory and in practice.

    theory      support: the largest lag t - k with J[t,k] not exactly zero
    practice    range: the smallest lag within which 95 % of sum_k ||J[t,k]||^2 lies
                arrival: ||J[t,0]|| over the largest norm of the row, 0 where the row does not get there

One layer of each kind (dilated convolutions are stacks), weights as torch draws them, t the last position,
reading noise and English text. Exact Jacobians: a norm of 1e-200 is a norm, and a zero is a zero.
Shapes: log_norm (input, layer, seed, target, source) with one target.
Source: Bengio et al. 1994 (recurrence); Luo et al. 2016 (convolution); Vaswani et al. 2017 (attention).
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Claim, Measured, definition
from depprobe.ledger.evidence import About, evidence, mean
from depprobe.ledger.gradients.gettysburg_address import prose
from depprobe.ledger.progress import Progress, tracked
from depprobe.ledger.verdicts import CONFIRMED, QUALIFIED, REFUTED, verdict
from depprobe.probes.jacobian import jacobian
from depprobe.runs.inputs import Source
from depprobe.vocabulary import describe

RECURRENCE = ("rnn", "gru", "lstm", "lstm:forget_bias=4")
CONVOLUTION = ("conv:causal=true", "dilated-conv:depth=4", "dilated-conv:depth=9")
ATTENTION = ("attention:causal=true",)
#: measured beside them, and not judged: patterns and hybrids that the statement does not speak of
OTHERS = tuple(
    f"{name}:causal=true"
    for name in ("sliding-window", "dilated-attention", "block-attention", "conv-attention")
)
#: (n, d, draws of the weights)
QUICK, FULL = (200, 32, 3), (1000, 512, 3)
#: share of the squared norms that the range holds
SHARE = 0.95
#: practice is short below this share of n, and long above that one
SHORT, LONG = 0.1, 0.5
LN10 = math.log(10)


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Norms of the last row of every layer on both inputs, and what they say of theory and practice."""
    n, d, seeds = QUICK if quick else FULL
    inputs = {"noise": Source("noise"), "text": prose()}
    layers = (*RECURRENCE, *CONVOLUTION, *ATTENTION, *OTHERS)
    norms = np.empty((len(inputs), len(layers), seeds, n))
    parts = [(i, j) for i in range(len(inputs)) for j in range(len(layers))]
    for i, j in tracked(parts, progress, lambda at: f"{layers[at[1]]}, {list(inputs)[at[0]]}"):
        ds = jacobian(layers[j], list(inputs.values())[i], n=n, d=d, seeds=seeds, seed=seed)
        norms[i, j] = ds.log_norm.values.reshape(seeds, n)
    support, reach, arrival = row_numbers(norms)
    over = "input layer seed"
    ds = evidence(
        About("C15", "Reach of recurrence, convolution and attention", layers, n, d, quick, seed),
        {
            "receptive_field": (over, support),
            "effective_range": (over, reach),
            "log_arrival": (over, arrival),
            "log_norm": (f"{over} target source", norms[..., None, :]),
        },
        {
            "input": inputs,
            "layer": layers,
            "seed": seed + np.arange(seeds),
            "target": [n - 1],
            "source": range(n),
        },
        norm="fro",
        wrt="x",
    )
    return ds.assign_coords(position=("target", [float(n - 1)], describe("position")))


def row_numbers(norms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Support, range and ln arrival of rows of ln norms (..., n) whose target is the last position."""
    back = norms[..., ::-1]
    n = back.shape[-1]
    support = np.where(np.isfinite(back), np.arange(n), 0).max(-1)
    top = back.max(-1, keepdims=True)
    share = np.exp(2 * (back - top)).cumsum(-1)
    reach = (share >= SHARE * share[..., -1:] * (1 - 1e-12)).argmax(-1)
    return support, reach, back[..., -1] - top[..., 0]


def _of(ds: xr.Dataset, layers: tuple[str, ...], *names: str) -> dict[str, Measured]:
    """Support, range or log10 arrival of each layer, means over inputs and seeds."""
    lag = int(ds.attrs["n"]) - 1
    about = {
        "support": ("receptive_field", 1.0, "positions"),
        "range": ("effective_range", 1.0, "positions"),
        f"arrival from lag {lag}": ("log_arrival", LN10, "decades"),
    }
    return {
        f"{word}, {layer}": mean(ds[variable].sel(layer=layer) / scale, unit)
        for word, (variable, scale, unit) in about.items()
        if word.split()[0] in names
        for layer in layers
    }


def _decays(ds: xr.Dataset) -> tuple:
    # one odd draw of the weights must not decide: all seeds and inputs of a layer, or not that layer
    longest = {name: float(ds["effective_range"].sel(layer=name).max()) for name in RECURRENCE}
    kept = [name for name, most in longest.items() if most >= SHORT * ds.attrs["n"]]
    return (
        verdict(len(RECURRENCE) - len(kept), len(RECURRENCE)),
        _of(ds, RECURRENCE, "range", "arrival"),
        f"with the weights torch draws, but not with {', '.join(kept)}: a forget gate that stays open "
        "carries the gradient through",
    )


def _local(ds: xr.Dataset) -> tuple:
    last = int(ds.attrs["n"]) - 1
    through = tuple(name for name in CONVOLUTION if (ds["receptive_field"].sel(layer=name) >= last).all())
    return (
        verdict(len(CONVOLUTION) - len(through), len(CONVOLUTION)),
        _of(ds, CONVOLUTION, "support") | _of(ds, through, "range"),
        f"one layer, or a stack of few; {', '.join(through)} has enough layers, log2 n or more with doubling "
        "dilations, to see the whole past",
    )


def _global(ds: xr.Dataset) -> tuple:
    ranges, n = ds["effective_range"].sel(layer=list(ATTENTION)), ds.attrs["n"]
    spread, near = float(ranges.min()) > LONG * n, float(ranges.max()) < SHORT * n
    return (
        CONFIRMED if spread else REFUTED if near else QUALIFIED,
        _of(ds, ATTENTION, "support", "range", "arrival"),
        "in its support; most of the squared norms lie near",
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Supports by arithmetic: (k-1)(2^L - 1) for stacks (V19), the whole past for what sees everything."""
    last = int(ds.attrs["n"]) - 1
    wanted = {"conv:causal=true": 2, "dilated-conv:depth=4": 30, "dilated-conv:depth=9": 1022}
    wanted |= dict.fromkeys((*RECURRENCE, *ATTENTION), last)
    faults = []
    for layer, lag in wanted.items():
        found = ds["receptive_field"].sel(layer=layer)
        if (found != min(lag, last)).any():
            faults.append(f"the support of {layer} ends at lag {int(found.min())}, not {min(lag, last)}")
    return faults


CLAIM = Claim(
    "C15",
    "Recurrence reaches the whole past in theory but decays in practice; a convolution's dependence is "
    "local; attention's is global.",
    f"What a recurrence reaches in theory is how it is built. Practice: the lag within which {SHARE:.0%} "
    f"of the squared norms lie; recurrence decays if it is below {SHORT:g} n with every draw and input. "
    "Convolution is local if the support of a layer or stack ends before the first input. Confirmed if "
    "all layers of a kind agree, refuted if none does, qualified in between. Attention is global if its "
    f"range exceeds {LONG:g} n with every draw and input, refuted if it stays below {SHORT:g} n, else "
    "qualified.",
    measure,
    {
        "recurrence reaches the whole past in theory": definition(
            "every state is computed from the one before it", lambda ds: _of(ds, RECURRENCE, "support")
        ),
        "recurrence decays in practice": _decays,
        "convolution is local": _local,
        "attention is global": _global,
    },
    checks,
)
