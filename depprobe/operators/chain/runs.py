r"""One run of a sweep: row blocks taken down a number of steps, read, and brought back to range.

    R_{k-1} = R_k ds_k/ds_{k-1},  J[t,k] = R_k ds_k/dx_k,   s = G R,
    e' = (e + b * s) M + v * ((w * s) M)                    (rounding errors, ``rounding.py``)

The rows of all targets, their combinations s, the errors e and w * s stand in one block, so that a step is
one product a layer. A run is a function of tensors that looks at no number: on CUDA it is recorded once for
each shape and replayed. Whether rows lost digits on the way is told in the end.

Shapes: rows (r, S), of which the last 3 T ROWS are s, e and w * s of T targets; taps (steps, r, width).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from depprobe.core.device import rounded_up, waits
from depprobe.core.scaled import Scaled, peaks
from depprobe.operators.chain.cells import CellChain, SweptChain
from depprobe.operators.chain.compression import RowBlock
from depprobe.operators.chain.kernels.steps import between, rescaled, settled, whole_run
from depprobe.operators.chain.rounding import ROWS, Perturbation, Riding

#: bytes of step Jacobians that are made at once, to be read before they leave the cache
MATRIX_BYTES = 1 << 20
#: widest state whose steps are taken by one product with the whole step Jacobian
NARROW = 256


def is_wide(stack: Sequence[SweptChain]) -> bool:
    """Whether products of rows and step Jacobians take much longer than the calls to them."""
    return max(cell.width for cell in stack) > NARROW


def advance(
    stack: Sequence[CellChain],
    rows: Tensor,
    k: int,
    steps: int,
    wrt: str = "x",
    arriving: Tensor | None = None,
    perturbed: Sequence[Perturbation] | None = None,
    space: dict[int, Tensor] | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Take steps down from source k: the taps (steps, rows, width), the rows on s_{k - steps}, and those on
    the state of each layer at k, k - 1, ... (steps, rows, S), the lowest's being what the taps are read of.

    ``arriving`` (steps, rows, d_h) or (steps, rows, S) joins the rows on the top layer's h, or on its state,
    at k, k - 1, ... ``space`` keeps room for step Jacobians from one call to the next.
    """
    # where small products leave a device idle, what a run reads is one batched product in the end
    waited = waits(rows.device)
    layers = []
    for level, (cell, part) in enumerate(zip(stack, rows.split([c.width for c in stack], 1), strict=True)):
        apart = waited and level == 0 and wrt == "x"
        layers.append(_Layer(cell, part, steps, perturbed[level] if perturbed else None, apart))
    space = {} if space is None else space
    one = waited and perturbed and len(stack) == 1 and wrt == "x" and arriving is None
    alone = one and (layers[0].whole or stack[0].direct(0) is not None)
    size = sum(cell.width * (cell.d_h + cell.d_in) for cell in stack) * rows.element_size()
    batch = steps if waited else max(1, min(steps, MATRIX_BYTES // size))
    taps: list[Tensor] = []
    for first in range(0, steps, batch):
        last = min(first + batch, steps)
        for level, layer in enumerate(layers):
            layer.prepare(k - last + 1, k - first + 1, space, level)
        if alone and layers[0].at_once():
            continue
        for j in range(first, last):
            if alone:
                layers[0].alone(k - j, j, steps - 1)
                continue
            if wrt != "x":
                parts = [layer.cell.part(wrt, k - j, layer.state[j]) for layer in layers]
                taps.append(torch.cat(parts, 1))
            joining = arriving[j] if arriving is not None else None
            for layer in reversed(layers):
                layer.step(k - j, j, joining)
                joining = layer.inputs[j + 1] if len(layers) > 1 else None
    states = [layer.buffer[:-1, :, : layer.cell.width] for layer in layers]
    lasts = [layer.state[-1] for layer in layers]
    after = torch.cat(lasts, 1) if len(lasts) > 1 else lasts[0]
    return torch.stack(taps) if wrt != "x" else layers[0].read(), after, states


class _Layer:
    """The rows of one layer in a buffer (steps + 1, rows, S + d_in): products write the next in place."""

    def __init__(
        self, cell: CellChain, rows: Tensor, steps: int, perturbed: Perturbation | None, apart: bool
    ) -> None:
        self.cell, self.whole, self._perturbed = cell, cell.width <= NARROW, perturbed
        self.buffer = rows.new_empty(steps + 1, len(rows), cell.width + cell.d_in)
        width = cell.width
        self.state = self.buffer[:, :, :width].unbind(0)
        self._apart = apart and not self.whole
        self._end = width + (0 if self._apart else cell.d_in)
        self._moved = self.buffer[:, :, 0 if self.whole else cell.d_c : self._end].unbind(0)
        self.state[0].copy_(rows)
        if perturbed is not None:
            own = self.buffer[:, len(rows) - 3 * perturbed.rows :].unflatten(1, (3, -1, ROWS))
            self._before = [part.unbind(0) for part in own[..., :width].unbind(1)]
            self._after = [part.unbind(0) for part in own[:, 1:, ..., : self._end].unbind(1)]
            parts = perturbed.matrices, perturbed.products, perturbed.signs[..., : self._end]
            self._noise = [part.unbind(0) for part in parts]

    @functools.cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        """Rows on the inputs after each step, (rows, d_in)."""
        return self.buffer[:, :, self.cell.width :].unbind(0)

    def prepare(self, start: int, stop: int, space: dict[int, Tensor], level: int) -> None:
        """Make the step Jacobians for start <= k < stop."""
        make = self.cell.full_matrices if self.whole else self.cell.matrices
        room = space.pop(level, None)
        if room is not None and len(room) < stop - start:
            room = None  # or it would be there beside the larger
        made = make(start, stop, None if room is None else room[: stop - start])
        space[level], room = made if room is None else room, made
        self._room, self._start = room, start
        self._matrices = (room[:, :, : self.cell.width - self.cell.d_c] if self._apart else room).unbind(0)

    def step(self, k: int, j: int, joining: Tensor | None) -> None:
        """Take rows on s_k, the first joined by others on h or on s_k, to those on s_{k-1} and x_k."""
        rows = self.state[j]
        if joining is not None:
            left = self.cell.width - joining.shape[1]
            rows[: len(joining), left:].add_(joining)
        if self._perturbed is not None:
            s, e, made = self._before
            b, w, v = self._noise
            e[j].addcmul_(b[j], s[j])
            torch.mul(w[j], s[j], out=made[j])
        torch.mm(rows, self._matrices[k - self._start], out=self._moved[j + 1])
        if not self.whole:
            self.cell.add_direct(k, rows, self.state[j + 1])
        if self._perturbed is not None:
            e, made = self._after
            e[j + 1].addcmul_(v[j], made[j + 1])

    def at_once(self) -> bool:
        """Take the steps that were prepared, all of the run, if there is a way to; else do nothing."""
        p = self._perturbed
        if not self.whole or p is None or len(self._room) != len(self.buffer) - 1:
            return False
        return whole_run(self._room, self.buffer, self.cell.width, p.matrices, p.products, p.signs, p.rows)

    def alone(self, k: int, j: int, last: int) -> None:
        """``step`` of a layer without others; what the next does to its errors first is done."""
        assert self._perturbed is not None
        b, w, v = self._noise
        if j == 0:
            s, e, made = (part[0] for part in self._before)
            e.addcmul_(b[0], s)
            torch.mul(w[0], s, out=made)
        torch.mm(self.state[j], self._matrices[k - self._start], out=self._moved[j + 1])
        direct = ("", ()) if self.whole else self.cell.direct(k)
        assert direct is not None
        more = (b[j + 1], w[j + 1]) if j < last else None
        before, after = self.buffer[j : j + 2, :, : self._end]
        between(*direct, before, after, self.cell.width, v[j], more, self._perturbed.rows)

    def read(self) -> Tensor:
        """Rows on the inputs, (steps, rows, d_in)."""
        width = self.cell.width
        if not self._apart:
            return self.buffer[1:, :, width:]
        taps = (self.buffer[:-1, :, :width].flip(0) @ self._room[:, :, width - self.cell.d_c :]).flip(0)
        if self._perturbed is not None:
            own = taps[:, taps.shape[1] - 3 * self._perturbed.rows :].unflatten(1, (3, -1, ROWS))
            own[:, 1].addcmul_(self._perturbed.signs[:, None, :, width:], own[:, 2])
        return taps


class Found(NamedTuple):
    """What a run leaves: rows and combinations brought to range, and what was read."""

    rows: Tensor
    log_scale: Tensor
    #: s and e (T, ROWS, S), and their scales (T,)
    s: Tensor
    e: Tensor
    scales: Tensor
    #: what ``Told`` reads: ln lengths of rows on the quantity asked for, (steps, r); those of s and e,
    #: (steps, 2 T ROWS, width), and their scales before; largest moduli of rows and of what they read at
    #: last, (r, 1 or 2), and exponents before, (r, 1); and for each layer s on its state, (steps, T ROWS, S)
    read: list[Tensor]
    #: if asked for, rows on the quantity before their exponents, (steps, r, width), and on the lowest state
    taps: list[Tensor]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], layers: int) -> Found:
        """What a ``Run`` returned."""
        rows, log_scale, s, e, scales, *more = tensors
        return cls(rows, log_scale, s, e, scales, more[: 5 + layers], more[5 + layers :])

    def kept(self) -> Found:
        """The same in memory of its own."""
        return Found.of([part.clone() for part in (*self[:5], *self.read, *self.taps)], len(self.read) - 5)


