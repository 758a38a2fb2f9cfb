"""Factors that only rounded to 0 prove no zero, wherever they come from."""

from __future__ import annotations

import pytest
import torch
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
