r"""C6: how many positions a stack of dilated convolutions covers.

    candidates   k (2^L - 1)      1 + (k-1)(2^L - 1)      k 2^(L-1)      k^L      1 + (k-1) L
    effective    sd of lag under squared norms, sqrt((k^2-1)/12 (4^L-1)/3) for independent weights

The support is read from the Jacobian of a stack: the sources whose block is not exactly zero.
Source: Bai, Kolter and Koltun 2018 (dilations 2^l); Araujo 2019 (arithmetic); Luo et al. 2016 (spread).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

import depprobe
from depprobe.claims.claim import CONFIRMED, REFUTED, Claim, Finding, Measured, Progress, verdict
from depprobe.claims.evidence import evidence
from depprobe.theory.receptive import Level, moments

#: (kernels, depths, n, d); n must exceed the widest support, or the start of the sequence would cut it
QUICK = ((2, 3, 5), (1, 2, 3, 4, 5), 160, 16)
FULL = ((2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7), 1000, 512)

STATED, TRUE = "k (2^L - 1)", "1 + (k-1)(2^L - 1)"
CANDIDATES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    STATED: lambda k, L: k * (2**L - 1),
    TRUE: lambda k, L: 1 + (k - 1) * (2**L - 1),
    "k 2^(L-1)": lambda k, L: k * 2 ** (L - 1),
    "k^L": lambda k, L: k**L,
    "1 + (k-1) L": lambda k, L: 1 + (k - 1) * L,
}
#: what the statement says four layers cover
STATED_AT_FOUR = 15


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Support and spread of the last output's row: stacks with dilations 1, 2, 4, ..., and without."""
    kernels, depths, n, d = QUICK if quick else FULL
    specs = [(k, L, 2) for k in kernels for L in depths] + [(3, L, 1) for L in depths]
    rows: list[dict[str, Any]] = []
    for done, (k, L, base) in enumerate(specs):
        name = f"dilated-conv:depth={L},kernel={k},base={base},nonlinearity=none"
        if progress:
            progress(done, len(specs), name)
        ds = depprobe.jacobian(name, n=n, d=d, seed=seed)
        log = ds.log_norm.values[0]
        lag = n - 1 - np.arange(n)
        inside = log > -math.inf
        share = np.exp(2 * (log - log.max()))
        share /= share.sum()
        centre = float(share @ lag)
        predicted = moments([Level(k, base**level) for level in range(L)])[2]
        rows.append(
            {
                "layer": name,
                "kernel": k,
                "layers_stacked": L,
                "base": base,
                "receptive_width": int(inside.sum()),
                "receptive_field": int(lag[inside].max()),
                "measured_sd": math.sqrt(float(share @ (lag - centre) ** 2)),
                "predicted_width": math.sqrt(predicted),
            }
        )
    words = {
        "kernel": ("kernel size k", "1"),
        "layers_stacked": ("layers L", "1"),
        "base": ("factor between dilations", "1"),
        "measured_sd": ("standard deviation of the lag, weighed by squared norms", "positions"),
    }
    variables: dict[str, Any] = {
        name: (("layer",), [row[name] for row in rows], *words.get(name, ()))
        for name in rows[0]
        if name != "layer"
    }
    return evidence(
        "C6",
        variables,
        {"layer": [row["layer"] for row in rows]},
        quick=quick,
        seed=seed,
        n=n,
        d=d,
        layer="dilated-conv",
        title="Support of stacks of dilated convolutions",
    )


def differences(ds: xr.Dataset) -> dict[str, int]:
    """Largest difference between the measured support and each candidate, over doubling stacks."""
    doubling = ds.isel(layer=np.flatnonzero(ds["base"].values == 2))
    k, L, width = (doubling[name].values for name in ("kernel", "layers_stacked", "receptive_width"))
    return {name: int(np.abs(width - formula(k, L)).max()) for name, formula in CANDIDATES.items()}


def judge(ds: xr.Dataset) -> list[Finding]:
    """Formula, example and order of growth, each against the measured support."""
    off = differences(ds)
    best = min(off, key=lambda name: off[name])
    formula = CONFIRMED if off[STATED] == 0 else REFUTED
    fits = f"the support has {best} positions" if off[best] == 0 else f"no candidate fits; nearest is {best}"
    findings = [
        Finding(
            f"the receptive field is {STATED}",
            formula,
            {f"largest difference from {name}": Measured(gap, unit="positions") for name, gap in off.items()},
            "" if formula == CONFIRMED else fits,
        )
    ]

    doubling = ds.isel(layer=np.flatnonzero(ds["base"].values == 2))
    k, L, width = (doubling[name].values for name in ("kernel", "layers_stacked", "receptive_width"))
    four = {int(a): int(w) for a, b, w in zip(k, L, width, strict=True) if b == 4}
    equal = [f"L = {b} at k = {a}" for a, b, w in zip(k, L, width, strict=True) if w == STATED_AT_FOUR]
    holds = verdict(sum(w == STATED_AT_FOUR for w in four.values()), len(four))
    findings.append(
        Finding(
            f"four layers cover {STATED_AT_FOUR} positions",
            holds,
            {f"four layers at k = {a}": Measured(w, unit="positions") for a, w in four.items()},
            ""
            if holds == CONFIRMED
            else "four layers cover "
            + ", ".join(f"{w} (k = {a})" for a, w in four.items())
            + (f"; {STATED_AT_FOUR} is {' and '.join(equal)}" if equal else ""),
        )
    )

    # width >= 2^L means that L = log2 n layers are enough for n positions, at any n in reach
    enough = int((width >= 2**L).sum())
    plain = ds.isel(layer=np.flatnonzero(ds["base"].values == 1))
    order = verdict(enough, len(width))
    deepest = int(L.argmax())
    findings.append(
        Finding(
            "O(log n) layers cover n positions",
            order,
            {
                f"support of {L[deepest]} doubling layers, k = {k[deepest]}": Measured(
                    float(width[deepest]), unit="positions"
                ),
                f"support of {int(plain['layers_stacked'].max())} layers without dilation, k = 3": Measured(
                    float(plain["receptive_width"].max()), unit="positions"
                ),
                "stacks that cover at least 2^L": Measured(enough / len(width)),
            },
            "" if order == CONFIRMED else "the support grows more slowly than 2^L in some stacks",
        )
    )
    return findings


def checks(ds: xr.Dataset) -> list[str]:
    """Stacks without dilation cover 1 + (k-1) L positions, and no support has gaps."""
    faults = []
    plain = ds.isel(layer=np.flatnonzero(ds["base"].values == 1))
    wanted = 1 + (plain["kernel"] - 1) * plain["layers_stacked"]
    if (plain["receptive_width"] != wanted).any():
        faults.append("a stack without dilation does not cover 1 + (k-1) L positions")
    if (ds["receptive_width"] != ds["receptive_field"] + 1).any():
        faults.append("a causal stack's support has gaps")
    return faults


CLAIM = Claim(
    id="C6",
    statement=(
        "A stack of L convolutions with kernel k and dilations 1, 2, 4, ... sees k (2^L - 1) positions; "
        "four layers see 15; a sequence of n positions needs O(log n) layers."
    ),
    rule=(
        "Counted: sources with a non-zero block in the last output's row. The formula is confirmed if it "
        "equals every count, else refuted, and the candidate nearest to all counts is named; the example is "
        "judged at every k; the order is confirmed if every stack covers at least 2^L positions."
    ),
    measure=measure,
    judge=judge,
    checks=checks,
)
