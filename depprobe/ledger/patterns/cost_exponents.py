r"""How many pairs sparse attention patterns have, in closed form, and the verdicts on their cost.

    sliding-window      n w - p (p+1) / 2 - f (f+1) / 2         p = floor(w / 2), f = floor((w-1) / 2)
    dilated-attention   n + 2 (n m - (2^m - 1))                 m = number of powers of two below n
    block-attention     sum of squared blocks + n (B - 1)       B = ceil(n / b), b = ceil(sqrt n)

At n a power of 4 these are w n + const, 2 n log2 n - n + 2 and 2 n sqrt n - n.
Source: Child et al. 2019, Li et al. 2019, Beltagy et al. 2020 (the patterns).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Measured, Rule, definition
from depprobe.ledger.verdicts import CONFIRMED, QUALIFIED, REFUTED, timed

WINDOW = 64
#: costs are fitted from this share of the longest length on: below, what does not grow with pairs is in them
FROM = 1 / 16
#: by how much exponents of time and memory may exceed that of the pairs, and by how much they must to refute
MORE, MUCH_MORE = 0.1, 0.25
#: pattern -> (order as the statement has it, its growth in n)
ORDERS = {
    "sliding-window": ("O(n k)", "n"),
    "dilated-attention": ("O(n log n)", "n log2 n"),
    "block-attention": ("O(n sqrt n)", "n sqrt n"),
}


def _window_pairs(n: int) -> int:
    past, future = WINDOW // 2, (WINDOW - 1) // 2
    return n * WINDOW - past * (past + 1) // 2 - future * (future + 1) // 2


def _dilated_pairs(n: int) -> int:
    m = (n - 1).bit_length()
    return n + 2 * (n * m - (2**m - 1))


def _block_pairs(n: int) -> int:
    size = math.isqrt(n - 1) + 1
    whole, rest = divmod(n, size)
    return whole * size**2 + rest**2 + n * (-(-n // size) - 1)


PAIRS: dict[str, Callable[[int], int]] = {
    "sliding-window": _window_pairs,
    "dilated-attention": _dilated_pairs,
    "block-attention": _block_pairs,
}
#: what pairs may be a sum of, with whole or half coefficients: growth, n and 1
GROWTH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "n": lambda n: n,
    "n log2 n": lambda n: n * np.log2(n),
    "n sqrt n": lambda n: n * np.sqrt(n),
    "n^2": lambda n: n**2,
}


def fitted(n: np.ndarray, pairs: np.ndarray) -> tuple[str, float, float]:
    """The growth whose multiple, plus multiples of n and 1, the pairs are: name, multiple, relative misfit.

    Examples
    --------
    >>> n = 4.0 ** np.arange(4, 9)
    >>> name, multiple, misfit = fitted(n, 3 * n * np.log2(n) - n + 5)
    >>> name, round(multiple, 9), misfit < 1e-12
    ('n log2 n', 3.0, True)
    """
    found = []
    for name, growth in GROWTH.items():
        columns = np.stack([growth(n), *([] if name == "n" else [n]), np.ones_like(n)], 1)
        # relative to the pairs, or the longest sequence would decide alone
        solution, *_ = np.linalg.lstsq(columns / pairs[:, None], np.ones_like(n), rcond=None)
        misfit = float(np.abs(columns @ solution / pairs - 1).max())
        found.append((name, float(solution[0]), misfit))
    # a line also fits as a growth with multiple 0: the first that fits is the simplest
    return next((one for one in found if one[2] < 1e-9), min(found, key=lambda one: one[2]))


def exponent(values: xr.DataArray) -> float:
    """Exponent in n over the upper lengths."""
    upper = values.where(values["n"] >= FROM * values["n"].max(), drop=True)
    return float(np.polyfit(np.log(upper["n"].values), np.log(upper.values), 1)[0])


def of_pairs(name: str) -> Rule:
    """The pairs of a pattern, which its mask fixes, and what was counted of them."""

    def numbers(ds: xr.Dataset) -> dict[str, Measured]:
        one, n = ds.sel(layer=name), ds["n"].values.astype(float)
        # where n is a power of 4 blocks and powers of two come out even
        even = np.log2(n) % 2 == 0
        found, multiple, misfit = fitted(n[even], one["pairs"].values.astype(float)[even])
        last = one.isel(n=int(n.argmax()))
        a_pair = float(last["flops_core"] / (4 * ds.attrs["d"] * last["pairs"]))
        return {
            f"pairs: multiple of {found}": Measured(multiple),
            "pairs: largest relative misfit": Measured(misfit),
            f"FLOPs over 4 d pairs at n = {int(n.max())}": Measured(a_pair),
            "largest tensor over n^2": Measured(
                float((one["largest_tensor"] / one["n"].astype(float) ** 2).max())
            ),
        }

    return definition("its mask has that many pairs", numbers)


def of_cost(name: str) -> Rule:
    """Whether time and memory grow no faster than the pairs of a pattern."""

    def rule(ds: xr.Dataset) -> tuple:
        one = ds.sel(layer=name)
        pairs, memory = exponent(one["pairs"]), exponent(one["peak_bytes"])
        times = [exponent(one["pass_time"].isel(round=i)) for i in range(one.sizes["round"])]
        # what else runs on the machine can only add: the fastest round is the least disturbed
        best = exponent(one["pass_time"].min("round"))
        said = [_verdict(max(memory, time) - pairs) for time in (best, *times)]
        return timed(
            said,
            {
                "exponent in n: pairs": Measured(pairs),
                "exponent in n: time": Measured(best),
                "exponent in n: memory": Measured(memory),
            },
            f"{'memory' if memory > best else 'time'} grows faster than the pairs",
        )

    return rule


def _verdict(more: float) -> str:
    return CONFIRMED if more <= MORE else REFUTED if more > MUCH_MORE else QUALIFIED
