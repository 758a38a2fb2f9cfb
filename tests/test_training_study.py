"""The study of training: tasks and their chance, clipping, reproducible runs that resume, prediction."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tolerance
from scipy.stats import spearmanr

import depprobe
from depprobe import BadInput
from depprobe.ledger.training import grid, tasks
from depprobe.ledger.training import trained_cell as training
from depprobe.store import marks
from depprobe.store.marks import code_version

STUDIES = Path(depprobe.__file__).parents[1] / "studies"
TINY = grid.Plan(
    layers=("rnn", "rnn:gain=1,orthogonal=true"),
    clipped=("rnn", "rnn:gain=1,orthogonal=true"),
    lags=(2, 3),
    clipped_lags=(2,),
    seeds=1,
    batch=4,
    steps=11,
)


@pytest.fixture
def study(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(STUDIES)
    spec = importlib.util.spec_from_file_location("training_study", STUDIES / "12_training.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "training_study", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "QUICK", TINY)
    monkeypatch.setattr(module, "KEPT", tmp_path / "cells")
    return module


def test_chance_is_the_best_answer_that_ignores_the_input():
    copy, adding = tasks.TASKS["copy"], tasks.TASKS["adding"]
    # every symbol once: no constant distribution does better than the uniform one
    y = torch.arange(tasks.SYMBOLS)
    logits = torch.cat([torch.zeros(1, tasks.SYMBOLS), torch.randn(500, tasks.SYMBOLS)]).double()
    losses = [float(copy.loss(row.expand(len(y), -1), y)) for row in logits]
    assert losses[0] == pytest.approx(copy.chance, rel=tolerance())
    assert min(losses) == losses[0]
    # all pairs of values on a grid: its variance is 1/6 (1 - 1/m^2)
    m = 60
    value = (torch.arange(m, dtype=torch.float64) + 0.5) / m
    sums = (value[:, None] + value).flatten()
    best = min(
        float(adding.loss(torch.full((m * m, 1), c).double(), sums)) for c in np.arange(0, 2.01, 0.125)
    )
    assert best == pytest.approx(adding.chance * (1 - 1 / m**2), rel=tolerance())
    # drawn sequences: the best constant, and the best answer of who reads only the nearer mark
    x, y = adding.draw(7, 20_000, torch.Generator().manual_seed(1))
    near = (x[:, 1:, 0] * x[:, 1:, 1]).sum(1)
    for answer, expected in ((torch.ones_like(y), 1 / 6), (near + 0.5, 1 / 12)):
        error = (answer - y).square().double()
        assert abs(float(error.mean()) - expected) < 4 * float(error.std()) / math.sqrt(len(y))


def test_tasks_need_the_input_at_their_lag():
    for name, task in tasks.TASKS.items():
        x, y = task.draw(6, 50, torch.Generator().manual_seed(2))
        assert x.shape == (50, 7, task.d_in)
        if name == "copy":
            assert torch.equal(x[:, 0, :4].argmax(1), y)
            assert torch.equal(x[:, 1:], x[:1, 1:].expand(50, -1, -1))
        else:
            assert torch.equal(x[:, 0, 1], torch.ones(50))
            assert torch.equal(x[:, :, 1].sum(1), torch.full((50,), 2.0))
            assert torch.equal((x[..., 0] * x[..., 1]).sum(1), y)


def test_clipping_scales_every_lag_alike():
    torch.manual_seed(3)
    rnn = torch.nn.RNN(2, 4, bias=False, batch_first=True, dtype=torch.float64)
    x = torch.randn(1, 9, 2, dtype=torch.float64)
    # the naive loop has weights of its own at every position, so their gradients are the parts by lag
    copies = [rnn.weight_hh_l0.detach().clone().requires_grad_() for _ in range(9)]
    h = torch.zeros(4, dtype=torch.float64)
    for step, W in enumerate(copies):
        h = torch.tanh(rnn.weight_ih_l0.detach() @ x[0, step] + W @ h)
    by_lag = torch.stack(torch.autograd.grad(20 * h.square().sum(), copies))
    (20 * rnn(x)[0][:, -1].square().sum()).backward()
    parameters = list(rnn.parameters())
    before = [p.grad.clone() for p in parameters]
    assert torch.allclose(by_lag.sum(0), rnn.weight_hh_l0.grad, rtol=0, atol=1e-13)

    norm = training.clip(parameters, 0.5)
    assert norm == pytest.approx(math.sqrt(sum(float((g**2).sum()) for g in before)), rel=tolerance())
    assert norm > 0.5
    factor = 0.5 / (norm + 1e-6)
    for p, g in zip(parameters, before, strict=True):
        assert torch.equal(p.grad, factor * g)
    assert torch.allclose((factor * by_lag).sum(0), rnn.weight_hh_l0.grad, rtol=0, atol=1e-13)

    def shares(each):
        squares = each.flatten(1).square().sum(1)
        return squares / squares.sum()

    assert shares(by_lag)[-1] > 10 * shares(by_lag)[2] > 0
    assert torch.allclose(shares(factor * by_lag), shares(by_lag), rtol=tolerance(), atol=0)
    # what is short already stays, and so does everything without a limit
    kept = [p.grad.clone() for p in parameters]
    for most in (1.0, math.inf):
        training.clip(parameters, most)
        assert all(torch.equal(p.grad, g) for p, g in zip(parameters, kept, strict=True))


def test_training_learns_and_is_the_same_bit_for_bit():
    cell = training.Cell("rnn:gain=1,orthogonal=true", "copy", 5, 0, 1.0, "adam", d=8, batch=16, steps=120)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = training.train(cell)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert float(torch.full((1,), 2e-40) * 0.5) > 0
    assert (
        float(first["relative_loss"])
        < 0.25
        < 0.9
        < float(training.train(replace(cell, steps=1)).relative_loss)
    )
    assert first.identical(training.train(cell))
    assert not first.identical(training.train(replace(cell, seed=1)))


def test_curves_are_those_of_the_layer_in_place():
    cell = training.Cell("attention:heads=2,causal=true", "adding", 6, 0, math.inf, "sgd", d=8, steps=3)
    found = training.train(cell)["log_rms"]
    layer = training.build(cell).layer.double()
    fresh = torch.Generator().manual_seed(cell.task_lag + 500_000)
    x = tasks.TASKS["adding"].draw(6, training.PROBED, fresh)[0].double()
    J = torch.stack([torch.autograd.functional.jacobian(lambda z: layer(z)[-1], one) for one in x])
    rms = J.square().sum((1, 3)).mean(0).sqrt().log().flip(0)
    np.testing.assert_allclose(found.sel(snapshot="before"), rms, rtol=tolerance(), atol=1e-9)
    assert float(abs(found.sel(snapshot="after") - found.sel(snapshot="during")).max()) > 0


def test_an_overflow_counts_as_not_learned():
    cell = training.Cell("rnn:nonlinearity=relu,gain=9", "copy", 80, 0, math.inf, "sgd", d=8, steps=9)
    ds = training.train(cell)
    assert float(ds["diverged"]) == 1
    assert float(ds["relative_loss"]) == math.inf
    assert float(ds["steps"]) < 9


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(BadInput, match="unknown optimizer 'lion'; choose adam or sgd"):
        training.train(training.Cell("rnn", "copy", 2, 0, 1.0, "lion", d=4))


def test_an_interrupted_run_goes_on(study, monkeypatch, tmp_path):
    whole = study.compute(True, tmp_path / "other")
    train, count = training.train, []

    def stops(cell):
        count.append(cell)
        if len(count) == 5:
            raise KeyboardInterrupt
        return train(cell)

    monkeypatch.setattr(training, "train", stops)
    with pytest.raises(KeyboardInterrupt):
        study.compute(True)
    damaged = sorted(study.KEPT.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    resumed = study.compute(True)
    wanted = TINY.cells()
    # one was interrupted and one was damaged
    assert len(count) == len(wanted) + 2
    assert resumed.drop_attrs().identical(whole.drop_attrs())
    study.compute(True)
    assert len(count) == len(wanted) + 2


def test_a_change_of_the_cell_is_trained_anew(tmp_path):
    cell = training.Cell("rnn", "copy", 2, 0, math.inf, "adam", d=4, steps=2)
    for each in (cell, replace(cell, rate=1e-2), replace(cell, clip=1.0)):
        assert training.trained(each, tmp_path).identical(training.trained(each, tmp_path))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_change_of_the_code_is_trained_anew(tmp_path, monkeypatch):
    package = tmp_path / "depprobe"
    for name in (
        "layers/recurrent.py",
        "operators/chain/operator.py",
        "ledger/training/cell.py",
        "figures/cost.py",
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("before", encoding="utf-8")
    monkeypatch.setattr(marks, "PACKAGE", package)

    def source():
        code_version.cache_clear()
        return code_version(*training._BEARING)

    seen = [source()]
    for name in ("layers/recurrent.py", "operators/chain/operator.py", "ledger/training/cell.py"):
        (package / name).write_text("after", encoding="utf-8")
        assert source() not in seen
        seen.append(source())
    (package / "figures/cost.py").write_text("after", encoding="utf-8")
    assert source() == seen[-1]

    cell = training.Cell("rnn", "copy", 2, 0, math.inf, "adam", batch=4, steps=3)
    first = training.trained(cell, tmp_path)
    monkeypatch.setattr(training, "code_version", lambda *parts: "another")
    assert training.trained(cell, tmp_path).identical(first)
    assert len(list(tmp_path.glob("*.nc"))) == 2


def test_its_numbers_are_those_of_its_cells(study):
    ds = study.compute(True)
    assert ds["log_rms"].dims == (*grid.DIMS, "snapshot", "lag")
    for lag in (2, 3):
        at = ds["log_rms"].sel(snapshot="before", task_lag=lag, lag=lag)
        np.testing.assert_array_equal(at, ds["log_norm_needed"].sel(task_lag=lag))
        assert ds["log_rms"].sel(task_lag=lag, lag=slice(lag + 1, None)).isnull().all()
    trained = ds["relative_loss"].notnull()
    assert int(trained.sum()) == len(TINY.cells()) == 10
    np.testing.assert_array_equal(ds["learned"].where(trained, 0), ds["relative_loss"] < grid.THRESHOLD)
    found = study.numbers(ds)
    assert study.summary(ds).items() <= found.items()
    assert found["cells"] == 4
    assert sum(found[f"{kind}_cells"] for kind in ("vanished", "arriving", "exploding")) == 4
    assert sum(found[f"sgd_{kind}_cells"] for kind in ("vanished", "arriving", "exploding")) == 2


@pytest.fixture
def prediction(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    return importlib.import_module("_prediction")


def test_predictions_agree_with_brute_force(prediction):
    rng = np.random.default_rng(0)
    score = rng.integers(0, 6, 40).astype(float)
    score[:3] = -np.inf
    yes = (rng.random(40) < 0.2 + 0.1 * np.maximum(score, 0)).astype(float)
    pairs = [(p > q) + (p == q) / 2 for p in score[yes > 0] for q in score[yes == 0]]
    assert prediction.auc(score, yes) == pytest.approx(np.mean(pairs), rel=tolerance())
    assert math.isnan(prediction.auc(score, np.ones(40)))
    expected = spearmanr(np.maximum(score, -1), yes).statistic
    assert prediction.rank_correlation(score, yes) == pytest.approx(expected, rel=tolerance())

    def right(limit):
        return sum((s >= limit) == bool(y) for s, y in zip(score, yes, strict=True))

    best = prediction.best_threshold(score, yes)
    assert right(best) == max(map(right, [-np.inf, *sorted(set(score))])) > right(-np.inf)


def test_a_threshold_is_tried_on_the_group_it_was_not_chosen_on(prediction):
    group = np.repeat(["a", "b", "c"], 2)
    yes = np.array([0, 1, 0, 1, 0, 1.0])
    assert prediction.left_out_accuracy(np.array([0, 5, 1, 6, 2, 7.0]), yes, group) == 1
    # each group is split well by itself, and by the threshold of no other
    assert prediction.left_out_accuracy(np.array([0, 1, 10, 11, 20, 21.0]), yes, group) == 0.5
    estimate = prediction.with_interval(prediction.auc, np.array([0, 1, 10, 11, 20, 21.0]), yes, group)
    assert estimate.value == pytest.approx(6 / 9)
    assert estimate.low <= estimate.value < estimate.high == 1
