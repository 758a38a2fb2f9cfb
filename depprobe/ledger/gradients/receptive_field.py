r"""C6: how many positions a stack of dilated convolutions covers.

    candidates   k (2^L - 1)      1 + (k-1)(2^L - 1)      k 2^(L-1)      k^L      1 + (k-1) L
    spread       sd of the lag under squared norms, in expectation over independent weights:
                 sqrt((k^2-1)/12 (4^L-1)/3) with doubling dilations, sqrt((k^2-1)/12 L) without dilation

The support is read from the Jacobian of a stack: the sources whose block is not exactly zero.
Source: Bai, Kolter and Koltun 2018 (dilations 2^l); Araujo 2019 (arithmetic); Luo et al. 2016 (spread).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Claim, Measured
from depprobe.ledger.evidence import About, evidence, mean
from depprobe.ledger.progress import Progress, tracked
from depprobe.ledger.verdicts import CONFIRMED, REFUTED, verdict
from depprobe.probes.jacobian import jacobian
from depprobe.theory.receptive import Level, moments

#: (kernels, depths, n, d, draws of the weights); n must exceed the widest support, which the start would cut
QUICK = ((2, 3, 5), (1, 2, 3, 4, 5), 160, 16, 8)
FULL = ((2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7), 1000, 512, 3)

STATED, TRUE = "k (2^L - 1)", "1 + (k-1)(2^L - 1)"
CANDIDATES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    STATED: lambda k, L: k * (2**L - 1),
    TRUE: lambda k, L: 1 + (k - 1) * (2**L - 1),
    "k 2^(L-1)": lambda k, L: k * 2 ** (L - 1),
    "k^L": lambda k, L: k**L,
    "1 + (k-1) L": lambda k, L: 1 + (k - 1) * L,
}
#: standard errors by which a spread may miss its expectation, in the worst of all stacks
ERRORS = 5
#: what the statement says four layers cover
STATED_AT_FOUR = 15


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Support and spread of the last output's row: stacks with dilations 1, 2, 4, ..., and without."""
    kernels, depths, n, d, seeds = QUICK if quick else FULL
    stacks = {
        f"dilated-conv:depth={L},kernel={k},base={base},nonlinearity=none": (k, L, base)
        for base, k, L in product((2, 1), kernels, depths)
    }
    lag, rows = n - 1 - np.arange(n), []
    for name, (k, L, base) in tracked(stacks.items(), progress, lambda stack: stack[0]):
        log = jacobian(name, n=n, d=d, seed=seed, seeds=seeds).log_norm.values[:, 0]
        reached = lag[(log > -math.inf).any(0)]
        width = mean([spread(one, lag) for one in log])
        wanted = math.sqrt(moments([Level(k, base**level) for level in range(L)])[2])
        rows.append((k, L, base, len(reached), reached.max(), width.value, width.stderr, wanted))
    sd = "standard deviation of the lag, weighed by squared norms"
    words = {
        "kernel": ("kernel size k", "1"),
        "layers_stacked": ("layers L", "1"),
        "base": ("factor between dilations", "1"),
        "receptive_width": (),
        "receptive_field": (),
        "measured_width": (sd, "positions"),
        "measured_width_stderr": ("standard error of it over seeds", "positions"),
        "predicted_width": (),
    }
    columns = (np.array(column) for column in zip(*rows, strict=True))
    return evidence(
        About("C6", "Support of stacks of dilated convolutions", "dilated-conv", n, d, quick, seed),
        {name: ("layer", next(columns), *words[name]) for name in words},
        {"layer": stacks},
        seeds=seeds,
    )


def spread(log_norms: np.ndarray, lag: np.ndarray) -> float:
    """Standard deviation of the lag, each lag weighed by its share of the squared norm."""
    share = np.exp(2 * (log_norms - log_norms.max()))
    share /= share.sum()
    return math.sqrt(float(share @ (lag - share @ lag) ** 2))


