"""C12: a decision tree that names a layer for a length and a dependency.

    n < 500           attention
    500 to 5000       local: convolution; global: sparse attention
    n > 5000          recurrence, with gradients clipped

The borders are as the statement draws them; local is measured at lags 1 and 16, global at n - 1.
"""

from __future__ import annotations

import xarray as xr

from depprobe.ledger.choosing.article_rules import FAMILIES
from depprobe.ledger.choosing.representative_cells import FAR, WITHIN, Cell, checks, horizons, measured, takes
from depprobe.ledger.claim import Claim
from depprobe.ledger.evidence import About
from depprobe.ledger.progress import Progress

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


#: recurrences whose reach is measured: as torch makes them, and with forget gates that stay open
REACHING = (*FAMILIES["recurrence"], "lstm:forget_bias=4", "lstm:forget_bias=6")


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Cost and gradient of all layers at representative lengths and lags of every leaf."""
    about = About("C12", "The layers that the decision tree names", "", 0, 0, quick, seed)
    return measured(about, CELLS, progress, REACHING)


CLAIM = Claim(
    "C12",
    "Take attention below 500 positions; from 500 to 5000 convolution where dependencies are local and "
    "sparse attention where they are global; above 5000 recurrence with gradient clipping.",
    f"A leaf holds in a cell where a layer it names lets the gradient arrive and takes at most {WITHIN:g} "
    "times as long as the cheapest layer that does; confirmed if it holds in every cell, refuted if in "
    "none, not measured here where the errors of the predicted times would change that. Arrives: at "
    "default initialisation, in at most 16 layers, above 1.2e-7 of the largest in its row; the far past "
    f"is lag {FAR}, from which it has to arrive through all recurrences measured. Times are ratios on one "
    "machine, fitted to measurements at shorter lengths; a training step, or per-token latency. What is "
    "learned, and how accurate it is, is not measured here.",
    measure,
    {
        **{rule: takes(rule, family) for rule, family in LEAVES.items()},
        "untrained, the gradient reaches the far past through a recurrence": horizons,
    },
    checks,
)
