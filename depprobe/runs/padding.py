r"""Padded inputs: positions are counted among the real tokens, and padding is not measured.

    attention_mask  0 0 1 1 1      real = [2, 3, 4]
    source               0 1 2     then 2 positions whose norms have the status not_measured

So the same text padded on the left and on the right has its norms in the same places, a lag is a number of
tokens, and the first source is the first token. What the outputs read of the padding, which should be
nothing, is counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depprobe.operators import LogNorms
from depprobe.runs.result import Result
from depprobe.vocabulary import STATUS, status_of

Ints = NDArray[np.int64]


def without_padding(result: Result, real: Ints) -> Result:
    """A result with its real tokens first, and nothing measured behind them."""
    n = result.shape[2]
    # a pooled output sits at the last token
    here = {int(at): i for i, at in enumerate(real)}
    position = result.position
    if position is not None:
        position = np.array([float(here.get(int(np.floor(p)), len(real) - 1)) for p in position])
    read = int((result.norms.values[:, np.setdiff1d(np.arange(n), real)] != -np.inf).sum())
    moved = _spread(result.norms, (slice(None), real), (len(result.target), n))
    return replace(result, norms=moved, position=position, tokens=len(real), padding_read=read)


def over_the_same_targets(results: list[Result]) -> list[Result]:
    """Results of inputs with different numbers of tokens over the targets of all of them."""
    places = {str(one.position) for one in results if one.tokens and one.shape[0] != one.shape[2]}
    if len(places) > 1:  # a pooled output sits at the last token, which is another for each
        results = [replace(one, position=None) for one in results]
    if all(np.array_equal(one.target, results[0].target) for one in results):
        return results
    targets = np.unique(np.concatenate([one.target for one in results]))
    placed = []
    for one in results:
        rows = np.searchsorted(targets, one.target)
        norms = _spread(one.norms, (rows, slice(None)), (len(targets), one.shape[2]), back=True)
        position = one.position
        if position is not None:
            position = targets.astype(np.float64)
            position[rows] = one.position
        placed.append(replace(one, norms=norms, target=targets, position=position))
    return placed


def _spread(norms: LogNorms, cells: Any, shape: tuple[int, int], back: bool = False) -> LogNorms:
    """Norms with some rows in the rows ``cells`` of a larger table (back), or some columns in its first."""
    status = norms.status if norms.status is not None else status_of(norms.values)
    fields: dict[str, Any] = {}
    for name, values in (vars(norms) | {"status": status}).items():
        if values is None:
            continue
        empty = STATUS["not_measured"] if name == "status" else np.nan
        fields[name] = np.full(shape, empty, values.dtype)
        if back:
            fields[name][cells] = values
        else:
            kept = values[cells]
            fields[name][:, : kept.shape[1]] = kept
    return LogNorms(**fields)
