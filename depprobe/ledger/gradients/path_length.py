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

from depprobe.ledger.claim import Claim, Measured, definition
from depprobe.ledger.evidence import About, evidence
from depprobe.ledger.progress import Progress, tracked
from depprobe.ledger.verdicts import verdict


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
    from depprobe.advice.cost_model import formulas
    from depprobe.ledger.gradients.counted_path_length import steps_back

    lengths, names = QUICK if quick else FULL, list(CLOSED)
    paths, flows = np.zeros((3, len(names), len(lengths))), np.zeros((2, len(names), len(LENGTHS)))
    for i, name in tracked(enumerate(names), progress, lambda at: at[1]):
        for j, n in enumerate(lengths):
            formula = formulas(name, n, 8).path_length
            paths[:, i, j] = (
                steps_back(name, n, seed),
                math.nan if formula is None else formula,
                CLOSED[name](n),
            )
        for j, n in enumerate(LENGTHS):
            found = formulas(name, n, D)
            flows[:, i, j] = found.parallelism, found.sequential_steps
    return evidence(
        About("C1", "Path length and parallelism", names, max(lengths), D, quick, seed),
        {
            "path_counted": ("layer n", paths[0], "steps counted on the Jacobian's support", "steps"),
            "path_length": ("layer n", paths[1]),
            "path_closed": ("layer n", paths[2], "steps in closed form", "steps"),
            "parallelism": ("layer length", flows[0]),
            "sequential_steps": ("layer length", flows[1]),
        },
        {"layer": names, "n": lengths, "length": LENGTHS},
    )


def _at_longest(*names: str) -> Callable[[xr.Dataset], dict[str, Measured]]:
    def numbers(ds: xr.Dataset) -> dict[str, Measured]:
        last = ds["path_counted"].isel(n=int(ds["n"].values.argmax()))
        return {
            f"{name}, n = {int(last['n'])}": Measured(float(last.sel(layer=name)), unit="steps")
            for name in names
        }

    return numbers


def kernel_of(name: str) -> int:
    """Kernel in a spec string."""
    return int(name.partition("kernel=")[2].partition(",")[0])


def _convolution(ds: xr.Dataset) -> tuple:
    counted = ds["path_counted"].transpose("layer", "n")
    ratio = {
        name: counted.sel(layer=name).values * kernel_of(name) / ds["n"].values
        for name in (*CONVOLUTIONS, *DILATED)
        if name in ds["layer"]
    }
    holds = [name for name, one in ratio.items() if (one >= BOUNDS[0]).all() and (one <= BOUNDS[1]).all()]
    shown = [n for n in ("conv:kernel=3,causal=true", "conv:kernel=3", *DILATED) if n in ratio]
    within = [ratio[name] for name in holds]
    numbers = _at_longest(*shown)(ds)
    if within:
        numbers |= {
            "layers over n/k where it holds, least": Measured(float(np.min(within))),
            "layers over n/k where it holds, most": Measured(float(np.max(within))),
        }
    note = "dilations 1, 2, 4, ... need ceil(log2((n-1)/(k-1) + 1)), dilations k^l need ceil(log_k n)"
    if holds:
        note = (
            "without dilation only: ceil((n-1)/(k-1)) layers with causal padding, about twice as many with "
            f"same padding; {note}"
        )
    return verdict(len(holds), len(ratio)), numbers, note


def _parallelism(ds: xr.Dataset) -> dict[str, Measured]:
    here = ds["parallelism"].sel(length=LENGTHS[-2])
    return {
        f"{name}: parallelism at n = {LENGTHS[-2]}, d = {D}": Measured(float(here.sel(layer=name)))
        for name in ("attention", "conv:kernel=3,causal=true", *RECURRENCES)
    }


def checks(ds: xr.Dataset) -> list[str]:
    """Counted, formula and closed form agree everywhere; causal k = 3 at n = 1000 is 500, 9 and 7."""
    faults = []
    for variable in ("path_length", "path_closed"):
        off = (ds["path_counted"] != ds[variable]).transpose("layer", "n").values
        for i, j in zip(*np.nonzero(off), strict=True):
            one = ds.isel(layer=i, n=j)
            faults.append(
                f"{one['layer'].item()} at n = {int(one['n'])}: {float(one['path_counted']):g} steps "
                f"counted, {float(one[variable]):g} by {variable}"
            )
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
    "Steps are counted on the Jacobian's support. Those of attention and of recurrence follow from what "
    "the layers are, and so does what can be done at once. Convolution is confirmed if layers over n/k "
    f"lie between {BOUNDS[0]:g} and {BOUNDS[1]:g} at every length in every kind of stack measured, refuted "
    "if in none.",
    measure,
    {
        "attention: O(1), one step to anywhere": definition(
            "every output is a sum over all positions", _at_longest("attention")
        ),
        "convolution: O(n/k), layer by layer": _convolution,
        "recurrence: O(n)": definition(
            "a state is computed from the one before it: n - 1 steps through time", _at_longest(*RECURRENCES)
        ),
        "recurrence works in order, attention and convolution on all positions at once": definition(
            "a state waits for the one before it, and nothing else waits; how many times faster that "
            "makes a layer is for times to say",
            _parallelism,
        ),
    },
    checks,
)
