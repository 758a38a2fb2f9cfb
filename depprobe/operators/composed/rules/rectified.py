r"""Convolutions between rectifiers: norms of a whole row, from the units that are alive only.

    J[t,:] = D_L W_L D_{L-1} W_{L-1} ... D_1 W_1        D_l = diag(phi'(z_l)), one matrix for each position

A unit that its rectifier cuts off carries nothing: its row of J is zero, and so is its column wherever rows
pass through it. Rows are held on the units that are alive: with half of them alive at every level a row of a
wide stack costs a third of what it costs on all of them.

Shapes: P positions, r rows, a units alive at most, W_l (K, d_out, d_in). Source: the chain rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.memory import Growth
from depprobe.core.scaled import Scaled, log_hypot, peaks, within
from depprobe.operators.composed.rules.levels import Conv, Elementwise, Level, Positions

#: bytes of gathered weights, or of sums, that are worked on at once
_NEAR_BYTES = 16 << 20
#: times that many bytes which some positions take at once: what feeds them, weights, products, results
_COPIES = 4
#: share of the units alive above which all are taken, and width from which choosing pays
_WORTH, _WIDE = 0.8, 128


class _Alive(NamedTuple):
    """Rows on the units that are alive: values (P, r, a), units (P, a), where (P,) ascending.

    A position with fewer units alive than another is filled up with dead ones, whose values are zero.
    """

    values: Tensor
    units: Tensor
    where: Tensor


def is_rectified(levels: Sequence[Level]) -> bool:
    """Whether a stack is of convolutions and rectifiers only, with units enough cut off to leave them out."""
    cuts = [level for level in levels if isinstance(level, Elementwise)]
    others = [level for level in levels if not isinstance(level, Elementwise)]
    return (
        bool(cuts)
        and bool(others)
        and all(level.piecewise for level in cuts)
        and all(isinstance(level, Conv) and level.groups == 1 for level in others)
        and all(isinstance(pair[0], Conv) or isinstance(pair[1], Conv) for pair in pairwise(levels))
        and sum(_alive(cut) / cut.x.numel() for cut in cuts) < _WORTH * len(cuts)
    )


def _alive(cut: Elementwise) -> int:
    return sum(int(slopes.count_nonzero()) for slopes in cut.slopes())


def is_worth_it(levels: Sequence[Level]) -> bool:
    """Whether a stack ``is_rectified`` and wide enough for choosing units to pay."""
    return max(level.width for level in levels) >= _WIDE and is_rectified(levels)


def row_log_norms(
    levels: Sequence[Level], t: int, memory: int, growth: Growth
) -> tuple[Positions, NDArray[np.float64]] | None:
    """Sources of output t and ln Frobenius norms of its blocks, of a stack that ``is_rectified``.

    None where values leave the middle of the float range, so that rows need exponents.

    Parameters
    ----------
    levels : bottom first.
    t : output position.
    memory : bytes that the rows may take.
    growth : gives back what was freed in between.
    """
    *upper, (last, cut) = stages = list(_stages(levels))
    start = _start(levels[-1], stages[0][0], t)
    where, most = np.array([t]), 1
    for conv, _ in upper:
        where = conv.support(where)
        most = max(most, len(where) * conv.width)
    where = last.support(where)
    chunk = max(1, memory // (4 * most * start.values.element_size()))
    logs = np.full(len(where), -np.inf)
    for values in start.values.split(chunk, dim=1):
        rows = start._replace(values=values)
        for conv, below in upper:
            parts = list(_pulled(rows, conv, below, memory, growth))
            rows = _Alive(*(torch.cat(part) for part in zip(*parts, strict=True)))
            if not _in_range(rows.values):
                return None
        done = 0
        for part in _pulled(rows, last, cut, memory, growth):
            if not _in_range(part.values):
                return None
            here = slice(done, done := done + len(part.where))
            norms = Scaled.plain(part.values).log_norm((1, 2)).cpu().numpy()
            logs[here] = log_hypot(logs[here], norms)
    return where, logs


def _stages(levels: Sequence[Level]) -> Iterator[tuple[Conv, Elementwise | None]]:
    """Convolutions from the top, each with what cuts off the units right below it."""
    for level, below in zip(reversed(levels), [*reversed(levels[:-1]), None], strict=True):
        if isinstance(level, Conv):
            yield level, below if isinstance(below, Elementwise) else None


def _start(top: Level, conv: Conv, t: int) -> _Alive:
    """The rows of output t that are not zero, right above the topmost convolution."""
    weight = conv.matrix(0)
    slope = top.slope(top.x[t]) if isinstance(top, Elementwise) else weight.new_ones(weight.shape[0])
    units = slope.nonzero().flatten()
    return _Alive(slope[units].diag()[None], units[None], torch.tensor([t], device=units.device))


def _pulled(
    rows: _Alive, conv: Conv, cut: Elementwise | None, memory: int, growth: Growth
) -> Iterator[_Alive]:
    """Rows through a convolution and the slopes below it, some positions at a time."""
    device = rows.values.device
    source = conv.taps.sources(rows.where.cpu().numpy())
    where = np.unique(source[source >= 0])
    at = torch.from_numpy(where).to(device)
    if cut is None:
        slopes = None
        units = torch.arange(conv.width, device=device).expand(len(at), -1)
    else:
        slopes = cut.slope(cut.x[at])
        alive = slopes != 0
        widest = max(1, int(alive.sum(1).max())) if len(at) else 1
        units = alive.sort(dim=1, descending=True, stable=True).indices[:, :widest]
        slopes = slopes.gather(1, units)
    each = units.shape[1] * max(rows.values.shape[1:]) * rows.values.element_size()
    step = max(1, min(_NEAR_BYTES, memory // 8) // max(1, each))
    for low in range(0, len(where), step):
        here = slice(low, low + step)
        growth.settle(_COPIES * step * each)
        out = rows.values.new_zeros(len(where[here]), rows.values.shape[1], units.shape[1])
        for tap in range(conv.taps.kernel):
            found = np.flatnonzero(np.isin(source[:, tap], where[here]))
            if len(found) == 0:
                continue
            place = torch.from_numpy(np.searchsorted(where[here], source[found, tap])).to(device)
            # neighbours are read in place, others copied
            whole = found[-1] - found[0] + 1 == len(found)
            feeds = slice(found[0], found[-1] + 1) if whole else found
            weight = conv.matrix(tap)
            taken, read = rows.units[feeds], units[here][place]
            # whole rows of the matrix where every unit below is wanted
            weights = weight[taken] if cut is None else weight[taken[:, :, None], read[:, None, :]]
            out.index_add_(0, place, torch.bmm(rows.values[feeds], weights))
        if slopes is not None:
            out *= slopes[here][:, None]
        yield _Alive(out, units[here], at[here])


def _in_range(values: Tensor) -> bool:
    """Whether the largest entry of every row that is not zero can be squared."""
    limits = torch.finfo(values.dtype)
    return within(peaks(values, (-1,)), math.sqrt(limits.tiny), math.sqrt(limits.max))
