"""Which layer to take: the fit against known coefficients, layers against the Jacobian's support."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.advice import arriving_gradient as arriving
from depprobe.advice import decision_map, ranking
from depprobe.advice import machine_costs as measuring
from depprobe.advice.cost_model import CostModel, byte_terms, fit, formulas, time_terms, token_terms
from depprobe.advice.machine_costs import Costs, Grid, fitted, kept_in
from depprobe.advice.ranking import LOCAL, MIXED
from depprobe.advice.stack_depth import MOST_LAYERS, stack
from depprobe.costs.memory import tensor_bytes
from depprobe.errors import BadInput
from depprobe.ledger.choosing.article_rules import (
    FAMILIES,
    beside_map,
    beside_ranking,
    is_of,
    rule_of_thumb,
    tree,
)
from depprobe.registry import layers
from depprobe.runs.cases import cases_of_specs

POINTS = [(n, d) for n in (64, 512, 2048) for d in (16, 64)] + [(512, 128)]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setattr(arriving, "WIDTH", 8)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Rows of the Jacobian, measured once for all tests."""
    return kept_in(tmp_path_factory.mktemp("kept"))


# --- the model of costs ---


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


# --- how many layers ---


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


# --- what arrives ---


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


# --- the article ---


@pytest.mark.parametrize(
    ("n", "lag", "leaf"),
    [
        (499, 498, "attention"),
        (500, 16, "convolution"),
        (5000, LOCAL, "convolution"),
        (5000, LOCAL + 1, "sparse attention"),
        (5001, 1, "recurrence"),
    ],
)
def test_the_tree_says_what_the_article_says(n, lag, leaf):
    assert tree(n, lag) == leaf


@pytest.mark.parametrize(
    ("n", "lag", "stream", "family"),
    [
        (499, 1, False, "attention"),
        (100_000, 16, False, "dilated convolution"),
        (10_001, 10_000, False, "sparse attention with convolution"),
        (10_000, 9_999, False, None),
        (300, 1, True, "recurrence"),
    ],
)
def test_the_rules_say_what_the_article_says(n, lag, stream, family):
    assert rule_of_thumb(n, lag, stream) == family


def test_a_layer_is_of_the_families_that_name_it_whatever_its_options():
    assert [family for family in FAMILIES if is_of("dilated-conv:depth=9", family)] == [
        "convolution",
        "dilated convolution",
    ]
    assert is_of(f"{MIXED},heads=4", "sparse attention with convolution")
    assert not is_of("conv-attention", "sparse attention with convolution")


# --- the ranking ---

SPECS = ["attention", "conv", "gru", "dilated-conv"]


def known(**seconds):
    """Costs in which each layer takes so many seconds a pass, and as many bytes."""

    def constant(found, n, d):
        return [1.0]

    models = {spec: CostModel(constant, np.array([float(time)]), 0.1) for spec, time in seconds.items()}
    return Costs(False, models, models)


COSTS = {"attention": 8, "conv": 1, "gru": 2, "dilated-conv": 6}


def rank(kept, n, lag, budget=1 << 30, **change):
    return ranking.ranked(
        known(**{name: change.get(name.replace("-", "_"), time) for name, time in COSTS.items()}),
        SPECS, n, 32, lag, budget, kept,
    )  # fmt: skip


def reasons(ds):
    return json.loads(ds.attrs["reasons"])


def test_the_cheapest_that_lets_the_gradient_arrive_comes_first(kept):
    ds = rank(kept, 200, 199)
    # 7 levels of dilated convolution at 1 s each, against 8 s; then what drowns; then 199 layers
    assert ds["layer"].values.tolist()[2:] == ["gru", "conv"]
    assert ds["group"].values.tolist() == [0, 0, 1, 2]
    assert reasons(ds)["gru"] == "drowns"
    assert reasons(ds)["conv"] == "would need 199 layers"
    assert float(ds["predicted_time"].sel(layer="dilated-conv:depth=7")) == 7
    assert rank(kept, 200, 199, attention=6)["layer"].values[0] == "attention"
    assert rank(kept, 200, 199, dilated_conv=5)["layer"].values[0] == "dilated-conv:depth=7"


def test_a_stack_costs_as_many_layers_as_it_has(kept):
    ds = rank(kept, 200, 5)
    assert ds["layer"].values[0] == "gru"
    assert float(ds["predicted_time"].sel(layer="conv")) == 5
    assert rank(kept, 200, 5, conv=0.3)["layer"].values[0] == "conv"


def test_what_exceeds_the_budget_is_out(kept):
    ds = rank(kept, 200, 5, budget=4)
    assert {name for name, reason in reasons(ds).items() if reason == "over the memory budget"} == {
        "attention",
        "conv",
    }


def test_agreement_with_the_article_is_that_of_the_first(kept):
    ds = beside_ranking(rank(kept, 200, 199, attention=1))
    assert (ds.attrs["tree"], ds.attrs["tree_agrees"], ds.attrs["rule_of_thumb_agrees"]) == (
        "attention",
        1,
        1,
    )
    # what does not fit in memory is not what is taken, though it stands first
    slower = dict.fromkeys(("conv", "gru", "dilated_conv"), 9)
    ds = beside_ranking(rank(kept, 200, 199, budget=1, **slower, attention=8))
    assert ds["layer"].values[0] == "attention"
    assert (ds.attrs["tree_agrees"], ds.attrs["rule_of_thumb_agrees"]) == (0, 0)
    ds = beside_ranking(rank(kept, 200, 199, attention=9))
    assert (ds.attrs["tree"], ds.attrs["tree_agrees"], ds.attrs["rule_of_thumb_agrees"]) == (
        "attention",
        0,
        0,
    )


