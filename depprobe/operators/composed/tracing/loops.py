r"""Loops over a cell in a forward pass: calls that follow one another on the state handed on are one cut.

    h_1 = cell(x_1, h_0), ..., h_n = cell(x_n, h_{n-1})      one cut with inputs x_1, ..., x_n, h_0

A call joins a loop if it goes on from the loop's last state, as that was handed out, and if its input does
not depend on what the loop has put out, as in a decoder that reads its own output: that would close a circle.
What joins no loop is left to autograd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.autograd.graph import Node

from depprobe.operators.calls import known_cells
from depprobe.operators.composed.cut import Cut, Port, edge_of, unseen

if TYPE_CHECKING:
    from depprobe.operators.composed.tracing.trace import Tracer

#: nodes that change nothing but the shape
_VIEWS = (
    "SqueezeBackward",
    "UnsqueezeBackward",
    "ViewBackward",
    "UnsafeViewBackward",
    "ReshapeAliasBackward",
)

#: bytes that a step takes besides tensors: objects, and the graph of the cell before it was cut out
_OBJECTS = 8 << 10


class Loop(Cut):
    """The calls of one cell so far."""

    def __init__(self, ordinal: int, call: Any) -> None:
        self._xs: list[Tensor] = []
        self._states = [state.detach().clone() for state in call.states]
        super().__init__(ordinal, [], lambda: call.loop(self._xs, self._states))
        self._step = call.held + _OBJECTS
        self._below = [Port(edge_of(state), state.shape, 0) for state in call.states]
        self.inputs = list(self._below)
        #: where the states that were handed out last stand
        self.last: list[Node | None] = []
        #: nodes that are known not to depend on the loop
        self.clean: set[Node] = set()

    def add(self, x: Tensor) -> None:
        """One step more."""
        self._xs.append(x.detach().clone())
        self.held += self._step
        steps = self.inputs[: len(self._xs) - 1]
        self.inputs = [*steps, Port(edge_of(x), x.shape, 0), *self._below]


class Loops:
    """The loops of one forward pass, by cell."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        #: loop of each cell, by its function and weights; None where its calls do not follow one another
        self._of: dict[Any, Loop | None] = {}

    def step(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What one call hands on, or None where it is left to autograd."""
        call = known_cells[function](*args, **kwargs)
        if call is None or not any(x.requires_grad for x in (call.x, *call.states)):
            return None
        key = (function, *map(id, call.weights))
        loop = self._of.get(key)
        if key not in self._of:
            loop = self._start(call)
        elif loop is not None and not self._follows(loop, call):
            loop = None
        self._of[key] = loop
        if loop is None:
            return None
        loop.add(call.x)
        given = [x.detach().requires_grad_() for x in (call.x, *call.states)]
        with unseen():
            outputs = call.run(given[0], tuple(given[1:]) if len(given) > 2 else given[1], *call.weights)
        single = isinstance(outputs, Tensor)
        handed = tuple(self._tracer.handed(loop, x, 0) for x in ((outputs,) if single else outputs))
        loop.last = [state.grad_fn for state in handed]
        return handed[0] if single else handed

    def _start(self, call: Any) -> Loop | None:
        ordinal = self._tracer.next_ordinal()
        if ordinal is None or any(self._tracer.moves(weight) for weight in call.weights):
            return None
        loop = Loop(ordinal, call)
        self._tracer.cuts.append(loop)
        return loop

    def _follows(self, loop: Loop, call: Any) -> bool:
        states = [_without_views(state.grad_fn) for state in call.states]
        return states == loop.last and not self._depends(call.x.grad_fn, loop)

    def _depends(self, node: Node | None, loop: Loop) -> bool:
        """Whether a node depends on what a loop has put out."""
        owner, seen = self._tracer.owner, set[Node]()
        waiting = [node] if node is not None else []
        while waiting:
            here = waiting.pop()
            if here in seen or here in loop.clean:
                continue
            seen.add(here)
            if here in owner:
                if owner[here] is loop:
                    return True
                waiting += [port.edge[0] for port in owner[here].inputs if port.edge is not None]
            waiting += [below for below, _ in here.next_functions if below is not None]
        loop.clean |= seen
        return False


def _without_views(node: Node | None) -> Node | None:
    """The node below those that change nothing but the shape."""
    while node is not None and node.name().startswith(_VIEWS):
        node = node.next_functions[0][0]
    return node
