r"""C2: what attention, convolution and recurrence cost in n, d and k, and which part of attention dominates.

    Q, K, V   x W, one head each       2 n d e           scores  q k^T   2 n^2 e      e = d / heads
    output    o W_O, all heads         2 n d^2           mixing  a v     2 n^2 e
    attention 8 n d^2 + 4 n^2 d,   convolution 2 k n d^2,   RNN, GRU, LSTM 4, 12, 16 n d^2

FLOPs are counted in the products that torch carries out, of every part by itself and of the whole layer with
fused kernels off; exponents are least squares in logs. Times are at one thread, forward.
Source: Vaswani et al. 2017, table 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr

from depprobe import curves
from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Claim, Finding, Measured, Progress
from depprobe.ledger.evidence import About, evidence
from depprobe.runs.cases import cases_of_specs

#: (n, d, seconds to time each point for)
QUICK = ((128, 256, 512, 1024), (64, 128, 256), 0.02)
FULL = ((128, 256, 512, 1024, 2048, 4096), (64, 128, 256, 512), 0.2)
HEADS, KERNELS = (1, 2, 8), (3, 5, 9)
PARTS = ("queries", "keys", "values", "scores", "mixing", "output")
ATTENTION = tuple(f"attention:heads={h},fused=false" for h in HEADS)
CONVOLUTIONS = tuple(f"conv:kernel={k}" for k in KERNELS)
RECURRENCES = ("rnn", "gru", "lstm")
LAYERS = (*ATTENTION, *CONVOLUTIONS, *RECURRENCES)
TIMED = (ATTENTION[-1], CONVOLUTIONS[0], RECURRENCES[-1])
#: what the statement says: exponents in n, d and the width of a head, of each of its parts
STATED = {**dict.fromkeys(PARTS[:3], (1, 1, 1)), **dict.fromkeys(PARTS[3:5], (2, 0, 1))}
#: exponents of counts are whole to this; those of times agree with those of FLOPs to this
EXACT, ALIKE = 1e-6, 0.25
#: length and width of the article's own measurement
ARTICLE = (1000, 512)


def part_flops(n: int, d: int, heads: int) -> dict[str, int]:
    """FLOPs of each part of attention, counted in its product: of one head, but for the output projection."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def of(a: tuple[int, int], b: tuple[int, int]) -> int:
        with FlopCounterMode(display=False) as counter:
            torch.empty(a, device="meta") @ torch.empty(b, device="meta")
        return int(counter.get_total_flops())

    e = d // heads
    projection = of((n, d), (d, e))
    found = dict.fromkeys(PARTS[:3], projection)
    return found | {"scores": of((n, e), (e, n)), "mixing": of((n, n), (n, e)), "output": of((n, d), (d, d))}


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Counts over (layer, n, d), of attention's parts over (quantity, layer, n, d); times of three layers."""
    from depprobe.costs.flops import count_flops
    from depprobe.costs.passes import FORWARD, one_pass
    from depprobe.costs.timing import seconds

    lengths, widths, least = QUICK if quick else FULL
    shape = (len(LAYERS), len(lengths), len(widths))
    flops, times = np.empty(shape), np.full((3, *shape), math.nan)
    parts = np.full((len(PARTS), *shape), math.nan)
    for done, at in enumerate(np.ndindex(shape)):
        spec, n, d = LAYERS[at[0]], lengths[at[1]], widths[at[2]]
        if progress:
            progress(done, math.prod(shape), f"{spec} n={n} d={d}")
        (case,) = cases_of_specs([spec], None, n, d, 1, [seed], "float32", "cpu")
        module = case.build()
        flops[at] = count_flops(module, case.x)
        if spec in ATTENTION:
            parts[:, *at] = list(part_flops(n, d, HEADS[at[0]]).values())
        if spec in TIMED:
            times[:, *at] = seconds(one_pass(module, case.x, FORWARD), 1, least)
    over = ("layer", "n", "d")
    heads = [*HEADS, *[1] * (len(LAYERS) - len(HEADS))]
    kernels = [*[1] * len(HEADS), *KERNELS, *[1] * len(RECURRENCES)]
    return evidence(
        About(
            "C2",
            "Costs in n, d and k, counted and timed",
            ", ".join(LAYERS),
            max(lengths),
            max(widths),
            quick,
            seed,
        ),
        {
            "flops": (over, flops),
            "flops_part": (("quantity", *over), parts, "FLOPs counted of one head's part", "FLOPs"),
            "heads": (("layer",), heads, "heads", "1"),
            "kernel": (("layer",), kernels, "kernel size k", "1"),
            **{name: (over, times[i]) for i, name in enumerate(("time", "time_low", "time_high"))},
        },
        {"layer": list(LAYERS), "n": list(lengths), "d": list(widths), "quantity": list(PARTS)},
        threads=1,
    ).assign_attrs(dtype="float32")


