r"""How many pairs sparse attention patterns have, in closed form, and the verdict on their cost.

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

from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Finding, Measured

WINDOW = 64
#: lengths from which costs are fitted: below, what does not grow with the pairs is a part of them
FROM = 4096
#: the most by which FLOPs a pair may differ between lengths
EVEN = 1.1
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


def exponent(ds: xr.Dataset, values: xr.DataArray) -> float:
    """Exponent in n from ``FROM`` on."""
    upper = values.where(ds["n"] >= FROM, drop=True)
    return float(np.polyfit(np.log(upper["n"].values), np.log(upper.values), 1)[0])


def of_cost(ds: xr.Dataset, name: str) -> Finding:
    """Whether the pairs of a pattern, and what they cost, grow as stated."""
    order, growth = ORDERS[name]
    one = ds.sel(layer=name)
    pairs, n = one["pairs"].values.astype(float), ds["n"].values.astype(float)
    # where n is a power of 4 blocks and powers of two come out even
    even = np.log2(n) % 2 == 0
    found, multiple, misfit = fitted(n[even], pairs[even])
    upper = one["flops_core"].where(ds["n"] >= FROM, drop=True) / one["pairs"]
    spread = float(upper.max() / upper.min())
    grown = exponent(ds, one["pairs"])
    # what else runs on the machine can only add: the fastest round is the least disturbed
    time = exponent(ds, one["pass_time"].min("round"))
    memory = exponent(ds, one["peak_bytes"])
    square = float((one["largest_tensor"] / one["n"].astype(float) ** 2).max())
    counted = found == growth and misfit < 1e-9 and spread < EVEN and square < 1
    # an n x n product would show as an exponent of 2
    cheap = max(time, memory) < (grown + 2) / 2
    return Finding(
        f"{name} costs {order}",
        CONFIRMED if counted and cheap else QUALIFIED if counted else REFUTED,
        {
            f"pairs: multiple of {found}": Measured(multiple),
            "pairs: largest relative misfit": Measured(misfit),
            f"FLOPs over 4 d pairs at n = {int(n.max())}": Measured(
                float(upper.sel(n=n.max()) / (4 * ds.attrs["d"]))
            ),
            "exponent in n: pairs": Measured(grown),
            "exponent in n: time": Measured(time),
            "exponent in n: memory": Measured(memory),
            "largest tensor over n^2": Measured(square),
        },
        f"pairs and FLOPs are {order}, time or memory grows faster"
        if counted
        else f"pairs grow as {found}; FLOPs a pair vary by {spread:.3g}",
    )
