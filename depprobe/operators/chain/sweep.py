r"""Sweeping row blocks backwards through a chain of steps.

    R_t = (rows on the state s_t),   J[t,k] = R_k ds_k/dx_k,   R_{k-1} = R_k ds_k/ds_{k-1}

Layers of a stack are swept top down inside each step: what reaches the input of layer l joins the cotangent
on h of layer l - 1 at the same k. Rows carry exponents, restored to range after each run of steps; a run in
which rows lost digits is taken again in shorter ones. A step costs (r, S) x (S, d_h + d_in) a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled, log_norm_of_logs
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.compression import (
    ROWS,
    Carried,
    Noise,
    Riding,
    RowBlock,
    first_rows,
    log_errors,
    middle,
)
from depprobe.operators.chain.reading import SingleReading

#: steps between two rescalings, as far as buffers allow; the first run; steps before the first compression,
#: which costs as much as many steps while the rank is full, and between two at least
RUN, FIRST_RUN, FIRST_COMPRESSION, NEXT_COMPRESSION = 32, 16, 24, 12
_BUFFER_BYTES = 48 << 20
_MATRIX_BYTES = 4 << 20
#: widest state whose steps are taken by one product with the whole step Jacobian
_NARROW = 256
#: how far rows may fall or rise between two rescalings where float32 is to hold what is read from them
_SINGLE_RANGE = 1e-20, 1e20


class Step(NamedTuple):
    """What one run of the sweep hands over of the row of one target, from source ``start`` down."""

    start: int
    #: of each of the block's parts, rows on the quantity asked for, over exp(scale): (steps, r + q, width)
    taps: list[Tensor]
    block: RowBlock
    #: (3, steps): ln norms of rounding errors of the taps, whole and along the rows, and of rows on the state
    rounding: Tensor


def sweep(
    stack: Sequence[CellChain],
    targets: Sequence[int],
    stop: int,
    wrt: str,
    threshold: float,
    visit: Callable[[int, Step], None],
    of: str = "h",
    single: bool = False,
) -> float:
    """Sweep rows of dh_t or dc_t (``of``, top layer) from all targets t down to source ``stop`` together.

    Step Jacobians, most of the work of a row whose rank has fallen, are made once for all targets.

    Parameters
    ----------
    wrt : ``x``; ``h`` or ``c`` for the state after step k (all layers, bottom first; held in the pair (h, c)
        as torch hands it on); or ``cell`` for c with h = o tanh(c) following it.
    threshold : share of the norm that one compression may discard; 0 for none.
    visit : called with the index of a target and each run of its row.
    single : where states and inputs are wide, take what the lowest layer reads in float32 (``reading.py``)
        and carry rows of low share in it (``compression.py``).

    Returns the standard deviation of relative errors of norms that float32 was seen to make; 0 without it.
    """
    dtype = stack[0].size.dtype
    # with few inputs there is little to gain, and few rounding errors to average
    wide = stack[0].width > _NARROW and stack[0].d_in >= _NARROW // 2
    single = single and wide and wrt == "x" and dtype == torch.float64
    reading = SingleReading(stack[0]) if single else None
    limits = _SINGLE_RANGE if reading else middle(dtype)
    chains = {dtype: list(stack)}
    if reading is not None:
        chains = {
            dtype: [stack[0].columns("h", dtype), *stack[1:]],
            torch.float32: [cell.to(torch.float32) for cell in stack],
        }
    noise, space = Noise(stack), dict[CellChain, Tensor]()
    widest = max(cell.width + cell.d_in for cell in stack)
    waiting = sorted(range(len(targets)), key=lambda index: targets[index])
    active: list[_Row] = []
    k, run = max(targets), FIRST_RUN
    while k >= stop:
        while waiting and targets[waiting[-1]] == k:
            first = first_rows(stack, of)
            active.append(_Row(waiting.pop(), k, RowBlock(first), Riding(first)))
            run = FIRST_RUN
        # a run ends where the next target joins
        until = max(stop, targets[waiting[-1]] + 1) if waiting else stop
        parts = [part for row in active for part in row.block.parts]
        carried = {kind: [part for part in parts if part.rows.dtype == kind] for kind in chains}
        together = {kind: torch.cat([part.rows for part in some]) for kind, some in carried.items() if some}
        bytes_each = max(len(rows) * rows.element_size() for rows in together.values()) * widest
        steps = min(run, k - until + 1, max(1, _BUFFER_BYTES // bytes_each))
        swept: dict[Carried, tuple[Tensor, Tensor]] = {}
        for kind, rows in together.items():
            sizes = [len(part.rows) for part in carried[kind]]
            errors = _Errors(active, noise, k, chains[kind], steps) if kind == dtype else None
            taps, after, states = advance(chains[kind], rows, k, steps, wrt, errors=errors, space=space)
            if errors is not None:
                lost = errors.taps()
                if reading is not None:
                    both = reading.taps(k, torch.cat([states[0], torch.stack(errors.joined)], 1))
                    taps, lost = both.tensor_split([len(rows)], 1)
                    reading.compare(k, states[0][0], taps[0], carried[kind])
                rounding, left = errors.read(taps, lost, states), errors.left()
            split = zip(carried[kind], taps.split(sizes, 1), after.split(sizes), strict=True)
            swept |= {part: (tap, rest) for part, tap, rest in split}
        if steps > 1 and any(part.lost(limits, after, tap[-1]) for part, (tap, after) in swept.items()):
            run = max(1, steps // 4)
            continue
        run = min(RUN, 2 * run)
        for row, errs, rows in zip(active, rounding, left, strict=True):
            visit(row.index, Step(k, [swept[part][0] for part in row.block.parts], row.block, errs))
            row.riding.take(rows, noise)
        k -= steps
        for part, (_, after) in swept.items():
            part.rows = after
            part.rescale()
        for row in active:
            if threshold and row.t - k >= row.next_compression:
                row.block.compress(threshold, reading is not None)
                row.riding.rotated(row.block, noise)
                row.next_compression = row.t - k + max(NEXT_COMPRESSION, (row.t - k) // 6)
    return reading.deviation if reading else 0.0


def is_wide(stack: Sequence[CellChain]) -> bool:
    """Whether products of rows and step Jacobians take much longer than the calls to them."""
    return max(cell.width for cell in stack) > _NARROW


@dataclass
class _Row:
    """The row of one target on its way down."""

    index: int
    t: int
    block: RowBlock
    riding: Riding
    next_compression: int = FIRST_COMPRESSION


def advance(
    stack: Sequence[CellChain],
    rows: Tensor,
    k: int,
    steps: int,
    wrt: str = "x",
    arriving: Tensor | None = None,
    errors: _Errors | None = None,
    space: dict[CellChain, Tensor] | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Take steps down from source k: the taps (steps, rows, width), the rows on s_{k - steps}, and those on
    the state of each layer at k, k - 1, ... (steps, rows, S), the lowest's being what the taps are read of.

    ``arriving`` (steps, rows, d_h) or (steps, rows, S) joins the rows on the top layer's h, or on its state,
    at k, k - 1, ... ``space`` keeps room for step Jacobians from one call to the next.
    """
    layers = _Layer.of_stack(stack, rows, steps)
    space = {} if space is None else space
    size = sum(cell.width * (cell.d_h + cell.d_in) for cell in stack) * rows.element_size()
    batch = max(1, min(steps, _MATRIX_BYTES // size))
    taps: list[Tensor] = []
    for first in range(0, steps, batch):
        last = min(first + batch, steps)
        for layer in layers:
            layer.prepare(k - last + 1, k - first + 1, space)
        for j in range(first, last):
            if wrt != "x":
                taps.append(_parts(layers, wrt, k - j, j))
            joining = arriving[j] if arriving is not None else None
            for layer in reversed(layers):
                layer.step(k - j, layer.state[j], layer.moved[j + 1], layer.state[j + 1], joining)
                joining = layer.inputs[j + 1]
        if errors is not None:
            errors.follow(layers, first, last, wrt)
    states = [layer.buffer[:-1, :, : layer.cell.width] for layer in layers]
    after = torch.cat([layer.state[-1] for layer in layers], 1)
    return torch.stack(taps) if wrt != "x" else layers[0].parts(layers[0].buffer[1:])[2], after, states


def _parts(layers: Sequence[_Layer], wrt: str, k: int, j: int) -> Tensor:
    """Rows on the part ``wrt`` of all states, before what layers above read at k joins in."""
    return torch.cat([layer.cell.part(wrt, k, layer.state[j]) for layer in layers], 1)


class _Layer:
    """The rows of one layer in a buffer (steps + 1, rows, S + d_in): products write the next in place."""

    @classmethod
    def of_stack(cls, stack: Sequence[CellChain], rows: Tensor, steps: int) -> list[Self]:
        """Room for so many steps of each layer, from rows over the states of all."""
        layers = [cls(cell, rows, steps) for cell in stack]
        for layer, part in zip(layers, rows.split([cell.width for cell in stack], 1), strict=True):
            layer.state[0].copy_(part)
        return layers

    def __init__(self, cell: CellChain, rows: Tensor, steps: int) -> None:
        self.cell, self._whole = cell, cell.width <= _NARROW
        self.buffer = rows.new_empty(steps + 1, len(rows), cell.width + cell.d_in)
        self.state, self.moved, self.inputs = (part.unbind(0) for part in self.parts(self.buffer))

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows (..., S + d_in) the state, what one product writes, and the inputs."""
        width = self.cell.width
        return rows[..., :width], rows[..., 0 if self._whole else self.cell.d_c :], rows[..., width:]

    def prepare(self, start: int, stop: int, space: dict[CellChain, Tensor]) -> None:
        """Make the step Jacobians for start <= k < stop."""
        make = self.cell.full_matrices if self._whole else self.cell.matrices
        room = space.get(self.cell)
        if room is None or len(room) < stop - start:
            space[self.cell] = room = make(start, stop)
        else:
            room = make(start, stop, room[: stop - start])
        self._matrices, self._start = room.unbind(0), start

    def step(self, k: int, rows: Tensor, moved: Tensor, state: Tensor, joining: Tensor | None) -> None:
        """Take rows on s_k, the first joined by others on h or on s_k, to those on s_{k-1} and x_k."""
        if joining is not None:
            left = self.cell.width - joining.shape[1]
            rows[: len(joining), left:].add_(joining)
        torch.mm(rows, self._matrices[k - self._start], out=moved)
        if not self._whole:
            self.cell.add_direct(k, rows, state)


class _Errors:
    """Combinations s of the rows of all targets, and e of their errors, on their way through one run."""

    def __init__(
        self, active: Sequence[_Row], noise: Noise, k: int, stack: Sequence[CellChain], steps: int
    ) -> None:
        self._noise, self._k, self._mixes, first = noise, k, [], 0
        for row in active:
            part = row.block.parts[0]
            kept = slice(first + part.of["kept"].start, first + part.of["kept"].stop)
            self._mixes.append((row.riding.mix(row.block, noise), kept))
            first += len(part.rows)
        self._scales = torch.stack([row.riding.scale for row in active])[None, :, None, None]
        self._layers = _Layer.of_stack(stack, torch.cat([row.riding.errors for row in active]), steps)
        #: e as the lowest layer takes it on at each step, (T ROWS, S)
        self.joined: list[Tensor] = []
        self._taps: list[Tensor] = []

    def _combined(self, rows: Tensor) -> Tensor:
        """s (steps, T, ROWS, width) of rows (steps, rows, width)."""
        return torch.stack([mix.to(rows.dtype) @ rows[:, kept] for mix, kept in self._mixes], 1)

    def follow(self, layers: Sequence[_Layer], first: int, last: int, wrt: str) -> None:
        """Take e through steps first <= j < last, which the rows have taken."""
        count, steps = ROWS * len(self._mixes), last - first
        ways = []
        for level, (layer, own) in enumerate(zip(layers, self._layers, strict=True)):
            s = self._combined(layer.buffer[first:last, :, : layer.cell.width])
            made = (self._noise.factors(level, self._k - first, steps) * s[:, None]).flatten(1, 3)
            v = self._noise.signs(steps, ROWS, own.buffer.shape[2]).repeat(1, len(self._mixes), 1)
            out = made.new_empty(2 * count, own.buffer.shape[2])
            lists = made.unbind(0), made[:, :count].unbind(0), v.unbind(0), own.buffer.unbind(0)
            ways.append((layer, own, out[:count], out[count:], layer.parts(out), *lists))
        for j in range(first, last):
            if wrt != "x":
                self._taps.append(_parts(self._layers, wrt, self._k - j, j))
            joining: Tensor | None = None
            for layer, own, top, bottom, (state, moved, _), rows, e, signs, after in reversed(ways):
                e[j - first].add_(own.state[j])
                layer.step(self._k - j, rows[j - first], moved, state, joining)
                torch.addcmul(top, signs[j - first], bottom, out=after[j + 1])
                joining = own.inputs[j + 1]
        self.joined += ways[0][6]

    def left(self) -> list[Tensor]:
        """e of each target after the run, (ROWS, S) over the states of all layers."""
        return list(torch.cat([layer.state[-1] for layer in self._layers], 1).split(ROWS))

    def taps(self) -> Tensor:
        """e as read at each step: (steps, T ROWS, width)."""
        lowest = self._layers[0]
        return torch.stack(self._taps) if self._taps else lowest.parts(lowest.buffer[1:])[2]

    def read(self, taps: Tensor, errors: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """For each target what a ``Step`` tells of it, from taps of rows and of e, and the rows on states."""
        lost = log_errors(self._combined(taps), errors.unflatten(1, (-1, ROWS)), self._scales)
        sizes = [Scaled(self._combined(state), self._scales).log_norm((2, 3)) for state in states]
        return list(torch.cat([lost, log_norm_of_logs(torch.stack(sizes), (0,))]).unbind(2))
