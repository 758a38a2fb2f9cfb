"""C13: rules of thumb for choosing a layer, and whether they agree with the decision tree of C12.

n < 500                       attention
long, local (DNA)             dilated convolution
streams, real time            recurrence
documents over 10,000         sparse attention mixed with convolution
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from depprobe.ledger.choosing.article_rules import FAMILIES, rule_of_thumb, tree
from depprobe.ledger.choosing.representative_cells import WITHIN, Cell, checks, finding, measured
from depprobe.ledger.claim import Claim, Finding, Measured, Progress, verdict

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
    return measured("C13", CELLS, "The layers that the rules of thumb name", quick, progress, seed)


def against_the_tree(ds: xr.Dataset) -> Finding:
    """Whether rules and tree name a common layer wherever both speak."""
    cells = zip(*(ds[f"cell_{name}"].values for name in ("n", "lag", "stream")), strict=True)
    apart: dict[str, int] = {}
    both = 0
    for n, lag, stream in cells:
        leaf, thumb = tree(int(n), int(lag)), rule_of_thumb(int(n), int(lag), bool(stream))
        if thumb is None:
            continue
        both += 1
        if not set(FAMILIES[leaf]) & set(FAMILIES[thumb]):
            named = f"{thumb} where the tree takes {leaf}"
            apart[named] = apart.get(named, 0) + 1
    return Finding(
        "the rules agree with the decision tree of C12",
        verdict(both - int(np.sum(list(apart.values()))), both),
        {"cells where both speak": Measured(both)}
        | {f"they name {named}": Measured(count, unit="cells") for named, count in apart.items()},
        "the two cannot both be followed: " + "; ".join(apart) if apart else "",
    )


def judge(ds: xr.Dataset) -> list[Finding]:
    """One finding for each rule, and whether they contradict the tree."""
    return [*(finding(ds, rule, family) for rule, family in RULES.items()), against_the_tree(ds)]


CLAIM = Claim(
    "C13",
    "Rules of thumb: attention for short sequences (n < 500); dilated convolution for long ones with "
    "local patterns; recurrence for streams and real time; sparse attention mixed with convolution for "
    "documents over 10,000.",
    f"As C12: a rule holds in a cell where its layer lets the gradient arrive and takes at most "
    f"{WITHIN:g} times as long as the cheapest layer that does. The rules agree with the tree where both "
    f"name a common layer.",
    measure,
    judge,
    checks,
)
