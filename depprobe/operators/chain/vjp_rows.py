r"""Rows and tangents taken through one recurrent layer, with a source at every position.

    pull: R_{k-1} = (R_k + G_k) ds_k/ds_{k-1},  X_k = (R_k + G_k) ds_k/dx_k      cotangents G (rows, n, d_out)
    push: S_k = ds_k/ds_{k-1} S_{k-1} + ds_k/dx_k x_k                            tangents x (n, d_in)

Each row of a cotangent carries its own exponent at every position, so that rows 1e-5000 apart meet without
underflow. Steps are taken in runs over one exponent for each row; a run in which a row fell or rose so far
that digits were at stake is taken again in shorter runs, down to single steps.

What rounding did to rows is estimated from repeats (``operators.autograd.rounding``) through changed layers:

    D s_k -> D s_k (1 + e_k u s),   s = +-1 at random,   e_k the typical error of a row of M_k, in units u
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.scaled import Scaled, added, log_hypot, log_norms, peaks
from depprobe.operators.autograd.rounding import Rounding
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.compression import Step
from depprobe.operators.chain.runs import advance
from depprobe.operators.chain.sweep import RUN, sweep
from depprobe.operators.last_bits import Repeat

Layers = Sequence[Sequence[CellChain]]

_BATCH = 16
#: rows between which a run keeps every digit that a float addition keeps, from its start to its end
_RANGE = {torch.float32: (1e-15, 1e15), torch.float64: (1e-120, 1e120)}


def pull(
    directions: Sequence[CellChain], rows: Scaled, final: Sequence[Scaled] | None = None
) -> tuple[Scaled, list[Scaled]]:
    """Take cotangents (rows, n, d_out) on a layer's output to cotangents (rows, n, d_in) on its input.

    Parameters
    ----------
    directions : the chains of the layer.
    rows : log_scale broadcasts to (rows, n, 1).
    final : cotangents (rows, S) on the last state of each direction, log_scale (rows, 1).

    Returns
    -------
    Cotangents on the input, and those (rows, S) on the state before the first step of each direction.
    """
    values, log_scale = rows
    log_scale = log_scale.expand(values.shape[0], values.shape[1], 1)
    found: Scaled | None = None
    first, initial = 0, []
    for direction, cell in enumerate(directions):
        part = Scaled(values[:, :, first : first + cell.d_h], log_scale)
        last = final[direction] if final else _nothing(cell, values)
        out, before = _pull_one(cell, _flipped(part) if direction else part, last)
        out = _flipped(out) if direction else out
        found = out if found is None else added(found, out)
        initial.append(before)
        first += cell.d_h
    assert found is not None
    return found, initial


def pull_states(cell: CellChain, rows: Scaled, final: Scaled | None = None) -> tuple[Scaled, Scaled]:
    """Cotangents (rows, n, S) on the states of one chain, columns (c, h), to those on its input and first
    state.

    The exponents must be -inf where a cotangent is zero.
    """
    return _pull_one(cell, rows, _nothing(cell, rows.values) if final is None else final)


def _nothing(cell: CellChain, like: Tensor) -> Scaled:
    zeros = like.new_zeros(like.shape[0], cell.width)
    return Scaled(zeros, torch.full_like(zeros[:, :1], -torch.inf, dtype=torch.float64))


def _flipped(rows: Scaled) -> Scaled:
    return Scaled(rows.values.flip(1), rows.log_scale.flip(1))


def _pull_one(cell: CellChain, cotangents: Scaled, final: Scaled) -> tuple[Scaled, Scaled]:
    values, log_scale = cotangents
    rows, n, _ = values.shape
    out = values.new_zeros(rows, n, cell.d_in)
    out_scale = log_scale.new_full((rows, n, 1), -torch.inf)
    state = final
    # nothing is carried before the first position from the end on which something stands
    standing = (values != 0).any(2).any(0).nonzero()
    k = n - 1 if bool((state.values != 0).any()) else int(standing.max()) if len(standing) else -1
    run = RUN
    while k >= 0:
        steps = min(run, k + 1)
        here = slice(k + 1 - steps, k + 1)
        base = torch.maximum(state.log_scale, log_scale[:, here].amax(1))
        base = torch.where(base.isneginf(), 0, base)
        arriving = Scaled(values[:, here], log_scale[:, here]).relative_to(base[:, None])
        taps, after, states = advance(
            [cell], state.relative_to(base), k, steps, arriving=arriving.transpose(0, 1).flip(0)
        )
        if steps > 1 and not (_in_range(states[0]) and _in_range(after) and _in_range(taps)):
            run = max(1, steps // 4)
            continue
        read = Scaled(taps.flip(0).transpose(0, 1), base[:, None]).rescaled((2,))
        out[:, here], out_scale[:, here] = read
        state = Scaled(after, base).rescaled((1,))
        k -= steps
        run = min(RUN, 2 * run)
    return Scaled(out, out_scale), state


def _in_range(rows: Tensor) -> bool:
    """Whether the largest entry of every row that is not zero lies in the range that keeps digits."""
    low, high = _RANGE[rows.dtype]
    peak = peaks(rows, (rows.ndim - 1,))
    least, most = torch.where(peak == 0, 1, peak).aminmax()
    return bool(least >= low) and bool(most <= high)


def pulled(layers: Layers, rows: Scaled) -> Scaled:
    """Cotangents on the output of a stack to cotangents on its input, through the layers from the top."""
    return functools.reduce(lambda found, layer: pull(layer, found)[0], reversed(layers), rows)


def pulled_units(layers: Layers, t: int, units: range) -> Scaled:
    """Rows of J[t,:] for some output units: (units, n, d_in)."""
    n, d_out = layers[0][0].n, sum(cell.d_h for cell in layers[-1])
    cotangent = layers[0][0].size.new_zeros(len(units), n, d_out)
    cotangent[range(len(units)), t, list(units)] = 1
    floor = cotangent.new_full((len(units), n, 1), -torch.inf, dtype=torch.float64)
    floor[:, t] = 0
    return pulled(layers, Scaled(cotangent, floor))


def pulled_norms(layers: Layers, t: int, memory: int) -> NDArray[np.float64]:
    """ln Frobenius norms of J[t,k] for all k, so many output units at a time as fit: (n,)."""
    n, d_in, d_out = layers[0][0].n, layers[0][0].d_in, sum(cell.d_h for cell in layers[-1])
    each = 4 * n * max(d_out, d_in) * layers[0][0].size.element_size()
    chunk = max(1, min(d_out, memory // (2 * each)))
    total = np.full(n, -np.inf)
    for first in range(0, d_out, chunk):
        part = pulled_units(layers, t, range(first, min(first + chunk, d_out)))
        total = log_hypot(total, log_norms(part, dim=(0, 2)).cpu().numpy())
    return total


def push(directions: Sequence[CellChain], tangent: Tensor) -> Tensor:
    """Take a tangent (n, d_in) on a layer's input to a tangent (n, d_out) on its output."""
    outputs = []
    for direction, cell in enumerate(directions):
        inputs = tangent.flip(0) if direction else tangent
        state = tangent.new_zeros(cell.width)
        hidden = []
        for start in range(0, cell.n, _BATCH):
            stop = min(start + _BATCH, cell.n)
            for M, x in zip(cell.full_matrices(start, stop), inputs[start:stop], strict=True):
                state = M @ torch.cat([state, x])
                hidden.append(state[cell.d_c :])
        part = torch.stack(hidden)
        outputs.append(part.flip(0) if direction else part)
    return torch.cat(outputs, 1)


