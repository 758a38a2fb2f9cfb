"""Norms of the targets that a call asks for, from operators that share work, as results of one case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depprobe.core.calling.positions import positions_of
from depprobe.core.options import nearest_outputs, wanted_positions
from depprobe.errors import BadInput
from depprobe.operators import LogNorms, TemporalJacobian
from depprobe.runs.cases import Report
from depprobe.runs.labelling import Result, over_sources, stacked
from depprobe.runs.padding import without_padding

Ints = NDArray[np.int64]


class Wanted(NamedTuple):
    """What is asked of a case.

    ``position`` is that of the outputs where the call gives it; ``compared`` whether other layers answer for
    the same input positions; ``real`` are the positions of a padded input that hold tokens, None without.
    """

    label: str
    targets: str | int | Sequence[int]
    norm: str
    position: Any
    compared: bool
    seed: int
    real: Ints | None


class _Chosen(NamedTuple):
    """Positions that were asked for, the outputs that answer for them, and positions of all outputs."""

    wanted: Ints
    outputs: Ints
    position: NDArray[np.float64] | None


def norms_of(operators: Sequence[TemporalJacobian], wanted: Wanted, report: Report) -> list[Result]:
    """The norms of one case from each of some operators; ``report`` is called with the share done."""
    chosen = [_chosen(operator, wanted) for operator in operators]
    parts: list[list[LogNorms]] = [[] for _ in operators]
    count = len(chosen[0].outputs)
    # a hundred parts are enough to see progress by, and few enough to leave large products whole
    size = max(operators[0].targets_at_once, math.ceil(count / 100))
    for first in range(0, count, size):
        # every depth in turn, so that what they share need not be kept for long
        for operator, one, done in zip(operators, chosen, parts, strict=True):
            done.append(operator.log_norms(one.outputs[first : first + size].tolist(), None, wanted.norm))
        report(min(first + size, count) / count)
    found = zip(operators, chosen, parts, strict=True)
    results = [_result(operator, one, done, wanted) for operator, one, done in found]
    return results if wanted.real is None else [without_padding(one, wanted.real) for one in results]


def _chosen(operator: TemporalJacobian, wanted: Wanted) -> _Chosen:
    n_out, _, n_in, _ = operator.shape
    position = operator.position
    if wanted.position is not None:
        position = positions_of(wanted.position, n_out, n_in, has_time=True)
    real = wanted.real
    if real is not None and n_out == n_in:
        # targets are counted among the real tokens
        tokens = wanted_positions(wanted.targets, len(real), wanted.seed)
        return _Chosen(tokens, real[tokens], position)
    if wanted.compared and position is not None:
        # layers that shorten the sequence answer for the same input positions as the others
        asked = wanted_positions(wanted.targets, n_in, wanted.seed)
        return _Chosen(asked, nearest_outputs(asked, position), position)
    if wanted.compared and n_out != n_in:
        raise BadInput(
            f"{wanted.label} gives {n_out} outputs for {n_in} inputs, so its targets cannot be compared with "
            "those of the other layers; give position="
        )
    outputs = wanted_positions(wanted.targets, n_out, wanted.seed)
    return _Chosen(outputs, outputs, position)


def _result(operator: TemporalJacobian, chosen: _Chosen, parts: list[LogNorms], wanted: Wanted) -> Result:
    n_in, own = operator.shape[2], operator.position
    at = None if own is None else own[chosen.outputs]
    norms = stacked(parts, at, n_in)
    if wanted.position is not None or wanted.real is not None:
        # lags were counted from where the operator has them
        norms = over_sources(norms, at, n_in)
    said = ("method", "tolerance", "shape", "error_kind", "zero_proof", "log_floor", "probes")
    placed = None if chosen.position is None else chosen.position[chosen.outputs]
    return Result(norms, chosen.wanted, placed, **{name: getattr(operator, name) for name in said})
