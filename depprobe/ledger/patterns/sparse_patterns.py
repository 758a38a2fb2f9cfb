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

from depprobe.ledger.claim import Claim, definition
from depprobe.ledger.evidence import About, evidence
from depprobe.ledger.patterns.cost_exponents import (
    FROM,
    MORE,
    MUCH_MORE,
    ORDERS,
    PAIRS,
    WINDOW,
    fitted,
    of_cost,
    of_pairs,
)
from depprobe.ledger.patterns.recommended_uses import in_window, named, of_use
from depprobe.ledger.progress import Progress, teller

#: (lengths, d, heads, rounds) of costs; (n, d, window, distance of targets, seeds) of shares
QUICK: tuple[Any, Any] = (((1024, 4096, 16384, 65536), 32, 2, 3), (144, 8, 16, 17, 3))
FULL: tuple[Any, Any] = (((1024, 2048, 4096, 8192, 16384, 32768, 65536), 64, 4, 7), (576, 16, 32, 53, 5))


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Costs over (layer, n, round) and shares over (pattern, depth, input, seed)."""
    from depprobe.ledger.patterns.gradient_shares import DEPTHS, INPUTS, LAYERS, pattern_shares
    from depprobe.ledger.patterns.pattern_costs import pattern_costs

    (lengths, width, heads, rounds), (n, d, window, every, count) = QUICK if quick else FULL
    tell = teller(progress, len(ORDERS) * len(lengths) + 1 + len(LAYERS) * count)
    seeds = seed + np.arange(count)
    found = pattern_costs(lengths, width, heads, rounds, tell)
    found |= pattern_shares(n, d, window, every, seeds.tolist(), tell)
    title, of_mask = (
        "Sparse attention patterns: cost and shares of gradient",
        "share of a mask's sources that are meant",
    )
    return evidence(
        About("C11", title, ORDERS, max(lengths), width, quick, seed),
        {
            "pairs": ("layer n", found["pairs"]),
            "flops_core": (
                "layer n",
                found["flops_core"],
                "FLOPs counted less those of the projections",
                "FLOPs",
            ),
            "peak_bytes": ("layer n", found["peak_bytes"]),
            "largest_tensor": ("layer n", found["largest_tensor"], "numbers in the largest tensor made", "1"),
            "pass_time": (
                "layer n round",
                found["times"],
                "processor time of a forward pass, one thread",
                "s",
            ),
            "share": (
                "pattern depth input seed",
                found["share"],
                "share of squared norms on the sources meant",
                "1",
            ),
            "share_chance": ("input", found["share_chance"], "share of positions that are meant", "1"),
            "share_mask": ("pattern input", found["share_mask"], of_mask, "1"),
            "reach": ("pattern depth", found["reach"], "least share of sources that move a target", "1"),
        },
        {
            "layer": ORDERS,
            "n": lengths,
            "round": range(rounds),
            "pattern": LAYERS,
            "depth": DEPTHS,
            "input": INPUTS,
            "seed": seeds,
        },
        heads=heads,
        shares_n=n,
        shares_d=d,
        shares_window=window,
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Pairs are the closed forms; no tensor has n^2 numbers; structure fixes some shares exactly."""
    faults = []
    # where n is a power of 4 blocks and powers of two come out even
    n = ds["n"].values[np.log2(ds["n"].values) % 2 == 0].astype(float)
    for name, (order, growth) in ORDERS.items():
        if fitted(n, ds["pairs"].sel(layer=name, n=n).values.astype(float))[0] != growth:
            faults.append(f"the pairs of {name} are not {order}")
    for name, closed in PAIRS.items():
        for n in map(int, ds["n"].values):
            one = ds.sel(layer=name, n=n)
            if int(one["pairs"]) != closed(n):
                faults.append(f"{name} at n = {n} has {int(one['pairs'])} pairs, not {closed(n)}")
            if n < 4 * WINDOW:
                continue  # a window's tile is all there is
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
    "How many pairs a pattern has is how it is built, and so is that a window keeps all gradient in it. "
    f"Costs follow if from 1/{1 / FROM:.0f} of the longest n on memory, and time in every round, grow with "
    f"exponents at most {MORE:g} above that of the pairs; refuted if one exceeds it by {MUCH_MORE:g}, "
    "qualified in between, not measured here where rounds disagree. A pattern is for something if the "
    "sources meant get a larger share of gradient, k != t, than full attention and than every other "
    "pattern gives them, by two standard errors of the ratio, at every period or boundary (qualified: at "
    "some).",
    measure,
    {
        **{f"{name} has {order} pairs": of_pairs(name) for name, (order, _) in ORDERS.items()},
        **{f"{name} takes time and memory {order}": of_cost(name) for name, (order, _) in ORDERS.items()},
        "sliding-window is for local dependence": definition("its mask lets nothing else through", in_window),
        "dilated-attention is for periodic signals": of_use(
            "dilated-attention",
            "period",
            "distances are powers of two, and none is a multiple of a number with an odd factor",
        ),
        "block-attention is for documents": of_use("block-attention", "documents"),
    },
    checks,
)
