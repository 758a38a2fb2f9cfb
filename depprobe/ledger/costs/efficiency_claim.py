r"""C4: the article's efficiency table at n = 1000, d = 512, as ratios between layers.

    time 42.3 / 5.7 / 38.5 ms, memory 210 / 15 / 45 MB, gradient path 1 / log_k n ~ 10 / n,
    parallelism full / per position / none, for attention / convolution (k = 3) / LSTM

Attention is measured with its weights written out and fused. Times and bytes of another machine are judged as
ratios to the LSTM's; path and parallelism are properties of the layers.
Source: Vaswani et al. 2017, table 1 (path length, sequential steps).
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Claim, Finding, Measured, Progress
from depprobe.ledger.costs.efficiency_table import ARTICLE, efficiency
from depprobe.ledger.evidence import command_of
from depprobe.probes.cost import cost
from depprobe.registry import Spec, layers
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
    from depprobe.complexity import complexity

    parts = []
    for done, text in enumerate(ARTICLE):
        if progress:
            progress(done, len(ARTICLE), text)
        (case,) = cases_of_specs([text], None, N, D, 1, [seed], "float32", "cpu")
        one = cost(case.build(), case.x, threads=1, seconds=0.02 if quick else 1.0)
        parts.append(one.assign_coords(layer=[text]))
    ds = xr.concat(parts, "layer", combine_attrs="override")
    table = efficiency(ds, RECURRENCE)
    paths = []
    for text in STACKS:
        spec = Spec.parse(text)
        found = complexity(layers[spec.name].build(D, **spec.options()), N)
        paths.append(math.nan if found is None or found.path_length is None else found.path_length)
    table["stack_path"] = (
        ("other",),
        np.array(paths),
        {"long_name": "path length of a stack", "units": "steps"},
    )
    table = table.assign_coords(other=list(STACKS))
    table["other"].attrs = {"long_name": "stack of convolutions", "units": "1"}
    table.attrs |= {
        "claim": "C4",
        "mode": "quick" if quick else "full",
        "layer": ", ".join(ARTICLE),
        "n": N,
        "seed": seed,
        "provenance": provenance(command_of("C4", quick, seed)),
    }
    return table


def _ratio(
    ds: xr.Dataset, name: str, low: str, high: str, layer: str, phase: str
) -> tuple[float, float, float]:
    """Ratio of a layer's cost to the LSTM's, and its ends by quartiles."""
    one, other = (ds.sel(layer=x, phase=phase, n=N) for x in (layer, RECURRENCE))
    return (float(one[name] / other[name]), float(one[low] / other[high]), float(one[high] / other[low]))


def _judge_ratios(ds: xr.Dataset, words: str, stated: str, names: tuple[str, str, str]) -> list[Finding]:
    """A finding for each pair of layers: attention over the LSTM, the convolution over the LSTM."""
    findings = []
    for label, group in (("attention", (EXPLICIT, FUSED)), ("convolution", (CONVOLUTION,))):
        wanted = float(ds[stated].sel(layer=group[0], n=N))
        numbers, near, same_side = {}, [], []
        for layer in group:
            for phase in map(str, ds["phase"].values):
                ratio, low, high = _ratio(ds, *names, layer, phase)
                numbers[f"{layer}, {phase}"] = Measured(ratio)
                # the ends, not the median: noise alone must not take a ratio out of the band
                near.append(low <= wanted * NEAR and high >= wanted / NEAR)
                same_side.append(high > 1 if wanted > 1 else low < 1)
        verdict = (
            CONFIRMED
            if all(near)
            else QUALIFIED
            if any(near)
            else REFUTED
            if not all(same_side)
            else QUALIFIED
        )
        order = "greater" if wanted > 1 else "less"
        note = f"{sum(near)} of {len(near)} are within a factor {NEAR:g} of {wanted:.3g}"
        note += f"; it is {order} than the LSTM's in {sum(same_side)} of {len(same_side)}"
        findings.append(Finding(f"{words} of {label} is {wanted:.3g} of the LSTM's", verdict, numbers, note))
    return findings


def _judge_paths(ds: xr.Dataset) -> list[Finding]:
    paths = {str(layer): float(ds["path_length"].sel(layer=layer, n=N)) for layer in ds["layer"].values}
    stacks = {
        str(name): float(value)
        for name, value in zip(ds["other"].values, ds["stack_path"].values, strict=True)
    }
    claimed = float(ds["article_path"].sel(layer=CONVOLUTION, n=N))
    logarithm = math.log(N) / math.log(3)
    ends = paths[EXPLICIT] == paths[FUSED] == 1 and abs(paths[RECURRENCE] - N) <= 1
    right = stacks[STACKS[0]] == claimed
    some = [name for name, value in stacks.items() if value == math.ceil(logarithm)]
    return [
        Finding(
            "gradient path of attention 1, of the LSTM n",
            CONFIRMED if ends else REFUTED,
            {name: Measured(paths[name], unit="steps") for name in (EXPLICIT, FUSED, RECURRENCE)},
            "the paths are as measured",
        ),
        Finding(
            "gradient path of convolution log_k n ~ 10",
            CONFIRMED if right else QUALIFIED if some else REFUTED,
            {"log_3 n": Measured(logarithm)} | {k: Measured(v, unit="layers") for k, v in stacks.items()},
            f"log_k n holds for dilations that grow as k^l ({', '.join(some)}), where it is "
            f"{logarithm:.1f}, not {claimed:g}; layers alike need (n - 1) / (k - 1), twice that if the "
            "future is seen too"
            if some
            else "no stack measured here needs that many layers",
        ),
    ]


def _judge_parallelism(ds: xr.Dataset) -> Finding:
    steps = {str(x): float(ds["sequential_steps"].sel(layer=x, n=N)) for x in ds["layer"].values}
    width = {str(x): float(ds["parallelism"].sel(layer=x, n=N)) for x in ds["layer"].values}
    along = all(steps[x] == 1 for x in (EXPLICIT, FUSED, CONVOLUTION)) and steps[RECURRENCE] == N
    within = width[RECURRENCE] > 1
    return Finding(
        "parallelism full / per position / none",
        REFUTED if not along else QUALIFIED if within else CONFIRMED,
        {f"sequential steps, {x}": Measured(steps[x]) for x in (EXPLICIT, CONVOLUTION, RECURRENCE)}
        | {
            f"FLOPs over those of the longest chain, {x}": Measured(width[x])
            for x in (EXPLICIT, CONVOLUTION, RECURRENCE)
        },
        "sequential steps are not 1, 1 and n"
        if not along
        else "along the sequence; within a step the LSTM's products run side by side too"
        if within
        else "",
    )


def judge(ds: xr.Dataset) -> list[Finding]:
    """Ratios of time and of memory, gradient paths, parallelism."""
    return [
        *_judge_ratios(ds, "time", "article_time_ratio", ("time", "time_low", "time_high")),
        *_judge_ratios(ds, "memory", "article_memory_ratio", ("peak_bytes",) * 3),
        *_judge_paths(ds),
        _judge_parallelism(ds),
    ]


def checks(ds: xr.Dataset) -> list[str]:
    """Path lengths known in closed form; explicit attention takes its weights at least."""
    faults = []
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
    "Times (one thread) and bytes are judged as ratios to the LSTM's, of each pass and kind of "
    "attention: confirmed if all are within a factor 1.5 of the article's, by quartiles; refuted if none "
    "is and some lie on the other side of 1; else qualified. Paths are confirmed if equal (n and n - 1 "
    "count as equal), qualified for the convolution if some stack needs ceil(log_3 n) layers. "
    "Parallelism is refuted unless sequential steps are 1, 1 and n, and qualified if a step of the LSTM "
    "is parallel within.",
    measure,
    judge,
    checks,
)
