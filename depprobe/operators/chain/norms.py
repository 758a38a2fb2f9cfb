r"""Norms of rows of blocks of a chain, as logs, with the measured error of compression.

    ln || ds_t[of] / d(what is asked for at k) ||    for every k <= t

Rows are swept with compression, more and more gently until the measured error holds. A norm that comes
out as zero is an exact zero only where no chain of non-zero factors leads from k to t; else it is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.parallel import Stopped, each
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.sweep import Step, is_wide, sweep
from depprobe.vocabulary import STATUS

#: share of the norm one compression may discard, times the square root of the tolerance: the error is half
#: the square of the share, which grows while it rides along, and its upper bound is nine times its estimate
_SHARES = (0.06, 0.001, 0.0)
#: least tolerance for which what is read at each step is taken in float32, in the first sweep only, and how
#: many standard deviations of what that errs are added to the error: rows change from where they are compared
_SINGLE_TOLERANCE, _MARGIN = 1e-7, 6
#: rows swept together, and the numbers in their blocks that may be held
_MOST_AT_ONCE, _ROW_NUMBERS = 64, 16 << 20


def chain_norms(
    stack: Sequence[CellChain],
    targets: Sequence[int],
    lowest: int,
    wrt: str,
    norm: str = "fro",
    tolerance: float = 1e-6,
    of: str = "h",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Natural logs of the norms of rows over all sources, and bounds on their errors: both (T, n).

    Parameters
    ----------
    stack : the layers, bottom first.
    targets, lowest : targets t, and first source; sources outside [lowest, t] are -inf with error 0.
    wrt, of : from and to where, as in ``sweep``.
    norm : ``fro`` or ``spectral``.
    tolerance : relative error that compression may cause; 0 sweeps uncompressed.

    Returns
    -------
    Logs (-inf for an exact zero, NaN where a zero cannot be told from an underflow), and error bounds.
    """
    values, error = np.full((len(targets), stack[-1].n), -np.inf), np.zeros((len(targets), stack[-1].n))
    left = [index for index, t in enumerate(targets) if t >= lowest]
    # a spectral norm hangs on one direction, in which rounding errors do not average out
    single = norm == "fro" and tolerance >= _SINGLE_TOLERANCE
    for share in _SHARES if tolerance else (0.0,):
        size = targets_at_once(stack) if share else 1
        threshold = share * math.sqrt(tolerance)
        for group in (left[first : first + size] for first in range(0, len(left), size)):
            # every so many, so that all parts have targets near and far
            count = min(len(group), torch.get_num_threads()) if is_wide(stack) else 1
            parts = [group[first::count] for first in range(count)]

            def swept(
                part: list[int], stop: Event, threshold: float = threshold, single: bool = single
            ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
                wanted = [targets[index] for index in part]
                return _swept(stack, wanted, lowest, wrt, norm, threshold, of, single, stop)

            for part, found in zip(parts, each(swept, parts), strict=True):
                values[part], error[part] = found
        single = False
        left = [i for i in left if (np.nan_to_num(error[i], nan=np.inf) > tolerance).any()]
    for row, t in zip(values, targets, strict=True):
        zero = np.isneginf(row[lowest : t + 1])
        if zero.any():
            reached = _reach(stack, t, lowest, wrt, of)
            row[lowest : t + 1][zero & reached] = np.nan
    return values, error


def targets_at_once(stack: Sequence[CellChain]) -> int:
    """How many rows are swept together: as many as fit beside the step Jacobians they share."""
    width = sum(cell.width + cell.d_in for cell in stack)
    return max(1, min(_MOST_AT_ONCE, _ROW_NUMBERS // (stack[-1].d_h * width)))


def _swept(
    stack: Sequence[CellChain],
    targets: Sequence[int],
    lowest: int,
    wrt: str,
    norm: str,
    threshold: float,
    of: str,
    single: bool,
    stop: Event,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Norms and error bounds of one sweep, (T, n) each; infinite bounds where float32 did not hold them."""
    values, error = np.full((len(targets), stack[-1].n), -np.inf), np.zeros((len(targets), stack[-1].n))

    def visit(index: int, step: Step) -> None:
        if stop.is_set():
            raise Stopped
        where = step.start - np.arange(len(step.taps[0]))
        values[index, where], error[index, where] = step.block.read(step.taps, norm)

    deviation = sweep(stack, targets, lowest, wrt, threshold, visit, of, single)
    error[np.isfinite(values)] += _MARGIN * deviation
    return values, error


def _reach(stack: Sequence[CellChain], t: int, lowest: int, wrt: str, of: str) -> NDArray[np.bool_]:
    """Whether any chain of non-zero factors leads from source k to h_t (or c_t), for lowest <= k <= t."""
    reached = np.zeros(t + 1 - lowest, dtype=bool)
    device = stack[-1].matrices(t, t + 1).device
    units = [torch.zeros(cell.width, dtype=torch.bool, device=device) for cell in stack]
    units[-1][slice(stack[-1].d_c) if of == "c" else slice(stack[-1].d_c, None)] = True
    for k in range(t, lowest - 1, -1):
        if wrt != "x":
            parts = [cell.part_reach(wrt, unit) for cell, unit in zip(stack, units, strict=True)]
            reached[k - lowest] = bool(torch.cat(parts).any())
        above: Tensor | None = None
        for level in range(len(stack) - 1, -1, -1):
            if above is not None:
                units[level][stack[level].d_c :] |= above
            units[level], above = stack[level].reach(k, units[level])
        if wrt == "x" and above is not None:
            reached[k - lowest] = bool(above.any())
    return reached


def overflowed(layers: Sequence[Sequence[CellChain]], t: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a block J[t,k] was linearised about a state that left the range of floats: (T, n).

    Parameters
    ----------
    layers : the chains of every layer, each with one entry a direction, in reading order.
    t : targets (T,).
    """
    n = layers[0][0].n
    k = np.arange(n)
    out = np.zeros((len(t), n), dtype=bool)
    stacks = list(zip(*layers, strict=True))
    for direction, stack in enumerate(stacks):
        first = min(cell.overflow for cell in stack)
        if len(stacks) > 1 < len(layers):  # the layers above read both ways
            out |= first < n
            continue
        here, source = (n - 1 - t, n - 1 - k) if direction else (t, k)
        out |= (here >= first)[:, None] & (source <= here[:, None])
    return out


def statuses(values: NDArray[np.float64], overflow: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Status of each norm, given which of them overflowed; see ``vocabulary.STATUS``."""
    unknown = np.where(overflow, STATUS["overflow"], STATUS["undecided"])
    known = np.where(np.isneginf(values), STATUS["zero"], STATUS["finite"])
    return np.where(np.isnan(values), unknown, known).astype(np.int8)
