"""A name with stars in ``wrt``: the Jacobian in every block's output, from the backward passes of one."""

from __future__ import annotations

from collections import UserList

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.operators.dispatch import jacobians_at_depths

#: lengths of inputs that a hook saw: in an object of the standard library, which is left as it is
LENGTHS: UserList[int] = UserList()

N, D = 11, 6


class Block(nn.Module):
    """Causal attention and a product, on a residual stream."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(D, 3 * D), nn.Linear(D, D), nn.LayerNorm(D)

    def forward(self, x):
        assert x.ndim == 3
        q, k, v = (p[:, None] for p in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = self.out(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0])
        return x + mixed


class Stack(nn.Module):
    def __init__(self, blocks=3, in_place=False):
        super().__init__()
        self.embed = nn.Embedding(13, D)
        self.h = nn.ModuleList(Block() for _ in range(blocks))
        self.head, self.in_place = nn.Linear(D, 4), in_place

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.h:
            x = block(x)
            if self.in_place:
                x.mul_(0.9)
        return self.head(x)


class Branches(nn.Module):
    """Blocks side by side, of different widths: none is on the way to another."""

    def __init__(self):
        super().__init__()
        self.h = nn.ModuleList([nn.Linear(D, 5), nn.GRU(D, 7, batch_first=True)])
        self.heads = nn.ModuleList([nn.Linear(5, 4), nn.Linear(7, 4)])

    def forward(self, x):
        return self.heads[0](self.h[0](x)).tanh() + self.heads[1](self.h[1](x)[0])


def sequence_of(y):
    return y if isinstance(y, torch.Tensor) else y[0]


def truth(model, x, i):
    """Norms (n, n) of the Jacobian in the output of block i, by plain autograd on what comes after it."""
    kept = []
    hook = model.h[i].register_forward_hook(lambda m, a, y: kept.append(sequence_of(y).detach().clone()))
    model(x[None])
    hook.remove()

    def after(z):
        def put(m, a, y):
            return z.clone() if y is sequence_of(y) else (z.clone(), *y[1:])

        hook = model.h[i].register_forward_hook(put)
        y = model(x[None])[0]
        hook.remove()
        return y

    J = torch.autograd.functional.jacobian(after, kept[0])[:, :, 0]
    return J.square().sum((1, 3)).sqrt().log().numpy()


def model_and_input(kind):
    torch.manual_seed(0)
    model = (Branches() if kind == "branches" else Stack(in_place=kind == "in place")).double()
    return model, torch.randn(N, D).double() if kind == "branches" else torch.randint(0, 13, (N,))


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("kind", ["stack", "in place", "branches"])
def test_every_depth_agrees_with_plain_autograd(kind, method):
    model, x = model_and_input(kind)
    before = [p.clone() for p in model.parameters()]
    ds = depprobe.jacobian(model, x, wrt="h.*", targets="all", method=method)
    assert ds.method == ("composed" if method == "auto" else "autograd")
    for i in range(len(model.h)):
        np.testing.assert_allclose(ds.log_norm.isel(depth=i), truth(model, x, i), rtol=1e-10)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
@pytest.mark.parametrize("norm", ["fro", "spectral"])
def test_depths_are_those_taken_singly(method, norm):
    if (method, norm) == ("probes", "spectral"):
        pytest.skip("probes estimate Frobenius norms only")
    model, ids = model_and_input("stack")
    asked = {"targets": [0, 4, N - 1], "method": method, "norm": norm}
    ds = depprobe.jacobian(model, ids, wrt="h.*", **asked)
    assert list(ds.submodule.values) == ["h.0", "h.1", "h.2"]
    for i in range(3):
        one = depprobe.jacobian(model, ids, wrt=f"h.{i}", **asked)
        np.testing.assert_allclose(ds.log_norm.isel(depth=i), one.log_norm, rtol=1e-12)
        np.testing.assert_array_equal(ds.log_norm_status.isel(depth=i), one.log_norm_status)


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
def test_one_backward_pass_serves_every_depth(method, monkeypatch):
    grad, calls = torch.autograd.grad, []

    def counted(outputs, inputs, grads=None, *args, **kwargs):
        calls.append(1)
        return grad(outputs, inputs, grads, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    torch.manual_seed(0)
    model, ids = Stack(8).double(), torch.randint(0, 13, (N,))

    def taken(wrt):
        calls.clear()
        depprobe.jacobian(model, ids, wrt=wrt, targets="all", method=method)
        return len(calls)

    # a pull through the graph stops at every depth, where rows go through the glue in one more piece
    assert taken("h.*") <= (3 if method == "auto" else 1.5) * taken("h.0")


def test_a_causal_model_of_ids_is_traced_to_the_largest_target_only(monkeypatch):
    model, ids = model_and_input("stack")
    lengths = LENGTHS
    lengths.clear()
    model.head.register_forward_hook(lambda m, a, y: LENGTHS.append(y.shape[1]))
    short = depprobe.jacobian(model, ids, targets=[3])
    assert 4 in lengths
    whole = depprobe.jacobian(model, ids, targets=[3], method="autograd")
    np.testing.assert_allclose(short.log_norm, whole.log_norm, rtol=1e-10)
    for method in ("auto", "probes"):
        lengths.clear()
        ds = depprobe.jacobian(model, ids, wrt="h.*", targets=[3], method=method)
        assert 4 in lengths
    exact = depprobe.jacobian(model, ids, targets=[3], method="probes", probes=4)
    np.testing.assert_allclose(exact.log_norm, whole.log_norm, rtol=1e-10)
    np.testing.assert_array_equal(exact.log_norm_status, whole.log_norm_status)
    # behind the last block each position stands for itself
    assert int((ds.log_norm_status == 2).sum()) == 2 * (N - 4) + N - 1


def test_operators_travel():
    import pickle

    model, ids = model_and_input("stack")
    for method in ("autograd", "probes"):
        shared = jacobians_at_depths(model, ids, ["h.0", "h.2"], method=method)
        before = [J.log_norms([5]).values for J in shared]
        after = [J.log_norms([5]).values for J in pickle.loads(pickle.dumps(shared))]
        np.testing.assert_allclose(before, after)


def test_finished_cases_hold_every_depth(tmp_path):
    from depprobe.store.finished import Finished

    asked = {"n": 12, "d": 6, "wrt": "*.attention", "targets": "all"}
    ds = depprobe.jacobian("transformer:depth=2,heads=2", **asked)
    assert ds.sizes["depth"] == 2
    kept = Finished(tmp_path / "kept")
    first, again = (
        depprobe.jacobian("transformer:depth=2,heads=2", finished=kept, **asked) for _ in range(2)
    )
    assert first.identical(again)
    np.testing.assert_array_equal(first.log_norm, ds.log_norm)
