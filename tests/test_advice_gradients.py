"""Gradients for advice: layers and stacks against the Jacobian's support and known laws of decay."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.advice import arriving_gradient as arriving
from depprobe.advice.machine_costs import kept_in
from depprobe.advice.stack_depth import MOST_LAYERS, stack
from depprobe.runs.cases import cases_of_specs


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setattr(arriving, "WIDTH", 8)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Rows of the Jacobian, measured once for all tests."""
    return kept_in(tmp_path_factory.mktemp("kept"))


@pytest.mark.parametrize("lag", [1, 2, 7, 12, 29])
@pytest.mark.parametrize(
    "spec",
    [
        "conv",
        "conv:causal=true,kernel=4",
        "dilated-conv",
        "sliding-window:window=6",
        "sliding-window:window=5,causal=true",
        "dilated-attention",
        "dilated-attention:causal=true",
        "attention",
        "gru",
        "conv-attention",
        "conv-attention:attention=sliding-window,window=6",
    ],
)
def test_a_stack_reaches_the_lag_and_one_layer_less_does_not(spec, lag):
    """By the Jacobian's support at the last position: a relu cuts no way for good."""
    n, d = 30, 16
    wanted = stack(spec, n, lag, d)

    def reaches(name, count):
        parts = cases_of_specs([name], None, n, d, 1, list(range(count)), "float64", "cpu")
        module = nn.Sequential(*(part.build() for part in parts))
        leaf = parts[0].x.requires_grad_()
        (gradient,) = torch.autograd.grad(module(leaf)[-1].sum(), leaf)
        return bool(gradient[n - 1 - lag].abs().max() > 0)

    assert reaches(wanted.spec, int(wanted.applications))
    if wanted.spec != spec and wanted.levels > 1:
        assert not reaches(f"{spec}:depth={int(wanted.levels) - 1}", 1)
    elif wanted.applications > 1:
        assert not reaches(spec, int(wanted.applications) - 1)


def test_blocks_take_two_layers_unless_the_lag_is_next_door():
    assert [stack("block-attention", 10_000, lag, 8).levels for lag in (1, 2, 50, 9999)] == [1, 2, 2, 2]


def test_the_default_window_is_that_of_the_length_asked_for():
    # 64 positions, of which 32 are past ones
    assert [stack("sliding-window", 1000, lag, 8).levels for lag in (10, 32, 33, 999)] == [1, 1, 2, 32]
    assert stack("sliding-window:causal=true", 1000, 999, 8).levels == 16


def test_a_deep_stack_costs_in_proportion_to_its_levels():
    assert stack("dilated-conv", 1000, 999, 8).multiple == 9 / 6
    assert stack("conv", 1000, 5, 8).multiple == 5


def test_a_convolution_and_a_window_are_two_levels():
    # reach 1 and 3: 13 pairs of them for a lag of 50
    found = stack("conv-attention:attention=sliding-window,window=6", 100, 50, 16)
    assert (found.applications, found.levels, found.multiple) == (13, 26, 13)
    assert not found.possible


def row_by_autograd(spec, count, n, seed):
    """ln norms of the last row, (n,), from the whole Jacobian of a stack."""
    seeds = [seed + 1000 * index for index in range(count)]
    parts = cases_of_specs([spec], None, n, arriving.WIDTH, 1, seeds, "float64", "cpu")
    module = nn.Sequential(*(part.build() for part in parts))

    def last(x):
        y = module(x)
        return (y[0] if isinstance(y, tuple) else y)[-1]

    blocks = torch.autograd.functional.jacobian(last, parts[0].x)
    return blocks.square().sum((0, 2)).log().numpy() / 2


def test_what_arrives_through_one_layer_is_the_jacobian(kept):
    found = arriving.arrival("gru", 20, 12, kept)
    rows = [row_by_autograd("gru", 1, 20, seed) for seed in range(arriving.SEEDS)]
    logs = [row[19 - 12] - row.max() for row in rows]
    assert found.log == pytest.approx(np.mean(logs), rel=1e-6)
    assert found.stderr == pytest.approx(np.std(logs, ddof=1) / math.sqrt(3), rel=1e-4)
    assert not found.extrapolated


