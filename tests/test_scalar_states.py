"""Hand-written recurrences whose states are single numbers, tensors without any dimension."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.vocabulary import STATUS


class Leaky(nn.Module):
    """h_t = c sin h_(t-1) + a_t, read out with b_t: dh_t/da_k = prod c cos h."""

    def __init__(self, c):
        super().__init__()
        self.c = c

    def forward(self, x):
        h, out = x.new_zeros(()), []
        for a, b in x[0]:
            h = self.c * torch.sin(h) + a
            out.append(torch.stack([h, h * b]))
        return torch.stack(out)[None]

    def norms(self, x):
        """Closed form of the last row, from the states in float64: both outputs by a_k, and h b by b."""
        h, slopes = 0.0, []
        for a in x[:, 0].tolist():
            slopes.append(np.log(np.abs(self.c * np.cos(h))))
            h = self.c * np.sin(h) + a
        last = float(x[-1, 1])
        below = np.append(np.cumsum(slopes[:0:-1])[::-1], 0.0) + np.log(np.hypot(1, last))
        below[-1] = 0.5 * np.log(1 + last**2 + h**2)
        return below


class Gates(nn.Module):
    """A vector under a gate that is a number, and a number fed by the vector's mean."""

    def __init__(self):
        super().__init__()
        self.gate, self.read = nn.Linear(3, 2), nn.Linear(3, 4)

    def forward(self, x):
        g, u = self.gate(x)[0].sigmoid(), self.read(x)[0]
        h, level, out = 0 * u[0], g[0, 0], []
        for t in range(len(u)):
            h = g[t, 0] * h + level * u[t]
            level = level * g[t, 1] + h.mean().tanh()
            out.append(h)
        return torch.stack(out)[None]


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_blocks_are_those_of_plain_autograd(method):
    torch.manual_seed(0)
    module, x = Gates().double(), torch.randn(30, 3).double()
    norms = depprobe.temporal_jacobian(module, x, layout="b n d", method=method).log_norms([29]).values[0]
    leaf = x.clone().requires_grad_()
    rows = [torch.autograd.grad(unit, leaf, retain_graph=True)[0] for unit in module(leaf[None])[0, 29]]
    assert abs(norms - torch.stack(rows).norm(dim=(0, 2)).log().numpy()).max() < 1e-10


def test_far_lags_keep_exponents_and_state_errors_that_cover_the_truth():
    """Rows that are rescaled too rarely are taken again, and rounding is then estimated from such rows."""
    held = []
    for seed in range(6):
        torch.manual_seed(seed)
        module, x = Leaky(2.0**-7), torch.randn(100, 2)
        found = depprobe.temporal_jacobian(copy.deepcopy(module), x, layout="b n d").log_norms([99])
        assert (found.status == STATUS["finite"]).all()
        truth = module.norms(x.double())
        assert truth[0] < -450
        held += list(np.abs(found.values[0] - truth) <= found.error[0])
    assert np.mean(held) > 0.8
