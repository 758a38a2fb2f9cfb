r"""One recorded pass of a function, and its vector-Jacobian products, in chunks that fit a memory budget.

    (r, n_out, d_out) -> (r, n_in, d_in),     v -> v^T J

Batched by ``vmap`` where it can take what the graph holds, one by one where it cannot (custom functions that
ask for numbers, reentrant checkpoints, sparse weights). How many fit is read off the graph that is there.
Where the outputs of several submodules are denominators, one backward pass passes them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from depprobe.core.calling.one_function import Prefixes, require_linear, same_output
from depprobe.core.calling.passes import TIMES
from depprobe.core.device import rows_at_once
from depprobe.core.function import SequenceFunction
from depprobe.core.memory import EACH, OWN, Growth, Settling, bytes_of, cut_behind, less_or
from depprobe.core.options import require
from depprobe.core.recorded_graph import (
    REENTRANT,
    GraphFacts,
    backward_bytes,
    graph_facts,
    saved_bytes,
    simple_nodes,
    whole_gradients,
)
from depprobe.core.shared_work import SharedWork
from depprobe.errors import BadInput
from depprobe.operators.autograd.kept import KINDS, TRACE, Kept
from depprobe.operators.autograd.readout import Readout, readout_of
from depprobe.operators.last_bits import Repeat

#: from m outputs to the positions (m, n_in) of each variable that a path leads to
Live = Callable[[list[int]], Sequence[Tensor]]
#: variables and output of a recorded pass
Recorded = tuple[tuple[Tensor, ...], Tensor]
#: where products begin: at the output, or at what its linear read-out reads
End = Tensor | GradientEdge
#: nodes a position from which they are those of steps, one after another
_STEPS = 3
#: shares of the memory, one over these: left for rows, of buffers that soon serve again within a product
_FOR_ROWS, _SMALL = 8, 64
#: share of the sequence above which shortening it gains nothing
WORTH_CUTTING = 0.85
#: makes that of a function, within some bytes; None where its forward cannot be traced
structures: list[Callable[[SequenceFunction, int], Live | None]] = []


class Recording:
    """The recorded pass of one function and its products, in each of its variables.

    Parameters
    ----------
    function : recorded once, here.
    memory : bytes that graph and products may take.
    beside : of these, bytes of rows that will be kept at least.

    Raises
    ------
    OverBudget : not even one product would fit.
    """

    def __init__(self, function: SequenceFunction, memory: int, beside: int = 0) -> None:
        self.function, self.memory, self._beside = function, memory, beside
        self._kept, self._growth = Kept(), Growth(memory)
        points, y = self.whole()
        #: the variables and the output, without the graph between them
        self.points, self.y = tuple(point.detach() for point in points), y.detach()
        self.shared: SharedWork[Any] = SharedWork(len(points))
        self._can_end: dict[int, bool] = {}
        self._prefixes = Prefixes()
        self._lives: dict[int, list[NDArray[np.bool_]]] = {}
        self._told = True
        # where n by n numbers many times over would fit, the graph need not be measured
        ample = n_by_n_bytes(function)
        fits = (max(1, y.shape[1]) + 1) * ample * len(points) <= memory
        simple = simple_nodes(y, points[0]) if fits else 0
        plain = GraphFacts(y.dtype, ample, ample, False, simple)
        facts = [plain if simple else graph_facts(y, point) for point in points]
        if not all(one.total for one in facts):
            who = type(function.module).__name__
            raise BadInput(
                f"the output of {who} does not depend on the input through differentiable operations"
            )
        self.narrowest = [one.narrowest for one in facts]
        self._batched, self._whole, self._tight = True, False, False
        self._doubtful = self.python = function.hooked or any(one.has_python for one in facts)
        readout = self.readout(y, points)
        #: of the linear map behind the output, where that is wider than what it reads: (V, d)
        self.weight = None if readout is None else readout.weight
        largest = max(range(len(facts)), key=lambda at: facts[at].total)
        size = ample if simple else bytes_of([y]) + saved_bytes(y, tensors_of(function.module))
        self.chunk = self._chunk(facts[largest], size, partial(backward_bytes, y, points[largest]))
        if function.hooked or any(one.own_code for one in facts):
            narrowest = self.narrowest[0]
            require_linear(function.module, lambda v: self.single(v, points[:1], y)[0], self.y, narrowest)

    def _chunk(self, facts: GraphFacts, size: int, alive: Callable[[], int]) -> int:
        """Products at once, beside the copy of the weights and as many passes of so many bytes as fit.

        All gradients of a pass are a bound; those alive at one time a closer one.
        """
        copied = OWN + bytes_of(tensors_of(self.function.module))
        size += EACH * facts.nodes
        room = self.memory - max(self.memory // _FOR_ROWS, self._beside) - copied
        ends = bytes_of([self.y]) + 3 * bytes_of(self.points)
        each = facts.total + ends
        self._tight = max(1, self.y.shape[1]) * each + KINDS * size > room
        if self._tight:
            each = alive() + ends
        self._tight &= facts.largest > self.memory // _SMALL
        needed = copied + size + each + self._beside
        require(needed, self.memory, "one vector-Jacobian product", less_or(1.1 * needed))
        self._kept.most = 1 + int(min(KINDS - 1, max(0, room - size - 2 * each) // max(1, size)))
        self._each, self._most = each, int(max(1, (room - self._kept.most * size) // max(1, each)))
        # of many small operations the calls take the time
        small = facts.nodes > _STEPS * len(self.y)
        width = self.y.shape[1] if self.weight is None else self.weight.shape[1]
        row = len(self.y) * width * self.y.element_size()
        return self._most if small else min(self._most, rows_at_once(row, self.y.device))

    def __getstate__(self) -> dict[str, Any]:
        # a graph does not travel; it is recorded again
        return vars(self) | {"_kept": Kept(self._kept.most)}

    def readout(self, y: Tensor, points: Sequence[Tensor]) -> Readout | None:
        """The linear map behind an output; hooks may stand on it."""
        return None if self.function.hooked else readout_of(y, points)

    def give_up(self) -> None:
        """Keep no pass, where another one needs the room; they are recorded again."""
        self._kept.give_up()

    def whole(self) -> Recorded:
        """The pass over all positions."""
        return self._kept.of("whole", None, self.function.record_points)

    def lives(self, targets: Sequence[int]) -> list[list[NDArray[np.bool_]]] | None:
        """Positions of each variable, (n_in,), that a path leads to from some outputs; None where structure
        does not tell.
        """
        new = [t for t in targets if t not in self._lives]
        if new and self._told:
            live = self._kept.of(TRACE, None, self._structure)
            self._told = live is not None
            for first in range(0, len(new), self._most):
                part = new[first : first + self._most]
                found = [one.cpu().numpy() for one in live(part)] if live is not None else []
                self._lives |= {t: [one[i] for one in found] for i, t in enumerate(part)}
        return [self._lives[t] for t in targets] if self._told else None

    def _structure(self) -> Live | None:
        return next((found for make in structures if (found := make(self.function, self.memory))), None)

    def length(self, targets: Sequence[int]) -> int | None:
        """Positions that a pass needs for some targets, where they ignore what follows and it can end there;
        None for all.
        """
        last, lives = max(targets), self.lives(targets)
        if lives is None or any(live[last + 1 :].any() for each in lives for live in each):
            return None
        end = cut_behind(last, len(self.y), self.memory)
        if end not in self._can_end:
            self._can_end[end] = self._ends(end)
        return end if self._can_end[end] else None

    def _ends(self, length: int) -> bool:
        """Whether a pass over so many first positions has the products of the whole."""
        n_out, _, n_in, _ = self.function.shape
        if n_out != n_in or length > WORTH_CUTTING * n_out or self.function.prefix(length) is None:
            return False
        return self._shortened(length) is not None and self._prefixes.serve(self.y, length, self._tried)

    def _tried(self, drawn: Tensor, length: int | None) -> list[Tensor] | None:
        """The product of a cotangent on the first outputs, in the first positions of each variable."""
        found = self.whole() if length is None else self._shortened(length)
        if found is None:
            return None
        points, y = found
        cotangent = nn.functional.pad(drawn, (0, 0, 0, len(y) - len(drawn)))
        return [part[: len(drawn)] for part in self.single(cotangent, points, y)]

    def passed(self, length: int | None) -> Recorded:
        """The pass over so many first positions, which ``length`` gave; or over all."""
        short = None if length is None else self._shortened(length)
        return short or self.whole()

    def _shortened(self, length: int) -> Recorded | None:
        return self._kept.of("short", length, partial(self._short, length))

    def _short(self, length: int) -> Recorded | None:
        record = self.function.prefix(length)
        if record is None:
            return None
        try:
            points, y = record()
        except BadInput:  # it takes inputs of one length alone
            return None
        same = len(y) == length and all(len(point) == length for point in points)
        return (points, y) if same and same_output(self.y[:length], y) else None

    def noisy(self, repeat: Repeat, length: int | None = None) -> Recorded:
        """Variables and output of a pass whose numbers are changed, over first positions or all."""

        def record() -> Recorded:
            mode = repeat.forward()
            return self.function.record_points(mode, length, mode.changed)

        return self._kept.of("noisy", (length, repeat), record)

    def single(self, cotangent: Tensor, points: Sequence[Tensor], y: End) -> Sequence[Tensor]:
        """One product, (n_out, d_out) to (n_in, d_in), in each of some variables of a recorded pass."""
        self._growth.settle(self._each)
        try:
            with self.function.held(), self._settling():
                return self._pulled(cotangent, points, y)
        except (torch.OutOfMemoryError, MemoryError, BadInput):
            raise
        except Exception as error:
            raise BadInput(backward_failure(self.function.module, error)) from error

    def _settling(self) -> AbstractContextManager[Any]:
        return Settling(self._growth) if self._tight else nullcontext()

    def _pulled(self, cotangent: Tensor, points: Sequence[Tensor], y: End) -> Sequence[Tensor]:
        if not self._whole:
            try:
                return torch.autograd.grad(y, points, cotangent, retain_graph=True, materialize_grads=True)
            except RuntimeError as error:
                if REENTRANT not in str(error):
                    raise
                self._whole = True
        return whole_gradients(y, points, cotangent)

    def many(self, cotangents: Tensor, points: Sequence[Tensor], y: End) -> Sequence[Tensor]:
        """Products of a batch of cotangents on y in some variables."""
        if self._batched and len(cotangents) > 1:
            try:
                found = self._at_once(cotangents, points, y)
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception:  # vmap says in many ways that it cannot: one by one shows whether torch can
                self._batched = False
            else:
                if not self._doubtful or self._agrees(found, cotangents, points, y):
                    return found
                self._batched = False
        singles = [self.single(one, points, y) for one in cotangents]
        return [torch.stack(parts) for parts in zip(*singles, strict=True)]

    def _at_once(self, cotangents: Tensor, points: Sequence[Tensor], y: End) -> Sequence[Tensor]:
        self._growth.settle(len(cotangents) * self._each)
        with self.function.held(), self._settling():
            return torch.autograd.grad(
                y, points, cotangents, retain_graph=True, is_grads_batched=True, materialize_grads=True
            )

    def _agrees(self, found: Sequence[Tensor], cotangents: Tensor, points: Sequence[Tensor], y: End) -> bool:
        """Whether Python code in the graph means the same to a batch as to one: asked once."""
        self._doubtful = False
        truth = self.single(cotangents[-1], points, y)
        return all(
            torch.allclose(many[-1], one, rtol=1e-4, atol=float(one.abs().max()) * 1e-6)
            for many, one in zip(found, truth, strict=True)
        )


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, of which a copy is kept."""
    return [*module.parameters(), *module.buffers()]


def n_by_n_bytes(function: SequenceFunction) -> int:
    """Bytes of n by n numbers, or n by d, a few times over: more than most passes hold at once."""
    return TIMES * max(function.shape) * max(function.shape[0], function.shape[2]) * function.y.element_size()


def backward_failure(module: nn.Module, error: Exception) -> str:
    """What went wrong on the way back through a module, in one line."""
    who = type(module).__name__
    if "modified by an inplace operation" in str(error):
        return (
            f"{who} was changed after its Jacobian was asked for (ask for it again), or its own forward "
            "writes into numbers that its gradient needs, as a cache of states does "
            "(use_cache=False leaves it out)"
        )
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"the backward pass of {who} fails: {first}"