def exponents(values: xr.DataArray, sizes: Sequence[xr.DataArray]) -> tuple[float, ...]:
    """Least squares of ln values on the ln of each size, all broadcast to one another."""
    y, *columns = xr.broadcast(values, *sizes)
    X = np.stack([np.ones(y.size), *(np.log(column.values.ravel().astype(float)) for column in columns)], 1)
    return tuple(float(p) for p in np.linalg.lstsq(X, np.log(y.values.ravel()))[0][1:])


def _text(found: Sequence[float]) -> str:
    return ", ".join(f"{p:.3g}" for p in np.round(found, 6) + 0.0)


def _judge_exponents(part: str, found: dict[str, tuple[float, ...]], stated: tuple[int, ...]) -> Finding:
    worst = max(found, key=lambda name: max(abs(a - b) for a, b in zip(found[name], stated, strict=True)))
    off = max(abs(a - b) for a, b in zip(found[worst], stated, strict=True))
    names = "n, d, e or k"[: 4 if len(stated) == 2 else None]
    return Finding(
        part,
        CONFIRMED if off < EXACT else REFUTED,
        {"largest miss of a stated exponent": Measured(off)},
        f"{worst} grows with exponents {_text(found[worst])} in {names}",
    )


def judge(ds: xr.Dataset) -> list[Finding]:
    """The parts of attention, its two terms and where they cross, convolution, recurrence, and times."""
    attention = ds.sel(layer=list(ATTENTION))
    n, d = ds["n"], ds["d"]
    e = d / attention["heads"]
    of_parts = {
        str(name): exponents(attention["flops_part"].sel(quantity=name), (n, d, e)) for name in STATED
    }
    findings = [
        _judge_exponents("Q, K, V each O(n d d_k)", {p: of_parts[p] for p in PARTS[:3]}, (1, 1, 1)),
        _judge_exponents("scores O(n^2 d_k)", {"scores": of_parts["scores"]}, (2, 0, 1)),
        _judge_exponents("output O(n^2 d_v)", {"mixing": of_parts["mixing"]}, (2, 0, 1)),
        _whole(attention),
        _two_terms(attention),
        _dominance(attention),
    ]
    convolutions = ds.sel(layer=list(CONVOLUTIONS))
    found = {"convolution": exponents(convolutions["flops"], (n, d, convolutions["kernel"]))}
    findings.append(_judge_exponents("1-D convolution O(k n d^2)", found, (1, 2, 1)))
    found = {name: exponents(ds["flops"].sel(layer=name), (n, d)) for name in RECURRENCES}
    findings.append(_judge_exponents("recurrence O(n d^2)", found, (1, 2)))
    return [*findings, _times(ds)]


def _whole(attention: xr.Dataset) -> Finding:
    """Whether the stated parts are all of it."""
    stated = attention["flops_part"].sel(quantity=list(STATED)).sum("quantity") * attention["heads"]
    missing = 1 - stated / attention["flops"]
    all_of_it = float(np.abs(missing).max()) < EXACT
    long, wide = ({"n": i, "d": -1 - i} for i in (-1, 0))
    return Finding(
        "these are the parts of attention",
        CONFIRMED if all_of_it else QUALIFIED,
        {
            f"share of FLOPs missing at n = {int(missing['n'][at['n']])}, d = {int(missing['d'][at['d']])}": (
                Measured(float(missing.isel({"layer": 0, **at})))
            )
            for at in (wide, long)
        },
        "the output projection W_O is left out, n d^2 as each of Q, K, V for all heads",
    )


def _two_terms(attention: xr.Dataset) -> Finding:
    n, d, flops = (x.values.ravel() for x in xr.broadcast(attention["n"], attention["d"], attention["flops"]))
    X = np.stack([n**2 * d, n * d**2], axis=1) / flops[:, None]
    (a, b), *_ = np.linalg.lstsq(X, np.ones(len(X)))
    off = float(np.abs(X @ (a, b) - 1).max())
    return Finding(
        "attention O(n^2 d + n d^2)",
        CONFIRMED if off < EXACT else REFUTED,
        {
            "FLOPs / n^2 d": Measured(float(a)),
            "FLOPs / n d^2": Measured(float(b)),
            "largest relative residual": Measured(off),
        },
        "the two terms do not make up the count",
    )


