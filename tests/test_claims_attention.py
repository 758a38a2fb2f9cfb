"""C9: rows, weights and stacks against autograd and loops; verdicts that flip with the data."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from claim_evidence import filled, small
from torch import nn

import depprobe
from depprobe.layers.attention import Attention
from depprobe.layers.residual import Added
from depprobe.ledger.gradients import attention_loss
from depprobe.ledger.gradients import attention_measurements as attention_measured
from depprobe.ledger.gradients.attention_loss import CLAIM
from depprobe.ledger.training import trained_cell as training
from depprobe.ledger.training.tasks import TASKS

PAST = attention_measured.PARTS


@pytest.fixture(scope="module")
def ds():
    return small("C9")


def verdicts(ds):
    return [finding.verdict for finding in CLAIM.judge(ds)]


def dense(module, x):
    """ln norms of the last row by autograd, (n,)."""
    J = torch.autograd.functional.jacobian(lambda z: module(z)[-1], x)
    return J.square().sum((0, 2)).sqrt().log().numpy()


def test_stacks_and_rows_are_those_of_autograd(ds):
    layers, x = attention_measured.attentions(4, 2, 1, 3, 12)
    for stream, depth in (("none", 3), ("residual", 2)):

        def stack(z, stream=stream, depth=depth):
            for layer in layers[:depth]:
                z = z + layer(z) if stream == "residual" else layer(z)
            return z

        at = {"stream": stream, "depth": depth, "seed": 1}
        found = float(ds["log_norm_far"].sel(at))
        assert found == pytest.approx(float(np.median(dense(stack, x)[:6])), abs=1e-9)
        y = stack(x).detach().numpy()
        spread = math.sqrt(((y - y.mean(0)) ** 2).sum() / (y**2).sum())
        assert float(ds["spread"].sel(at)) == pytest.approx(spread, abs=1e-12)
    (layer,), x = attention_measured.attentions(16, 8, 0, 1, 40)
    norms = dense(layer, x)
    at = {"n": 40, "seed": 0}
    assert float(ds["log_norm_own"].sel(at)) == pytest.approx(norms[-1], abs=1e-9)
    lags = np.array_split(np.arange(1, 40), PAST)
    expected = [np.median([norms[39 - lag] for lag in part]) for part in lags]
    np.testing.assert_allclose(ds["log_norm_past"].sel(at), expected, rtol=0, atol=1e-9)


def test_weights_are_those_that_attention_mixes_with():
    torch.manual_seed(0)
    layer, x = Attention(6, 2).double(), torch.randn(9, 6, dtype=torch.float64)
    _, expected = layer.weights(x, x, x, average_attn_weights=False)
    found = attention_measured.weights_of_last(layer, x)
    np.testing.assert_allclose(found, expected[:, -1].detach(), rtol=0, atol=1e-14)


def test_weights_near_one_over_n_have_nearly_all_the_entropy(monkeypatch):
    # half of the weight on one of 20 positions, the rest shared
    a = np.array([[0.5, *[0.5 / 19] * 19]] * 8)
    monkeypatch.setattr(attention_measured, "weights_of_last", lambda layer, x: a)
    found = attention_measured.by_length((20,), 16, [0], lambda label: None)
    expected = (0.5 * math.log(2) + 0.5 * math.log(38)) / math.log(20)
    assert found["entropy"].item() == pytest.approx(expected)
    assert found["largest_weight"].item() == pytest.approx(10)


def test_norms_before_and_after_training_are_those_of_the_lag_needed(ds):
    cell = training.Cell("attention:heads=4,causal=true", "copy", 8, 0, math.inf, "adam", steps=200)
    layer = training.build(cell).layer.double()
    fresh = torch.Generator().manual_seed(8 + 500_000)
    x = TASKS["copy"].draw(8, training.PROBED, fresh)[0].double()
    J = torch.stack([torch.autograd.functional.jacobian(lambda z: layer(z)[-1, :], one)[:, 0] for one in x])
    before = float(J.square().sum((1, 2)).mean().sqrt().log())
    at = ds["log_norm_trained"].sel(task_lag=8, seed=0)
    assert float(at.sel(snapshot="before")) == pytest.approx(before, abs=1e-6)
    assert float(at.sel(snapshot="after")) > before


def test_a_residual_stream_has_a_fast_operator():
    torch.manual_seed(0)
    x = torch.randn(9, 5, dtype=torch.float64)
    inner = nn.Sequential(nn.Linear(5, 5), Attention(5, 1, causal=True), nn.Tanh()).double()
    module = nn.Sequential(Added(inner), Added(nn.LayerNorm(5))).double()
    ds = depprobe.jacobian(module, x, targets="all")
    assert ds.attrs["method"] == "composed"
    np.testing.assert_allclose(ds.log_norm.values[-1], dense(module, x), rtol=0, atol=1e-9)
    with pytest.raises(depprobe.BadInput, match="must match the size"):
        depprobe.jacobian(Added(nn.Linear(5, 4).double()), x)


def test_uniform_attention_is_checked(ds):
    assert CLAIM.checks(ds) == []
    exact = sum((Fraction(1, j) for j in range(7, 41)), Fraction()) / 40
    assert pytest.approx(float(exact), rel=1e-14) == attention_loss.UNIFORM_SHARE
    assert float(ds["uniform_share"]) == pytest.approx(float(exact), rel=1e-12)
    wrong = ds.assign(uniform_share=ds["uniform_share"] * 1.01, uniform_error=ds["uniform_error"] + 0.1)
    assert len(CLAIM.checks(wrong)) == 2


def test_slopes_are_those_of_least_squares():
    rng = np.random.default_rng(1)
    lengths, norms = np.array([3.0, 10.0, 11.0, 60.0]), rng.normal(size=(4, 3))
    norms[:, 2] = np.nan
    found = attention_loss.slopes(norms, lengths)
    for seed in range(2):
        assert found[seed] == pytest.approx(np.polyfit(np.log(lengths), norms[:, seed], 1)[0], rel=1e-10)
    assert np.isnan(found[2])


@pytest.mark.parametrize(("power", "expected"), [(0.0, "confirmed"), (-0.5, "qualified"), (-1.0, "refuted")])
def test_loss_is_judged_by_its_slope(ds, power, expected):
    slope = power * np.log(ds["task_lag"] + 1.0)
    learned = filled(ds, relative_loss=0.01, log_norm_trained=slope)
    assert verdicts(learned)[3] == expected
    assert verdicts(filled(learned, relative_loss=0.9))[3] == "not measured here"
    one = learned.assign(relative_loss=learned["relative_loss"].copy())
    one["relative_loss"].loc[{"task_lag": 4, "seed": 0}] = 0.9
    assert verdicts(one)[3] == "not measured here", "one lag that is not learned"


def test_distance_and_depth_are_judged(ds):
    for fading, expected in ((-3 * ds["past"], "refuted"), (3 * ds["past"], "refuted"), (0, "confirmed")):
        assert verdicts(filled(ds, log_norm_past_positions=fading))[1] == expected
    fades = -3 * ds["past"] * (ds["n"] == 20) + 0.5 * ds["past"] * (ds["n"] == 40)
    assert verdicts(filled(ds, log_norm_past_positions=fades))[1] == "qualified", (
        "one length at which it fades"
    )
    residual = ds["stream"] == "residual"
    for loss, expected in (
        (0 * residual, "confirmed"),
        (~residual, "qualified"),
        (1 + 0 * residual, "refuted"),
    ):
        assert verdicts(filled(ds, log_norm_far=-1.0 * loss * ds["depth"]))[4] == expected


def test_without_positions_nothing_could_come_out_otherwise(ds):
    for value in (0.0, -3 * ds["past"], 9 * ds["past"]):
        assert verdicts(filled(ds, log_norm_past=value))[::2][:2] == ["by definition"] * 2
    # exchanging two sources exchanges their blocks, and nothing else: distance does not enter
    (layer,), x = attention_measured.attentions(16, 8, 0, 1, 20)
    swapped = x.clone()
    swapped[[3, 11]] = x[[11, 3]]
    norms, others = dense(layer, x), dense(layer, swapped)
    np.testing.assert_allclose(others[[11, 3]], norms[[3, 11]], atol=1e-12)
    np.testing.assert_allclose(np.delete(others, [3, 11]), np.delete(norms, [3, 11]), atol=1e-12)
    with_positions = dense(nn.Sequential(training.Positions(), layer), x)
    found = attention_measured.by_length((20,), 16, [0], lambda label: None)["log_norm_past_positions"][0, 0]
    np.testing.assert_allclose(found, attention_measured.over_past(with_positions), atol=1e-9)
