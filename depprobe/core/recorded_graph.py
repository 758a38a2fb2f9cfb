"""What a recorded autograd graph tells without running it: its dtypes, its sizes, and code of the user's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge


class GraphFacts(NamedTuple):
    """Facts of the nodes between an output and a leaf.

    ``narrowest`` floating dtype on the way; ``total`` and ``largest`` bytes of the gradients that one
    product makes, all nodes together and of the largest; ``has_python`` where a node runs
    Python code, or swallows NaN all the same; ``nodes`` how many there are; ``own_code`` where one runs
    Python code.
    """

    narrowest: torch.dtype
    total: int
    largest: int
    has_python: bool
    nodes: int
    own_code: bool = False


#: in what torch says where all gradients must be asked for
REENTRANT = "use_reentrant"
#: nodes that may stand where a dtype changes: casts, and stores into tensors of another dtype
_CASTS = frozenset({"ToCopyBackward0", "CopySlices", "CopyBackwards"})
#: functions of torch that take a dtype
_TYPED = ("Sum", "Mean", "Prod", "Cumsum", "Cumprod", "Softmax", "LogSoftmax", "Norm", "LinalgVectorNorm")
_TYPED_NODES = frozenset(f"{name}Backward{number}" for name in _TYPED for number in range(4))
#: nodes of torch's whose kernels unfold what they read, and how many times as much they take inside
_UNFOLDING, _LARGE = ("Convolution", "Attention"), 4
#: nodes of torch's that are whole recurrences
_HOLDING_GATES = ("MkldnnRnn", "CudnnRnn", "MpsLstm", "ThnnFused")
#: nodes of torch's that give 0 for a cotangent of NaN where there is a path
_SWALLOWS_NAN = frozenset({"LogcumsumexpBackward0"})


def runs_python(node: Any) -> bool:
    """Whether code of the user's runs in a node."""
    return issubclass(type(node), torch.autograd.function.BackwardCFunction)


def swallows_nan(node: Any) -> bool:
    """Whether a cotangent of NaN need not arrive below a node although a path leads there."""
    return runs_python(node) or type(node).__name__ in _SWALLOWS_NAN


def simple_nodes(y: Tensor, leaf: Tensor) -> int:
    """How many nodes there are if none changes the dtype or runs Python code, else 0.

    They are not looked into: a fifth of the time of ``graph_facts``, which matters where there are thousands.
    """
    seen: set[Any] = set()
    waiting: list[Any] = [y.grad_fn]
    found = False
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind.__name__ in _CASTS or swallows_nan(node):
            return 0
        if kind.__name__ in _TYPED_NODES and node._input_metadata[0].dtype is not y.dtype:
            return 0
        below = node.next_functions
        found = found or _is_of(node, leaf)
        for other, _ in below:
            if other is not None and other not in seen:
                seen.add(other)
                waiting.append(other)
    return 1 + len(seen) if found and y.dtype is leaf.dtype else 0


def graph_facts(y: Tensor, leaf: Tensor) -> GraphFacts:
    """Read the graph from y down to the leaf.

    Examples
    --------
    >>> leaf = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    >>> graph_facts(leaf.float().exp().double(), leaf).narrowest
    torch.float32
    """
    narrowest, total, largest, has_python, own_code = y.dtype, 0, 0, False, False
    nodes = _nodes_between(y, leaf)
    for node in nodes:
        has_python |= swallows_nan(node)
        own_code |= runs_python(node)
        for metadata in node._input_metadata:
            dtype = metadata.dtype
            size = gradient_bytes(metadata)
            total += size
            largest = max(largest, size)
            if dtype.is_floating_point and torch.finfo(dtype).tiny > torch.finfo(narrowest).tiny:
                narrowest = dtype
    return GraphFacts(narrowest, total, largest, has_python, len(nodes), own_code)


def coarsest(y: Tensor) -> torch.dtype:
    """The floating dtype of fewest digits among those on the way to an output.

    Examples
    --------
    >>> coarsest(torch.ones(2, requires_grad=True).bfloat16().exp().double())
    torch.bfloat16
    """
    nodes: set[Any] = {y.grad_fn} - {None}
    waiting = list(nodes)
    while waiting:
        new = {below for below, _ in waiting.pop().next_functions} - nodes - {None}
        nodes |= new
        waiting += new
    told = {piece.dtype for node in nodes for piece in node._input_metadata} | {y.dtype}
    return max((dtype for dtype in told if dtype.is_floating_point), key=lambda dtype: torch.finfo(dtype).eps)


def gradient_bytes(metadata: Any) -> int:
    """Bytes of a gradient, told by the metadata of a node; 0 of a nested tensor, which has no one shape."""
    return 0 if metadata.is_nested_tensor else math.prod(metadata.shape) * metadata.dtype.itemsize