def swept_row(layers: Layers, t: int, only: int | None, wrt: str, d_from: int) -> Scaled:
    """Row t (d_out, n_in, d_from), or only its block at one source (d_out, 1, d_from), uncompressed."""
    n_in = layers[0][0].n
    height = sum(cell.d_h for cell in layers[-1])
    values = layers[0][0].size.new_zeros(height, n_in if only is None else 1, d_from)
    log_scale = torch.zeros(*values.shape[:2], 1, dtype=torch.float64, device=values.device)
    first = 0
    for direction, stack in enumerate(zip(*layers, strict=True)):
        height = stack[-1].d_h

        def visit(
            _: int, step: Step, first: int = first, height: int = height, back: int = direction
        ) -> None:
            for j, tap in enumerate(step.taps[0]):
                k = n_in - 1 - (step.start - j) if back else step.start - j
                if only is None or k == only:
                    column = k if only is None else 0
                    values[first : first + height, column] = tap
                    log_scale[first : first + height, column] = step.block.parts[0].scale

        here = n_in - 1 - t if direction else t
        last = 0 if only is None else (n_in - 1 - only if direction else only)
        sweep(stack, [here], last, wrt, 0.0, visit, norm=None)
        first += height
    return Scaled(values, log_scale)


class Outputs(NamedTuple):
    """What the outputs are like: y (n, d_out)."""

    y: Tensor


