r"""A loop over ``nn.RNNCell``, ``nn.GRUCell`` or ``nn.LSTMCell`` in a user's forward: one chain.

    for x_t in x: h, c = cell(x_t, (h, c))      inputs x_1, ..., x_n, h_0[, c_0];  outputs h_t[, c_t]

The calls of one cell, each on the state that the one before handed on, are the steps of a recurrence, and are
pulled through as one. Shapes: x_t (1, d_in), h_t (1, d_h), c_t (1, d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled, added
from depprobe.operators.calls import LinearisedCall, known_cells
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.linearised import RecurrentWeights
from depprobe.operators.chain.vjp_rows import pull_states


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
        flat = [weight for weight in self.weights if weight is not None]
        return CellLoop(RecurrentWeights.of_call(self.kind, flat, len(flat) > 2, 1, False), xs, states)


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
        alive = torch.cat(list(live[:: self._each]), 1)
        for which in range(1, self._each):
            alive = alive | torch.cat(list(live[which :: self._each]), 1)
        reach = alive.flip(1).cummax(1).values.flip(1)
        pulled = [
            (Scaled(found.values[:, k : k + 1], found.log_scale[:, k : k + 1]), reach[:, k : k + 1])
            for k in range(n)
        ]
        for part in (before.values[:, cell.d_c :], before.values[:, : cell.d_c])[: self._each]:
            pulled.append((Scaled(part[:, None], before.log_scale[:, None]), reach[:, :1]))
        return pulled


def _read(kind: str, run: Callable[..., Any], x: Tensor, hx: Any, *weights: Tensor | None) -> CellCall | None:
    states = list(hx) if kind == "lstm" else [hx]
    return CellCall(x, states, list(weights), run, kind) if x.ndim == 2 and len(x) == 1 else None


for _kind, _cell in (
    ("lstm", torch._VF.lstm_cell),
    ("gru", torch._VF.gru_cell),
    ("rnn_tanh", torch._VF.rnn_tanh_cell),
    ("rnn_relu", torch._VF.rnn_relu_cell),
):
    known_cells[_cell] = partial(_read, _kind, _cell)
