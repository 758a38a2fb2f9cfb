"""The step Jacobians of a torch recurrent module along one input: one chain a stacked layer and direction.

What a step Jacobian is made of takes some 16 numbers a unit and step. A long trajectory is not held: kept are
the states before each of its segments, and a segment is made again when a sweep comes to it, twice the work
for the root of the memory.

Source: Griewank and Walther 2000 (checkpoints).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from depprobe.core.calling.arguments import check
from depprobe.core.calling.weights_in_effect import recurrence_in_effect
from depprobe.core.options import DEFAULT_MEMORY, require
from depprobe.errors import BadInput, wrong_width
from depprobe.operators.chain.cells import CellChain, SweptChain
from depprobe.operators.chain.recurrence import RecurrentWeights
from depprobe.units import counted

#: bytes of a segment, and its fewest steps
_SEGMENT_BYTES, _SEGMENT = 32 << 20, 64
#: segments that are held at a time
_MADE = 2


class Trajectory:
    """A stack of layers in one direction at x (n, d_in), held by the states before each of its segments.

    Attributes
    ----------
    chains : what a sweep asks of each layer, bottom first.
    """

    def __init__(self, weights: RecurrentWeights, x: Tensor, backwards: bool, memory: int) -> None:
        self._weights, self._x, self._backwards, self.n = weights, x, backwards, len(x)
        step = 16 * sum(cell.hh.shape[0] for (cell,) in weights.layers) * x.element_size()
        self.length = max(_SEGMENT, min(_SEGMENT_BYTES, memory // 8) // step)
        held = min(self.length, self.n)
        what = f"a segment of {counted(held, 'step')} of the trajectory"
        require(held * step, memory, what, "use a smaller d, or --dtype float32")
        self._starts: list[tuple[list[Tensor], list[Tensor | None]]] = []
        self._made = threading.local()
        states = list[Tensor]()
        variances: list[Tensor | None] = [None] * len(weights.layers)
        sizes: list[list[Tensor]] = [[] for _ in weights.layers]
        overflow = [self.n] * len(weights.layers)
        for first in range(0, self.n, self.length):
            self._starts.append((states, variances))
            found, states = self._segment(len(self._starts) - 1)
            for level, chain in enumerate(found):
                sizes[level].append(chain.size)
                if chain.overflow < chain.n:
                    overflow[level] = min(overflow[level], first + chain.overflow)
            variances = [chain.last_variances() for chain in found]
        self.chains = [
            LongChain(self, level, torch.cat(size), over)
            for level, (size, over) in enumerate(zip(sizes, overflow, strict=True))
        ]

    def _segment(self, which: int) -> tuple[list[CellChain], list[Tensor]]:
        first = which * self.length
        last = min(first + self.length, self.n)
        x = self._x[self.n - last : self.n - first].flip(0) if self._backwards else self._x[first:last]
        states, variances = self._starts[which]
        layers, after = self._weights.advanced(x, *states)
        chains = [chain for (chain,) in layers]
        for chain, before in zip(chains, variances, strict=True):
            if before is not None:
                chain.variances = before
                vars(chain).pop("errors", None)  # where they were recorded with the chain
        return chains, after

    def segment(self, which: int) -> list[CellChain]:
        """The chains of one segment, each thread with some of its own."""
        held: dict[int, list[CellChain]] = vars(self._made).setdefault("chains", {})
        if which not in held:
            while len(held) >= _MADE:
                del held[next(iter(held))]
            held[which] = self._segment(which)[0]
        return held[which]


class LongChain(SweptChain):
    """One layer of a ``Trajectory``."""

    def __init__(self, trajectory: Trajectory, level: int, size: Tensor, overflow: int) -> None:
        self._trajectory, self._level, self.size, self._overflow = trajectory, level, size, overflow
        self.n, self.d_in = trajectory.n, self._any.d_in
        self.d_h, self.d_c = self._any.d_h, self._any.d_c

    @cached_property
    def _any(self) -> CellChain:
        return self._trajectory.segment(0)[self._level]

    @property
    def overflow(self) -> int:
        return self._overflow

    def weight_norms(self) -> tuple[Tensor, Tensor]:
        return self._any.weight_norms()

    def bare(self) -> CellChain:
        return self._any.bare()

    def constants(self) -> list[Tensor]:
        return self._any.constants()

    def packed(self, first: int, last: int, errors: bool) -> Tensor:
        length = self._trajectory.length
        parts = []
        for which in range(first // length, (last - 1) // length + 1):
            chain, start = self._trajectory.segment(which)[self._level], which * length
            parts.append(chain.packed(max(0, first - start), min(last - start, chain.n), errors))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def part_reach(self, wrt: str, units: Tensor) -> Tensor:
        return self._any.part_reach(wrt, units)

    def reach(self, k: int, units: Tensor) -> tuple[Tensor, Tensor]:
        which, j = divmod(k, self._trajectory.length)
        return self._trajectory.segment(which)[self._level].reach(j, units)


def stacks_of(weights: RecurrentWeights, x: Tensor, both: bool, memory: int) -> list[Sequence[SweptChain]]:
    """What a sweep asks of the layers of each direction, bottom first, of a trajectory that is not held."""
    return [Trajectory(weights.direction(which), x, bool(which), memory).chains for which in range(1 + both)]


def step_chains(
    module: nn.RNNBase, x: Tensor, *, memory: int = DEFAULT_MEMORY
) -> list[tuple[CellChain, ...]]:
    """The chains of every stacked layer, bottom first, each with one entry a direction.

    Parameters
    ----------
    module : ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM``, with the forward that torch gives it.
    x : (n, d_in), n >= 2, of the module's dtype and device; the state before it is zero.
    memory : bytes that the trajectory may take.

    Returns
    -------
    For each layer, the chain in reading order and, where bidirectional, the one that reads backwards (its
    step k stands at position n - 1 - k).

    Raises
    ------
    BadInput : another module, or an input that does not fit.
    OverBudget : the trajectory would not fit.

    Examples
    --------
    >>> import torch
    >>> chains = step_chains(nn.LSTM(3, 5, num_layers=2), torch.randn(9, 3))
    >>> len(chains), chains[0][0].full_matrices(4, 6).shape
    (2, torch.Size([2, 10, 13]))
    """
    known = recurrence_in_effect(module)
    if known is None:
        changed = " with a forward or hooks of its own" if isinstance(module, nn.RNNBase) else ""
        raise BadInput(
            f"{type(module).__name__}{changed} has no known step; it must be nn.RNN, nn.GRU or nn.LSTM"
        )
    module = known
    check(module, x)
    if x.shape[1] != module.input_size:
        raise wrong_width(x.shape[1], module.input_size)
    weights = RecurrentWeights.of_module(module)
    weights.fit(len(x), memory)
    return [tuple(layer) for layer in weights.chains(x.detach())]
