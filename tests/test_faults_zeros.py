"""Zeros that are none, and numbers of what has no derivative."""

import math

import pytest
import torch
from torch import nn

import depprobe
from depprobe.vocabulary import STATUS

METHODS = ("auto", "autograd")


class Of(nn.Module):
    """A function of x, with a matrix of scores beside."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture
def x():
    return torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def measured(function, x, method):
    found = depprobe.jacobian(Of(function), x, layout="b n d", targets="all", method=method)
    return torch.from_numpy(found.log_norm.values), torch.from_numpy(found.log_norm_status.values)


@pytest.mark.parametrize("method", METHODS)
def test_a_backward_that_swallows_nan_proves_no_zero(x, method):
    values, _ = measured(lambda z: z.logcumsumexp(1), x, method)
    weights = torch.log_softmax(
        x.expand(9, 9, 4).masked_fill(~torch.ones(9, 9).tril().bool()[..., None], -math.inf), 1
    )
    torch.testing.assert_close(values, 0.5 * torch.logsumexp(2 * weights, -1))


@pytest.mark.parametrize("method", METHODS)
def test_attention_that_looks_away_from_an_input_is_not_blind_to_it(x, method):
    """Weights of exp(-1000) are 0 in floats, at x; of an input that scores high they are not."""

    matrix = torch.randn(4, 4, dtype=x.dtype, generator=torch.Generator().manual_seed(2))

    def peaked(z):
        hidden = ~torch.ones(9, 9, dtype=torch.bool).tril()
        return (1e4 * z @ matrix @ z.mT).masked_fill(hidden, -math.inf).softmax(-1) @ z

    _, status = measured(peaked, x, method)
    zero = status == STATUS["zero"]
    assert zero.triu(1).any()
    assert not zero.tril().any()


@pytest.mark.parametrize("method", METHODS)
def test_an_output_that_is_nan_has_no_derivative(x, method):
    values, status = measured(torch.log, x, method)
    nan = x.log().isnan().any(1)
    assert nan.any()
    assert not nan.all()
    assert values.diagonal()[nan].isnan().all()
    assert (status.diagonal()[nan] == STATUS["overflow"]).all()
    torch.testing.assert_close(values.diagonal()[~nan], (1 / x[~nan]).norm(dim=1).log())


def test_a_dtype_asked_of_a_sum_sets_the_floor(x):
    """float32 inside a float64 module, without a cast: norms below its range are no numbers."""

    def mixed(z):
        h = torch.zeros_like(z[:, 0])
        out = []
        for t in range(z.shape[1]):
            h = torch.sum(
                torch.stack([h.float() * 1e-9 if t else h, z[:, t]]), 0, dtype=torch.float32
            ).double()
            out.append(h)
        return torch.stack(out, 1)

    values, _ = measured(mixed, x, "autograd")
    lag = torch.arange(9)[:, None] - torch.arange(9)
    known = values.isfinite()
    truth = 0.5 * math.log(4) + lag * math.log(1e-9)
    torch.testing.assert_close(values[known], truth[known].double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_the_error_of_what_is_not_known_is_not_known(method):
    """A state that overflows: no norm, and no error of 0 beside it."""
    module = nn.RNN(1, 2, nonlinearity="relu", bias=False).double()
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.tensor([[3.0, -1], [0, 3]]))
        module.weight_ih_l0.fill_(1)
    ds = depprobe.jacobian(module, torch.ones(700, 1, dtype=torch.float64), method=method)
    assert ds["log_norm"].isnull().any()
    assert (ds["log_norm"].isnull() == ds["log_norm_error"].isnull()).all()
