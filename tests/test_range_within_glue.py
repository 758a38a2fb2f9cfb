r"""Numbers that leave the range of floats between two rescalings, inside a forward of one's own.

    h_t = phi(A h_{t-1} + B x_t),  y_t = c h_t:    J[t,k] = c D_t A D_{t-1} ... A D_k B,   D = diag(phi')

c and A bring a row below the smallest normal number, B brings it back: what arrives is a plain number of
which digits, or all, are gone. The truth is the product of the steps, each rescaled, in float64.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.core.scaled import Scaled
from depprobe.operators.composed.cotangents import Rows
from depprobe.vocabulary import STATUS

D = 3


def drawn(seed, n):
    return torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Loop(nn.Module):
    def __init__(self, phi, rate, into, out, dtype):
        super().__init__()
        self.A, self.B = (
            nn.Parameter((size * drawn(seed, D) / D**0.5).to(dtype)) for seed, size in ((1, rate), (2, into))
        )
        self.phi, self.out = phi, out

    def forward(self, x):
        h, states = x.new_zeros(len(x), D), []
        for t in range(x.shape[1]):
            h = self.phi(h @ self.A.T + x[:, t] @ self.B.T)
            states.append(h)
        return torch.stack(states, 1) * self.out


def truth(module, x):
    """ln norms (n, n), -inf ahead."""
    A, B, n = module.A.detach().double(), module.B.detach().double(), len(x)
    out = float(torch.tensor(module.out, dtype=module.A.dtype))
    h, slopes = torch.zeros(D, dtype=torch.float64), []
    for z in x.double():
        at = (A @ h + B @ z).requires_grad_()
        h = module.phi(at)
        slopes.append(torch.autograd.grad(h.sum(), at)[0])
        h = h.detach()
    logs = np.full((n, n), -math.inf)
    for k in range(n):
        block, scale = B.clone(), math.log(out)
        for t in range(k, n):
            block = slopes[t][:, None] * (block if t == k else A @ block)
            size = float(block.norm())
            if size == 0:
                break
            block, scale = block / size, scale + math.log(size)
            logs[t, k] = scale
    return logs


def compared(module, x):
    logs = truth(module, x)
    found = depprobe.temporal_jacobian(module, x, layout="b n d")
    return found.log_norms(range(len(x))), logs


@pytest.mark.parametrize("n", [14, 30])
@pytest.mark.parametrize(
    ("phi", "rate", "into", "out", "dtype"),
    [
        (torch.clone, 1e-3, 1e15, 1e-25, torch.float32),
        (torch.clone, 1e-4, 1e15, 1.0, torch.float32),
        (torch.relu, 1e-4, 1e15, 1e-25, torch.float32),
        (torch.clone, 1e-25, 1e100, 1e-250, torch.float64),
    ],
)
def test_what_falls_below_the_range_and_comes_back_keeps_its_digits(phi, rate, into, out, dtype, n):
    norms, logs = compared(Loop(phi, rate, into, out, dtype), drawn(0, n).to(dtype))
    some = np.isfinite(logs)
    assert (norms.status[some] == STATUS["finite"]).mean() > 0.99
    assert not (norms.status[some] == STATUS["zero"]).any()
    some &= norms.status == STATUS["finite"]
    apart = np.abs(norms.values[some] - logs[some])
    assert (apart < (1e-5 if dtype == torch.float32 else 1e-9) + norms.error[some]).all()


def test_a_row_that_begins_near_the_floor_proves_no_zero():
    """The largest norm is e^-59, so those that fade to 0 have the floor not far below them."""
    norms, logs = compared(Loop(torch.sigmoid, 1e-4, 1.0, 1e-25, torch.float32), drawn(0, 30)[:14].float())
    some = np.isfinite(logs)
    assert not (norms.status[some] == STATUS["zero"]).any()
    some &= norms.status == STATUS["finite"]
    np.testing.assert_allclose(norms.values[some], logs[some], atol=1e-4)


def test_entries_in_doubt_count_as_large_as_they_are():
    """Beside a large one, which stays known."""
    values = torch.tensor([[[1.0, 1e-9]], [[0.0, 0.0]]])
    live, owner = torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    rows = Rows(Scaled(values, torch.zeros(2, 1, 1, dtype=torch.float64)), live, owner)
    doubted = rows.doubted(torch.tensor([[[False, True]], [[False, False]]]))
    lost = float(Scaled(doubted.scaled.values[1:], doubted.scaled.log_scale[1:]).log_norm())
    assert lost == pytest.approx(math.log(1e-9) + 0.5 * math.log(2), abs=1e-6)
