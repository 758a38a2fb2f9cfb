r"""C4: the article's efficiency table at n = 1000, d = 512, as ratios between layers.

    time 42.3 / 5.7 / 38.5 ms, memory 210 / 15 / 45 MB, gradient path 1 / log_k n ~ 10 / n,
    parallelism full / per position / none, for attention / convolution (k = 3) / LSTM

Attention is measured with its weights written out and fused. Times and bytes of another machine are judged as
ratios to the LSTM's; path and parallelism are properties of the layers.
Source: Vaswani et al. 2017, table 1 (path length, sequential steps).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Claim, Measured, Rule, definition
from depprobe.ledger.costs.efficiency_table import ARTICLE, efficiency
from depprobe.ledger.evidence import command_of
from depprobe.ledger.progress import Progress, tracked
from depprobe.ledger.verdicts import CONFIRMED, QUALIFIED, REFUTED, SHAKEN, timed, verdict
from depprobe.probes.cost import cost
from depprobe.runs.cases import cases_of_specs
from depprobe.runs.labelling import provenance

N, D = 1000, 512
EXPLICIT, FUSED, CONVOLUTION, RECURRENCE = ARTICLE
#: stacks of convolutions that carry x_1 to h_n: alike, causal, dilations 2^l and k^l
STACKS = ("conv", "conv:causal=true", "dilated-conv", "dilated-conv:base=3")
#: a ratio is the article's within this factor
NEAR = 1.5
#: path lengths of STACKS[1:] at n = 1000, k = 3: ceil((n-1)/(k-1)), ceil(log2 ...), ceil(log_k n)
KNOWN = (500, 9, 7)


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Costs over (layer, phase), their ratios to the LSTM's, the article's; path lengths of stacks."""
    from depprobe.advice.cost_model import formulas

    parts = []
    for text in tracked(ARTICLE, progress, str):
        (case,) = cases_of_specs([text], None, N, D, 1, [seed], "float32", "cpu")
        one = cost(case.build(), case.x, threads=1, seconds=0.02 if quick else 1.0)
        parts.append(one.assign_coords(layer=[text]))
    table = efficiency(xr.concat(parts, "layer", combine_attrs="override"), RECURRENCE)
    paths = [formulas(text, N, D).path_length for text in STACKS]
    about = {"long_name": "path length of a stack", "units": "steps"}
    table["stack_path"] = ("other", np.array(paths, dtype=float), about)
    table = table.assign_coords(
        other=("other", list(STACKS), {"long_name": "stack of convolutions", "units": "1"})
    )
    table.attrs |= {
        "claim": "C4",
        "mode": "quick" if quick else "full",
        "layer": ", ".join(ARTICLE),
        "n": N,
        "seed": seed,
        "provenance": provenance(command_of("C4", quick, seed)),
    }
    return table


def _ratio(group: Sequence[str], wanted: float, name: str, *ends: str) -> Rule:
    def rule(ds: xr.Dataset) -> tuple:
        one, other = ds.sel(layer=list(group), n=N), ds.sel(layer=RECURRENCE, n=N)
        low, high = ends or (name, name)
        ratios = [one[a] / other[b] for a, b in ((name, name), (low, high), (high, low))]
        shaken = [ratios[0], ratios[1] / (SHAKEN if ends else 1), ratios[2] * (SHAKEN if ends else 1)]
        near = [np.abs(np.log(ratio / wanted)) <= math.log(NEAR) for ratio in shaken]
        greater = int((ratios[0] > 1).sum() if wanted > 1 else (ratios[0] < 1).sum())
        numbers = {
            f"{layer}, {phase}": Measured(float(ratios[0].sel(layer=layer, phase=phase)))
            for layer, phase in product(group, map(str, ds["phase"].values))
        }
        note = (
            f"{int(near[0].sum())} of {near[0].size} are within a factor {NEAR:g} of {wanted:.3g}; it is "
            f"{'greater' if wanted > 1 else 'less'} than the LSTM's in {greater} of {near[0].size}"
        )
        return timed([verdict(int(inside.sum()), inside.size) for inside in near], numbers, note)

    return rule


def _stated(layer: str, name: str) -> float:
    return float(getattr(ARTICLE[layer][N], name) / getattr(ARTICLE[RECURRENCE][N], name))


