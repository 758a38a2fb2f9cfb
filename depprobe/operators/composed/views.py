r"""Stretches of the graph that only arrange entries anew: rows pass them by a reshape.

y = views(x):   R on y  ->  the same numbers on x,    shown with a row of ordinal numbers
"""

from __future__ import annotations

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


def below_view(edge: Edge) -> Edge | None:
    """The place below a node that is a view, else None."""
    node: Node | None
    node, number = edge[0].next_functions[0] if edge[0].name().startswith(_VIEWS) else (None, 0)
    return None if node is None else (node, number)


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
