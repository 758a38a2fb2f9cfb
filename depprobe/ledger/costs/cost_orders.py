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
from depprobe.ledger.claim import Claim, Measured, Rule, definition
from depprobe.ledger.evidence import About, evidence
from depprobe.ledger.progress import Progress, tracked
from depprobe.ledger.verdicts import CONFIRMED, QUALIFIED, REFUTED, timed, verdict
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
#: FLOPs over n d^2
FACTORS = {"rnn": 4, "gru": 12, "lstm": 16} | {f"conv:kernel={k}": 2 * k for k in KERNELS}
#: shares of counts are whole to the first; exponents of times agree with those of FLOPs to the second, and
#: a busy machine may move one by the third
EXACT, ALIKE, MOVED = 1e-6, 0.25, 0.1
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
    for at in tracked(np.ndindex(shape), progress, lambda at: f"{LAYERS[at[0]]} n={lengths[at[1]]}"):
        spec, n, d = LAYERS[at[0]], lengths[at[1]], widths[at[2]]
        (case,) = cases_of_specs([spec], None, n, d, 1, [seed], "float32", "cpu")
        module = case.build()
        flops[at] = count_flops(module, case.x)
        if spec in ATTENTION:
            parts[:, *at] = list(part_flops(n, d, HEADS[at[0]]).values())
        if spec in TIMED:
            times[:, *at] = seconds(one_pass(module, case.x, FORWARD), 1, least)
    over, most = "layer n d", (max(lengths), max(widths))
    return evidence(
        About("C2", "Costs in n, d and k, counted and timed", LAYERS, *most, quick, seed),
        {
            "flops": (over, flops),
            "flops_part": (f"quantity {over}", parts, "FLOPs counted of one head's part", "FLOPs"),
            "heads": ("layer", [*HEADS, *[1] * (len(LAYERS) - len(HEADS))], "heads", "1"),
            "kernel": ("layer", [*[1] * len(HEADS), *KERNELS, *[1] * len(RECURRENCES)], "kernel size k", "1"),
            **{name: (over, times[i]) for i, name in enumerate(("time", "time_low", "time_high"))},
        },
        {"layer": LAYERS, "n": lengths, "d": widths, "quantity": PARTS},
        threads=1,
        dtype="float32",
    )


def exponents(values: xr.DataArray, sizes: Sequence[xr.DataArray]) -> tuple[float, ...]:
    """Least squares of ln values on the ln of each size, all broadcast to one another."""
    y, *columns = xr.broadcast(values, *sizes)
    X = np.stack([np.ones(y.size), *(np.log(column.values.ravel().astype(float)) for column in columns)], 1)
    return tuple(float(p) for p in np.linalg.lstsq(X, np.log(y.values.ravel()))[0][1:])


def _of_part(part: str) -> Rule:
    def numbers(ds: xr.Dataset) -> dict[str, Measured]:
        attention = ds.sel(layer=list(ATTENTION))
        sizes = (ds["n"], ds["d"], ds["d"] / attention["heads"])
        found = exponents(attention["flops_part"].sel(quantity=part), sizes)
        return _exponents("n d e", found)

    return definition("it is the count of one product of matrices, by the shapes of its factors", numbers)


def _exponents(names: str, found: Sequence[float]) -> dict[str, Measured]:
    return {
        f"exponent of FLOPs in {name}": Measured(round(p, 6) + 0.0)
        for name, p in zip(names.split(), found, strict=True)
    }


def _attention(ds: xr.Dataset) -> dict[str, Measured]:
    """Coefficients of the two terms, by least squares of relative residuals."""
    counted = ds["flops"].sel(layer=list(ATTENTION))
    n, d, flops = (x.values.ravel() for x in xr.broadcast(ds["n"], ds["d"], counted))
    X = np.stack([n**2 * d, n * d**2], axis=1) / flops[:, None]
    (a, b), *_ = np.linalg.lstsq(X, np.ones(len(X)))
    return {"FLOPs / n^2 d": Measured(float(a)), "FLOPs / n d^2": Measured(float(b))}


def _convolution(ds: xr.Dataset) -> dict[str, Measured]:
    some = ds.sel(layer=list(CONVOLUTIONS))
    return _exponents("n d k", exponents(some["flops"], (ds["n"], ds["d"], some["kernel"])))


def _recurrence(ds: xr.Dataset) -> dict[str, Measured]:
    return _exponents("n d", exponents(ds["flops"].sel(layer=list(RECURRENCES)[-1]), (ds["n"], ds["d"])))


def _whole(ds: xr.Dataset) -> tuple:
    attention = ds.sel(layer=list(ATTENTION))
    stated = attention["flops_part"].sel(quantity=list(STATED)).sum("quantity") * attention["heads"]
    missing = 1 - stated / attention["flops"]
    ends = (missing.isel(layer=0, n=i, d=-1 - i) for i in (0, -1))
    least, most = float(missing.min()), float(missing.max())
    return (
        REFUTED if least < -EXACT or most > 0.5 else QUALIFIED if most > EXACT else CONFIRMED,
        {f"share of FLOPs missing at n = {int(x['n'])}, d = {int(x['d'])}": Measured(float(x)) for x in ends},
        "the output projection W_O is left out, n d^2 as each of Q, K, V for all heads",
    )


