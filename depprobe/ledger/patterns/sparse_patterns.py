r"""C11: what sparse attention patterns cost, and what they are for.

    pairs     n w, 2 n log2 n, 2 n sqrt n to leading order; FLOPs 4 d a pair, time and memory in proportion
    share     of squared gradient norms, k != t, on nearby sources, on multiples of a period, in a document

Patterns: sliding window of w, distances 1, 2, 4, ..., own block with the last position of every other block.
Measured in ``pattern_costs`` and ``pattern_shares``, judged in ``pattern_orders`` and ``pattern_uses``.
Source: Beltagy et al. 2020 (windows), Li et al. 2019 (powers of two), Child et al. 2019 (blocks).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Claim, Finding, Progress
from depprobe.ledger.evidence import About, evidence
from depprobe.ledger.patterns.cost_exponents import ORDERS, PAIRS, of_cost
from depprobe.ledger.patterns.recommended_uses import named, of_documents, of_periods, of_window

#: (lengths, d, heads, rounds) of costs; (n, d, window, distance of targets, seeds) of shares
QUICK: tuple[Any, Any] = (((1024, 4096, 16384, 65536), 32, 2, 3), (144, 8, 16, 17, 3))
FULL: tuple[Any, Any] = (((1024, 2048, 4096, 8192, 16384, 32768, 65536), 64, 4, 7), (576, 16, 32, 53, 5))


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Costs over (layer, n, round) and shares over (pattern, depth, input, seed)."""
    from depprobe.ledger.patterns.gradient_shares import DEPTHS, INPUTS, LAYERS, pattern_shares
    from depprobe.ledger.patterns.pattern_costs import pattern_costs

    (lengths, width, heads, rounds), (n, d, window, every, count) = QUICK if quick else FULL
    parts = len(ORDERS) * len(lengths) + 1 + len(LAYERS) * count
    done = iter(range(parts))

    def report(label: str) -> None:
        if progress:
            progress(next(done), parts, label)

    costs = pattern_costs(lengths, width, heads, rounds, report)
    seeds = seed + np.arange(count)
    shares = pattern_shares(n, d, window, every, seeds.tolist(), report)
    over = ("layer", "n")
    return evidence(
        About(
            "C11",
            "Sparse attention patterns: cost and shares of gradient",
            ", ".join(ORDERS),
            max(lengths),
            width,
            quick,
            seed,
        ),
        {
            "pairs": (over, costs["pairs"]),
            "flops_core": (over, costs["flops_core"], "FLOPs counted less those of the projections", "FLOPs"),
            "peak_bytes": (over, costs["peak_bytes"]),
            "largest_tensor": (over, costs["largest_tensor"], "numbers in the largest tensor made", "1"),
            "pass_time": (
                (*over, "round"),
                costs["times"],
                "processor time of a forward pass, one thread",
                "s",
            ),
            "share": (
                ("pattern", "depth", "input", "seed"),
                shares["share"],
                "share of squared norms, k != t, on the sources meant",
                "1",
            ),
            "share_chance": (("input",), shares["share_chance"], "share of positions that are meant", "1"),
            "reach": (
                ("pattern", "depth"),
                shares["reach"],
                "least share of sources that move a target",
                "1",
            ),
        },
        {
            "layer": list(ORDERS),
            "n": list(lengths),
            "round": np.arange(rounds),
            "pattern": list(LAYERS),
            "depth": list(DEPTHS),
            "input": list(INPUTS),
            "seed": seeds,
        },
        heads=heads,
        shares_n=n,
        shares_d=d,
        shares_window=window,
    )


def judge(ds: xr.Dataset) -> list[Finding]:
    """Order of cost of each pattern, then what each is said to be for."""
    return [*(of_cost(ds, name) for name in ORDERS), of_window(ds), of_periods(ds), of_documents(ds)]


def checks(ds: xr.Dataset) -> list[str]:
    """Pairs are the closed forms; no tensor has n^2 numbers; structure fixes some shares exactly."""
    faults = []
    for name, closed in PAIRS.items():
        for n in map(int, ds["n"].values):
            one = ds.sel(layer=name, n=n)
            if int(one["pairs"]) != closed(n):
                faults.append(f"{name} at n = {n} has {int(one['pairs'])} pairs, not {closed(n)}")
            if float(one["largest_tensor"]) >= n * n:
                faults.append(f"{name} at n = {n} makes a tensor of {float(one['largest_tensor']):g} numbers")
            # tiles hold every pair, and a window's tiles no more than twice as many
            if not 1 <= float(one["flops_core"]) / (4 * ds.attrs["d"] * closed(n)) < 2.3:
                faults.append(f"{name} at n = {n} takes {float(one['flops_core']):g} FLOPs")
    shares = ds["share"].sel(depth=1)
    if (shares.sel(pattern="sliding-window", input="nearby") != 1).any():
        faults.append("gradient passes outside a window")
    for what in named(ds, "period"):
        P = int(what.split()[1])
        if P & (P - 1) and shares.sel(pattern="dilated-attention", input=what).any():
            faults.append(f"gradient at multiples of {P} through powers of two")
    if (ds["reach"].sel(pattern="attention") != 1).any():
        faults.append("full attention does not reach every position")
    return faults


CLAIM = Claim(
    "C11",
    "Sparse patterns: sliding window O(n k), for local dependence; dilated attention O(n log n), for "
    "periodic signals; block attention O(n sqrt n), for documents.",
    "An order is confirmed if the pairs are a multiple of it plus multiples of n and 1 exactly, FLOPs "
    "a pair vary by less than 1.1 and no tensor has n^2 numbers, and if from n = 4096 on memory and "
    "the time of the fastest round grow with exponents nearer to that of the pairs than to the 2 of a "
    "full product; qualified without the last. A pattern is for something if the sources meant get a "
    "larger share of gradient, k != t, than full attention gives them, by two standard errors of the "
    "ratio, at every period or boundary (qualified: at some), in a window all of it; documents also "
    "need two layers to reach every position.",
    measure,
    judge,
    checks,
)
