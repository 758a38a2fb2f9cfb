"""A torch recurrence: its weights, its forward pass as torch runs it, and the chains of its layers.

Where the host is slower than the device, both the forward pass and what a chain is made of are recorded when
they come for the second time with the same shapes.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from depprobe.core.device import Recorder, waits
from depprobe.core.memory import Growth
from depprobe.core.options import require
from depprobe.operators.chain.cells import CellChain, CellWeights
from depprobe.operators.chain.kinds.gru import GRUChain
from depprobe.operators.chain.kinds.lstm import LSTMChain
from depprobe.operators.chain.kinds.rnn import RNNChain
from depprobe.operators.chain.rounding import ROWS, numbers_of_noise
from depprobe.operators.chain.runs import MATRIX_BYTES, NARROW
from depprobe.operators.chain.sweep import RUN

#: share of a budget that is used, since allocators keep more than is alive; copies of weights beside a
#: trajectory in segments; buffers of runs that are held; bytes of them where weights in float32 have room too
_USED, _SEGMENTED, _BUFFERS, _AMPLE = 0.85, 5, 3, 256 << 20

#: most steps of a forward pass that is recorded, and what is kept of them
_RECORDED = 4096
_recorder = Recorder(8)
#: weights of a layer in the order in which torch takes them
_WEIGHTS = "ih", "hh", "b_ih", "b_hh", "hr"
#: torch's functions, and the class of the chains, by the kind of recurrence
KERNELS: dict[str, Callable[..., Any]] = {
    "rnn_tanh": torch._VF.rnn_tanh,
    "rnn_relu": torch._VF.rnn_relu,
    "gru": torch._VF.gru,
    "lstm": torch._VF.lstm,
}
_CHAINS: dict[str, Callable[[CellWeights, Tensor, Tensor, Tensor, Tensor], CellChain]] = {
    "lstm": LSTMChain,
    "gru": GRUChain,
    "rnn_tanh": RNNChain,
    "rnn_relu": partial(RNNChain, relu=True),
}
#: a chain without tensors, by what it was recorded for
_BARE: dict[Hashable, tuple[CellChain, list[str]]] = {}


def chain_of(kind: str, weights: CellWeights, x: Tensor, h: Tensor, before: Tensor, c: Tensor) -> CellChain:
    """The chain of one layer in one direction: of x, outputs h, those before them, and c before step 0."""
    if not waits(x.device) or len(x) > _RECORDED:
        return _CHAINS[kind](weights, x, h, before, c)
    names = [name for name in _WEIGHTS if getattr(weights, name) is not None]
    given = [x, h, before, c, *(getattr(weights, name) for name in names)]
    key = kind, *names, *(part.shape for part in given), x.dtype

    def work(given: Sequence[Tensor]) -> list[Tensor]:
        x, h, before, c, *rest = given
        cell = _CHAINS[kind](CellWeights(**dict(zip(names, rest, strict=True))), x, h, before, c)
        assert cell.errors is not None  # made here, where it is recorded
        found = {name: value for name, value in vars(cell).items() if isinstance(value, Tensor)}
        bare = copy.copy(cell)
        vars(bare).update(dict.fromkeys(found), _given=())
        _BARE[key] = bare, list(found)
        return list(found.values())

    made = _recorder(("chain", *key), work, given, at_first=False)
    bare, found = _BARE[key]
    cell = copy.copy(bare)
    vars(cell).update({name: part.clone() for name, part in zip(found, made, strict=True)})
    cell._given = weights, x, before
    return cell


class Widths(NamedTuple):
    """Widths of the state, output and input of a layer."""

    width: int
    d_h: int
    d_in: int


class Room(NamedTuple):
    """What a sweep may take: bytes of the buffers of a run, targets, and copies of weights in float32.

    ``growth`` is asked between runs to give back what was freed; None where there is plenty.
    """

    buffers: float
    targets: int
    copies: bool
    growth: Growth | None


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
    def rectifies(self) -> bool:
        """Whether a unit can be off, so that its factors are exactly 0."""
        return self.kind == "rnn_relu"

    @property
    def both(self) -> bool:
        """Whether there are two directions."""
        return len(self.layers[0]) == 2

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        cells = [cell for layer in self.layers for cell in layer]
        return sum(part.nbytes for cell in cells for part in vars(cell).values() if part is not None)

    @property
    def widths(self) -> list[Widths]:
        """Of the layers of one direction, bottom first."""
        cells = [layer[0] for layer in self.layers]
        return [
            Widths(cell.hh.shape[1] + len(cell.hh) // 4 * self.has_cell, cell.hh.shape[1], cell.ih.shape[1])
            for cell in cells
        ]

    def bytes(self, n: int) -> int:
        """Of a trajectory of n steps that is held whole."""
        return sum(8 * n * len(cell.hh) * cell.hh.element_size() for layer in self.layers for cell in layer)

    def fit(self, n: int, memory: int) -> None:
        """Refuse a trajectory of n steps that does not fit."""
        require(
            self.bytes(n), memory, f"the trajectory of {n} steps", "use a smaller n or d, or --dtype float32"
        )

    def direction(self, which: int) -> RecurrentWeights:
        """One direction of a single layer, or of a stack with no other."""
        return RecurrentWeights(self.kind, [[cells[which]] for cells in self.layers])

    def chains(
        self, x: Tensor, h0: Tensor | None = None, c0: Tensor | None = None, *, out: Tensor | None = None
    ) -> list[list[CellChain]]:
        """The chains of every layer at x, one a direction, from the initial states given, else from zero.

        ``out`` (n, directions d_h) is what the top layer puts out there, if it is known.
        """
        if out is None or self.kind == "lstm" or len(self.layers) > 1:
            return self.advanced(x, h0, c0)[0]
        (directions,), cells = self.layers, []
        for place, (weights, h) in enumerate(zip(directions, out.chunk(len(directions), 1), strict=True)):
            inputs, h = (x.flip(0), h.flip(0)) if place else (x, h)
            h_first, c_first = self._states(weights, x, place, h0, c0)
            before = torch.cat([h_first[None], h[:-1]])
            cells.append(chain_of(self.kind, weights, inputs, h, before, c_first))
        return [cells]

    def advanced(
        self, x: Tensor, h0: Tensor | None = None, c0: Tensor | None = None
    ) -> tuple[list[list[CellChain]], list[Tensor]]:
        """``chains``, and the states after the last step, (layers directions, width) each."""
        found: list[list[CellChain]] = []
        states = []
        with torch.no_grad():
            for depth, directions in enumerate(self.layers):
                cells, outputs = [], []
                for direction, weights in enumerate(directions):
                    place = depth * len(directions) + direction
                    inputs = x.flip(0) if direction else x
                    h_first, c_first = self._states(weights, x, place, h0, c0)
                    h, after = run(self.kind, weights, inputs, h_first, c_first)
                    states.append(after)
                    before = torch.cat([h_first[None], h[:-1]])
                    cells.append(chain_of(self.kind, weights, inputs, h, before, c_first))
                    outputs.append(h.flip(0) if direction else h)
                found.append(cells)
                x = torch.cat(outputs, 1)
        return found, [torch.stack(part) for part in zip(*states, strict=True)]

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
    flat = [
        weight
        for name in ("ih", "hh", "b_ih", "b_hh", "hr")
        if (weight := getattr(weights, name)) is not None
    ]
    biased, gated = weights.b_hh is not None, kind == "lstm"

    def work(given: Sequence[Tensor]) -> list[Tensor]:
        x, h, c, *flat = given
        if waits(x.device):
            # side by side, as cuDNN reads them: matrices before biases
            order = sorted(range(len(flat)), key=lambda at: -flat[at].ndim)
            whole = torch.cat([flat[at].flatten() for at in order])
            parts = dict(zip(order, whole.split([flat[at].numel() for at in order]), strict=True))
            flat = [parts[at].view(weight.shape) for at, weight in enumerate(flat)]
        start = (h[None, None], c[None, None]) if gated else h[None, None]
        with warnings.catch_warnings() if waits(x.device) else contextlib.nullcontext():
            if waits(x.device):
                # cuDNN wants projected weights in an order of its own, and copies them each time
                warnings.filterwarnings("ignore", "RNN module weights", UserWarning)
            out, *after = KERNELS[kind](x[None], start, flat, biased, 1, 0.0, False, False, True)
        return [out[0], *(part[0, 0] for part in after)]

    if not waits(x.device) or len(x) > _RECORDED:
        out, *after = work([x, h, c, *flat])
    else:
        made = _recorder(("run", kind, biased), work, [x, h, c, *flat], at_first=False)
        out, *after = (part.clone() for part in made)
    return out, tuple(after)


def room_for(weights: RecurrentWeights, x: Tensor, memory: int, held: bool, most: int) -> Room:
    """What sweeps along x may take of a budget, for so many targets at most.

    Beside weights, as they are given and as chains of the trajectory have them, stand rows before and after
    a run, and as they are compressed; step Jacobians and their factors; buffers of the run before, of the
    one under way, and of what is handed on.

    Parameters
    ----------
    held : whether the trajectory is held whole.

    Raises
    ------
    OverBudget : not even one step of one target would fit.
    """
    layers, item = weights.widths, x.element_size()
    d_h, width = layers[-1].d_h, sum(layer.width for layer in layers)
    step = sum(layer.width * (layer.d_h + layer.d_in) for layer in layers) * item
    matrices = 2 * max(step, min(MATRIX_BYTES, RUN * step))
    threads = torch.get_num_threads() if max(layers).width > NARROW and not waits(x.device) else 1

    def needed(targets: int) -> tuple[int, int]:
        """Bytes apart from buffers, and those of the buffers of one step."""
        fixed = (3 if targets == 1 else 6) * targets * d_h * width * item + matrices * min(threads, targets)
        return fixed, targets * (d_h + 3 * ROWS) * sum(layer.width + layer.d_in for layer in layers) * item

    kept = (2 if held else _SEGMENTED) * weights.size + min(weights.bytes(len(x)), memory // 4) + x.nbytes
    kept += numbers_of_noise([(layer.width, layer.d_in) for layer in layers]) * item
    fixed, buffer = needed(1)
    what = f"a sweep through {len(layers)} layer{'s' * (len(layers) > 1)} of width {d_h}"
    least = kept + fixed + 2 * _BUFFERS * buffer
    require(least / _USED, memory, what, "use a smaller d, or --dtype float32")
    left = _USED * memory - kept
    while most > 1 and needed(most)[0] + 2 * _BUFFERS * needed(most)[1] > left:
        most //= 2
    left -= needed(most)[0]
    copies = left - 2 * weights.size > _AMPLE
    buffers = (left - 2 * weights.size * copies) / _BUFFERS / min(threads, most)
    return Room(buffers, most, copies, None if copies else Growth(memory, x.nbytes))
