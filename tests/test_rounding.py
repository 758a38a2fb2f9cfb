"""Stated errors cover what rounding has changed: norms against 100-digit arithmetic at the same states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_studies import STUDIES, module_of
from torch import nn

import depprobe
from depprobe import temporal_jacobian
from depprobe.cli.summaries import summary_of
from depprobe.figures.decay import decay
from depprobe.operators.chain import rounding
from depprobe.vocabulary import STATUS

pytest.importorskip("flint")
F64 = torch.float64
CASES = module_of(Path(STUDIES) / "rounding_cases.py")
#: least share of norms within the bound; and how far, in the median, it may lie above the errors
INSIDE, WIDE = 0.995, 100


def judged(cases):
    """Share of norms inside, median ratio of bound to error, and share undecided."""
    cases = list(cases)
    inside = np.concatenate([case.inside for case in cases])
    undecided = np.concatenate([case.undecided for case in cases])
    return (
        inside.mean(),
        np.median([case.width for case in cases if np.isfinite(case.width)]),
        undecided.mean(),
    )


def test_recurrences_lie_within_the_stated_error():
    inside, width, undecided = judged(CASES.recurrent_cases(range(40)))
    assert inside >= INSIDE
    assert width <= WIDE
    assert undecided < 0.1


def test_errors_of_equal_steps_add_up(monkeypatch):
    """At a constant input states settle, and every step errs alike; taken for random, errors are refuted."""
    torch.manual_seed(0)
    module, x = nn.GRU(2, 8), torch.randn(1, 2).expand(300, 2).contiguous()
    with torch.no_grad():
        module.weight_hh_l0 *= 0.5
    truth = CASES.recurrent_truth(module, x)
    monkeypatch.setattr(rounding, "FACTOR", rounding.FACTOR / 4)
    assert CASES.compared("gru", truth, *CASES.stated(module, x)).inside.all()
    of = rounding.Perturbation.of

    def random(given, *rest):
        found = of(given, *rest)
        drawn = torch.rand_like(found.matrices) < 0.5
        return found._replace(matrices=torch.where(drawn, -found.matrices, found.matrices))

    monkeypatch.setattr(rounding.Perturbation, "of", random)
    assert CASES.compared("gru", truth, *CASES.stated(module, x)).inside.mean() < 0.9


def test_a_smaller_bound_is_refuted(monkeypatch):
    """A bound a thousand times smaller does not cover the truth: the comparison can fail."""
    monkeypatch.setattr(rounding, "FACTOR", rounding.FACTOR / 1e3)
    inside, _, _ = judged(CASES.recurrent_cases(range(16)))
    assert inside < INSIDE


def test_a_nilpotent_recurrence_is_undecided_where_only_rounding_is_left():
    torch.manual_seed(0)
    module, x = nn.RNN(8, 8, bias=False).to(F64), 1e-9 * torch.randn(40, 8, dtype=F64)
    Q = torch.linalg.qr(torch.randn(8, 8, dtype=F64))[0]
    with torch.no_grad():
        module.weight_hh_l0.copy_(Q @ torch.diag(torch.ones(7, dtype=F64), 1) @ Q.T)
    ds = depprobe.jacobian(module, x.numpy(), layout="n d")
    status = ds.log_norm_status.values[0, ::-1]
    assert (status[:8] == STATUS["finite"]).all()
    assert status[39] == STATUS["undecided"]
    case = CASES.compared("nilpotent", CASES.recurrent_truth(module, x), *CASES.stated(module, x))
    assert case.inside.all()


def test_a_gate_that_cancels_keeps_its_digits():
    """GRU with candidates near 1: h_before - tanh(y) of y = 18 to 25."""
    torch.manual_seed(0)
    module, x = nn.GRU(3, 6).to(F64), torch.randn(101, 3, dtype=F64)
    with torch.no_grad():
        module.bias_ih_l0[12:] = torch.linspace(18, 25, 6)
    case = CASES.compared("gru", CASES.recurrent_truth(module, x), *CASES.stated(module, x))
    assert case.inside.all()
    assert np.abs(case.error[~case.undecided]).max() < 1e-10


def test_float32_modules_state_errors_of_their_dtype():
    torch.manual_seed(0)
    x = torch.randn(60, 8)
    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        module = kind(8, 8)
        found = temporal_jacobian(module, x).log_norms([59])
        double = temporal_jacobian(module.double(), x.double()).log_norms([59])
        assert 1e-7 < found.error.max() < 1e-3
        assert double.error.max() < 1e-6


def test_attention_lies_within_the_stated_error():
    inside, width, undecided = judged(CASES.attention_cases(range(40)))
    assert inside >= INSIDE
    assert width <= WIDE
    assert undecided < 0.1


def test_a_nearly_one_hot_target_keeps_its_digits():
    """Weights of e^-243: autograd, and 60 digits, give -237.054 where 500 digits give -237.201."""
    module = nn.MultiheadAttention(2, 1, bias=False).to(F64)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.eye(2).repeat(3, 1))
        module.out_proj.weight.copy_(torch.eye(2))
    x = 20 * torch.tensor([[2, 0.3], [1, 1], [0.5, 0.1], [1, 0.2]], dtype=F64)
    case = CASES.compared("one-hot", CASES.attention_truth(module, x), *CASES.stated(module, x))
    assert case.inside.all()
    assert case.bound.max() < 1e-9
    assert case.values[3] == pytest.approx(-237.2010657, abs=1e-6)


def test_convolutions_lie_within_the_stated_error():
    """Taps that meet and nearly cancel: their sums are exact to few units in the last place."""
    cases = list(CASES.convolution_cases(range(40)))
    assert np.concatenate([case.inside for case in cases]).mean() >= INSIDE
    assert not any(case.undecided.any() for case in cases)


def chaotic(gain):
    torch.manual_seed(0)
    module, x = nn.RNN(3, 64).to(F64), torch.randn(120, 3, dtype=F64)
    with torch.no_grad():
        module.weight_hh_l0.copy_(gain / 8 * torch.randn(64, 64, dtype=F64))
    return module, x


def test_digits_of_a_chaotic_trajectory_are_those_that_a_perturbation_leaves():
    module, x = chaotic(30.0)
    ds = depprobe.jacobian(module, x.numpy(), layout="n d")
    digits = ds.trajectory_digits.values[0]
    with torch.no_grad():
        h = module(x)[0]
        for lag in (8, 14, 20):
            k = 119 - lag
            moves = 1e-13 * torch.randn(16, 64, dtype=F64)
            after = [module(x[k + 1 :], (h[k] * (1 + move))[None])[0][-1] - h[-1] for move in moves]
            seen = float(torch.stack(after).norm() / 4 / h[-1].norm())
            assert abs(np.log10(seen / 1e-13) - (digits[-1] - digits[k])) < 0.7
    horizon = ds.attrs["horizon_lag"]
    assert digits[119 - horizon] < 1 <= digits[119 - horizon + 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spec", ["lstm", "gru", "rnn"])
def test_default_layers_determine_their_trajectories(spec, dtype):
    ds = depprobe.jacobian(spec, n=100, d=16, dtype=dtype)
    assert "horizon_lag" not in ds.attrs
    assert "trajectory_digits" not in ds


class Residual(nn.Module):
    """A recurrence inside a forward of one's own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x.sum(-1, keepdim=True) + self.inner(x)[0]


def test_a_forward_around_a_chaotic_recurrence_says_so_and_one_around_a_default_layer_does_not():
    module, x = chaotic(30.0)
    whole = depprobe.jacobian(Residual(module), x[:60], layout="n b d")
    assert whole.attrs["method"] == "composed"
    # roundings of x are a part of those of the states
    alone = depprobe.jacobian(module, x[:60].numpy(), layout="n d")
    assert 0 <= whole.attrs["horizon_lag"] - alone.attrs["horizon_lag"] <= 12
    for layer in (nn.LSTM(3, 8), nn.GRU(3, 8)):
        assert "horizon_lag" not in depprobe.jacobian(Residual(layer), x.float(), layout="n b d").attrs


def test_the_summary_says_from_which_lag_a_trajectory_is_not_determined():
    module, x = chaotic(30.0)
    ds = depprobe.jacobian(module, x.numpy(), layout="n d")
    words = " ".join(summary_of(ds).notes)
    assert f"from lag {ds.attrs['horizon_lag']} on rounding in the forward pass" in words
    assert f"lag {ds.attrs['horizon_lag']}: rounding" in " ".join(
        text.get_text() for legend in decay(ds).figure.legends for text in legend.get_texts()
    )
