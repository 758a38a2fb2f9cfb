"""Code of the user's that sees gradients on the way back: hooks, and functions with their own backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import depprobe
from depprobe.errors import BadInput
from depprobe.vocabulary import STATUS

F64 = torch.float64
N, D = 9, 3


def on_tensor(y: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    if y.requires_grad:
        y.register_hook(hook)
    return y


def on_node(y: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    if y.grad_fn is not None:
        y.grad_fn.register_prehook(lambda grads: (hook(grads[0]), *grads[1:]))
    return y


def in_checkpoint(y: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    return checkpoint(lambda z: on_tensor(1 * z, hook), y, use_reentrant=False)


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, hook):
        ctx.hook = hook
        return y.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.hook(gradient), None


PLACES = {"tensor": on_tensor, "node": on_node, "checkpoint": in_checkpoint, "function": _Own.apply}


class Hooked(nn.Module):
    """A hook behind one of four kinds of parts."""

    def __init__(self, kind, place, hook):
        super().__init__()
        self.kind, self.place, self.hook = kind, place, hook
        self.rnn = nn.GRU(D, 4, batch_first=True)
        self.first, self.second = nn.Conv1d(D, 4, 3), nn.Conv1d(4, 4, 3)
        self.head = nn.Linear(D, 11)

    def forward(self, x):
        if self.kind == "recurrence":
            return self.place(self.rnn(x)[0], self.hook).relu()
        if self.kind == "line of convolutions":
            return self.second(self.place(self.first(x.mT), self.hook).relu()).mT
        if self.kind == "view":
            y = self.place(self.rnn(x)[0].mT, self.hook)
            return self.rnn(y.mT[..., :D])[0]
        return self.place(self.head(x.cumsum(1)), self.hook)


KINDS = ("recurrence", "line of convolutions", "view", "head")


def made(kind, place, hook):
    torch.manual_seed(0)
    return Hooked(kind, PLACES[place], hook).to(F64), torch.randn(N, D, dtype=F64)


def truth(module, x):
    """ln norms (n_out, n) by one backward pass: a copy of x in the batch for each output unit."""
    n_out, d_out = module(x[None])[0].shape
    copies = x.repeat(n_out * d_out, 1, 1).requires_grad_()
    (rows,) = torch.autograd.grad(module(copies).flatten(1).diagonal().sum(), copies)
    return rows.view(n_out, d_out, *x.shape).norm(dim=(1, 3)).log().numpy()


LINEAR = {"doubled": lambda g: 2 * g, "without nan": torch.nan_to_num, "reversed": lambda g: g.flip(1)}


@cache
def known(kind, place, hook):
    return truth(*made(kind, place, LINEAR[hook]))


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("hook", LINEAR)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_hooks_make_of_gradients_counts(kind, place, hook, method):
    module, x = made(kind, place, LINEAR[hook])
    expected = known(kind, place, hook)
    found = depprobe.temporal_jacobian(module, x, layout="b n d", method=method)
    norms = found.log_norms(range(len(expected)))
    some = np.isfinite(expected)
    np.testing.assert_allclose(norms.values[some], expected[some], rtol=0, atol=1e-9)
    assert np.isin(norms.status[~some], [STATUS["zero"], STATUS["undecided"]]).all()


NOT_LINEAR = {
    "clipped": lambda g: g.clamp(-0.1, 0.1),
    "clipped far up": lambda g: g.clamp(-1e9, 1e9),
    "normalised": lambda g: g / (1e-3 + g.norm()),
    "small ones dropped": lambda g: torch.where(g.abs() < 1e-9, 0, g),
    "absolute": torch.abs,
    "largest kept": lambda g: g * (g.abs() >= 0.5 * g.abs().max()),
}


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
@pytest.mark.parametrize("hook", NOT_LINEAR)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_are_not_linear_are_refused(kind, place, hook, method):
    module, x = made(kind, place, NOT_LINEAR[hook])
    with pytest.raises(BadInput, match="Hooked changes gradients in a way that is not linear in them"):
        depprobe.jacobian(module, x, layout="b n d", method=method)


def test_a_forward_that_only_looks_at_its_node_keeps_its_zeros():
    class Looks(nn.Module):
        def forward(self, x):
            return x.cumsum(1) if x.grad_fn is not None else x

    norms = depprobe.temporal_jacobian(Looks(), torch.randn(N, D), layout="b n d").log_norms([4])
    assert (norms.status[0] == STATUS["zero"]).tolist() == [k > 4 for k in range(N)]


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError, ZeroDivisionError])
def test_a_backward_that_fails_is_one_line(error, method):
    def fails(gradient):
        raise error("not today")

    module, x = made("recurrence", "function", fails)
    with pytest.raises(BadInput, match=r"the backward pass of Hooked fails: .?not today"):
        depprobe.jacobian(module, x, layout="b n d", method=method)


class LogScan(nn.Module):
    """A scan in logarithms, whose derivative torch takes in logarithms too: no code of its own."""

    def __init__(self):
        super().__init__()
        self.gate, self.value = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x):
        kept = nn.functional.logsigmoid(30 * self.gate(x)).cumsum(1)
        return (kept + torch.logcumsumexp(self.value(x) - kept, 1)).exp()


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_gradients_of_torchs_own_that_rounding_changes_are_not_refused_as_code(method):
    torch.manual_seed(1)
    module, x = LogScan(), torch.randn(30, 5)
    found = depprobe.temporal_jacobian(module, x, layout="b n d", method=method).log_norms(range(30))
    assert (found.status == STATUS["finite"]).any()
    assert (found.status == STATUS["undecided"]).any()