def saved_bytes(y: Tensor, besides: Iterable[Tensor] = ()) -> int:
    """Bytes that the graph behind y keeps for the way back, those of some tensors left out.

    Examples
    --------
    >>> leaf = torch.ones(4, 3, requires_grad=True)
    >>> saved_bytes(leaf.sin().sin()), saved_bytes(leaf + leaf)
    (96, 0)
    """
    apart = {x.untyped_storage()._cdata for x in besides}
    sizes: dict[int, int] = {}
    names: dict[Any, list[str]] = {}
    seen: set[Any] = {None}
    waiting: list[Any] = [y.grad_fn]
    while waiting:
        node = waiting.pop()
        below = {other for other, _ in getattr(node, "next_functions", ())} - seen
        seen |= below
        waiting += below
        kind = type(node)
        if kind not in names:
            names[kind] = [name for name in dir(kind) if name.startswith("_raw_saved_")]
        for name in names[kind]:
            saved = getattr(node, name)
            for one in saved if isinstance(saved, (tuple, list)) else (saved,):
                kept = getattr(one, "data", None)  # as it is kept: to unpack it may run a checkpoint anew
                if isinstance(kept, Tensor):
                    storage = kept.untyped_storage()
                    sizes[storage._cdata] = storage.nbytes()
    return sum(size for key, size in sizes.items() if key not in apart)


def reaches(y: Tensor, leaf: Tensor) -> bool:
    """Whether a path leads from y down to the leaf; the first that is found tells."""
    seen: set[Any] = {None}
    waiting: list[Any] = [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        if _is_of(node, leaf):
            return True
        seen.add(node)
        waiting += [below for below, _ in node.next_functions]
    return False


def holds_gates(y: Tensor) -> bool:
    """Whether a node on the way to y is a whole recurrence, whose gates do not show."""
    seen: set[Any] = set()
    waiting: list[Any] = [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if type(node).__name__.startswith(_HOLDING_GATES):
            return True
        below = [other for other, _ in node.next_functions if other is not None and other not in seen]
        seen.update(below)
        waiting += below
    return False


def _nodes_between(y: Tensor, leaf: Tensor) -> list[Any]:
    """Nodes of y's graph from which the leaf is reached."""
    # children first, so that a node is looked at after all that it leads to
    order: list[Any] = []
    seen: set[Any] = set()
    waiting: list[tuple[Any, bool]] = [(y.grad_fn, False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(below, False) for below, _ in node.next_functions if below not in seen]
    reaching: dict[Any, None] = {}
    for node in order:
        if _is_of(node, leaf) or any(b in reaching for b, _ in node.next_functions):
            reaching[node] = None
    return list(reaching)


def _is_of(node: Any, x: Tensor) -> bool:
    """Whether gradients in a tensor, a leaf or one on the way, arrive at this node."""
    return node is x.grad_fn if x.grad_fn is not None else getattr(node, "variable", None) is x


def backward_bytes(y: Tensor, leaf: Tensor) -> int:
    """Bytes of the gradients alive at once, at most, while one product runs down the graph.

    Nodes run as autograd runs them: of those that are ready, the one recorded last.
    """
    nodes = _nodes_between(y, leaf)
    between = set(nodes)
    alive: dict[Any, int] = {y.grad_fn: y.numel() * y.element_size()}
    live = peak = alive[y.grad_fn]
    for node in sorted(nodes, key=lambda node: -_recorded_as(node)):
        below = {b for b, _ in node.next_functions if b in between and b not in alive}
        sizes = {b: sum(map(gradient_bytes, b._input_metadata)) for b in below}
        alive |= sizes
        live += sum(sizes.values())
        # what a kernel makes inside itself is about as large as what goes in and out, or a few times that
        inside = _LARGE if any(word in type(node).__name__ for word in _UNFOLDING) else 1
        peak = max(peak, live + inside * (alive.get(node, 0) + sum(sizes.values())))
        live -= alive.get(node, 0)
    return peak


def _recorded_as(node: Any) -> int:
    """When a node was recorded; the leaf's is last to run."""
    number = node._sequence_nr()
    return -1 if number >= 1 << 62 else number


def whole_gradients(y: Tensor | GradientEdge, points: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """One product where all gradients are asked for, as a reentrant checkpoint wants; they are put back."""
    for point in points:
        point.retain_grad()
    torch.autograd.backward(y, cotangent, retain_graph=True)
    grads = [torch.zeros_like(point) if point.grad is None else point.grad for point in points]
    for point in points:
        point.grad = None
    return grads
