"""Memory of passes and their products, by automatic differentiation: counted storages against the budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from depprobe.core.memory import OWN, StorageTracker
from depprobe.core.recorded_graph import saved_bytes
from depprobe.errors import OverBudget
from depprobe.operators import temporal_jacobian

F64 = torch.float64


class Causal(nn.Module):
    """Three layers of causal attention written by hand: its passes hold several n by n tables a layer."""

    def __init__(self, d=24):
        super().__init__()
        self.read = nn.ModuleList(nn.Linear(d, 3 * d) for _ in range(3))
        self.write = nn.ModuleList(nn.Linear(d, d) for _ in range(3))

    def forward(self, x):
        n = x.shape[1]
        mask = torch.full((n, n), -torch.inf, dtype=x.dtype).triu(1)
        for read, write in zip(self.read, self.write, strict=True):
            q, k, v = read(x).chunk(3, -1)
            x = x + write(torch.softmax(q @ k.mT / 5 + mask, -1) @ v).tanh()
        return x


@pytest.fixture(scope="module")
def causal():
    torch.manual_seed(0)
    return Causal().to(F64), torch.randn(200, 24, dtype=F64)


def measured(case, method, memory):
    """ln norms, and the most bytes that all storages took."""
    module, x = case
    options = {"probes": 4} if method == "probes" else {}
    with StorageTracker() as tracker:
        operator = temporal_jacobian(module, x, method=method, memory=OWN + memory, **options)
        found = operator.log_norms([90, 150, 199])
    return found.values, tracker.peak


@pytest.mark.parametrize("method", ["probes", "autograd"])
def test_passes_are_given_up_before_the_budget_is_exceeded(causal, method):
    ample, most = measured(causal, method, 1 << 30)
    peaks = []
    for memory in (5_000_000, 6_500_000, 10_000_000):
        values, peak = measured(causal, method, memory)
        # beside what objects take, an eighth of all may be kept for other targets
        assert peak <= memory + (OWN + memory) // 8
        np.testing.assert_allclose(values, ample, atol=1e-12)
        peaks.append(peak)
    assert peaks[0] < most / 1.5  # that is, a budget costs passes


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(5, 7, batch_first=True),
        nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 9), nn.LayerNorm(9)),
        Causal(5),
    ],
    ids=lambda module: type(module).__name__,
)
def test_saved_bytes_are_what_stays_of_a_pass(module):
    own = [*module.parameters()]
    x = torch.randn(1, 40, 5, requires_grad=True)
    with StorageTracker([*own, x]) as tracker:
        y = module(x)
        y = torch.cat([y[0] if isinstance(y, tuple) else y])  # which saves nothing
    stays = tracker.live - y.numel() * y.element_size()
    assert stays / 1.1 <= saved_bytes(y, [*own, x]) <= stays + 64  # numbers in the code


def test_a_checkpoint_is_not_run_to_be_weighed():
    calls = []

    def forward(x):
        calls.append(1)
        return x.exp().sin()

    y = checkpoint(forward, torch.ones(9, requires_grad=True), use_reentrant=False)
    assert saved_bytes(y) == 0
    assert len(calls) == 1


class Steps(nn.Module):
    """A recurrence of few units that torch takes step by step: a bidirectional GRU, or a loop over a cell."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.gru = kind, nn.GRU(8, 8, batch_first=True, bidirectional=True)
        self.cell = nn.LSTMCell(8, 8)

    def forward(self, x):
        if self.kind == "gru":
            return self.gru(x)[0]
        h = c = x.new_zeros(x.shape[0], 8)
        out = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            out.append(h)
        return torch.stack(out, 1)


@pytest.mark.parametrize(
    ("kind", "n", "short", "enough", "what"),
    [("gru", 1000, 30, 48, "the forward pass"), ("cells", 800, 28, 48, "a single row")],
)
def test_nodes_of_steps_count_beside_their_numbers(kind, n, short, enough, what):
    x = torch.randn(n, 8)
    with pytest.raises(OverBudget, match=f"{what} needs"):
        temporal_jacobian(Steps(kind), x, layout="b n d", memory=short << 20)
    temporal_jacobian(Steps(kind), x, layout="b n d", memory=enough << 20)


class Wide(nn.Module):
    """Wide numbers between narrow ones, all kept for the way back."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 5, batch_first=True)

    def forward(self, x):
        return self.gru((x[..., None] * torch.ones(2000)).exp().sin().mean(-1))[0]


def test_a_pass_that_does_not_serve_is_let_go_before_another_is_made():
    module, x = Wide(), torch.randn(1, 80, 3, requires_grad=True)
    with StorageTracker([x]) as one:
        module(x)
    with StorageTracker([x]) as whole:
        temporal_jacobian(module, x[0].detach(), layout="b n d")
    assert whole.peak < 1.5 * one.peak
