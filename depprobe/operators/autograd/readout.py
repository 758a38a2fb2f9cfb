r"""Linear read-outs: rows on what a last linear map reads take the place of rows on a wider output.

    y_t = W h_t + b,   J[t,:] = W H[t,:],   W = Q R,  Q^T Q = 1:     |J| = |Q^T J|,  Frobenius and spectral
    Fisher (see ``fisher``):  A W = Q R:                            |A J| = |Q^T A J|

So the d columns of Q stand for the V units of the output, V > d: a row of logits takes as many products as
the hidden state is wide. Products end at h, and pass W at the positions alone where rows stand.

Shapes: y (n, V), W (V, d), h (n, d).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from depprobe.operators.autograd import fisher

#: nodes that leave the order of the numbers as it is, where they leave their number
_SAME_ORDER = ("Alias", "Clone", "Squeeze", "Unsqueeze", "View", "UnsafeView", "Reshape", "Select", "Slice")


class Readout(NamedTuple):
    """The linear map behind an output: where its input (n, d) stands in the graph, and W (V, d)."""

    node: Node
    number: int
    weight: Tensor

    @property
    def edge(self) -> GradientEdge:
        """The place of h."""
        return GradientEdge(self.node, self.number)


def readout_of(y: Tensor, points: Sequence[Tensor]) -> Readout | None:
    """The linear map that y (n, V) is the output of, where V > d and all of ``points`` lie below it."""
    ends = {x.grad_fn for x in points if x.grad_fn is not None}
    node: Any = y.grad_fn
    while node is not None and node not in ends and node.name().startswith(_SAME_ORDER):
        (node, number), *_ = node.next_functions
        if node is not None and math.prod(node._input_metadata[number].shape) != y.numel():
            return None
    if node is None or node in ends or node.name() not in ("MmBackward0", "AddmmBackward0"):
        return None
    *bias, (below, number), (weight, _) = node.next_functions
    W = node._saved_mat2
    scaled = node.name() == "AddmmBackward0" and node._saved_alpha != 1
    if below is None or W is None or scaled or tuple(node._input_metadata[0].shape) != y.shape:
        return None
    if W.shape[1] <= W.shape[0] or any(_leads_to(part, points) for part, _ in (*bias, (weight, 0))):
        return None
    return Readout(below, number, W.detach().T)


def _leads_to(node: Any, points: Sequence[Tensor]) -> bool:
    """Whether a weight is computed from what is differentiated in."""
    ends, seen, waiting = {id(x) for x in points}, set(), [node]
    made = {x.grad_fn for x in points if x.grad_fn is not None}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node in made or id(getattr(node, "variable", None)) in ends:
            return True
        seen.add(node)
        waiting += [below for below, _ in node.next_functions]
    return False


class ExactRows:
    """Rows that have the norms of a whole block: all units of the output, or the columns of Q.

    Attributes
    ----------
    count : how many there are of each target.
    """

    def __init__(self, y: Tensor, weight: Tensor | None) -> None:
        self._y, self._weight = y, weight
        self.count = y.shape[1] if self._weight is None else self._weight.shape[1]
        self._known: dict[int | None, Tensor] = {}

    def cotangents(self, t: int, norm: str, numbers: Tensor) -> Tensor:
        """Some of the rows as cotangents (len(numbers), V) on y_t."""
        y = self._y
        if self._weight is None:
            rows = y.new_zeros(len(numbers), y.shape[1])
            rows[torch.arange(len(numbers), device=y.device), numbers] = 1
        else:
            rows = self._columns(t, norm)[numbers]
        return fisher.weighed(rows, y[t]) if norm == fisher.NORM else rows

    def weights(self, t: int, norm: str, mix: Tensor) -> Tensor:
        """Weights (count,) of the rows whose sum is that of all units by ``mix`` (V,)."""
        return mix if self._weight is None else self._columns(t, norm) @ mix

    def _columns(self, t: int, norm: str) -> Tensor:
        """Q^T (d, V), in the dtype of y."""
        assert self._weight is not None
        at = t if norm == fisher.NORM else None
        if at not in self._known:
            W = self._weight.double()
            W = W if at is None else fisher.root_times(W, self._y[t])
            self._known = {at: torch.linalg.qr(W).Q.T.to(self._y).contiguous()}
        return self._known[at]
