"""The autograd operator: probes, memory budget, and zeros that are proved or left unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.errors import BadInput, OverBudget
from depprobe.operators import temporal_jacobian
from depprobe.operators.memory import predicted_peak
from depprobe.operators.support import independent

F64 = torch.float64


class Attention(nn.Module):
    """Plain softmax attention over positions, reading 5 and writing 3 wide."""

    def __init__(self):
        super().__init__()
        self.q, self.v = nn.Linear(5, 4), nn.Linear(5, 3)

    def forward(self, x):
        q = self.q(x)
        return (q @ q.transpose(-1, -2)).softmax(-1) @ self.v(x)


@pytest.fixture
def case():
    return Attention().to(F64), torch.randn(21, 5, dtype=F64)


def test_probes_spread_around_the_exact_norms_as_their_standard_error_says(case):
    module, x = case
    exact = temporal_jacobian(module, x, method="autograd").log_norms([20, 3]).values
    scores = []
    for seed in range(12):
        found = temporal_jacobian(module, x, method="probes", probes=400, seed=seed).log_norms([20, 3])
        assert found.stderr.shape == exact.shape
        scores.append((found.values - exact) / found.stderr)
    scores = np.array(scores)
    assert abs(scores.mean()) < 0.4
    assert 0.7 < scores.std() < 1.4


def test_rows_do_not_depend_on_the_chunks_that_the_budget_allows(case):
    module, x = case
    generous = temporal_jacobian(module, x, method="autograd")
    one = predicted_peak(module, x, 1)
    two = predicted_peak(module, x, 2)
    tight = temporal_jacobian(module, x, method="autograd", memory=one + (two - one) // 2)
    assert tight._chunk == 1
    assert generous._chunk > 21
    np.testing.assert_allclose(tight.log_norms([9]).values, generous.log_norms([9]).values, atol=1e-13)


def test_too_large_a_job_is_refused_before_it_allocates():
    with pytest.raises(
        OverBudget, match=r"one vector-Jacobian product needs .* budget is 1 MiB; use a smaller n"
    ):
        temporal_jacobian(Attention(), torch.randn(30_000, 5), method="autograd", memory=1 << 20)


def test_predicted_peak_is_what_a_real_run_holds(case):
    from depprobe.operators.memory import StorageTracker

    module, x = case
    with StorageTracker() as tracker, torch.enable_grad():
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        torch.autograd.grad(y, leaf, torch.ones(3, *y.shape, dtype=F64), is_grads_batched=True)
    assert abs(predicted_peak(module, x, 3) / tracker.peak - 1) < 0.2


def test_zeros_are_proved_or_unknown():
    class Banded(nn.Module):
        def forward(self, x):
            past = torch.cat([torch.zeros_like(x[:2]), x[:-2]])
            return x + past * 1e-320  # an influence that underflows

    x = torch.randn(12, 3, dtype=F64)
    values = temporal_jacobian(Banded(), x).log_norms([8]).values[0]
    assert np.isfinite(values[8])
    assert np.isnan(values[6]), "an influence below the normal numbers is not a zero"
    assert np.isneginf(np.delete(values, [6, 8])).all()


def test_a_module_that_swallows_nan_is_not_taken_for_independent():
    def function(x):
        return torch.nan_to_num(x, nan=0.0).cumsum(0)

    x = torch.randn(9, 2, dtype=F64)
    proved = independent(function, x, 5, torch.arange(9))
    assert proved.tolist() == [False] * 6 + [True] * 3


def test_what_cannot_be_answered_is_said_in_one_line(case):
    module, x = case
    with pytest.raises(BadInput, match="estimate the Frobenius norm only"):
        temporal_jacobian(module, x, method="probes").log_norms([0], None, "spectral")
    with pytest.raises(BadInput, match="probes must be at least 2"):
        temporal_jacobian(module, x, method="probes", probes=1)
    with pytest.raises(BadInput, match="no structured operator serves Attention"):
        temporal_jacobian(module, x, method="structured")
    with pytest.raises(BadInput, match="does not depend on the input"):
        temporal_jacobian(nn.Identity(), x.detach(), method="autograd").__class__(lambda z: z.detach(), x)
    with pytest.raises(BadInput, match=r"x is torch.float32 .* but the module is torch.float64"):
        temporal_jacobian(module, x.float())
    with pytest.raises(BadInput, match=r"fails on x of shape \(21, 4\): mat1 and mat2"):
        temporal_jacobian(module, x[:, :4])
    with pytest.raises(BadInput, match="x is 5 wide and the module reads 6"):
        temporal_jacobian(nn.GRU(6, 3).to(F64), x)
    with pytest.raises(BadInput, match="use --dtype float32"):
        temporal_jacobian(module.half(), x.half())


def test_train_mode_with_dropout_or_statistics_is_refused():
    x = torch.randn(9, 5)
    for child in (nn.Dropout(0.3), nn.LSTM(5, 5, 2, dropout=0.2), nn.MultiheadAttention(5, 1, dropout=0.1)):
        with pytest.raises(BadInput, match=r"dropout 0\.\d of .* is active"):
            temporal_jacobian(nn.Sequential(child), x)
        temporal_jacobian(nn.Sequential(child).eval(), x)
    with pytest.raises(BadInput, match="updates its statistics"):
        temporal_jacobian(nn.Sequential(nn.BatchNorm1d(5)), x)
    broken = nn.Linear(5, 5)
    with torch.no_grad():
        broken.weight[0, 0] = torch.nan
    with pytest.raises(BadInput, match="weight 'weight' holds NaN or Inf"):
        temporal_jacobian(broken, x)
    with pytest.raises(BadInput, match="x holds NaN or Inf"):
        temporal_jacobian(nn.Linear(5, 5), x * torch.inf)
