"""C12: a decision tree that names a layer for a length and a dependency.

    n < 500           attention
    500 to 5000       local: convolution; global: sparse attention
    n > 5000          recurrence, with gradients clipped

The borders are as the statement draws them; local is measured at lags 1 and 16, global at n - 1.
"""

from __future__ import annotations

import xarray as xr

from depprobe.ledger.choosing.representative_cells import WITHIN, Cell, checks, finding, horizons, measured
from depprobe.ledger.claim import Claim, Finding, Progress

#: the leaves: what is said, and the family it names
SHORT = "n < 500: attention"
MIDDLE_LOCAL = "500 to 5000, local: convolution"
MIDDLE_GLOBAL = "500 to 5000, global: sparse attention"
LONG = "n > 5000: recurrence"
STREAM = "n > 5000, stream: recurrence"
LEAVES = {
    SHORT: "attention",
    MIDDLE_LOCAL: "convolution",
    MIDDLE_GLOBAL: "sparse attention",
    LONG: "recurrence",
    STREAM: "recurrence",
}
CELLS = (
    *(Cell(SHORT, n, lag) for n in (128, 256) for lag in (16, n - 1)),
    *(Cell(MIDDLE_LOCAL, n, lag) for n in (600, 2000, 5000) for lag in (1, 16)),
    *(Cell(MIDDLE_GLOBAL, n, n - 1) for n in (600, 2000, 5000)),
    *(Cell(LONG, n, lag) for n in (10_000, 50_000) for lag in (16, n - 1)),
    *(Cell(STREAM, n, lag, stream=True) for n in (10_000, 50_000) for lag in (16, n - 1)),
)


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Cost and gradient of all layers at representative lengths and lags of every leaf."""
    return measured("C12", CELLS, "The layers that the decision tree names", quick, progress, seed)


def judge(ds: xr.Dataset) -> list[Finding]:
    """One finding for each leaf, and how far back a recurrence sees."""
    return [*(finding(ds, rule, family) for rule, family in LEAVES.items()), horizons(ds)]


CLAIM = Claim(
    "C12",
    "Take attention below 500 positions; from 500 to 5000 convolution where dependencies are local and "
    "sparse attention where they are global; above 5000 recurrence with gradient clipping.",
    f"A leaf holds in a cell where a layer it names lets the gradient arrive and takes at most "
    f"{WITHIN:g} times as long as the cheapest layer that does; confirmed if it holds in every cell, "
    f"refuted if in none. Arrives: untrained, default options, in at most 16 layers, above 1.2e-7 of "
    f"the largest in its row. Times are ratios on one machine, fitted to measurements at shorter "
    f"lengths; a training step, or per-token latency. What is learned, and how accurate it is, "
    f"is not measured here.",
    measure,
    judge,
    checks,
)
