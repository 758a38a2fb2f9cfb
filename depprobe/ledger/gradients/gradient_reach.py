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

from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Claim, Finding, Measured, Progress, verdict
from depprobe.ledger.evidence import About, evidence, mean
from depprobe.ledger.gradients.gettysburg_address import prose
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
    for done, (i, j) in enumerate(parts):
        name, source = list(inputs.items())[i]
        if progress:
            progress(done, len(parts), f"{layers[j]}, {name}")
        ds = jacobian(layers[j], source, n=n, d=d, seeds=seeds, seed=seed)
        norms[i, j] = ds.log_norm.values.reshape(seeds, n)
    support, reach, arrival = row_numbers(norms)
    over = ("input", "layer", "seed")
    ds = evidence(
        About("C15", "Reach of recurrence, convolution and attention", ", ".join(layers), n, d, quick, seed),
        {
            "receptive_field": (over, support),
            "effective_range": (over, reach),
            "log_arrival": (over, arrival),
            "log_norm": ((*over, "target", "source"), norms[..., None, :]),
        },
        {
            "input": list(inputs),
            "layer": list(layers),
            "seed": seed + np.arange(seeds),
            "target": [n - 1],
            "source": np.arange(n),
        },
        norm="fro",
        wrt="x",
    )
    position = ("target", [float(n - 1)], describe("position"))
    return ds.assign_coords(position=position)


def row_numbers(norms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Support, range and ln arrival of rows of ln norms (..., n) whose target is the last position."""
    back = norms[..., ::-1]
    n = back.shape[-1]
    support = np.where(np.isfinite(back), np.arange(n), 0).max(-1)
    top = back.max(-1, keepdims=True)
    share = np.exp(2 * (back - top)).cumsum(-1)
    reach = (share >= SHARE * share[..., -1:] * (1 - 1e-12)).argmax(-1)
    return support, reach, back[..., -1] - top[..., 0]


def _of(ds: xr.Dataset, layers: tuple[str, ...]) -> dict[str, dict[str, Measured]]:
    """Support, range and log10 arrival of each layer, means over inputs and seeds."""
    found = {}
    for layer in layers:
        here = ds.sel(layer=layer)
        with np.errstate(invalid="ignore"):
            found[layer] = {
                "support": mean(here["receptive_field"], "positions"),
                "range": mean(here["effective_range"], "positions"),
                "arrival": mean(here["log_arrival"] / LN10, "decades"),
            }
    return found


def _of_every_layer(
    part: str, holds: dict[str, bool], numbers: dict[str, Measured], otherwise: str
) -> Finding:
    """Confirmed where all layers of a kind hold; ``otherwise`` is the note where some or all do not."""
    found = verdict(sum(holds.values()), len(holds))
    return Finding(part, found, numbers, "" if found == CONFIRMED else otherwise)


def judge(ds: xr.Dataset) -> list[Finding]:
    """Recurrence in theory and in practice, convolution, attention."""
    n = int(ds.attrs["n"])
    last = n - 1
    recurrence, convolution = _of(ds, RECURRENCE), _of(ds, CONVOLUTION)
    whole = {name: one["support"].value == last for name, one in recurrence.items()}
    least = min(recurrence, key=lambda name: recurrence[name]["support"].value)
    # one odd draw of the weights must not decide: all seeds and inputs of a layer, or not that layer
    short = {name: float(ds["effective_range"].sel(layer=name).max()) < SHORT * n for name in recurrence}
    kept = [name for name, is_short in short.items() if not is_short]
    ended = {name: one["support"].value < last for name, one in convolution.items()}
    through = [name for name, ends in ended.items() if not ends]
    findings = [
        _of_every_layer(
            "recurrence reaches the whole past in theory",
            whole,
            {f"smallest support, {least}": recurrence[least]["support"]},
            "exact zeros end the support of some recurrences before the first input",
        ),
        _of_every_layer(
            "recurrence decays in practice",
            short,
            {f"range, {name}": one["range"] for name, one in recurrence.items()}
            | {f"arrival from lag {last}, {name}": one["arrival"] for name, one in recurrence.items()},
            f"with the weights torch draws, but not with {', '.join(kept)}: a forget gate that stays open "
            "carries the gradient through",
        ),
        _of_every_layer(
            "convolution is local",
            ended,
            {f"support, {name}": one["support"] for name, one in convolution.items()}
            | {f"range, {name}": convolution[name]["range"] for name in through},
            f"one layer, or a stack of few; {', '.join(through)} has enough layers, log2 n or more with "
            "doubling dilations, to see the whole past",
        ),
    ]

    (full,) = _of(ds, ATTENTION).values()
    sees = full["support"].value == last
    spread = float(ds["effective_range"].sel(layer=list(ATTENTION)).min()) > LONG * n
    findings.append(
        Finding(
            "attention is global",
            CONFIRMED if sees and spread else QUALIFIED if sees else REFUTED,
            {"support": full["support"], "range": full["range"], f"arrival from lag {last}": full["arrival"]},
            "some positions have no weight at all"
            if not sees
            else "in its support; most of the squared norms lie near",
        )
    )
    return findings


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
    "Theory: the largest lag with a non-zero block, which for recurrence must be the whole past in every "
    f"layer. Practice: the lag within which {SHARE:.0%} of the squared norms lie; recurrence decays if "
    f"it is below {SHORT:g} n with every draw and input. Convolution is local if the support of every "
    "layer ends before the first input. Attention is global if its support does not end and the range "
    f"exceeds {LONG:g} n, qualified if only the support is. Confirmed if all layers of a kind agree, "
    "refuted if none does, qualified in between.",
    measure,
    judge,
    checks,
)