class PulledStack:
    """Norms of a stack of any directions, its rows pulled through layer by layer.

    Parameters
    ----------
    layers : bottom first, each with its directions.
    d_out : width of the outputs.
    memory : what the output units pulled at once may take.
    """

    def __init__(self, layers: Layers, d_out: int, memory: int) -> None:
        like = layers[0][0].size
        outputs = Outputs(like.new_empty(len(like), d_out))
        self._layers, self._memory = layers, memory
        self._rounding = Rounding(outputs, LayerProducts(layers, len(like), like.dtype))

    def log_norms(
        self, targets: NDArray[np.int64], norm: str, row: Callable[[int], Scaled]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """ln norms (T, n) at all sources, and estimates of what rounding did; ``row`` makes whole rows."""
        if norm == "spectral":
            found = [log_norms(row(t), norm, (0, 2)).cpu().numpy() for t in targets.tolist()]
        else:
            found = [pulled_norms(self._layers, t, self._memory) for t in targets.tolist()]
        return np.stack(found), self._errors(targets, np.stack(found))

    def _errors(self, targets: NDArray[np.int64], log_norm: NDArray[np.float64]) -> NDArray[np.float64]:
        by_lag = [(int(t), t - np.arange(log_norm.shape[1])) for t in targets]
        for (t, lags), row in zip(by_lag, log_norm, strict=True):
            self._rounding.offer(t, lags, row)
        found = np.stack([self._rounding.stated(t, lags) for t, lags in by_lag])
        return np.where(np.isfinite(log_norm), found, 0.0)


class LayerProducts:
    """Products of a stack with a cotangent on one position, as ``operators.autograd.rounding`` takes them.

    Attributes
    ----------
    narrowest : the dtype of the rows.
    """

    def __init__(self, layers: Layers, n_out: int, dtype: torch.dtype) -> None:
        self._layers, self._n_out, self.narrowest = layers, n_out, dtype

    def rows(self, at: Sequence[int], vectors: Tensor, repeat: Repeat | None = None) -> Iterator[Scaled]:
        """Products with vectors (m, d_out) on positions ``at``; through layers that ``repeat`` changes."""
        for t, vector in zip(at, vectors, strict=True):
            layers = self._layers
            if repeat is not None:
                change = repeat.forward().changed
                layers = [[_changed(cell, change) for cell in layer] for layer in layers]
            cotangent = vector.new_zeros(self._n_out, len(vector))
            cotangent[t] = vector
            yield _product(layers, cotangent)


def _product(layers: Layers, cotangent: Tensor) -> Scaled:
    floor = cotangent.new_full((1, len(cotangent), 1), -torch.inf, dtype=torch.float64)
    floor[:, cotangent.any(1)] = 0
    return Scaled(*(part[0] for part in pulled(layers, Scaled(cotangent[None], floor))))


def _changed(cell: CellChain, change: Callable[[Tensor], Tensor]) -> CellChain:
    # row errors are sums of sizes, of which a typical error is half
    moved, off = copy.copy(cell), cell.row_errors().median(1).values / 2
    for name, value in zip(cell._by_step, cell.by_step(), strict=True):
        size = off.view(-1, *[1] * (value.ndim - 1))
        setattr(moved, name, value + size * (change(value) - value))
    return moved