class State(NamedTuple):
    """What a run takes on: rows of all targets, their exponents, s, e (T, ROWS, S) and scales (T,)."""

    tensors: list[Tensor]
    #: rows of each group, with room for as many as are likely
    lengths: Tensor
    targets: int

    @classmethod
    def of(cls, blocks: Sequence[RowBlock], riding: Sequence[Riding], kind: torch.dtype) -> State:
        """That of the targets under way, with zeros where sizes are rounded up."""
        parts = [part for block in blocks for part in block.parts if part.rows.dtype == kind]
        rows, scale = torch.cat([part.rows for part in parts]), torch.cat([part.scale for part in parts])
        device = rows.device
        more = rounded_up(len(rows), device) - len(rows)
        if more:
            rows = torch.cat([rows, rows.new_zeros(more, rows.shape[1])])
            scale = torch.cat([scale, scale.new_full((more, 1), -torch.inf)])
        count = rounded_up(len(riding), device)
        s, e = rows.new_zeros(2, count, ROWS, rows.shape[1])
        scales = scale.new_zeros(count)
        if riding:
            torch.stack([one.s for one in riding], out=s[: len(riding)])
            torch.stack([one.e for one in riding], out=e[: len(riding)])
            torch.stack([one.scale for one in riding], out=scales[: len(riding)])
        sizes = [group.stop - group.start for part in parts for group in part.of.values()]
        empty = max(0, 3 * count - len(sizes))
        return cls(
            [rows, scale, s, e, scales], torch.tensor([*sizes, *[0] * empty, more], device=device), count
        )