def quadratic_share(attention: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """n / d in order, and the share of attention's FLOPs in scores and mixing."""
    pairs = attention["flops_part"].sel(quantity=["scores", "mixing"]).sum("quantity") * attention["heads"]
    ratio, share = xr.broadcast(attention["n"] / attention["d"], (pairs / attention["flops"]).isel(layer=0))
    order = np.argsort(ratio.values.ravel(), kind="stable")
    return ratio.values.ravel()[order], share.values.ravel()[order]


def _dominance(ds: xr.Dataset) -> dict[str, Measured]:
    ratio, share = quadratic_share(ds.sel(layer=list(ATTENTION)))
    # share / (1 - share) is proportional to n / d where costs are a n^2 d + b n d^2
    half = float(np.exp(np.interp(0, np.log(share / (1 - share)), np.log(ratio))))
    n, d = ARTICLE
    return {
        "n / d at which both terms are equal": Measured(half),
        f"share of n^2 d at n = {ratio[-1]:g} d": Measured(float(share[-1])),
        f"share of n^2 d at n = {n}, d = {d}": Measured(1 / (1 + half * d / n)),
    }


def _time_of(layer: str) -> Rule:
    def rule(ds: xr.Dataset) -> tuple:
        found = curves.scaling(ds.sel(layer=[layer])[["flops", "time", "time_low", "time_high"]]).sel(
            layer=layer
        )
        numbers, off, width = {}, [], []
        for size in ("n", "d"):
            p, of_flops = (float(found[f"scaling_{size}"].sel(quantity=name)) for name in ("time", "flops"))
            error, misfit = (
                float(np.nan_to_num(found[f"scaling_{size}_stderr"].sel(quantity=name)))
                for name in ("time", "flops")
            )
            numbers[f"time ~ {size}^, FLOPs ~ {size}^{of_flops:.2f}"] = Measured(p, error)
            # FLOPs are no pure powers either: what their fit misses is no noise of times
            width.append(MOVED + 2 * math.sqrt(max(0.0, error**2 - misfit**2)))
            off.append(abs(p - of_flops))
        misses, widths = np.array(off), np.array(width)
        ends = [verdict(int((misses + end <= ALIKE).sum()), 2) for end in (-widths, widths)]
        note = "a time holds calls, memory traffic and elementwise work besides products"
        return timed(ends, numbers, note)

    return rule


def checks(ds: xr.Dataset) -> list[str]:
    """Parts make up the whole, and counts are the published ones."""
    faults = []
    attention, n, d = ds.sel(layer=list(ATTENTION)), ds["n"], ds["d"]
    parts = attention["flops_part"]
    output = parts.sel(quantity="output")
    whole = parts.drop_sel(quantity="output").sum("quantity") * attention["heads"] + output
    if (whole != attention["flops"]).any():
        faults.append("the parts of attention do not make up its count")
    if (attention["flops"] != 8 * n * d**2 + 4 * n**2 * d).any():
        faults.append("attention does not count 8 n d^2 + 4 n^2 d")
    faults += [
        f"{spec} does not count {factor} n d^2"
        for spec, factor in FACTORS.items()
        if (ds["flops"].sel(layer=spec) != factor * n * d**2).any()
    ]
    return faults


CLAIM = Claim(
    "C2",
    "Attention costs O(n^2 d + n d^2), the first term dominating for n >> d; 1-D convolution O(k n d^2); "
    "recurrence O(n d^2). Of attention, Q, K and V cost O(n d d_k) each, scores O(n^2 d_k), output "
    "O(n^2 d_v).",
    "Orders in FLOPs are those of the products that make up a layer; counts show them and prove nothing. "
    "The stated parts are all of attention if they add up to the count of torch's module, refuted if to "
    "less than half of it or to more, else qualified. Times follow if both exponents, in n and in d, are "
    f"within {ALIKE:g} of those of FLOPs; qualified if one is, refuted if none; not measured here where "
    f"two standard errors and {MOVED:g} would change that.",
    measure,
    {
        "Q, K, V each O(n d d_k)": _of_part("queries"),
        "scores O(n^2 d_k)": _of_part("scores"),
        "output O(n^2 d_v)": _of_part("mixing"),
        "these are the parts of attention": _whole,
        "attention O(n^2 d + n d^2)": definition("it multiplies 4 n^2 d and 8 n d^2", _attention),
        "n^2 d dominates for n >> d": definition("its ratio to n d^2 is n / d", _dominance),
        "1-D convolution O(k n d^2)": definition("n sums of k products of (d, d) matrices", _convolution),
        "recurrence O(n d^2)": definition("n steps of products of (d, d) matrices", _recurrence),
        "time of attention grows as its FLOPs do": _time_of(TIMED[0]),
        "time of convolution grows as its FLOPs do": _time_of(TIMED[1]),
        "time of recurrence grows as its FLOPs do": _time_of(TIMED[2]),
    },
    checks,
)