def test_what_arrives_through_a_stack_is_its_jacobian_within_the_error_of_probes(kept):
    n, lag = 30, 22
    found = arriving.arrival("dilated-attention", n, lag, kept)
    count = int(stack("dilated-attention", n, lag, arriving.WIDTH).applications)
    assert count > 1
    rows = [row_by_autograd("dilated-attention", count, n, seed) for seed in range(arriving.SEEDS)]
    assert found.log == pytest.approx(np.mean([row[n - 1 - lag] - row.max() for row in rows]), abs=0.3)


@pytest.mark.parametrize(("spec", "lag"), [("attention", 16), ("attention", 700), ("dilated-conv", 700)])
def test_what_is_continued_agrees_with_what_is_measured(kept, monkeypatch, spec, lag):
    continued = arriving.arrival(spec, 800, lag, kept)
    monkeypatch.setattr(arriving, "LONGEST", 800)
    measured = arriving.arrival(spec, 800, lag, kept)
    assert (continued.extrapolated, measured.extrapolated) == (True, False)
    assert continued.log == pytest.approx(measured.log, abs=1.0)


def test_a_window_is_continued_from_the_lengths_that_hold_it(kept):
    # 150 positions back of 200: one layer, whose gradient hardly depends on n
    near = arriving.arrival("sliding-window:window=200,causal=true", 400, 150, kept)
    far = arriving.arrival("sliding-window:window=200,causal=true", 4000, 150, kept)
    assert (near.extrapolated, far.extrapolated) == (False, True)
    assert far.log == pytest.approx(near.log, abs=1.0)


@pytest.mark.parametrize("lag", [16, 9000, 60_000])
@pytest.mark.parametrize(
    "law",
    [
        lambda n, lag: -0.9 * np.log(n) + 0 * lag,  # attention: thins out, whatever the lag
        lambda n, lag: -0.1 * lag,  # recurrence: decays with the lag, whatever the length
        lambda n, lag: -0.02 * lag,  # the same, slowly: between the lengths measured nearly a line in ln n
    ],
)
def test_laws_are_continued_exactly(kept, monkeypatch, law, lag):
    seeds = np.array([[-0.1], [0.0], [0.1]])
    monkeypatch.setattr(arriving, "arrivals", lambda spec, count, n, kept: law(n, np.arange(n)) + seeds)
    found = arriving.arrival("gru", 80_000, lag, kept)
    assert found.extrapolated
    assert found.log == pytest.approx(law(80_000, lag), rel=1e-9)


def test_a_recurrence_is_continued_exponentially(kept):
    logs = [arriving.arrival("rnn", 100_000, lag, kept).log for lag in (900, 9000, 90_000)]
    assert logs[1] / logs[0] == pytest.approx(10, rel=0.1)
    assert logs[2] / logs[1] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("spec", ["lstm:forget_bias=6", "gru"])
def test_a_recurrence_is_measured_at_lengths_where_it_decays(kept, spec):
    """Memory of e^6 = 400 steps does not show at 512."""
    n, lag = 4096, 4000
    found = arriving.arrival(spec, n, lag, kept)
    assert not found.extrapolated
    row = arriving.arrivals(spec, 1, n, kept)[:, lag]
    assert found.log == pytest.approx(row.mean())
    assert found.log < -5
    # beyond: the same decay, within a quarter
    further = arriving.arrival(spec, 2 * n, 2 * lag, kept)
    assert further.extrapolated
    assert further.log == pytest.approx(2 * found.log, rel=0.25)


def test_what_is_too_small_for_floats_is_no_zero(tmp_path, monkeypatch):
    """A stack of layers, each of which makes the gradient smaller by 200 orders of magnitude."""

    def weak(*given):
        cases = cases_of_specs(*given)
        return [replace(case, build=partial(scaled, case.build, 1e-100)) for case in cases]

    def scaled(build, factor):
        module = build()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(factor)
        return module

    monkeypatch.setattr(arriving, "cases_of_specs", weak)
    n, lag = 30, 22
    assert int(stack("dilated-attention", n, lag, arriving.WIDTH).applications) > 1
    found = arriving.arrival("dilated-attention", n, lag, kept_in(tmp_path))
    assert math.isnan(found.log)


def test_too_many_layers_let_nothing_arrive(kept):
    assert arriving.arrival("conv", 1000, MOST_LAYERS + 1, kept).log == -math.inf
