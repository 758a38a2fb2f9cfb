"""Costs for advice: the fit against known coefficients, measurements kept and disturbed."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from depprobe.advice import arriving_gradient as arriving
from depprobe.advice import machine_costs as measuring
from depprobe.advice.cost_model import byte_terms, fit, formulas, time_terms, token_terms
from depprobe.advice.machine_costs import Grid, fitted, kept_in
from depprobe.costs.memory import tensor_bytes
from depprobe.errors import BadInput
from depprobe.registry import layers

POINTS = [(n, d) for n in (64, 512, 2048) for d in (16, 64)] + [(512, 128)]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setattr(arriving, "WIDTH", 8)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Rows of the Jacobian, measured once for all tests."""
    return kept_in(tmp_path_factory.mktemp("kept"))


@pytest.mark.parametrize(
    ("spec", "terms"), [("attention", time_terms), ("lstm", time_terms), ("sliding-window", byte_terms)]
)
def test_a_fit_finds_the_coefficients_that_made_the_data(spec, terms):
    true = np.array([1e-4, 3e-10, 2e-9, 0.0, 5e-8])[: len(terms(formulas(spec, 64, 16), 64, 16))]
    points = {(n, d): float(np.dot(true, terms(formulas(spec, n, d), n, d))) for n, d in POINTS}
    model = fit(spec, points, terms)
    # the point at a third width is needed to tell the terms apart: left out, it is missed a little
    assert model.error < 0.05
    for n, d in [(100, 16), (50_000, 128)]:
        assert model.at(spec, n, d) == pytest.approx(
            np.dot(true, terms(formulas(spec, n, d), n, d)), rel=1e-6
        )


def test_the_terms_are_the_formulas_of_attention():
    n, d = 10, 16
    found = formulas("attention", n, d)
    assert time_terms(found, n, d) == [1.0, 8 * n * d**2, 4 * n**2 * d, 1, n * d]
    assert byte_terms(found, n, d) == [1.0, n * d, n**2, d**2]
    causal = formulas("attention:causal=true", n, d)
    assert byte_terms(causal, n, d) == [1.0, n * d, n * (n + 1) / 2, d**2]
    assert token_terms(causal, n, d) == [1.0, 8 * d**2, 2 * n * d]


def test_the_error_is_that_of_points_left_out():
    # one term: leaving one point out of (1, 1, 4) leaves the relative least-squares fit of the other two
    def constant(found, n, d):
        return [1.0]

    points = {(64, 16): 1.0, (512, 16): 1.0, (2048, 16): 4.0}
    model = fit("conv", points, constant)

    def fitted_to(a, b):
        return (1 / a + 1 / b) / (1 / a**2 + 1 / b**2)

    misses = [fitted_to(1, 4) / 1, fitted_to(1, 4) / 1, fitted_to(1, 1) / 4]
    assert model.error == pytest.approx(math.sqrt(np.mean(np.log(misses) ** 2)))


def test_measurements_are_kept_and_taken_up_again(tmp_path, monkeypatch):
    grid = Grid((8, 16, 24), (8,), seconds=1e-3, threads=1)
    seen = []
    kept = kept_in(tmp_path)
    first = fitted(["conv", "rnn"], False, kept, lambda done, of, label: seen.append((done, of)), grid)
    assert seen == sorted(seen)
    assert seen[-1][0] < 2
    # bytes of tensors are exact, and those of a convolution a sum of n d and d^2
    module, x = layers["conv"].build(8), torch.zeros(48, 8)
    real = tensor_bytes(module, x, "forward+backward").peak
    assert first.sizes["conv"].at("conv", 48, 8) == pytest.approx(real, rel=0.02)
    step = measuring._training_step
    monkeypatch.setattr(measuring, "_training_step", None)
    again = fitted(["conv", "rnn"], False, kept, None, grid)
    assert again.times["rnn"].at("rnn", 100, 8) == first.times["rnn"].at("rnn", 100, 8)
    # another machine measures for itself
    monkeypatch.setattr(measuring, "machine", lambda: {"cpu": "another"})
    monkeypatch.setattr(measuring, "_training_step", lambda *given: step(*given) | {"time": 5.0})
    assert fitted(["rnn"], False, kept, None, grid).times["rnn"].at("rnn", 16, 8) == pytest.approx(5)


def test_a_token_is_timed_at_one_thread(tmp_path, monkeypatch):
    threads = []

    def seconds(run, count, least):
        run()
        threads.append(count)
        return SimpleNamespace(low=2.0)

    monkeypatch.setattr(measuring, "seconds", seconds)
    found = fitted(["gru"], True, kept_in(tmp_path), None, Grid((8, 16), (8,)))
    assert found.times["gru"].at("gru", 12, 8) == pytest.approx(2)
    assert threads == [1, 1]


def test_a_disturbed_pass_is_taken_at_one_thread_and_not_kept(tmp_path, monkeypatch):
    asked = []

    def seconds(run, count, least):
        asked.append(count)
        return SimpleNamespace(low=times[count])

    monkeypatch.setattr(measuring, "seconds", seconds)
    monkeypatch.setattr(measuring, "all_threads", lambda: 2)
    kept, grid = kept_in(tmp_path), Grid((8, 16), (8,))
    times = {1: 0.01, 2: 0.5}
    found = fitted(["conv"], False, kept, None, grid)
    assert found.disturbed == {"conv": [(8, 8), (16, 8)]}
    assert found.times["conv"].at("conv", 12, 8) == pytest.approx(0.01)
    times[2] = 0.02
    found = fitted(["conv"], False, kept, None, grid)
    assert found.disturbed == {}
    assert found.times["conv"].at("conv", 12, 8) == pytest.approx(0.02)
    assert asked == [2, 1] * 4
    # a long pass would take long again, and one thread has nothing to wait for
    times[2] = 9.0
    fitted(["conv"], False, kept_in(tmp_path / "long"), None, grid)
    fitted(["conv"], False, kept_in(tmp_path / "one"), None, replace(grid, threads=1))
    assert asked[8:] == [2, 2, 1, 1]


def test_a_layer_that_sees_the_future_takes_no_stream(tmp_path):
    grid = Grid((8, 16), (8,), seconds=1e-3, threads=1)
    found = fitted(["attention", "gru"], True, kept_in(tmp_path), None, grid)
    assert set(found.times) == {"gru"}
    assert "use causal=true" in found.no_stream["attention"]


def test_a_window_is_measured_at_the_lengths_that_hold_it(tmp_path):
    grid = Grid((8, 16, 24), (8,), seconds=1e-3, threads=1)
    found = fitted(["sliding-window:window=12"], False, kept_in(tmp_path), None, grid)
    # bytes of tensors are exact, and were not measured at n = 8
    assert len(list(tmp_path.iterdir())) == 2
    assert found.sizes["sliding-window:window=12"].at("sliding-window:window=12", 24, 8) > 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("attention:heads=3", "lengths to 24 and widths 8: heads must divide d = 8, and 3 does not"),
        ("sliding-window:window=20", "lengths to 24 and widths 8: window = 20 is larger than n = 8"),
    ],
)
def test_a_layer_that_the_grid_cannot_hold_is_named(tmp_path, spec, message):
    with pytest.raises(BadInput, match=f"{spec} cannot be measured at {message}"):
        fitted(["conv", spec], False, kept_in(tmp_path), None, Grid((8, 16, 24), (8,)))
    assert not any(tmp_path.iterdir())
