r"""A call of torch's recurrent kernels inside a forward: rows pulled through every layer, from and to its
states.

    outputs  out (n, directions d_h), h_n, c_n (layers directions, d)      inputs  x (n, d_in), h_0, c_0

So a state handed from one recurrence to another, or only the last state in use, keeps exponents too. The
calls of one ``nn.RNNCell``, ``nn.GRUCell`` or ``nn.LSTMCell``, each on the state that the one before handed
on, are the steps of a recurrence, and are pulled through as one:

    for x_t in x: h, c = cell(x_t, (h, c))      inputs x_1, ..., x_n, h_0[, c_0];  outputs h_t[, c_t]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled, added
from depprobe.operators.calls import KnownCall, LinearisedCall, known_cells, reads
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.recurrence import KERNELS, RecurrentWeights
from depprobe.operators.chain.unknown_norms import carried, severed
from depprobe.operators.chain.vjp_rows import pull, pull_states


class RecurrentCall(LinearisedCall):
    """One call at its inputs: x (n, d_in), and the states before step 0 (layers directions, width).

    ``out`` is what it put out, (n, directions d_h).
    """

    def __init__(self, weights: RecurrentWeights, out: Tensor, x: Tensor, *states: Tensor) -> None:
        self._weights, self._out, self._x, self._states = weights, out, x, states

    @cached_property
    def _layers(self) -> list[list[CellChain]]:
        return self._weights.chains(self._x, *self._states, out=self._out)

    def pull(self, rows: Sequence[Scaled], live: Sequence[Tensor]) -> list[tuple[Scaled, Tensor]]:
        """Rows on (out, h_n[, c_n]) as rows on (x, h_0[, c_0])."""
        out, *final = rows
        before: list[list[Scaled]] = [[] for _ in final]
        for depth in reversed(range(len(self._layers))):
            cells = self._layers[depth]
            places = [depth * len(cells) + direction for direction in range(len(cells))]
            last = [_joined(cell, final, place) for cell, place in zip(cells, places, strict=True)]
            out, initial = pull(cells, out, last)
            for cell, state in zip(reversed(cells), reversed(initial), strict=True):
                parts = (state.values[:, cell.d_c :], state.values[:, : cell.d_c])
                for found, part in zip(before, parts, strict=False):
                    found.insert(0, Scaled(part[:, None], state.log_scale[:, None]))
        found = [out]
        for states in before:
            found.append(Scaled(*(torch.cat(part, 1) for part in zip(*states, strict=True))))
        return list(zip(found, self.reach(live), strict=True))

    @cached_property
    def _severed(self) -> list[list[Tensor]]:
        """Steps that nothing passes, (n,) for each layer and direction, in the order in which it reads."""
        if self._weights.rectifies:
            return [[severed(cell) for cell in cells] for cells in self._layers]
        nowhere = torch.zeros(len(self._x), dtype=torch.bool, device=self._x.device)
        return [[nowhere] * len(cells) for cells in self._weights.layers]

    def reach(self, live: Sequence[Tensor]) -> list[Tensor]:
        """The steps before and at one that is live, in the order in which a direction reads, but for those
        behind a step that nothing passes; and the states before step 0."""
        alive, last = live[0], torch.stack(list(live[1:])).any(0)
        before: list[Tensor] = []
        for depth, cells in reversed([*enumerate(self._severed)]):
            above, alive = alive, torch.zeros_like(alive)
            first = []
            for direction, cut in enumerate(cells):
                read = above.flip(1) if direction else above.clone()
                read[:, -1] |= last[:, depth * len(cells) + direction]
                found = carried(read, cut)
                first.append(found[:, :1])
                alive |= found.flip(1) if direction else found
            before = first + before
        return [alive, *[torch.cat(before, 1)] * len(self._states)]


def _joined(cell: CellChain, final: Sequence[Scaled], place: int) -> Scaled:
    """Rows on the last (h[, c]) of one layer and direction as rows on its state, columns (c, h)."""
    parts = [Scaled(rows.values[:, place], _at(rows.log_scale, place)) for rows in final]
    wide = [
        Scaled(torch.nn.functional.pad(part.values, pad), part.log_scale)
        for part, pad in zip(parts, ((cell.d_c, 0), (0, cell.d_h)), strict=False)
    ]
    return wide[0] if len(wide) == 1 else added(*wide)


def _at(log_scale: Tensor, place: int) -> Tensor:
    """Exponents (r, 1) at one position."""
    return log_scale[:, place if log_scale.shape[1] > 1 else 0]


def _read(kind: str, x: Tensor, *arguments: Any) -> KnownCall | None:
    """A call as torch makes it: x, [batch sizes of a packed sequence,] states, weights, options."""
    sizes = [part for part in arguments[:1] if isinstance(part, Tensor) and part.dtype == torch.int64]
    hx, flat, *options = arguments[len(sizes) :]
    biased, depth, dropout, training, both = options[:5]
    axis = 1 if options[5:] == [True] else 0
    # one sequence at a time, whether in a batch or packed
    single = bool((sizes[0] == 1).all()) if sizes else x.ndim == 3 and x.shape[1 - axis] == 1
    if not single or (dropout and training):
        return None
    states = list(hx) if kind == "lstm" else [hx]

    n = x.shape[axis]
    outputs: list[Tensor] = []
    # what torch puts together of single steps is the same without gradients, and takes no nodes then
    unrolled = not x.is_cuda and (kind != "lstm" or x.dtype == torch.float64)

    def run(x: Tensor, *states: Tensor) -> Any:
        with torch.set_grad_enabled(not unrolled):
            found = KERNELS[kind](x, *sizes, states if kind == "lstm" else states[0], flat, *options)
        outputs[:] = [found[0].detach().reshape(n, -1)]
        return found

    def linearise(inputs: Sequence[Tensor]) -> RecurrentCall:
        return RecurrentCall(weights, *outputs, *inputs)

    axes = [axis] + [0] * len(states)
    weights = RecurrentWeights.of_call(kind, flat, biased, depth, both)
    return KnownCall([x, *states], axes, run, axes, linearise, flat, held=weights.bytes(n))


for _kind, _kernel in KERNELS.items():
    reads(_kernel)(partial(_read, _kind))


@dataclass(frozen=True)
class CellCall:
    """One call of a cell: its input, the states it starts from, and what loops over it are."""

    x: Tensor
    states: list[Tensor]
    weights: list[Tensor | None]
    run: Callable[..., Any]
    kind: str

    def loop(self, xs: Sequence[Tensor], states: Sequence[Tensor]) -> LinearisedCall:
        """The steps on these inputs, from these states, linearised."""
        return CellLoop(self._recurrence, xs, states)

    @property
    def held(self) -> int:
        """Bytes of a step as it is linearised."""
        return self._recurrence.bytes(1)

    @property
    def _recurrence(self) -> RecurrentWeights:
        flat = [weight for weight in self.weights if weight is not None]
        return RecurrentWeights.of_call(self.kind, flat, len(flat) > 2, 1, False)


class CellLoop(LinearisedCall):
    """The steps of one loop; outputs step by step, h before c."""

    def __init__(self, weights: RecurrentWeights, xs: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        self._weights, self._x, self._states = weights, torch.cat(list(xs)), states
        self._each = len(states)

    @cached_property
    def _cell(self) -> CellChain:
        return self._weights.chains(self._x, *self._states)[0][0]

    def pull(self, rows: Sequence[Scaled], live: Sequence[Tensor]) -> list[tuple[Scaled, Tensor]]:
        """Rows on every output as rows on x_1, ..., x_n, h_0[, c_0]."""
        cell, n = self._cell, self._cell.n
        parts = []
        for which, pad in zip(range(self._each), ((cell.d_c, 0), (0, cell.d_h)), strict=False):
            steps = rows[which :: self._each]
            values = torch.cat([step.values for step in steps], 1)
            scale = torch.cat([step.log_scale.expand(len(values), 1, 1) for step in steps], 1)
            parts.append(Scaled(torch.nn.functional.pad(values, pad), scale))
        states = parts[0] if len(parts) == 1 else added(*parts)
        found, before = pull_states(cell, states)
        pulled = [Scaled(found.values[:, k : k + 1], found.log_scale[:, k : k + 1]) for k in range(n)]
        for part in (before.values[:, cell.d_c :], before.values[:, : cell.d_c])[: self._each]:
            pulled.append(Scaled(part[:, None], before.log_scale[:, None]))
        return list(zip(pulled, self.reach(live), strict=True))

    def reach(self, live: Sequence[Tensor]) -> list[Tensor]:
        """The steps up to the last that is live, but for those behind a step that nothing passes, and the
        states before step 0."""
        alive = torch.cat(list(live[:: self._each]), 1)
        for which in range(1, self._each):
            alive = alive | torch.cat(list(live[which :: self._each]), 1)
        nowhere = torch.zeros_like(alive[0])
        reach = carried(alive, severed(self._cell) if self._weights.rectifies else nowhere)
        return [*reach.split(1, 1), *[reach[:, :1]] * self._each]


def _read_cell(
    kind: str, run: Callable[..., Any], x: Tensor, hx: Any, *weights: Tensor | None
) -> CellCall | None:
    states = list(hx) if kind == "lstm" else [hx]
    return CellCall(x, states, list(weights), run, kind) if x.ndim == 2 and len(x) == 1 else None


for _kind, _cell in (
    ("lstm", torch._VF.lstm_cell),
    ("gru", torch._VF.gru_cell),
    ("rnn_tanh", torch._VF.rnn_tanh_cell),
    ("rnn_relu", torch._VF.rnn_relu_cell),
):
    known_cells[_cell] = partial(_read_cell, _kind, _cell)