@dataclass(frozen=True)
class Run:
    """A run down so many steps, as a function of tensors: the same for all that have its key.

    Attributes
    ----------
    stack : cells without tensors.
    targets : room for so many.
    handed : whether taps and states are handed over too.
    space : room for step Jacobians from one run to the next.
    reading : takes rows on the lowest state to taps, if the chain does not.
    """

    stack: tuple[CellChain, ...]
    steps: int
    wrt: str
    targets: int
    handed: bool
    space: dict[int, Tensor] | None
    reading: Callable[[Tensor], Tensor] | None = None

    def _cells(self, given: Sequence[Tensor]) -> tuple[list[CellChain], list[Perturbation]]:
        """Cells, and what is done to their errors, of so many tensors a layer: what a sweep reads of each
        step, in one; the constants; and with targets what ``Noise.given`` returns.
        """
        cells, perturbed = [], []
        for cell in self.stack:
            packed, *given = given
            count = len(cell._names)
            parts, errors = cell.unpacked(packed)
            cells.append(cell.with_tensors([*parts, *given[:count]]))
            if self.targets:
                odd, signs = given[count : count + 2]
                perturbed.append(Perturbation.of(errors, odd, signs, self.targets))
                count += 2
            given = given[count:]
        return cells, perturbed

    def __call__(self, given: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of ``Found``, of those of a ``State`` and what ``_cells`` takes."""
        rows, log_scale, s, e, scales, *rest = given
        cells, perturbed = self._cells(rest)
        errors = [part.flatten(0, 1) for part in (s, e, torch.zeros_like(s))]
        block, r, steps = torch.cat([rows, *errors]), len(rows), self.steps
        taps, after, states = advance(
            cells, block, steps - 1, steps, self.wrt, perturbed=perturbed or None, space=self.space
        )
        if self.reading is not None:
            taps = self.reading(states[0])
        q = ROWS * self.targets
        own = slice(r, r + 2 * q)
        found, moved, peak = rescaled(after[:r], log_scale)
        if taps.shape[2]:
            peak = torch.cat([peak, peaks(taps[-1, :r], (1,)).to(peak.dtype)], 1)
        logs = Scaled(taps[:, :r], log_scale).log_norm((2,))
        read = [logs, taps[:, own], scales.clone(), peak, log_scale.clone()]
        read += [state[:, r : r + q] for state in states]
        if self.targets:
            s, e, scales = settled(after[own], scales, [part.products[0] for part in perturbed])
        handed = [taps[:, :r], states[0][:, :r]] if self.handed else []
        return [found, moved, s, e, scales, *read, *handed]
