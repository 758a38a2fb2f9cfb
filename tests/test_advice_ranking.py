"""The ranking of layers and the map of choices, from known costs; what the article would take beside them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import depprobe
from depprobe.advice import arriving_gradient as arriving
from depprobe.advice import decision_map, ranking
from depprobe.advice.cost_model import CostModel
from depprobe.advice.machine_costs import Costs, kept_in
from depprobe.advice.ranking import LOCAL, MIXED
from depprobe.errors import BadInput
from depprobe.ledger.choosing.article_rules import (
    FAMILIES,
    beside_map,
    beside_ranking,
    is_of,
    rule_of_thumb,
    tree,
)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setattr(arriving, "WIDTH", 8)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Rows of the Jacobian, measured once for all tests."""
    return kept_in(tmp_path_factory.mktemp("kept"))


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
    with pytest.raises(BadInput, match="a layer is given twice: gru, gru"):
        ranking.candidates(64, True, ["gru", " gru"])


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
    figure = depprobe.figures.decision(ds).figure
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
    figure, axes, *_ = depprobe.figures.decision(ds, ds)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "gru",
        "none of them",
        "the article's borders",
    ]
    assert len(axes) == 2
    with pytest.raises(BadInput, match="draws maps from depprobe"):
        depprobe.figures.decision(ds.drop_vars("best"))
