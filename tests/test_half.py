"""Models of 16 bits: measured in their own dtype, with its floor and its error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.errors import BadInput
from depprobe.vocabulary import STATUS

N, D = 24, 6
HALVES = [torch.bfloat16, torch.float16]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.read = nn.GRU(D, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x):
        return self.read(self.rnn(x)[0])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.qkv = nn.Embedding(13, D), nn.Linear(D, 3 * D)
        self.h = nn.ModuleList([nn.LayerNorm(D), nn.Linear(D, D)])

    def forward(self, ids):
        assert ids.ndim == 2
        q, k, v = (part[:, None] for part in self.qkv(self.embed(ids)).chunk(3, -1))
        x = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]
        return self.h[1](self.h[0](x))


def halved(kind, dtype):
    """A model of 16 bits, and the same numbers in float64."""
    torch.manual_seed(0)
    half, whole = kind().to(dtype), kind().double()
    whole.load_state_dict({name: value.double() for name, value in half.state_dict().items()})
    return half, whole


@pytest.mark.parametrize("dtype", HALVES)
def test_norms_are_those_of_float64_within_the_stated_error(dtype):
    half, whole = halved(Net, dtype)
    x = torch.randn(N, D).to(dtype)
    asked = {"targets": [5, N - 1]}
    ds, truth = depprobe.jacobian(half, x, **asked), depprobe.jacobian(whole, x.double(), **asked)
    assert (ds.dtype, ds.method) == (str(dtype).removeprefix("torch."), "autograd")
    known = ds.log_norm_status == STATUS["finite"]
    assert int(known.sum()) > 10
    apart = np.abs(ds.log_norm - truth.log_norm).where(known)
    assert float(apart.max()) > torch.finfo(dtype).eps / 100  # it was measured in 16 bits
    assert bool((apart <= ds.log_norm_error).where(known, True).all())
    np.testing.assert_array_equal(
        ds.log_norm_status == STATUS["zero"], truth.log_norm_status == STATUS["zero"]
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_the_floor_is_that_of_the_dtype(dtype):
    half, whole = halved(Net, dtype)
    x = torch.randn(600, D).to(dtype)
    ds = depprobe.jacobian(half, x)
    floor = math.log(torch.finfo(dtype).smallest_normal)
    assert ds.log_floor == floor
    truth = depprobe.jacobian(whole, x.double()).log_norm
    assert not bool((ds.log_norm_status == STATUS["finite"]).where(truth < floor - 1, False).any())
    assert bool((ds.log_norm_status == STATUS["zero"]).sum() == 0)
    assert bool((ds.log_norm_status == STATUS["finite"]).where(truth > floor + 3, True).all())


@pytest.mark.parametrize("method", ["auto", "probes"])
def test_ids_globs_and_probes(method):
    half, whole = halved(Attending, torch.bfloat16)
    ids = torch.randint(0, 13, (N,))
    asked = {"method": method, "wrt": "h.*", "targets": "every:5"}
    asked |= {"probes": 5} if method == "probes" else {}
    ds, truth = (depprobe.jacobian(one, ids, **asked) for one in (half, whole))
    known = truth.log_norm_status == STATUS["finite"]
    np.testing.assert_allclose(ds.log_norm.where(known), truth.log_norm.where(known), atol=0.1)
    np.testing.assert_array_equal(ds.log_norm_status, truth.log_norm_status)


def test_the_whole_is_said_and_a_layer_by_name_is_refused(run):
    code, out, said = run("jacobian", "--layer", "gru", "--n", "9", "--d", "4", "--dtype", "bfloat16")
    assert code == 2
    assert "too few digits" in said
    half, _ = halved(Net, torch.bfloat16)
    x = torch.randn(N, D).bfloat16()
    depprobe.save(depprobe.jacobian(half, x), "half.nc")
    code, out, _ = run("show", "half.nc")
    assert code == 0
    assert "bfloat16" in out
    assert "norms below 1.2e-38 that are not proved zero count as not known" in out


def test_what_needs_structure_is_refused():
    half, _ = halved(Net, torch.bfloat16)
    x = torch.randn(N, D).bfloat16()
    with pytest.raises(BadInput, match="structured operators take float32 or float64: use --dtype float32"):
        depprobe.jacobian(half, x, method="structured")
    with pytest.raises(BadInput, match=r"bfloat16 has too few digits to measure this"):
        depprobe.lyapunov(nn.GRU(D, D, batch_first=True).bfloat16(), x)
    with pytest.raises(BadInput, match="bring them together"):
        depprobe.jacobian(half, x.float())


class Casts(Net):
    """Coarser in the middle than at its input, finer at its output."""

    def __init__(self, middle, out):
        super().__init__()
        self.middle, self.end = middle, out

    def forward(self, x):
        h = self.rnn(x)[0]
        return self.read(torch.tanh(h.to(self.middle).cumsum(1)).to(h.dtype)).to(self.end)


@pytest.mark.parametrize(
    ("dtype", "middle", "out"),
    [
        (torch.float32, torch.bfloat16, torch.float64),
        (torch.float64, torch.float64, torch.float32),
        (torch.float64, torch.float16, torch.float32),
    ],
)
def test_an_output_may_be_finer_or_coarser_than_what_is_inside(dtype, middle, out):
    torch.manual_seed(0)
    module, x = Casts(middle, out).to(dtype), torch.randn(N, D, dtype=dtype, requires_grad=True)
    y, squares = module(x[None])[0], 0
    for unit in range(y.shape[1]):
        (grad,) = torch.autograd.grad(y[-1, unit], x, retain_graph=True)
        squares = squares + grad.double().square().sum(1)
    ds = depprobe.jacobian(module, x.detach(), layout="b n d", targets="last")
    apart = np.abs(ds.log_norm.values[0] - 0.5 * squares.log().numpy())
    assert (apart <= ds.log_norm_error.values[0]).all()
    assert ds.log_norm_error.values.max() < 1