def _stacks(ds: xr.Dataset, base: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernels, depths and measured supports of the stacks whose dilations grow by this factor."""
    some = ds.isel(layer=np.flatnonzero(ds["base"].values == base))
    return some["kernel"].values, some["layers_stacked"].values, some["receptive_width"].values


def differences(ds: xr.Dataset) -> dict[str, int]:
    """Largest difference between the measured support and each candidate, over doubling stacks."""
    k, L, width = _stacks(ds, 2)
    return {name: int(np.abs(width - formula(k, L)).max()) for name, formula in CANDIDATES.items()}


def _formula(ds: xr.Dataset) -> tuple:
    off = differences(ds)
    best = min(off, key=lambda name: off[name])
    return (
        REFUTED if off[STATED] else CONFIRMED,
        {f"largest difference from {name}": Measured(gap, unit="positions") for name, gap in off.items()},
        f"no candidate fits; nearest is {best}" if off[best] else f"the support has {best} positions",
    )


def _four_layers(ds: xr.Dataset) -> tuple:
    stacks = list(zip(*_stacks(ds, 2), strict=True))
    four = {int(k): int(width) for k, L, width in stacks if L == 4}
    equal = [f"L = {L} at k = {k}" for k, L, width in stacks if width == STATED_AT_FOUR]
    return (
        verdict(sum(width == STATED_AT_FOUR for width in four.values()), len(four)),
        {f"four layers at k = {k}": Measured(width, unit="positions") for k, width in four.items()},
        "four layers cover "
        + ", ".join(f"{width} (k = {k})" for k, width in four.items())
        + (f"; {STATED_AT_FOUR} is {' and '.join(equal)}" if equal else ""),
    )


def _order(ds: xr.Dataset) -> tuple:
    # width >= 2^L means that L = log2 n layers are enough for n positions, at any n in reach
    k, L, width = _stacks(ds, 2)
    enough, most = int((width >= 2**L).sum()), int(width.argmax())
    plain = {(a, b): w for a, b, w in zip(*_stacks(ds, 1), strict=True)}[k[most], L[most]]
    return (
        verdict(enough, len(width)),
        {
            f"{L[most]} doubling layers, k = {k[most]}": Measured(int(width[most]), unit="positions"),
            f"{L[most]} layers without dilation, k = {k[most]}": Measured(int(plain), unit="positions"),
            "share of the stacks that cover at least 2^L": Measured(enough / len(width)),
        },
        "the support grows more slowly than 2^L in some stacks",
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Supports without dilation, no gaps, and the spread that independent weights must have."""
    faults = []
    k, L, width = _stacks(ds, 1)
    if (width != 1 + (k - 1) * L).any():
        faults.append("a stack without dilation does not cover 1 + (k-1) L positions")
    if (ds["receptive_width"] != ds["receptive_field"] + 1).any():
        faults.append("a causal stack's support has gaps")
    # stacks scatter alike in proportion, and few seeds tell the scatter of one stack badly
    relative = float(np.sqrt(np.mean((ds["measured_width_stderr"] / ds["predicted_width"]) ** 2)))
    off = np.abs(ds["measured_width"].values / ds["predicted_width"].values - 1)
    if not float(off.max()) < ERRORS * relative:
        worst = str(ds["layer"].values[int(off.argmax())])
        faults.append(
            f"the spread of {worst} is {float(off.max()):.1%} off sqrt((k^2-1)/12 sum of dilations^2), "
            f"more than {ERRORS} standard errors of {relative:.1%}"
        )
    return faults


CLAIM = Claim(
    "C6",
    "A stack of L convolutions with kernel k and dilations 1, 2, 4, ... sees k (2^L - 1) positions; "
    "four layers see 15; a sequence of n positions needs O(log n) layers.",
    "Counted: sources with a non-zero block in the last output's row. The formula is confirmed if it "
    "equals every count, else refuted, and the candidate nearest to all counts is named; the example is "
    "judged at every k; the order is confirmed if every stack covers at least 2^L positions.",
    measure,
    {
        f"the receptive field is {STATED}": _formula,
        f"four layers cover {STATED_AT_FOUR} positions": _four_layers,
        "O(log n) layers cover n positions": _order,
    },
    checks,
)
