"""Outputs wider than what a last linear map reads: fewer products, the same norms."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.core.function import SequenceFunction
from depprobe.operators.autograd.readout import readout_of
from depprobe.operators.autograd.recording import Recording
from depprobe.operators.dispatch import temporal_jacobian

N, D, HIDDEN, WIDE = 9, 3, 5, 17


class Read(nn.Module):
    """A recurrent layer and a head, with a shape of its own in between."""

    def __init__(self, bias: bool = True, order: str = "plain") -> None:
        super().__init__()
        self.body = nn.GRU(D, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, WIDE, bias=bias)
        self.order = order

    def forward(self, x):
        h = self.body(x)[0]
        if self.order == "weights of x":
            return nn.functional.linear(h, self.head.weight * x.mean())
        if self.order == "bias of x":
            return torch.addmm(x.sum(0).repeat(6)[:WIDE], h, self.head.weight.T)
        if self.order == "reversed":
            return self.head(h).flip(1)
        if self.order == "twice":
            return 2.0 * self.head(h)
        return self.head(h[:, -1] if self.order == "last" else h)


def seeded(**given):
    torch.manual_seed(0)
    return Read(**given).double()


X = torch.randn(N, D, generator=torch.Generator().manual_seed(1)).double()
SERVED = [{"bias": True}, {"bias": False}, {"order": "last"}]
#: of which the first two are no functions of one sample in a batch
OTHERS = [{"order": order} for order in ("weights of x", "bias of x", "reversed", "twice")]


def layout(given):
    return {"layout": "n d" if given in OTHERS[:2] else "b n d"}


def called(module, x):
    """(n_out, WIDE)."""
    y = module(x) if module.order.endswith("of x") else module(x[None])[0]
    return y if y.ndim == 2 else y[None]


def blocks(module):
    """(n_out, n_in, d_out, d_in), one product for each output unit; the outputs."""
    x = X.clone().requires_grad_()
    y = called(module, x)
    rows = [torch.autograd.grad(unit, x, retain_graph=True)[0] for unit in y.flatten()]
    return torch.stack(rows).view(len(y), WIDE, N, D).transpose(1, 2), y.detach()


@cache
def known(**given):
    return blocks(seeded(**given))


def norms(J, y, norm):
    if norm == "spectral":
        return torch.linalg.matrix_norm(J, 2).log()
    if norm == "fisher":
        p = y.softmax(1)
        F = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        return 0.5 * torch.einsum("tkai,tab,tkbi->tk", J, F, J).log()
    return J.flatten(2).norm(dim=2).log()


@pytest.mark.parametrize("norm", ["fro", "spectral", "fisher"])
@pytest.mark.parametrize("method", ["structured", "autograd"])
@pytest.mark.parametrize("given", SERVED + OTHERS, ids=str)
def test_norms_are_those_of_every_unit(given, method, norm):
    module = seeded(**given)
    ds = depprobe.jacobian(module, X, targets="all", norm=norm, method=method, **layout(given))
    np.testing.assert_allclose(ds["log_norm"], norms(*known(**given), norm), rtol=0, atol=1e-9)
    assert not (ds["log_norm_error"] > 1e-9).any()


@pytest.mark.parametrize("given", SERVED, ids=str)
def test_a_row_takes_as_many_products_as_the_head_reads(given, monkeypatch):
    counts = []
    before = Recording.many
    monkeypatch.setattr(
        Recording, "many", lambda self, v, *rest: (counts.append(len(v)), before(self, v, *rest))[1]
    )
    depprobe.jacobian(seeded(**given), X, method="autograd")
    assert sum(counts) == HIDDEN


@pytest.mark.parametrize("given", SERVED + OTHERS, ids=str)
def test_only_a_plain_head_is_read(given):
    leaf = X.clone().requires_grad_()
    found = readout_of(called(seeded(**given), leaf), [leaf])
    assert (found is not None) == (given in SERVED)


@pytest.mark.parametrize("method", ["structured", "autograd"])
def test_whole_rows_hold_every_unit(method):
    module = seeded()
    J = temporal_jacobian(module, X, method=method)
    J = pickle.loads(pickle.dumps(J)) if method == "autograd" else J
    expected, _ = blocks(module)
    torch.testing.assert_close(J.row(5).dense().transpose(0, 1), expected[5], rtol=0, atol=1e-12)
    v = torch.randn(N, WIDE, generator=torch.Generator().manual_seed(2)).double()
    torch.testing.assert_close(J.vjp(v), torch.einsum("ta,tkai->ki", v, expected), rtol=0, atol=1e-12)


def test_probes_of_a_head_are_those_of_the_whole_output():
    module = seeded()
    ds = depprobe.jacobian(module, X, targets="all", method="probes", probes=WIDE)
    np.testing.assert_allclose(ds["log_norm"], norms(*blocks(module), "fro"), rtol=0, atol=1e-9)


@pytest.mark.parametrize("wrt", ["head", "body"])
def test_the_head_may_be_what_is_differentiated_in(wrt):
    function = SequenceFunction(seeded(), X, wrt=wrt)
    assert (Recording(function, 1 << 30).weight is None) == (wrt == "head")
    ds = depprobe.jacobian(seeded(), X, wrt=wrt)
    size = {"head": WIDE**0.5, "body": float(seeded().head.weight.norm().detach())}[wrt]
    assert float(ds["log_norm"][0, -1]) == pytest.approx(np.log(size), abs=1e-12)
