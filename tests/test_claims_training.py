"""C14: a run by hand, pairs by brute force, and verdicts that flip with the data."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import xarray as xr
from claim_evidence import RUNS, STEPS, more_lags, outcome, small
from conftest import tolerance

from depprobe.ledger.training import clipped_training
from depprobe.ledger.training import trained_cell as training
from depprobe.ledger.training.clipped_training import CLAIM, sign_test
from depprobe.ledger.training.grid import Plan, grid
from depprobe.ledger.training.outcomes import clipping, kinds, pairs
from depprobe.ledger.training.tasks import TASKS


@pytest.fixture(scope="module")
def ds():
    return small("C14")


def verdicts(ds):
    return [finding.verdict for finding in CLAIM.judge(ds)]


def test_a_clipped_run_by_hand(ds):
    """Gradient descent with momentum 0.9 at 30 times the rate, every step scaled to norm 1 where longer."""
    cell = training.Cell("rnn:gain=2", "copy", 6, 0, 1.0, "sgd", batch=4, steps=STEPS)
    task, net = TASKS["copy"], training.build(cell)
    parameters = list(net.parameters())
    speed = [torch.zeros_like(p) for p in parameters]
    draws, fresh = (torch.Generator().manual_seed(6 + start) for start in (0, 500_000))
    clipped = 0
    for _ in range(STEPS):
        x, y = task.draw(6, 4, draws)
        gradients = torch.autograd.grad(task.loss(net(x), y), parameters)
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        clipped += norm > 1
        with torch.no_grad():
            for p, v, g in zip(parameters, speed, gradients, strict=True):
                v.mul_(0.9).add_(g * min(1.0, 1 / norm))
                p.sub_(30 * cell.rate * v)
    x, y = task.draw(6, training.TESTED, fresh)
    expected = float(task.loss(net(x), y).detach()) / math.log(4)
    at = {"layer": "rnn:gain=2", "task": "copy", "task_lag": 6, "seed": 0, "clip": 1.0, "optimizer": "sgd"}
    assert float(ds["relative_loss"].sel(at)) == pytest.approx(expected, rel=1e-4)
    assert float(ds["clipped_share"].sel(at)) == clipped / STEPS > 0
    free = ds["relative_loss"].sel(at | {"clip": math.inf})
    assert abs(float(free) - expected) > 1e-3


def test_pairs_and_counts_by_brute_force(ds):
    rng = np.random.default_rng(0)
    random = ds.assign(
        learned=(ds["learned"].dims, rng.integers(0, 2, ds["learned"].shape).astype(float)),
        log_norm_needed=ds["log_norm_needed"] * 0
        + xr.DataArray(np.log([[1e-9, 0.1], [5.0, 1e-5]]), dims=("layer", "task_lag")),
    )
    found = clipping(random)
    for optimizer, (name, low, high) in product(
        ("adam", "sgd"), (("vanished", 0, 1e-3), ("arriving", 1e-3, 1), ("exploding", 1, math.inf))
    ):
        counts = np.zeros(3)
        for layer, lag in product(RUNS, (2, 6)):
            at = random.isel(task=0, seed=0).sel(layer=layer, task_lag=lag, optimizer=optimizer)
            if low <= math.exp(float(at["log_norm_needed"].sel(clip=1.0))) < high:
                counts += 1, float(at["learned"].sel(clip=math.inf)), float(at["learned"].sel(clip=1.0))
        names = ("cells", "free_learned", "clipped_learned")
        assert [found[f"{optimizer}_{name}_{each}"] for each in names] == counts.tolist()
    row = pairs(random)
    assert len(row["layer"]) == 8
    assert sum(inside.sum() for inside in kinds(row["log_norm_needed"]).values()) == 8


def test_the_sign_test_counts_every_way_of_falling():
    for wins, losses in ((3, 1), (0, 4), (6, 0)):
        of = wins + losses
        ways = [sum(heads) >= wins for heads in product((0, 1), repeat=of)]
        assert sign_test(wins, losses) == pytest.approx(np.mean(ways), rel=tolerance())


def test_clipping_that_never_acts_is_checked(ds):
    clipped = ds["clip"] == 1.0
    idle = ds.assign(
        clipped_share=0 * ds["clipped_share"],
        relative_loss=(ds["relative_loss"] * 0 + 1 + clipped).transpose(*ds["relative_loss"].dims),
    )
    assert CLAIM.checks(idle) == ["clipping that never acted changed what was learned"]
    assert CLAIM.checks(ds.assign(clipped_share=ds["clipped_share"] * 0 + 1)) == [
        "a gradient was clipped in a run without clipping"
    ]


def test_verdicts_follow_the_data(ds):
    more = more_lags(ds)
    assert verdicts(outcome(more, free=0, clipped=1)) == ["confirmed", "not measured here", "confirmed"]
    assert verdicts(outcome(more, free=1, clipped=0)) == ["refuted", "not measured here", "refuted"]
    assert verdicts(outcome(more, free=0, clipped=0))[0] == "qualified"
    # Adam scales by itself, and only the longest lag is long
    descent = more["optimizer"] == "sgd"
    assert verdicts(outcome(more, free=~descent, clipped=descent))[0] == "confirmed"
    assert verdicts(outcome(more, free=1, clipped=more["task_lag"] < 7))[2] == "refuted"
    assert verdicts(outcome(more, free=0, clipped=more["task_lag"] == 7))[2] == "confirmed"
    acting = outcome(more, free=0, clipped=0, norm=1e-9, share=0.5)
    assert verdicts(acting) == ["not measured here", "refuted", "refuted"]
    assert "it acts" in CLAIM.judge(acting)[1].note
    assert verdicts(outcome(more, free=0, clipped=1, norm=1e-9))[1] == "confirmed"
    some = outcome(more, free=0, clipped=more["layer"] == "rnn", norm=1e-9)
    assert verdicts(some)[1:] == ["qualified", "qualified"]
    assert CLAIM.judge(some)[2].note == "within the steps allowed only some runs of rnn"
    arriving = outcome(more, free=0, clipped=more["layer"] == "rnn")
    assert CLAIM.judge(arriving)[2].note.endswith("runs of rnn, and none whose gradient had vanished")


def test_runs_that_clip_no_step_test_nothing(ds):
    more = more_lags(ds)
    assert verdicts(outcome(more, free=0, clipped=1, share=0.0))[0] == "not measured here"
    assert verdicts(outcome(more, free=0, clipped=0, norm=1e-9, share=0.0))[1] == "not measured here"
    # half of the pairs, all of them lost, are no test
    acted = more["task_lag"] > 3
    half = outcome(more, free=more["task_lag"] <= 3, clipped=acted, share=0.5 * acted)
    finding = CLAIM.judge(half)[0]
    assert finding.numbers["learned, clipped"][::2] == (4, "of 4")


def test_both_arms_are_tuned(tmp_path):
    plan = Plan(
        ("rnn",), ("rnn",), lags=(3,), clipped_lags=(3,), seeds=1, batch=4, steps=9, rates=(0.1, 1, 9)
    )
    found = grid(plan, "a command", tmp_path)
    best = []
    for cell in plan.cells():
        at = [training.trained(replace(cell, rate=rate * cell.rate), tmp_path) for rate in plan.rates]
        best.append(min(at, key=lambda one: float(one["training_loss"])))
    for name in ("relative_loss", "learning_rate"):
        assert sorted(found[name].values.ravel()) == sorted(float(one[name]) for one in best)
    assert len(list(tmp_path.iterdir())) == len(plan.cells()) * len(plan.rates)
    for quick in (True, False):
        assert len(clipped_training.plan(quick).rates) >= 3
