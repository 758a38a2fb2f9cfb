r"""From a torch recurrence to its chains: what torch's own kernels compute, linearised layer by layer.

    kind and weights  ->  h of every layer and direction, by the fused kernel  ->  one chain of step Jacobians
    each

A recurrence is known by the function that torch calls (``rnn_tanh``, ``rnn_relu``, ``gru``, ``lstm``) and by
the weights handed to it, so that a module by name, one inside a user's forward, and one whose weights are
parametrised are the same thing here.

Shapes: x (n, d_in); initial states h0 (layers directions, d_h) and c0 (layers directions, d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.operators.chain.cells import CellChain, CellWeights, GRUChain, LSTMChain, RNNChain

#: torch's functions, by the kind of recurrence
KERNELS: dict[str, Callable[..., Any]] = {
    "rnn_tanh": torch._VF.rnn_tanh,
    "rnn_relu": torch._VF.rnn_relu,
    "gru": torch._VF.gru,
    "lstm": torch._VF.lstm,
}


@dataclass(frozen=True)
class RecurrentWeights:
    """A recurrence: ``layers[l][direction]``, bottom first, the second direction reading backwards."""

    kind: str
    layers: list[list[CellWeights]]

    @classmethod
    def of_module(cls, module: nn.RNNBase) -> RecurrentWeights:
        """Those of ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM``, as the module hands them to the kernel."""
        kind = {"RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}.get(module.mode, module.mode.lower())
        flat = [weight for weight in module._flat_weights if weight is not None]
        return cls.of_call(kind, flat, module.bias, module.num_layers, module.bidirectional)

    @classmethod
    def of_call(
        cls, kind: str, flat: Sequence[Tensor], biased: bool, depth: int, both: bool
    ) -> RecurrentWeights:
        """Those of a call of torch's function, from its flat list of weights."""
        each = len(flat) // (depth * (1 + both))
        cells = []
        for first in range(0, len(flat), each):
            ih, hh, *rest = (weight.detach() for weight in flat[first : first + each])
            biases, projection = (rest[:2], rest[2:]) if biased else ([None, None], rest)
            cells.append(CellWeights(hh, ih, biases[1], biases[0], projection[0] if projection else None))
        return cls(kind, [cells[first : first + 1 + both] for first in range(0, len(cells), 1 + both)])

    @property
    def has_cell(self) -> bool:
        """Whether the state is a pair (h, c)."""
        return self.kind == "lstm"

    @property
    def both(self) -> bool:
        """Whether there are two directions."""
        return len(self.layers[0]) == 2

    def chains(self, x: Tensor, h0: Tensor | None = None, c0: Tensor | None = None) -> list[list[CellChain]]:
        """The chains of every layer at x, one a direction, from the initial states given, else from zero."""
        found: list[list[CellChain]] = []
        with torch.no_grad():
            for depth, directions in enumerate(self.layers):
                cells, outputs = [], []
                for direction, weights in enumerate(directions):
                    place = depth * len(directions) + direction
                    inputs = x.flip(0) if direction else x
                    h_first, c_first = self._states(weights, x, place, h0, c0)
                    h = run(self.kind, weights, inputs, h_first, c_first)[0]
                    before = torch.cat([h_first[None], h[:-1]])
                    cells.append(chain_of(self.kind, weights, inputs, h, before, c_first))
                    outputs.append(h.flip(0) if direction else h)
                found.append(cells)
                x = torch.cat(outputs, 1)
        return found

    @staticmethod
    def _states(
        weights: CellWeights, x: Tensor, place: int, h0: Tensor | None, c0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        h = x.new_zeros(weights.hh.shape[1]) if h0 is None else h0[place]
        c = x.new_zeros(weights.hh.shape[0] // 4) if c0 is None else c0[place]
        return h, c


def run(
    kind: str, weights: CellWeights, x: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Outputs (n, d_h) of one layer in one direction from a state, and the last state: (h,) or (h, c)."""
    given = (weights.ih, weights.hh, weights.b_ih, weights.b_hh, weights.hr)
    flat = [weight for weight in given if weight is not None]
    start = (h[None, None], c[None, None]) if kind == "lstm" else h[None, None]
    out, *after = KERNELS[kind](x[None], start, flat, weights.b_hh is not None, 1, 0.0, False, False, True)
    return out[0], tuple(part[0, 0] for part in after)


def chain_of(kind: str, weights: CellWeights, x: Tensor, h: Tensor, before: Tensor, c: Tensor) -> CellChain:
    """The chain of one layer in one direction: outputs h (n, d_h), those before them, and c before step 0."""
    if kind == "lstm":
        return LSTMChain(weights, x, h, before, c)
    if kind == "gru":
        return GRUChain(weights, x, h, before)
    return RNNChain(weights, x, h, before, kind == "rnn_relu")
