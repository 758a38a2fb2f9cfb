r"""The trajectory of a stacked recurrence from any state, a stretch of steps at a time.

    s_k = F(s_{k-1}, x_k),   s = (c, h) of all layers, bottom first;   J_k = ds_k/ds_{k-1}

Within a step the layers are passed bottom up: what layer l hands on at k moves the input of layer l + 1 at
the same k, so J_k is block lower triangular and its determinant is the product over layers. Memory is that of
one stretch, whatever the length of the trajectory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from depprobe.core.device import Recorder, waits
from depprobe.errors import BadInput, DepprobeError
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.recurrence import RecurrentWeights, chain_of, run

#: steps of a stretch, as far as its gates take no more than these bytes
_STEPS, _BYTES = 256, 64 << 20

#: stretches of so many lengths
_recorder = Recorder(40)

State = list[tuple[Tensor, ...]]


class Recurrence:
    """A torch recurrent module in one direction as a map of its joint state.

    Raises
    ------
    BadInput : the module has two directions.
    """

    def __init__(self, module: nn.RNNBase) -> None:
        if module.bidirectional:
            raise BadInput(
                "a bidirectional module carries two states in opposite directions; use one direction"
            )
        self.module = module
        known = RecurrentWeights.of_module(module)
        self._kind, self._weights = known.kind, [layer[0] for layer in known.layers]
        hidden = module.hidden_size
        self.d_h = getattr(module, "proj_size", 0) or hidden
        self.d_c = hidden if isinstance(module, nn.LSTM) else 0
        #: width S of the joint state
        self.width = module.num_layers * (self.d_c + self.d_h)

    def zero_state(self) -> State:
        """The state torch starts from."""
        weight = self._weights[0].hh
        widths = (self.d_h, self.d_c) if self.d_c else (self.d_h,)
        return [tuple(weight.new_zeros(width) for width in widths) for _ in self._weights]

    def random_state(self, rng: np.random.Generator) -> State:
        """A state with entries N(0, 1)."""
        return [
            tuple(torch.from_numpy(rng.standard_normal(len(part))).to(part) for part in level)
            for level in self.zero_state()
        ]

    def stretches(self, x: Tensor, state: State | None = None) -> Iterator[RecurrentStretch]:
        """The trajectory driven by x (n, d_in) from a state, in order.

        Raises
        ------
        DepprobeError : the trajectory reached Inf or NaN.
        """
        state = self.zero_state() if state is None else state
        each = 16 * x.element_size() * max(w.hh.shape[0] for w in self._weights) * len(self._weights)
        length = max(1, min(_STEPS, _BYTES // each))
        for start in range(0, len(x), length):
            inputs = x[start : start + length]
            chains = []
            for level, weights in enumerate(self._weights):
                first, cell = state[level][0], state[level][-1]
                with torch.no_grad():
                    h, after = run(self._kind, weights, inputs, first, cell)
                    if not bool(h.isfinite().all()):
                        step = start + int((~h.isfinite()).any(1).nonzero()[0])
                        raise DepprobeError(
                            f"the trajectory reached Inf or NaN at step {step}: it is unstable"
                        )
                    before = torch.cat([first[None], h[:-1]])
                    chains.append(chain_of(self._kind, weights, inputs, h, before, cell))
                state[level] = after
                inputs = h
            yield RecurrentStretch(chains)


class RecurrentStretch:
    """Successive step Jacobians of a stack."""

    def __init__(self, chains: list[CellChain]) -> None:
        self.chains, self.steps = chains, chains[0].n

    def push(self, k: int, columns: Tensor, steps: int = 1) -> Tensor:
        """Tangent columns (S, m) on s_{k-1} to those on the state after so many steps."""
        if waits(columns.device):
            return self._by_matrices(k, columns, steps)
        for j in range(k, k + steps):
            columns = self._step(j, columns)
        return columns

    def _step(self, k: int, columns: Tensor) -> Tensor:
        out = torch.empty_like(columns)
        top, below = 0, None
        for cell in self.chains:
            rows = slice(top, top + cell.width)
            cell.push(k, columns[rows], below, out[rows])
            below = out[rows][cell.d_c :]
            top += cell.width
        return out

    def _by_matrices(self, k: int, columns: Tensor, steps: int) -> Tensor:
        """The same by the whole matrices of many steps, made together: few calls, where a call takes long."""
        size = columns.element_size() * sum(cell.width * (cell.width + cell.d_in) for cell in self._moving)
        batch = max(1, _BYTES // size)
        widths = [(cell.width, cell.d_c) for cell in self._moving]
        for start in range(k, k + steps, batch):
            stop = min(start + batch, k + steps)
            matrices = [cell.full_matrices(start, stop) for cell in self._moving]
            key, work = ("push", *widths), partial(_taken, widths)
            # a copy: what was recorded is overwritten in its place
            columns = _recorder(key, work, [columns, *matrices], at_first=False)[0].clone()
        return columns

    @cached_property
    def _moving(self) -> list[CellChain]:
        """The chains, that of the first layer without its input, which does not move."""
        first = self.chains[0]
        return [first.columns("h", first.size.dtype), *self.chains[1:]]

    def log_abs_det(self) -> Tensor:
        """ln |det J_k| of every step: (steps,) float64, -inf where exactly singular."""
        total = torch.zeros(self.steps, dtype=torch.float64, device="cpu")
        for cell in self.chains:
            batch = max(1, _BYTES // (16 * cell.width**2))
            for start in range(0, self.steps, batch):
                stop = min(start + batch, self.steps)
                matrices = cell.full_matrices(start, stop)[:, :, : cell.width].double()
                total[start:stop] += torch.linalg.slogdet(matrices)[1].cpu()
        return total


def _taken(widths: Sequence[tuple[int, int]], given: Sequence[Tensor]) -> list[Tensor]:
    """Columns (S, m) after the steps whose matrices (steps, S_l, S_l + d_l) are given, layer by layer."""
    columns, *matrices = given
    for each in zip(*matrices, strict=True):
        states = columns.split([width for width, _ in widths])
        out = [each[0] @ states[0]]
        for (_, d_c), matrix, state in zip(widths, each[1:], states[1:], strict=False):
            out.append(matrix @ torch.cat([state, out[-1][d_c:]]))
        columns = torch.cat(out) if len(out) > 1 else out[0]
    return [columns]
