r"""C1: how many steps lie between two positions, and how much of the work can be done at once.

    attention 1          recurrence n - 1          window w  ceil((n-1) / (w-1))
    convolution, causal  ceil((n-1) / (k-1))       same padding: reach (k-1) / 2, ceil(2 (n-1) / (k-1))
    dilations 2^l        ceil(log2((n-1) / (k-1) + 1))         dilations k^l  ceil(log_k n)

A step is an application of the layer, or one along time, counted on the Jacobian's support (``steps_back``).
parallelism = FLOPs / FLOPs on the longest dependent chain.
Source: Vaswani et al. 2017, table 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import xarray as xr

from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Claim, Finding, Measured, Progress
from depprobe.ledger.evidence import About, evidence


def _over(reach: float) -> Callable[[int], int]:
    return lambda n: math.ceil((n - 1) / reach)


def _doubling(k: int) -> Callable[[int], int]:
    # the fewest L with (k - 1)(2^L - 1) >= n - 1, in whole numbers
    return lambda n: math.ceil((n - 1) / (k - 1)).bit_length()


def _powers(k: int) -> Callable[[int], int]:
    return lambda n: next(L for L in range(n) if k**L >= n)


CONVOLUTIONS: dict[str, Callable[[int], int]] = {
    **{f"conv:kernel={k},causal=true": _over(k - 1) for k in (2, 3, 5, 9)},
    **{f"conv:kernel={k}": _over((k - 1) // 2) for k in (3, 5, 9)},
}
DILATED: dict[str, Callable[[int], int]] = {
    **{f"dilated-conv:kernel={k}": _doubling(k) for k in (2, 3)},
    "dilated-conv:kernel=3,base=3": _powers(3),
}
RECURRENCES = ("rnn", "gru", "lstm")
#: layer -> its path length at n
CLOSED: dict[str, Callable[[int], int]] = {
    "attention": lambda n: 1,
    **CONVOLUTIONS,
    **DILATED,
    **{name: lambda n: n - 1 for name in RECURRENCES},
    **{f"sliding-window:window={w},causal=true": _over(w - 1) for w in (3, 8)},
    "dilated-attention:causal=true": lambda n: (n - 1).bit_count(),
    "block-attention": lambda n: 1 if n < 3 else 2,
}
#: lengths of paths; width and lengths of parallelism
QUICK, FULL, D = (10, 28, 100, 1000), (10, 17, 28, 65, 129, 300, 513, 1000), 512
LENGTHS = (64, 256, 1024, 4096)
#: what an order may be off by: path k / n of a convolution lies between
BOUNDS = (0.5, 3.0)


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Path lengths counted and by formula over (layer, n); parallelism and steps over (layer, length)."""
    from depprobe.complexity import complexity
    from depprobe.ledger.gradients.counted_path_length import steps_back
    from depprobe.registry import Spec, layers

    lengths, names = QUICK if quick else FULL, list(CLOSED)
    counted, formula, closed = (np.zeros((len(names), len(lengths))) for _ in range(3))
    parallel, steps = (np.zeros((len(names), len(LENGTHS))) for _ in range(2))
    for i, name in enumerate(names):
        if progress:
            progress(i, len(names), name)
        spec = Spec.parse(name)
        for j, n in enumerate(lengths):
            counted[i, j] = steps_back(name, n, seed)
            small = complexity(layers[spec.name].build(8, **spec.options()), n)
            assert small is not None
            formula[i, j] = math.nan if small.path_length is None else small.path_length
            closed[i, j] = CLOSED[name](n)
        module = layers[spec.name].build(D, **spec.options())
        for j, n in enumerate(LENGTHS):
            found = complexity(module, n)
            assert found is not None
            parallel[i, j], steps[i, j] = found.parallelism, found.sequential_steps
    return evidence(
        About("C1", "Path length and parallelism", ", ".join(names), max(lengths), D, quick, seed),
        {
            "path_counted": (("layer", "n"), counted, "steps counted on the Jacobian's support", "steps"),
            "path_length": (("layer", "n"), formula),
            "path_closed": (("layer", "n"), closed, "steps in closed form", "steps"),
            "parallelism": (("layer", "length"), parallel),
            "sequential_steps": (("layer", "length"), steps),
        },
        {"layer": names, "n": list(lengths), "length": list(LENGTHS)},
    )


def growth(ds: xr.Dataset, name: str, variable: str, over: str) -> float:
    """Exponent of growth of a layer's variable with the length."""
    values = ds[variable].sel(layer=name).values
    return float(np.polyfit(np.log(ds[over].values), np.log(values), 1)[0])


def kernel_of(name: str) -> int:
    """Kernel in a spec string."""
    return int(name.partition("kernel=")[2].partition(",")[0])


