r"""The border of a call that was cut out of a forward pass: its ports, and where they stand in the graph.

Shapes: rows (r, *shape) on a tensor; (r, n, width) with its time axis in front and the others flattened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils._python_dispatch import _disable_current_modes

from depprobe.core.memory import BudgetGuard
from depprobe.operators.calls import LinearisedCall

#: a place in the autograd graph: the output number of a node
Edge = tuple[Node, int]


class Port(NamedTuple):
    """A tensor at the border of a call: its place in the graph (None: no gradient), shape and time axis."""

    edge: Edge | None
    shape: torch.Size
    axis: int


class Cut:
    """One known call that was cut out, linearised when rows first reach it.

    Attributes
    ----------
    ordinal : number of the call in the forward pass, those left to autograd included.
    inputs, outputs : ports; ``unserved`` are edges of outputs that have no pull.
    held : bytes of what it is linearised to, as far as they are known.
    """

    def __init__(self, ordinal: int, inputs: list[Port], make: Callable[[], LinearisedCall]) -> None:
        self.ordinal, self.inputs, self._make = ordinal, inputs, make
        self.outputs: list[Port] = []
        self.unserved: list[Edge] = []
        self.held = 0
        self._linearised: LinearisedCall | None = None

    @property
    def linearised(self) -> LinearisedCall:
        """The call at its inputs."""
        if self._linearised is None:
            with torch.no_grad():
                self._linearised = self._make()
        return self._linearised


def edge_of(x: Tensor) -> Edge | None:
    """Place of a tensor in the graph as it is now: later changes in place do not move it."""
    with torch._C.DisableTorchFunction():  # who watches for hooks is not to take it for one
        if not x.requires_grad:
            return None
        node, number = get_gradient_edge(x)[:2]
    return node, number


def flat(values: Tensor, axis: int) -> Tensor:
    """(r, *shape) as (r, n, width)."""
    return values.movedim(axis + 1, 1).flatten(2) if values.ndim > 2 else values[..., None]


def unflat(values: Tensor, shape: torch.Size, axis: int) -> Tensor:
    """(r, n, width) as (r, *shape); (r, n, 1) with ones for all but the time axis."""
    rest = [1 if values.shape[2] == 1 else s for i, s in enumerate(shape) if i != axis]
    return values.reshape(*values.shape[:2], *rest).movedim(1, axis + 1)


def at_positions(mask: Tensor, axis: int) -> Tensor:
    """Which positions of (r, *shape) have a live entry: (r, n)."""
    n = mask.shape[axis + 1 if mask.ndim > 2 else 1]
    return flat(_distinct(mask), axis).any(2).expand(len(mask), n)


def either(one: Tensor, other: Tensor) -> Tensor:
    """Entries live in either, of one shape."""
    return (_distinct(one) | _distinct(other)).expand(one.shape)


def _distinct(mask: Tensor) -> Tensor:
    """One entry in place of those that an expanded tensor repeats, which takes no time."""
    for axis, (size, stride) in enumerate(zip(mask.shape, mask.stride(), strict=True)):
        if size > 1 and stride == 0:
            mask = mask.narrow(axis, 0, 1)
    return mask


@contextmanager
def unseen() -> Iterator[None]:
    """Hides operations inside a known call from modes: whoever changes numbers is to change those between.

    What they take still counts.
    """
    if not torch._C._len_torch_dispatch_stack():
        yield
        return
    with _disable_current_modes() as modes, ExitStack() as stack:
        for mode in modes:
            if isinstance(mode, BudgetGuard):
                stack.enter_context(mode)
        yield


class Gate:
    """Which join lets gradients through at present."""

    def __init__(self) -> None:
        self.open: object | None = None

    @contextmanager
    def opened(self, start: object | None) -> Iterator[None]:
        """Let gradients through where a segment starts."""
        self.open = start
        try:
            yield
        finally:
            self.open = None

    def hook(self, node: Node, start: object) -> Callable[[tuple[Any, ...]], Any]:
        """A hook before ``node`` that stops gradients unless the gate is open at ``start``."""
        name = node.name()  # a node held here would hold itself
        number = id(start)

        def before(grads: tuple[Any, ...]) -> Any:
            opened = self.open
            return None if opened is not None and id(opened) == number else (None,) * len(grads)

        before.__doc__ = f"The gate of {name}."
        return before
