r"""Jacobian-vector products of a function, as the adjoint of its backward pass.

    g(v) = v^T J is linear in v,    J u = (d/dv) (g(v) . u)

so the backward pass is recorded once, and each product takes a pass back through it. Forward-mode formulas,
which many kernels lack, are not needed; second derivatives are. A function without them may cut the graph
without a word, which the identity v . J u = g(v) . u at a random v shows.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from depprobe.core.function import SequenceFunction
from depprobe.core.options import require
from depprobe.core.recorded_graph import saved_bytes

#: a recorded backward pass and a pass back through it, in recorded forward passes
_PASSES = 4


def forward_products(function: SequenceFunction, tangents: Tensor, memory: int) -> Tensor:
    """J u for tangents u (r, n_in, d_in): (r, n_out, d_out), one after another.

    Raises
    ------
    RuntimeError : something in between has no second derivative.
    OverBudget : the recorded backward pass would not fit the memory.
    """
    with function.held(), _twice_differentiable():
        leaf, y = function.record(contextlib.nullcontext())
        tensors = [*function.module.parameters(), *function.module.buffers()]
        needed = _PASSES * saved_bytes(y, tensors) + len(tangents) * y.numel() * y.element_size()
        require(needed, memory, "the recorded backward pass", "use a larger memory")
        draw = torch.Generator().manual_seed(0)
        v = torch.randn(y.shape, generator=draw, dtype=torch.float64).to(y).requires_grad_()
        (pulled,) = torch.autograd.grad(y, leaf, v, create_graph=True, materialize_grads=True)
        found = [_through(pulled, v, u) for u in tangents]
    return torch.stack(found)


def _through(pulled: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """J u from g(v)."""
    (out,) = torch.autograd.grad(pulled, v, u, retain_graph=True)
    a, b, w = (one.detach().double() for one in (pulled, v, out))
    cut = float(((a * u).sum() - (b * w).sum()).abs())
    if cut > math.sqrt(torch.finfo(v.dtype).eps) * float(b.norm() * w.norm()):
        raise RuntimeError("a part of the backward pass has no derivative")
    return out


@contextlib.contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Plain kernels only: the fused LSTM and attention kernels have no second derivative."""
    before = torch.backends.cudnn.enabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an Intel GPU flag whenever this one is touched
        with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            # the flag alone: the context manager of torch's looks at precisions too
            torch.backends.cudnn.enabled = False
            try:
                yield
            finally:
                torch.backends.cudnn.enabled = before
