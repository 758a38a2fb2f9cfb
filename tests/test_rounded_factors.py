"""Factors that only rounded to 0 prove no zero, wherever they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

import depprobe
from depprobe.vocabulary import STATUS

N, D = 9, 3
LAG = (torch.arange(N)[:, None] - torch.arange(N)).abs().double()


def mixed(make):
    """y = W x with a W that a parameter holds."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            return make(self.slope.to(x) * LAG.to(x)) @ x

    return Mixed


def gated(gate):
    """y_t = x_t + gate x_(t-1)."""

    class Gated(nn.Module):
        def forward(self, x):
            return x + gate(x) * x.roll(1, 1)

    return Gated


ROUNDED = {
    "softmax": mixed(lambda lag: torch.softmax(-900 * lag, -1)),
    "exponential of a power": mixed(lambda lag: torch.exp(-50 * lag**4)),
    "sigmoid": gated(lambda x: torch.sigmoid(torch.tensor(-900.0).to(x))),
    "twice exponential": gated(lambda x: torch.exp(-torch.exp(torch.tensor(7.0).to(x)))),
    "complementary error function": gated(lambda x: torch.erfc(torch.tensor(40.0).to(x))),
    "softplus": gated(lambda x: nn.functional.softplus(torch.tensor(-900.0).to(x))),
    "exponential of the input": gated(lambda x: torch.exp(-1e3 - 1e4 * x[:, :1, :1].abs())),
    "square": gated(lambda x: 1e-200 * (1e-200 * x.roll(1, 1))),
}


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("case", ROUNDED)
def test_what_rounded_to_zero_is_no_zero(case, method):
    torch.manual_seed(0)
    module, x = ROUNDED[case]().double(), torch.randn(N, D).double()
    found = depprobe.temporal_jacobian(module, x, layout="b n d", method=method).log_norms([4]).status[0]
    # all of which W reads, or the position before
    read = range(N) if case in ("softmax", "exponential of a power") else (3,)
    assert not (found[[*read]] == STATUS["zero"]).any(), found
    assert found[4] == STATUS["finite"]


EXACT = {
    "mask": mixed(lambda lag: torch.softmax((-lag).masked_fill(lag > 1.5, -torch.inf), -1)),
    "lowest finite number": mixed(
        lambda lag: torch.softmax((-lag).masked_fill(lag > 1.5, torch.finfo(lag.dtype).min), -1)
    ),
    "mask and rounding": mixed(
        lambda lag: torch.softmax((-900 * lag).masked_fill(lag > 1.5, -torch.inf), -1)
    ),
    "factor": mixed(lambda lag: (lag < 1.5).to(lag) / (1 + lag)),
}


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("case", EXACT)
def test_what_is_masked_is_zero(case, method):
    torch.manual_seed(0)
    module, x = EXACT[case]().double(), torch.randn(N, D).double()
    found = depprobe.temporal_jacobian(module, x, layout="b n d", method=method).log_norms([4]).status[0]
    assert (found[[0, 1, 2, 6, 7, 8]] == STATUS["zero"]).all(), found
    beside = found[[3, 5]]
    assert (beside == STATUS["undecided" if case == "mask and rounding" else "finite"]).all(), found


@pytest.mark.parametrize("phi", [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Sigmoid(), nn.Softplus()])
def test_slopes_of_a_line_that_rounded_to_zero_are_no_zeros(phi):
    torch.manual_seed(0)
    line = depprobe.layers["dilated-conv"].build(2, depth=2, nonlinearity="none", residual=True).double()
    line[0].nonlinearity = phi
    with torch.no_grad():
        line[0].convolution.conv.bias -= 2000.0
    operator = depprobe.temporal_jacobian(line, torch.randn(N, 2).double())
    found = operator.log_norms([8]).status[0]
    # the shortcuts carry positions 4, 6 and 8; what comes through phi is unknown
    assert type(operator).__name__ == "LineJacobian"
    assert [int(one) for one in found] == [STATUS["zero"]] * 2 + [
        STATUS["finite" if k % 2 == 0 and k >= 4 else "undecided"] for k in range(2, N)
    ]
    assert operator.zero_proof == "structure, replacement"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_of_gelu_keep_their_digits_where_it_is_closed(dtype):
    line = depprobe.layers["dilated-conv"].build(1, depth=1, kernel=1, nonlinearity="gelu", bias=False)
    with torch.no_grad():
        line[0].convolution.conv.weight.fill_(1)
    z = torch.tensor([-12.0, -9.0, -8.0, -7.0, -5.6, -3.0, 1.0])
    found = depprobe.jacobian(line.to(dtype), z[:, None].to(dtype), targets="all")
    norms = depprobe.dense(found).log_norm.values.diagonal()
    z = z.double().numpy()
    true = np.log(np.abs(special.ndtr(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)))
    np.testing.assert_allclose(norms, true, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-13)
