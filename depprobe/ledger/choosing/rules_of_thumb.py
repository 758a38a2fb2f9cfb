"""C13: rules of thumb for choosing a layer, and whether they agree with the decision tree of C12.

n < 500                       attention
long, local (DNA)             dilated convolution
streams, real time            recurrence
documents over 10,000         sparse attention mixed with convolution
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import xarray as xr

from depprobe.ledger.choosing.article_rules import FAMILIES, rule_of_thumb, tree
from depprobe.ledger.choosing.representative_cells import WITHIN, Cell, checks, measured, takes
from depprobe.ledger.claim import Claim, Measured, definition
from depprobe.ledger.evidence import About
from depprobe.ledger.progress import Progress

SHORT = "n < 500: attention"
LOCAL = "long and local: dilated convolution"
STREAM = "streams and real time: recurrence"
DOCUMENTS = "documents over 10,000: sparse attention with convolution"
RULES = {
    SHORT: "attention",
    LOCAL: "dilated convolution",
    STREAM: "recurrence",
    DOCUMENTS: "sparse attention with convolution",
}
CELLS = (
    *(Cell(SHORT, n, lag) for n in (128, 256) for lag in (16, n - 1)),
    *(Cell(LOCAL, n, lag) for n in (1000, 10_000, 50_000) for lag in (4, 16)),
    *(Cell(STREAM, n, lag, stream=True) for n in (256, 2000, 20_000) for lag in (16, n - 1)),
    *(Cell(DOCUMENTS, n, lag) for n in (12_000, 50_000) for lag in (100, n - 1)),
)


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Cost and gradient of all layers at representative lengths and lags of every rule."""
    about = About("C13", "The layers that the rules of thumb name", "", 0, 0, quick, seed)
    return measured(about, CELLS, progress)


def against_the_tree(cells: Sequence[Cell]) -> tuple[int, Counter[str]]:
    """In how many cells rules and tree both speak, and where they name no common layer."""
    both = [(tree(c.n, c.lag), thumb) for c in cells if (thumb := rule_of_thumb(c.n, c.lag, c.stream))]
    apart = [(leaf, thumb) for leaf, thumb in both if not set(FAMILIES[leaf]) & set(FAMILIES[thumb])]
    return len(both), Counter(f"{thumb} where the tree takes {leaf}" for leaf, thumb in apart)


BOTH, APART = against_the_tree(CELLS)
CLAIM = Claim(
    "C13",
    "Rules of thumb: attention for short sequences (n < 500); dilated convolution for long ones with "
    "local patterns; recurrence for streams and real time; sparse attention mixed with convolution for "
    "documents over 10,000.",
    f"As C12: a rule holds in a cell where its layer lets the gradient arrive and takes at most {WITHIN:g} "
    "times as long as the cheapest layer that does. Whether rules and tree name a common layer is for "
    "their wording to say.",
    measure,
    {
        **{rule: takes(rule, family) for rule, family in RULES.items()},
        "the rules agree with the decision tree of C12": definition(
            f"they cannot both be followed: {'; '.join(APART)}",
            lambda ds: (
                {"cells where both speak": Measured(BOTH)}
                | {f"they name {named}": Measured(count, unit="cells") for named, count in APART.items()}
            ),
        ),
    },
    checks,
)
