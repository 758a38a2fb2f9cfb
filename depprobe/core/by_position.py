r"""Which stretches of an autograd graph act on each position by itself, read off the kinds of their nodes.

    y[.., t, ..] = f(x[.., t, ..]),    time on axis a of y and b of x:    (node, a)  ->  b

Every node either keeps positions apart and says on which axis they stand below it, or is not known to: then
nothing is said, and a cotangent of NaN can still show it, at the cost of a backward pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch.autograd.graph import Node

#: a place in the autograd graph: the output number of a node
Place = tuple[Node, int]
Shape = Sequence[int]
#: from a node, the number of an operand, time axis and shape of the result, and shape of the operand, to the
#: time axis of the operand
Rule = Callable[[Any, int, int, Shape, Shape], int | None]


def shape_of(place: Place) -> torch.Size:
    """Shape of the tensor at a place in the graph."""
    node, number = place
    if hasattr(node, "variable"):
        return node.variable.shape
    return torch.Size(node._input_metadata[number].shape)


def axes_below(start: Place, axis: int, ends: Collection[Place]) -> dict[Place, int] | None:
    """Time axes at those of some ends that a path leads to from a place with time on ``axis``.

    None where a position below may be heard of by another one above.

    Examples
    --------
    >>> x = torch.ones(1, 7, 3, requires_grad=True)
    >>> y = (2 * x).exp().mT.unsqueeze(0)
    >>> places = [tuple(torch.autograd.graph.get_gradient_edge(z)[:2]) for z in (y, x)]
    >>> list(axes_below(places[0], 3, places[1:]).values())
    [1]
    >>> y = x.cumsum(1)
    >>> axes_below((y.grad_fn, 0), 1, places[1:]) is None
    True
    """
    last = {node for node, _ in ends}
    leading = _leading(start[0], last)
    found: dict[Place, int] = {}
    waiting = [(start, axis)]
    while waiting:
        place, axis = waiting.pop()
        if place in found:
            if found[place] != axis:
                return None
            continue
        found[place] = axis
        node, _ = place
        if node in last and place != start:
            continue
        rule = _RULES.get(re.sub(r"Backward\d*$", "", node.name()))
        shape = shape_of(place)
        for operand, (below, number) in enumerate(node.next_functions):
            if below is None or below not in leading:
                continue
            size = shape_of((below, number))
            other = None if rule is None else rule(node, operand, axis, shape, size)
            if other is None or other < 0 or size[other] != shape[axis]:
                return None
            waiting.append(((below, number), other))
    return {place: axis for place, axis in found.items() if place in ends}


def _leading(start: Node, last: set[Node]) -> set[Node]:
    """Nodes from which a path leads to one of the last."""
    leading, seen = set(last), set[Node]()
    waiting: list[tuple[Node, bool]] = [(start, False)]
    while waiting:
        node, done = waiting.pop()
        below = [n for n, _ in node.next_functions if n is not None]
        if done:
            if any(n in leading for n in below):
                leading.add(node)
        elif node not in seen:
            seen.add(node)
            # after all that it leads to
            waiting.append((node, True))
            waiting += [(n, False) for n in below if n not in seen and n not in last]
    return leading


def _entries(node: Any, operand: int, axis: int, shape: Shape, below: Shape) -> int:
    """Each entry by itself, smaller operands repeated."""
    return axis - len(shape) + len(below)


def _apart(name: str) -> Rule:
    """Along the axes in an attribute alone, which stay where they are."""

    def rule(node: Any, operand: int, axis: int, shape: Shape, below: Shape) -> int | None:
        return None if axis in _axes(getattr(node, name), len(shape)) else axis

    return rule


def _normalised(node: Any, operand: int, axis: int, shape: Shape, below: Shape) -> int | None:
    """Along the last axes."""
    given = getattr(node, "_saved_normalized_shape", None)
    return axis if given is not None and axis < len(shape) - len(given) else None


def _reduced(node: Any, operand: int, axis: int, shape: Shape, below: Shape) -> int | None:
    """Sums and means along some axes."""
    if not hasattr(node, "_saved_dim"):
        return None
    gone = _axes(node._saved_dim, len(below))
    kept = [i for i in range(len(below)) if node._saved_keepdim or i not in gone]
    return None if kept[axis] in gone else kept[axis]


def _rows(node: Any, operand: int, axis: int, shape: Shape, below: Shape) -> int | None:
    """Products of matrices: rows of the first, columns of the second."""
    operand -= node.name().startswith("Add")
    return axis if axis == len(shape) - 2 + operand and operand >= 0 else None


def _viewed(node: Any, operand: int, axis: int, shape: Shape, below: Shape) -> int | None:
    """Entries in the same order, other axes taken together or apart."""
    before = math.prod(shape[:axis])
    fits = (i for i, n in enumerate(below) if n == shape[axis] and math.prod(below[:i]) == before)
    return next(fits, None) if shape[axis] > 1 and math.prod(shape) == math.prod(below) else None


def _swapped(node: Any, operand: int, axis: int, shape: Shape, below: Shape) -> int | None:
    names = ("_saved_dim0", "_saved_dim1")
    pair = (
        [_axes(getattr(node, name), len(shape))[0] for name in names] if hasattr(node, names[0]) else [0, 1]
    )
    return pair[1 - pair.index(axis)] if axis in pair else axis


def _permuted(node: Any, operand: int, axis: int, shape: Shape, below: Shape) -> int | None:
    return _axes(node._saved_dims, len(shape))[axis]


def _taken(node: Any, operand: int, axis: int, shape: Shape, below: Shape) -> int | None:
    """One place on an axis, which is gone."""
    (gone,) = _axes(node._saved_dim, len(below))
    return axis + (axis >= gone)


def _axes(value: Any, ndim: int) -> list[int]:
    """Axes as torch keeps them: negative ones as unsigned numbers."""
    given = value if isinstance(value, (tuple, list)) else (value,)
    return [(one - (1 << 64) if one >= 1 << 63 else one) % ndim for one in given]


_ENTRIES = (
    *("Add", "Sub", "Rsub", "Mul", "Div", "Neg", "Pow", "Exp", "Log", "Sqrt", "Rsqrt", "Reciprocal", "Abs"),
    *("Tanh", "Sigmoid", "Relu", "Gelu", "Silu", "Softplus", "Elu", "LeakyRelu", "Erf", "Sin", "Cos"),
    *("Clone", "ToCopy", "Alias", "Expand", "Where", "MaskedFill", "Clamp", "Maximum", "Minimum", "Hardtanh"),
    *("Hardsigmoid", "Hardswish", "Mish", "LogSigmoid", "Square", "Expm1", "Log1P", "Threshold", "Prelu"),
)
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ENTRIES, _entries),
    **dict.fromkeys(
        ("Softmax", "LogSoftmax", "Slice", "Cat", "Split", "SplitWithSizes"), _apart("_saved_dim")
    ),
    **dict.fromkeys(("NativeLayerNorm", "FusedRmsNorm"), _normalised),
    **dict.fromkeys(("Mean", "Sum"), _reduced),
    **dict.fromkeys(("Mm", "Addmm"), _rows),
    **dict.fromkeys(("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze"), _viewed),
    **dict.fromkeys(("Transpose", "T"), _swapped),
    "Permute": _permuted,
    **dict.fromkeys(("Select", "Unbind"), _taken),
}