def _of_layers(name: str, unit: str, *names: str) -> Callable[[xr.Dataset], dict[str, Measured]]:
    return lambda ds: {
        f"{name.replace('_', ' ')}, {layer}": Measured(float(ds[name].sel(layer=layer, n=N)), unit=unit)
        for layer in names
    }


def _stacks(ds: xr.Dataset) -> tuple:
    """Whether layers alike need as many as stated, or some stack as many as the logarithm says."""
    stacks = dict(zip(map(str, ds["other"].values), map(float, ds["stack_path"].values), strict=True))
    stated, logarithm = ARTICLE[CONVOLUTION][N].path, math.log(N) / math.log(3)
    some = [name for name, value in stacks.items() if value == math.ceil(logarithm)]
    return (
        CONFIRMED if stacks[STACKS[0]] == stated else QUALIFIED if some else REFUTED,
        {"log_3 n": Measured(logarithm)} | {k: Measured(v, unit="layers") for k, v in stacks.items()},
        f"log_k n holds for dilations that grow as k^l ({', '.join(some)}), where it is {logarithm:.1f}, not "
        f"{stated:g}; layers alike need (n - 1) / (k - 1), twice that if the future is seen too"
        if some
        else "no stack measured here needs that many layers",
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Path lengths known in closed form; explicit attention takes its weights at least."""
    faults = []
    for name, wanted in (("path_length", N - 1), ("sequential_steps", N)):
        known = {EXPLICIT: 1, FUSED: 1, RECURRENCE: wanted}
        faults += [
            f"{name} of {layer} is {float(ds[name].sel(layer=layer, n=N)):g}, not {steps}"
            for layer, steps in known.items()
            if float(ds[name].sel(layer=layer, n=N)) != steps
        ]
    found = tuple(int(x) for x in ds["stack_path"].sel(other=list(STACKS[1:])).values)
    if found != KNOWN:
        faults.append(f"stacks of k = 3 carry x_1 to h_1000 in {found}, not {KNOWN} layers")
    if (ds["peak_bytes"].sel(layer=EXPLICIT, n=N) < 2 * 4 * 8 * N**2).any():
        faults.append("attention written out takes less than its scores and weights")
    return faults


CLAIM = Claim(
    "C4",
    "At n = 1000, d = 512 attention / convolution (k = 3) / LSTM take 42.3 / 5.7 / 38.5 ms and 210 / 15 "
    "/ 45 MB; gradients travel 1 / log_k n ~ 10 / n steps; parallelism is full / per position / none.",
    "Times (one thread) and bytes are judged as ratios to the LSTM's, of each pass and kind of attention: "
    f"confirmed if all are within a factor {NEAR:g} of the article's, refuted if none is, else qualified; "
    f"not measured here where the quartiles of times, and {SHAKEN - 1:.0%} beyond them, would change that. "
    "The path of convolution is confirmed if layers alike need 10, qualified if some stack needs "
    "ceil(log_3 n) layers, else refuted. The other paths and parallelism are how the layers are built.",
    measure,
    {
        **{
            f"{word} of {kind} is {_stated(group[0], field):.3g} of the LSTM's": _ratio(
                group, _stated(group[0], field), *names
            )
            for word, field, names in (
                ("time", "time", ("time", "time_low", "time_high")),
                ("memory", "bytes", ("peak_bytes",)),
            )
            for kind, group in (("attention", (EXPLICIT, FUSED)), ("convolution", (CONVOLUTION,)))
        },
        "gradient path of attention 1, of the LSTM n": definition(
            "an output of attention is a sum over all positions; a state is computed from the one before it",
            _of_layers("path_length", "steps", EXPLICIT, FUSED, RECURRENCE),
        ),
        "gradient path of convolution log_k n ~ 10": _stacks,
        "parallelism full / per position / none": definition(
            "only a recurrence waits for the position before; within a step its products run side by side "
            "too",
            lambda ds: (
                _of_layers("sequential_steps", "steps", EXPLICIT, CONVOLUTION, RECURRENCE)(ds)
                | _of_layers("parallelism", "", EXPLICIT, CONVOLUTION, RECURRENCE)(ds)
            ),
        ),
    },
    checks,
)