def test_a_stream_holds_its_state(kept):
    specs = ["gru", "lstm", "attention:causal=true"]
    times = {spec: CostModel(lambda found, n, d: [1.0], np.ones(1), 0.1) for spec in specs}
    ds = ranking.ranked(Costs(True, times), specs, 100, 32, 5, 1 << 30, kept)
    # 4 bytes each: h; h and c; keys and values of all positions
    held = ds["predicted_bytes"].sel(layer=specs).values.tolist()
    assert held == [4 * 32, 4 * 64, 4 * 2 * 100 * 32]


def test_heads_divide_the_width_and_streams_are_causal():
    assert "attention:heads=4" in ranking.candidates(100, False)
    assert "attention:causal=true" in ranking.candidates(64, True)
    assert "dilated-conv" in ranking.candidates(64, True)
    assert ranking.candidates(64, True, ["gru", " gru"]) == ["gru"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"n": 0}, "n must be 2 to 262144, not 0"),
        ({"n": 1 << 20}, "n must be 2 to 262144, not 1048576"),
        ({"d": 0}, "d must be 1 to 65536, not 0"),
        ({"dependency": 100}, "local, global or a lag of 1 to n - 1 = 99, not 100"),
        ({"dependency": 0}, "local, global or a lag of 1 to n - 1 = 99, not 0"),
        ({"dependency": "lcoal"}, "local, global or a lag of 1 to n - 1 = 99, not lcoal"),
        ({"memory": "4Gx"}, "memory must be a size such as 4GiB.*not '4Gx'"),
        ({"memory": 0}, "memory must be at least 1 byte, not 0"),
        ({"specs": ["lsmt"]}, "unknown layer 'lsmt'; did you mean 'lstm'"),
        ({"specs": ["attention:heads=3"]}, "heads must divide d = 64, and 3 does not"),
        (
            {"specs": ["attention:heads=64"]},
            "gradients through attention:heads=64 cannot be measured at n = 100, d = 32: heads must divide",
        ),
        (
            {"n": 5000, "specs": ["sliding-window:window=300"]},
            "cannot be measured at n = 256, d = 32: window = 300 is larger than n = 256",
        ),
        ({"folder": "FILE"}, "measurements cannot be kept in .*; name a folder with --cache"),
    ],
)
def test_a_bad_call_is_told_before_anything_is_measured(tmp_path, monkeypatch, call, message):
    monkeypatch.setattr(ranking, "fitted", None)
    (tmp_path / "FILE").touch()
    given = {"n": 100, "d": 64, "folder": tmp_path} | call
    if given["folder"] == "FILE":
        given["folder"] = tmp_path / "FILE"
    with pytest.raises(BadInput, match=message):
        depprobe.advise(**given)


# --- the map ---


def test_a_map_holds_the_first_of_every_ranking(kept, monkeypatch):
    monkeypatch.setattr(decision_map, "fitted", lambda *given: known(**COSTS))
    ds = depprobe.decision_map(32, specs=SPECS, folder=kept.folder, lengths=(200, 20), lags=(1, 5, 199))
    names = ds.attrs["layers"].split(";")
    assert ds["n"].values.tolist() == [20, 200]
    first = {(1, 20): "conv", (1, 200): "conv", (5, 20): "gru", (5, 200): "gru"}
    for (lag, n), name in first.items():
        assert names[int(ds["best"].sel(lag=lag, n=n))] == name
    assert np.isnan(ds["best"].sel(lag=199, n=20))
    # attention takes 8 s, a convolution 1 s, a gated recurrence 2 s
    assert beside_map(ds)["tree_factor"].sel(n=200).values.tolist() == [8, 4, pytest.approx(8 / 7)]
    # local in 600 positions: of convolutions the dilated one in 3 levels at 1 s each, not 7 layers
    ds = depprobe.decision_map(32, specs=SPECS, folder=kept.folder, lengths=(600,), lags=(7,))
    assert beside_map(ds)["tree_factor"].item() == pytest.approx(3 / 2)


def test_a_map_tells_layers_with_several_options_apart(kept, monkeypatch):
    specs = ["gru:bias=false,gain=1", "sliding-window:bias=false,window=64"]
    times = {specs[0]: 2, specs[1]: 1}
    monkeypatch.setattr(decision_map, "fitted", lambda *given: known(**times))
    ds = depprobe.decision_map(32, specs=specs, folder=kept.folder, lengths=(20, 200), lags=(1,))
    figure, _ = depprobe.figures.decision(ds)
    # the window is longer than 20 positions
    assert ds["best"].values.tolist() == [[0, 1]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == specs
    alone = depprobe.decision_map(32, specs=specs[1:], folder=kept.folder, lengths=(20, 200), lags=(1,))
    assert alone["best"].values.tolist() == [[-1, 0]]


def test_where_nothing_is_usable_the_map_says_so(kept, monkeypatch):
    monkeypatch.setattr(decision_map, "fitted", lambda *given: known(gru=1))
    ds = depprobe.decision_map(32, specs=["gru"], folder=kept.folder, lengths=(200,), lags=(1, 199))
    assert ds["best"].values.ravel().tolist() == [0, -1]
    ds = beside_map(ds)
    assert ds["tree_factor"].values.ravel().tolist() == [math.inf, math.inf]
    with pytest.raises(BadInput, match=r"no lag of \[9\] is below a length of \[5\]"):
        depprobe.decision_map(32, lengths=(5,), lags=(9,))
    figure, axes = depprobe.figures.decision(ds, ds)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "gru",
        "none of them",
        "the article's borders",
    ]
    assert len(axes) == 2
    with pytest.raises(BadInput, match="draws maps from depprobe"):
        depprobe.figures.decision(ds.drop_vars("best"))