def quadratic_share(attention: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """n / d in order, and the share of attention's FLOPs in scores and mixing."""
    pairs = attention["flops_part"].sel(quantity=["scores", "mixing"]).sum("quantity") * attention["heads"]
    ratio, share = xr.broadcast(attention["n"] / attention["d"], (pairs / attention["flops"]).isel(layer=0))
    order = np.argsort(ratio.values.ravel(), kind="stable")
    return ratio.values.ravel()[order], share.values.ravel()[order]


def _dominance(attention: xr.Dataset) -> Finding:
    ratio, share = quadratic_share(attention)
    # share / (1 - share) is proportional to n / d where costs are a n^2 d + b n d^2
    half = float(np.exp(np.interp(0, np.log(share / (1 - share)), np.log(ratio))))
    dominates = share[-1] > 0.5 and bool((np.diff(share) >= -EXACT).all())
    own = ARTICLE[0] / ARTICLE[1]
    return Finding(
        "n^2 d dominates for n >> d",
        CONFIRMED if dominates else REFUTED,
        {
            "n / d at which both terms are equal": Measured(half),
            f"share of n^2 d at n = {ratio[-1]:g} d": Measured(float(share[-1])),
            f"share of n^2 d at n = {ARTICLE[0]}, d = {ARTICLE[1]}": Measured(1 / (1 + half / own)),
        },
        "" if dominates else "the other term is larger at every length measured",
    )


def _times(ds: xr.Dataset) -> Finding:
    """Exponents of time beside those of FLOPs over the same lengths and widths."""
    timed = ds.sel(layer=list(TIMED))[["flops", "time", "time_low", "time_high"]]
    found = curves.scaling(timed)
    numbers, off = {}, 0
    for layer in TIMED:
        for size in ("n", "d"):
            here = found.sel(layer=layer)
            p, error, of_flops = (
                float(here[name].sel(quantity=quantity))
                for name, quantity in (
                    (f"scaling_{size}", "time"),
                    (f"scaling_{size}_stderr", "time"),
                    (f"scaling_{size}", "flops"),
                )
            )
            numbers[f"{layer.split(':')[0]}: time ~ {size}^, FLOPs ~ {size}^{of_flops:.2f}"] = Measured(
                p, error
            )
            off += abs(p - of_flops) > ALIKE + 2 * np.nan_to_num(error)
    return Finding(
        "times grow as FLOPs do",
        CONFIRMED if not off else QUALIFIED if off < len(numbers) else REFUTED,
        numbers,
        f"{off} of {len(numbers)} exponents of time differ: a time holds calls, memory traffic and "
        "elementwise work besides products",
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Parts make up the whole; counts are the published ones; attention costs as the LSTM at n = 2 d."""
    faults = []
    attention = ds.sel(layer=list(ATTENTION))
    parts = attention["flops_part"]
    whole = parts.drop_sel(quantity="output").sum("quantity") * attention["heads"] + parts.sel(
        quantity="output"
    )
    if (whole != attention["flops"]).any():
        faults.append("the parts of attention do not make up its count")
    n, d = ds["n"], ds["d"]
    factors = {"rnn": 4, "gru": 12, "lstm": 16} | {
        spec: 2 * k for spec, k in zip(CONVOLUTIONS, KERNELS, strict=True)
    }
    for spec, factor in factors.items():
        if (ds["flops"].sel(layer=spec) != factor * n * d**2).any():
            faults.append(f"{spec} does not count {factor} n d^2")
    for spec, times in (("lstm", 2), ("gru", 1)):
        both = [x.values for x in xr.broadcast(n, d)]
        equal = (ds["flops"].sel(layer=spec) == attention["flops"].isel(layer=0)).transpose("n", "d").values
        if (equal != (both[0] == times * both[1])).any():
            faults.append(f"attention does not cost as the {spec} at n = {times} d, and there only")
    return faults


CLAIM = Claim(
    "C2",
    "Attention costs O(n^2 d + n d^2), the first term dominating for n >> d; 1-D convolution O(k n d^2); "
    "recurrence O(n d^2). Of attention, Q, K and V cost O(n d d_k) each, scores O(n^2 d_k), output "
    "O(n^2 d_v).",
    "Orders are confirmed if exponents fitted to counted FLOPs are the stated ones within 1e-6. The "
    "stated parts are all of attention if they add up to its count. n^2 d dominates if its share of the "
    "count rises with n / d and exceeds one half at the longest. Times follow if their exponents are "
    "within 0.25 and two standard errors of those of FLOPs; qualified if some are.",
    measure,
    judge,
    checks,
)