def judge(ds: xr.Dataset) -> list[Finding]:
    """Attention, convolution and recurrence, then what runs in order."""
    n, longest = ds["n"].values, int(ds["n"].max())

    def path(name: str) -> np.ndarray:
        return np.asarray(ds["path_counted"].sel(layer=name).values)

    def at_longest(*names: str) -> dict[str, Measured]:
        return {
            f"{name}, n = {longest}": Measured(float(path(name)[n.argmax()]), unit="steps") for name in names
        }

    one = bool((path("attention") == 1).all())
    findings = [
        Finding(
            "attention: O(1), one step to anywhere",
            CONFIRMED if one else REFUTED,
            at_longest("attention"),
            "" if one else "one application does not reach every position",
        )
    ]

    ratio = {name: path(name) * kernel_of(name) / n for name in (*CONVOLUTIONS, *DILATED)}
    low, high = BOUNDS
    within = {name: bool(((found >= low) & (found <= high)).all()) for name, found in ratio.items()}
    plain, every = all(within[name] for name in CONVOLUTIONS), all(within.values())
    findings.append(
        Finding(
            "convolution: O(n/k), layer by layer",
            CONFIRMED if every else QUALIFIED if plain else REFUTED,
            at_longest("conv:kernel=3,causal=true", "conv:kernel=3", *DILATED)
            | {
                "layers over n/k without dilation, least": Measured(
                    min(float(ratio[name].min()) for name in CONVOLUTIONS)
                ),
                "layers over n/k without dilation, most": Measured(
                    max(float(ratio[name].max()) for name in CONVOLUTIONS)
                ),
            },
            "without dilation only: ceil((n-1)/(k-1)) layers with causal padding, about twice as many "
            "with same padding; dilations 1, 2, 4, ... need ceil(log2((n-1)/(k-1) + 1)), dilations k^l need "
            "ceil(log_k n)"
            if plain
            else "the layers needed do not grow as n/k",
        )
    )

    ordered = all(bool((path(name) == n - 1).all()) for name in RECURRENCES)
    findings.append(
        Finding(
            "recurrence: O(n)",
            CONFIRMED if ordered else REFUTED,
            at_longest(*RECURRENCES),
            "" if ordered else "fewer or more than n - 1 steps through time",
        )
    )

    exponents = {name: growth(ds, name, "parallelism", "length") for name in CLOSED}
    kinds = {
        "attention": exponents["attention"],
        "conv:kernel=3,causal=true": exponents["conv:kernel=3,causal=true"],
        **{name: exponents[name] for name in RECURRENCES},
    }
    serial = all(abs(exponents[name]) < 0.1 for name in RECURRENCES)
    at_once = all(exponents[name] > 0.5 for name in kinds if name not in RECURRENCES)
    findings.append(
        Finding(
            "recurrence works in order, attention and convolution on all positions at once",
            CONFIRMED if serial and at_once else QUALIFIED if serial or at_once else REFUTED,
            {
                f"{name}: parallelism at n = {LENGTHS[-2]}, d = {D}": Measured(
                    float(ds["parallelism"].sel(layer=name, length=LENGTHS[-2]))
                )
                for name in kinds
            }
            | {f"{name}: its exponent in n": Measured(value) for name, value in kinds.items()},
            "" if serial and at_once else "parallelism does not part them: see the exponents",
        )
    )
    return findings


def checks(ds: xr.Dataset) -> list[str]:
    """Counted, formula and closed form agree everywhere; causal k = 3 at n = 1000 is 500, 9 and 7."""
    faults = []
    for name in CLOSED:
        row = ds.sel(layer=name)
        for variable in ("path_length", "path_closed"):
            off = np.flatnonzero(row["path_counted"].values != row[variable].values)
            faults += [
                f"{name} at n = {int(row['n'][i])}: {row['path_counted'].values[i]:g} steps counted, "
                f"{row[variable].values[i]:g} by {variable}"
                for i in off
            ]
    known = {"conv:kernel=3,causal=true": 500, "dilated-conv:kernel=3": 9, "dilated-conv:kernel=3,base=3": 7}
    if 1000 in ds["n"].values:
        found = {name: float(ds["path_counted"].sel(layer=name, n=1000)) for name in known}
        faults += [
            f"{name} takes {found[name]:g} steps at n = 1000, not {known[name]}"
            for name in known
            if found[name] != known[name]
        ]
    return faults


CLAIM = Claim(
    "C1",
    "Distance between two positions: self-attention O(1), one step to anywhere; convolution O(n/k), "
    "layer by layer; recurrence O(n), in order.",
    "Steps are counted on the Jacobian's support. Attention is confirmed if 1 at every length, "
    "recurrence if n - 1. Convolution is confirmed if layers over n/k lie between 0.5 and 3 at every "
    "length and kernel, qualified if that holds without dilation only. Order: the exponent in n of FLOPs "
    "over those on the longest chain is below 0.1 for recurrences and above 0.5 for the others.",
    measure,
    judge,
    checks,
)
