r"""A piece of a long graph, passed node by node without torch's engine.

    (r, *shape) on some edges  ->  (r, *shape) on others below,     each node after all that lead to it

Before it runs anything the engine looks at every node that stands below. Of a loop written by hand a piece is
a step, and below it stand all steps before: n steps would take n^2 looks. Here only the nodes of the piece
are looked at, once. What the engine does behind each node is done here too: gradients are summed to the shape
that was broadcast, and cast to the dtype of what they belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._vmap_internals import _vmap
from torch.autograd.graph import Node

from depprobe.operators.composed.cut import Edge
from depprobe.operators.composed.partition import Partition, Segment, facts_of, topological

#: nodes of a graph, and times as many as those of a piece, from which the engine's looks at all cost more
_LONG, _SHORTER = 256, 4


class _Below(NamedTuple):
    """Where the gradient of one operand of a node goes."""

    operand: int
    edge: Edge
    shape: torch.Size
    dtype: torch.dtype


class Walk:
    """The nodes from some edges down to others. Hooks on the way are passed by, and no Python code may run.

    Parameters
    ----------
    edges, targets : where rows begin, and where they are wanted; no target leads to another.

    Examples
    --------
    >>> x = torch.ones(2, requires_grad=True)
    >>> y = 3 * x
    >>> edges = [tuple(torch.autograd.graph.get_gradient_edge(z)[:2]) for z in (y, x)]
    >>> Walk(edges[:1], edges[1:]).products(edges[:1], [torch.eye(2)])
    (tensor([[3., 0.],
            [0., 3.]]),)
    """

    def __init__(self, edges: Sequence[Edge], targets: Sequence[Edge]) -> None:
        self._targets = list(targets)
        ends = {node for node, _ in targets}
        starts = dict.fromkeys(node for edge in edges if edge not in self._targets for node in edge[:1])

        def below(node: Node) -> list[Node]:
            on = node not in ends or node in starts
            return [other for other, _ in node.next_functions if other is not None] if on else []

        order = list(topological(starts, below))
        useful = set(ends)
        self._nodes: list[tuple[Node, int, list[_Below]]] = []
        for node in reversed(order):
            if node in ends and node not in starts:
                continue
            leads = [(i, edge) for i, edge in enumerate(node.next_functions) if edge[0] in useful]
            if leads:
                useful.add(node)
                facts = facts_of([edge for _, edge in leads])
                places = [_Below(i, edge, *fact[:2]) for (i, edge), fact in zip(leads, facts, strict=True)]
                self._nodes.append((node, len(node._input_metadata), places))
        self._nodes.reverse()

    def __len__(self) -> int:
        return len(self._nodes)

    def products(self, edges: Sequence[Edge], grads: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Vector-Jacobian products, (r, *shape) on each target, None where none arrives."""

        def run(grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
            return self._run(edges, grads)

        with torch.no_grad():
            found: Sequence[Tensor | None] = _vmap(run, 0, 0, allow_none_pass_through=True)(tuple(grads))
        return found

    def _run(self, edges: Sequence[Edge], grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        held: dict[Edge, Tensor] = {}
        for edge, grad in zip(edges, grads, strict=True):
            held[edge] = held[edge] + grad if edge in held else grad
        for node, count, below in self._nodes:
            given = [held.pop((node, number), None) for number in range(count)]
            if all(grad is None for grad in given):
                continue
            made = node(*given)  # type: ignore[operator]  # nodes of torch's own are called so
            made = made if isinstance(made, tuple) else (made,)
            for operand, edge, shape, dtype in below:
                part = made[operand]
                if part is None:
                    continue
                part = part.sum_to_size(shape) if part.shape != shape else part
                part = part.real if part.is_complex() and not dtype.is_complex else part
                part = part.to(dtype) if part.dtype != dtype else part
                held[edge] = held[edge] + part if edge in held else part
        return tuple(held.get(edge) for edge in self._targets)


def past(
    edges: Sequence[Edge], grads: Sequence[Tensor], targets: Sequence[Edge]
) -> tuple[list[Edge], list[Tensor]]:
    """Gradients on the outputs of one node as those below it: hooks on its tensors have seen them where they
    were caught, and would again where they go on.
    """
    node = edges[0][0]
    below = [(other, number) for other, number in dict.fromkeys(node.next_functions) if other is not None]
    inner = [edge for edge in below if edge in targets or not hasattr(edge[0], "variable")]
    found = zip(inner, Walk(edges, inner).products(edges, grads), strict=True)
    some = {edge: grad for edge, grad in found if grad is not None}
    return [*some], [*some.values()]


def walk_of(segment: Segment, partition: Partition) -> Walk | None:
    """What passes a segment: None for the engine, where the graph is short, or code of the user's may run."""
    if segment.walk is None:
        found = None
        if partition.nodes > _LONG and partition.walks and not segment.opaque:
            found = Walk(segment.edges, segment.targets)
        segment.walk = (found if found is not None and partition.nodes > _SHORTER * len(found) else None,)
    return segment.walk[0]
