"""Pieces of a graph passed node by node: the same products as torch's engine gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import GradientEdge
from torch.nn import functional as F

from depprobe.operators import temporal_jacobian
from depprobe.operators.composed.cut import edge_of
from depprobe.operators.composed.pieces import walk
from depprobe.operators.composed.pieces.walk import Walk

F64 = torch.float64


def written_in_place(x):
    out = torch.zeros(5, 4, dtype=x.dtype)
    out[1:4] = x[:3].sin()
    out[0].add_(x[2])
    return out * out[2].mean()


FORWARDS = {
    "broadcast": lambda x: x * x.mean(0) + x.sum(1, keepdim=True) + x[0, 0],
    "parts, one of them unused": lambda x: torch.cat([x.chunk(2, 1)[0].exp(), x.unbind(0)[1][None, :2]]),
    "sorted": lambda x: x.sort(0).values.cumsum(0) * x.max(1).values[:, None],
    "cast": lambda x: (x.float() * 2).sin().double() + x,
    "complex": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=0) * torch.polar(x[:3], x[:3].cos()), 5, 0),
    "real and complex": lambda x: (x * torch.exp(1j * x)).real + x.to(torch.complex128).abs(),
    "in place": written_in_place,
    "gathered": lambda x: x[[0, 0, 3]] @ x.T[:, [1, 1]],
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True)[0],
    "normalised": lambda x: F.layer_norm(x, (4,)) @ torch.linalg.inv(x[:4].T @ x[:4] + torch.eye(4)).to(x),
    "whole, to a number": lambda x: x.std() * x.softmax(0).log().var(),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_products_are_the_engines(name):
    torch.manual_seed(0)
    x = torch.randn(5, 4, dtype=F64, requires_grad=True)
    middle = x.tanh()
    y = FORWARDS[name](middle) + 0  # no view
    rows = torch.randn(3, *y.shape, dtype=F64)
    aside = torch.randn(3, 5, 4, dtype=F64)
    edges, targets = [edge_of(y), edge_of(x * 1)], [edge_of(middle), edge_of(x)]
    below = [GradientEdge(*edge) for edge in (edges[0], targets[0])]
    found = Walk(edges[:1], targets[:1]).products(edges[:1], [rows])
    truth = torch.autograd.grad(below[:1], below[1:], [rows], retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(found, truth, rtol=1e-13, atol=1e-14)
    # from two places, one of which leads past the middle
    whole = Walk(edges, targets[1:]).products(edges, [rows, aside])
    outs = [GradientEdge(*edge) for edge in edges]
    truth = torch.autograd.grad(outs, x, [rows, aside], retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(whole, truth, rtol=1e-13, atol=1e-14)


def test_nothing_is_looked_at_below_the_targets():
    x = torch.randn(3, requires_grad=True)
    h, steps = x, []
    for _ in range(50):
        h = (h * x).sin()
        steps.append(h)
    edges, targets = [edge_of(steps[30])], [edge_of(steps[29]), edge_of(x)]
    assert len(Walk(edges, targets)) == 2


class Steps(nn.Module):
    """A recurrence written by hand."""

    def __init__(self, hook=None):
        super().__init__()
        self.read, self.hook = nn.Linear(3, 4), hook
        self.state = nn.Linear(4, 4)

    def forward(self, x):
        h, out = x.new_zeros(1, 4), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.read(x[:, t]) + self.state(h))
            if self.hook is not None and t == 5:
                h.register_hook(self.hook)
            out.append(h)
        return torch.stack(out, 1)


@pytest.mark.parametrize("hook", [None, lambda grad: 3 * grad], ids=["plain", "with a hook"])
def test_steps_of_a_long_loop_are_passed_one_by_one(hook, monkeypatch):
    torch.manual_seed(0)
    module, x = Steps(hook).to(F64), torch.randn(90, 3, dtype=F64)
    walked = []
    products = Walk.products

    def noted(self, edges, grads):
        walked.append(len(self))
        return products(self, edges, grads)

    monkeypatch.setattr(walk.Walk, "products", noted)
    leaf = x.clone().requires_grad_()
    y = module(leaf[None])[0]
    truth = torch.stack([torch.autograd.grad(y[80, i], leaf, retain_graph=True)[0] for i in range(4)])
    found = temporal_jacobian(module, x, layout="b n d").row(80).dense()
    torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-300)
    # where hooks stand on anything, all but what they stand on is left to the engine
    assert (sum(2 < length < 9 for length in walked) > 60) == (hook is None)
