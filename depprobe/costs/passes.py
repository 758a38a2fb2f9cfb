"""What is costed: a forward pass, or one with the backward pass that training makes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.core.calling.passes import call_once
from depprobe.errors import unknown

FORWARD, BACKWARD = "forward", "forward+backward"
#: what a pass may be
PHASES: tuple[str, ...] = (FORWARD, BACKWARD)


def one_pass(module: nn.Module, x: Tensor, phase: str, layout: str | None = None) -> Callable[[], object]:
    """A function that makes one pass and gives its result, held until the caller lets go of it.

    ``forward`` gives the output at x (n, d_in), nothing kept for a backward pass; ``forward+backward`` the
    gradients in x and in every trainable parameter, from a cotangent of ones (n_out, d_out). ``layout`` is
    that of the module; None for that of its type, else ``"b n d"``.

    Examples
    --------
    >>> gradients = one_pass(nn.Linear(3, 2), torch.ones(5, 3), "forward+backward")()
    >>> [tuple(g.shape) for g in gradients]
    [(5, 3), (2, 3), (2,)]
    """
    if phase not in PHASES:
        raise unknown("phase", phase, PHASES)
    if phase == FORWARD:

        def forward() -> object:
            with torch.no_grad():
                return call_once(module, x, layout)

        return forward
    leaf = x.detach().requires_grad_()
    wanted = [leaf, *(p for p in module.parameters() if p.requires_grad)]

    def both() -> object:
        with torch.enable_grad(), _trainable(module, x.is_cuda):
            # a view: hooks that counters put on what a module reads do not take the leaf itself
            y = call_once(module, leaf.view_as(leaf), layout)
            return torch.autograd.grad(_Arrival.apply(y), wanted, allow_unused=True)

    return both


@contextlib.contextmanager
def _trainable(module: nn.Module, on_cuda: bool) -> Iterator[None]:
    """cuDNN goes back through a recurrence in training mode alone; without dropout it is the same."""
    resting = [m for m in module.modules() if on_cuda and isinstance(m, nn.RNNBase) and not m.training]
    dropouts = [m.dropout for m in resting]
    try:
        for m in resting:
            m.training, m.dropout = True, 0.0
        yield
    finally:
        for m, dropout in zip(resting, dropouts, strict=True):
            m.training, m.dropout = False, dropout


class _Arrival(torch.autograd.Function):
    """A scalar whose gradient in y is a tensor of ones.

    Handed to ``autograd.grad`` instead, the ones would have torch import its symbolic algebra, which takes
    seconds and megabytes of a process that measures both.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.shape = y.shape
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.new_ones(ctx.shape)
