r"""Stretches of the graph that only arrange entries anew: rows pass them by a reshape.

y = views(x):   R on y  ->  the same numbers on x,    shown with a row of ordinal numbers
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from depprobe.core.scaled import Scaled
from depprobe.operators.composed.cotangents import Rows
from depprobe.operators.composed.cut import Edge, flat, unflat
from depprobe.operators.composed.partition import kind_of

_VIEWS = tuple(
    f"{name}Backward"
    for name in (
        *("Alias", "Clone", "Permute", "Transpose", "T", "Squeeze", "Unsqueeze"),
        *("View", "UnsafeView", "ReshapeAlias", "Select"),
    )
)
#: what cuts a tensor into parts, and what puts them together again
_PARTS = {
    "UnbindBackward0": torch.stack,
    "SplitBackward0": torch.cat,
    "SplitWithSizesBackward0": torch.cat,
}


def below_view(edge: Edge) -> Edge | None:
    """The place below a node that is a view, else None."""
    node: Node | None
    node, number = edge[0].next_functions[0] if edge[0].name().startswith(_VIEWS) else (None, 0)
    return None if node is None else (node, number)


def below_parts(edges: Sequence[Edge], grads: Sequence[Tensor]) -> tuple[list[Edge], list[Tensor]]:
    """Gradients (r, *shape) on many parts of one tensor as one on that tensor, and all others as they are.

    Of a loop's inputs there are as many parts as steps, and of every one torch asks for the shapes of all.
    """
    parts: dict[Node, dict[int, Tensor]] = {}
    others: dict[Edge, Tensor] = {}
    for (node, number), grad in zip(edges, grads, strict=True):
        if node.name() in _PARTS:
            parts.setdefault(node, {})[number] = grad
        else:
            others[node, number] = grad
    for node, known in parts.items():
        like, (above, output) = next(iter(known.values())), node.next_functions[0]
        assert above is not None, "what is differentiated leads to a point"
        below = above, output
        shapes = [piece.shape for piece in node._input_metadata]
        every = [
            known[i] if i in known else like.new_zeros(len(like), *shape) for i, shape in enumerate(shapes)
        ]
        dim = int(node._saved_dim)  # type: ignore[attr-defined]  # below 0 it comes as 2^64 - 1
        joined = _PARTS[node.name()](every, dim + 1 if dim < len(shapes[0]) + 1 else dim - (1 << 64))
        others[below] = others[below] + joined if below in others else joined
    return [*others], [*others.values()]


def axis_below(edge: Edge, shape: torch.Size, axis: int, below: Edge) -> tuple[torch.Size, int] | None:
    """Shape and time axis at a place below some views; None where they change the order, or it is long."""
    size, (dtype, device) = shape.numel(), kind_of(edge)
    if not dtype.is_floating_point or size * torch.finfo(dtype).eps > 1:
        return None
    order = torch.arange(size, dtype=dtype, device=device).view(1, shape[axis], -1)
    above = unflat(order, shape, axis)[0]
    (found,) = torch.autograd.grad(GradientEdge(*edge), GradientEdge(*below), above, retain_graph=True)
    for other, length in enumerate(found.shape):
        if length == shape[axis] and found.numel() == size and torch.equal(flat(found[None], other), order):
            return found.shape, other
    return None


def moved(rows: Rows, axis: int, shape: torch.Size, other: int) -> Rows:
    """Rows with time on ``axis`` as rows on a tensor of another shape with time on ``other``."""

    def part(x: Tensor) -> Tensor:
        rest = [size for i, size in enumerate(x.shape[1:]) if i != axis]
        if len({size > 1 for size in rest}) > 1:
            x = x.expand(-1, *rows.live.shape[1:])
        return unflat(flat(x, axis), shape, other)

    return Rows(Scaled(part(rows.scaled.values), part(rows.scaled.log_scale)), part(rows.live), rows.owner)
