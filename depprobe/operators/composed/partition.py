r"""The autograd graph of a traced forward, in the order in which rows pass it.

    segment   glue from some edges down to the next leaves and joins: one call of autograd
    join      a node reached from several segments, where rows are added up and go on once; and every node
              ``depth`` nodes below the last one, where they are rescaled

Without joins a residual stream would be passed once for every path through it, and a loop written by hand
would underflow. Any set of joins is right. A join is made after the trace: a hook before the node stops every
gradient that does not start there, while the node's own edge still captures it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from depprobe.core.calling.passes import DoesNotRun
from depprobe.core.recorded_graph import gradient_bytes, runs_python, swallows_nan
from depprobe.operators.composed.cut import Cut, Edge, Gate, edge_of

#: what is entered while gradients are asked for
Opened = Callable[[], AbstractContextManager[Any]]
#: nodes of glue after which rows are rescaled
DEPTH = 64
#: nodes above one, of steps of a loop, say, that end the segments which lead there
_CROWD = 32


class Routes(NamedTuple):
    """Where exponents go when each position below a segment hears of one position above it at most.

    Positions above are numbered edge after edge, ``sizes`` of each; ``sources`` (n,) gives for each target
    edge the number that each of its positions hears of.
    """

    sizes: list[int]
    sources: dict[Edge, Tensor]


class Segment:
    """Glue from ``edges`` down to ``targets``; ``start`` is the join it begins at, or stands for those that a
    crowd begins at, None at a call or at y.
    """

    def __init__(self, edges: list[Edge], start: object | None = None) -> None:
        self.edges, self.start = edges, start
        self.targets: list[Edge] = []
        #: whether Python code of the user's runs in it, which need not treat NaN like a number
        self.opaque = False
        #: whether hooks of a tensor where it begins saw what arrived there
        self.caught = False
        #: which position hears of which, (None,) where of several; None: not tried yet
        self.routes: tuple[Routes | None] | None = None
        #: time axes of targets below each edge where it acts by position, None where that is not known
        self.axes: dict[Edge, dict[Edge, int] | None] = {}
        #: what passes it node by node, (None,) where the engine does; None: not tried
        self.walk: tuple[Any] | None = None
        #: shape and time axis below where it only arranges entries anew, (None,) elsewhere; None: not tried
        self.straight: tuple[tuple[torch.Size, int] | None] | None = None


class Partition:
    """Segments and calls of one traced forward, from where rows begin to each of some points on the way.

    Attributes
    ----------
    points : edges of the points; rows are collected at each, and go on where it is no leaf.
    steps : segments and cuts in the order in which rows pass them, the output's own segment first.
    port_segments : the segment below each cut, over those of its input ports that lead to x.
    axis : time axis of the tensor at an edge, None where it cannot be told.
    unserved : edge of an output without a pull, and the cut it belongs to.
    joins, nodes : how many there are.
    runs_python : whether code that may swallow NaN runs on the way back; ``own_code`` if some is the user's.
    narrowest : floating dtype of least range on the way.
    largest, total : bytes of the largest gradient on the way, and of all together.
    """

    def __init__(
        self,
        top: Edge,
        points: Sequence[Tensor],
        cuts: list[Cut],
        lengths: set[int],
        depth: int = DEPTH,
        hooked: Sequence[tuple[Node, bool]] = (),
    ) -> None:
        self.points = [edge for edge in map(edge_of, points) if edge is not None]
        assert len(self.points) == len(points), "every point is in the graph"
        self.gate = Gate()
        self.steps: list[Segment | Cut] = []
        self.port_segments: dict[Cut, tuple[Segment, list[int]]] = {}
        self.axis: dict[Edge, int | None] = dict.fromkeys([top, *self.points], 0)
        self.unserved: dict[Edge, Cut] = {edge: cut for cut in cuts for edge in cut.unserved}
        self._marked = {node for node, _ in self.points}
        self._leaves = {node for node in self._marked if not node.next_functions}
        self._leaves |= {edge[0] for edge in self.unserved}
        self._owner: dict[Node, Cut] = {}
        self.axis |= dict.fromkeys(self.unserved)
        for cut in cuts:
            for port in (*cut.inputs, *cut.outputs):
                if port.edge is not None:
                    self.axis[port.edge] = port.axis
            self._owner |= {port.edge[0]: cut for port in cut.outputs if port.edge is not None}
        self._lengths = lengths | {
            port.shape[port.axis] for cut in cuts for port in (*cut.inputs, *cut.outputs)
        }
        self._depth, self._hooked = depth, {node for node, _ in hooked}
        self._caught = {node for node, of_tensor in hooked if of_tensor}
        self._seen = {node for node, of_tensor in hooked if not of_tensor}
        self.joins = 0
        self.runs_python = self.own_code = False
        self.narrowest, self.largest, self.total = kind_of(top)[0], 0, 0
        #: whether segments may be passed node by node: hooks would not run, nor streams of a device be set
        self.walks = kind_of(top)[1].type == "cpu" and not hooked
        order = list(topological([top[0]], self._below))
        self.nodes = len(order)
        useful = self._useful(order)
        self._crowded = self._members(order, useful)
        self._lay(top, order, useful)

    @cached_property
    def ends(self) -> int:
        """Numbers on the targets of all segments, counted anew for each that leads there."""
        segments = [step for step in self.steps if isinstance(step, Segment)]
        segments += [segment for segment, _ in self.port_segments.values()]
        return sum(shape.numel() for one in segments for shape, *_ in facts_of(one.targets))

    def _below(self, v: Node | Cut) -> list[Any]:
        if isinstance(v, Cut):
            return [port.edge[0] for port in v.inputs if port.edge is not None]
        if v in self._owner:
            return [self._owner[v]]
        return [node for node, _ in v.next_functions if node is not None]

    def _useful(self, order: list[Any]) -> set[Any]:
        """What leads to a point, or to an output without a pull."""
        useful = self._leaves | self._marked
        for v in reversed(order):
            if any(below in useful for below in self._below(v)):
                useful.add(v)
        return useful

    def _members(self, order: list[Any], useful: set[Any]) -> dict[Node, list[Edge]]:
        """Nodes that a crowd of others lead to, and to nothing else; each with an empty list of its crowd.

        Where each step of a loop reads a part of one tensor, a segment that ended at that tensor would have
        every step below it run too: to the engine they all lead there.
        """
        above: dict[Node, int] = defaultdict(int)
        for v in order:
            if (below := self._only_below(v, useful)) is not None:
                above[below] += 1
        return {node: [] for node, count in above.items() if count >= _CROWD}

    def _only_below(self, v: Node | Cut, useful: set[Any]) -> Node | None:
        """The one node that a node of glue leads to, if it is one."""
        if isinstance(v, Cut) or v not in useful:
            return None
        if v in self._leaves or v in self._marked or v in self._owner:
            return None
        below = {node for node, _ in v.next_functions if node in useful}
        return below.pop() if len(below) == 1 else None

    def _lay(self, top: Edge, order: list[Any], useful: set[Any]) -> None:
        arriving: dict[Node, dict[Segment, int]] = defaultdict(dict)
        numbers: dict[Node, dict[int, None]] = defaultdict(dict)
        first = Segment([top])
        arriving[top[0]][first] = 0
        numbers[top[0]][top[1]] = None
        self.steps.append(first)
        for v in order:
            if v not in useful:
                continue
            if isinstance(v, Cut):
                self._cut(v, useful, arriving, numbers)
                continue
            self._measure(v)
            if self._crowded.get(v):
                self._gather(v, arriving, numbers)
            segments = arriving[v]
            python = swallows_nan(v) or v in self._hooked
            if python:
                self.runs_python = True
                self.own_code |= runs_python(v) or v in self._hooked
                for segment in segments:
                    segment.opaque = True
            shared = None if python else self._only_below(v, useful)
            if shared is not None and shared in self._crowded:
                edges = [(v, number) for number in numbers[v]]
                self._crowded[shared] += edges
                for segment in segments:
                    segment.targets += edges
                continue
            ends = v in self._leaves or v in self._owner
            own, passed = next(iter(segments.items()))
            if ends or v in self._marked or len(segments) > 1 or passed > self._depth:
                for segment in segments:
                    segment.targets += [(v, number) for number in numbers[v]]
                if ends:
                    continue
                own, passed = self._join(v, list(numbers[v])), 0
                own.opaque, own.caught = python, v in self._caught
                if own.caught and (v in self._seen or runs_python(v)):
                    raise DoesNotRun("hooks of both kinds stand on a tensor, or on what a function puts out")
            for below, number in v.next_functions:
                if below in useful:
                    arriving[below][own] = max(passed + 1, arriving[below].get(own, 0))
                    numbers[below][number] = None

    def _measure(self, node: Node) -> None:
        for piece in getattr(node, "_input_metadata", ()):
            if piece.is_nested_tensor:
                raise DoesNotRun("rows cannot be followed through nested tensors")
            size = gradient_bytes(piece)
            self.largest, self.total = max(self.largest, size), self.total + size
            wide = torch.finfo(self.narrowest).tiny
            if piece.dtype.is_floating_point and torch.finfo(piece.dtype).tiny > wide:
                self.narrowest = piece.dtype

    def _cut(self, cut: Cut, useful: set[Any], arriving: Any, numbers: Any) -> None:
        self.steps.append(cut)
        wanted = [i for i, port in enumerate(cut.inputs) if port.edge is not None and port.edge[0] in useful]
        edges = list(dict.fromkeys(cut.inputs[i].edge for i in wanted))
        segment = Segment([edge for edge in edges if edge is not None])
        self.port_segments[cut] = segment, wanted
        for node, number in segment.edges:
            arriving[node][segment] = 0
            numbers[node][number] = None

    def _gather(self, node: Node, arriving: Any, numbers: Any) -> None:
        """One segment from a crowd to the node that all of them lead to."""
        segment = self._begin(self._crowded[node], object())
        arriving[node][segment] = 0
        for v, _ in segment.edges:
            numbers[node] |= {number: None for below, number in v.next_functions if below == node}

    def _join(self, node: Node, numbers: list[int]) -> Segment:
        return self._begin([(node, number) for number in numbers], node)

    def _begin(self, edges: list[Edge], start: object) -> Segment:
        segment = Segment(edges, start)
        self.steps.append(segment)
        self.joins += 1
        for edge, (shape, *_) in zip(segment.edges, facts_of(segment.edges), strict=True):
            self.axis.setdefault(edge, self._guess(shape))
        for node in dict.fromkeys(node for node, _ in edges):
            node.register_prehook(self.gate.hook(node, start))
        return segment

    def _guess(self, shape: torch.Size) -> int | None:
        axes = [i for i, size in enumerate(shape) if size in self._lengths]
        return axes[0] if len(axes) == 1 else None


def facts_of(edges: Sequence[Edge]) -> list[tuple[torch.Size, torch.dtype, torch.device]]:
    """Shape, dtype and device of the tensor at each of some places in the graph."""
    # a node tells of all its outputs, in a list that is made anew each time
    nodes = {node for node, _ in edges}
    told = {node: [node.variable] if hasattr(node, "variable") else node._input_metadata for node in nodes}
    pieces = [told[node][number] for node, number in edges]
    return [(torch.Size(piece.shape), piece.dtype, piece.device) for piece in pieces]


def kind_of(edge: Edge) -> tuple[torch.dtype, torch.device]:
    """dtype and device of the tensor at a place in the graph."""
    return facts_of([edge])[0][1:]


def topological(starts: Iterable[Any], below: Callable[[Any], list[Any]]) -> Iterator[Any]:
    """Everything below some starts, and these, each after all that lead to it."""
    seen, order = set[Any](), list[Any]()
    for start in starts:
        if start in seen:
            continue
        seen.add(start)
        stack = [(start, iter(below(start)))]
        while stack:
            for other in stack[-1][1]:
                if other not in seen:
                    seen.add(other)
                    stack.append((other, iter(below(other))))
                    break
            else:
                order.append(stack.pop()[0])
    return reversed(order)
