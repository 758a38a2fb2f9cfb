"""C12 and C13: the factor of a rule by hand, what is measured against the advice, verdicts that flip."""

from __future__ import annotations

import math

import numpy as np
import pytest
from claim_evidence import CHOICES, made, put

from depprobe.advice import arriving_gradient as arriving
from depprobe.advice.cost_model import CostModel
from depprobe.advice.machine_costs import Costs, Grid, kept_in
from depprobe.ledger.choosing import decision_tree, rules_of_thumb
from depprobe.ledger.choosing import representative_cells as choosing
from depprobe.ledger.choosing.representative_cells import Cell
from depprobe.ledger.evidence import About
from depprobe.ledger.verdicts import CONFIRMED, QUALIFIED, REFUTED, UNMEASURED


def verdicts(claim, ds):
    return {finding.part: finding.verdict for finding in claim.judge(ds)}


def test_a_factor_is_over_the_cheapest_that_arrives():
    ds = made([Cell("a", 100, 9), Cell("a", 100, 99)])
    ds["predicted_time"].loc[{"layer": "conv"}] = 0.1
    ds["predicted_time"].loc[{"layer": "gru"}] = 0.5
    ds["layers_needed"][1, CHOICES.index("conv")] = 99
    ds["log_arrival"][1, CHOICES.index("gru")] = -30
    assert choosing.factors(ds, "attention").tolist() == [10, 1]
    assert choosing.factors(ds, "recurrence").tolist() == [5, math.inf]
    assert choosing.cheapest(ds)[0] == "conv"


def test_where_no_gradient_arrives_no_layer_is_taken():
    ds = made([Cell("a", 100, 9), Cell("a", 100, 99)])
    ds["log_arrival"][1] = -30
    assert choosing.factors(ds, "attention").tolist() == [1, math.inf]
    assert choosing.cheapest(ds)[1] == ""
    verdict, _, note = choosing.takes("a", "attention")(ds)
    assert verdict == QUALIFIED
    assert note == "at n = 100, lag 99 its gradient does not arrive; cheapest is none"


@pytest.mark.parametrize("claim", [decision_tree.CLAIM, rules_of_thumb.CLAIM])
def test_rules_hold_where_all_layers_are_alike_and_fail_where_theirs_is_dear(claim):
    rules = decision_tree.LEAVES if claim.id == "C12" else rules_of_thumb.RULES
    cells = decision_tree.CELLS if claim.id == "C12" else rules_of_thumb.CELLS
    assert {verdicts(claim, made(cells))[rule] for rule in rules} == {CONFIRMED}
    for rule, family in rules.items():
        members = [i for i, spec in enumerate(CHOICES) if choosing.is_of(spec, family)]
        own = [i for i, cell in enumerate(cells) if cell.rule == rule]
        for broken, wanted in ((own, REFUTED), (own[:1], QUALIFIED)):
            ds = made(cells)
            ds["predicted_time"][broken, members] = 1.01 * choosing.WITHIN
            assert verdicts(claim, ds)[rule] == wanted
            ds = made(cells)
            ds["log_arrival"][broken, members] = -17
            assert verdicts(claim, ds)[rule] == wanted


def test_errors_of_the_predicted_times_count(monkeypatch):
    ds = made([Cell("a", 100, 9)])
    ds["predicted_error"][:] = 0.1
    rule = choosing.takes("a", "attention")
    for time, expected in (
        (0.9, CONFIRMED),
        (1.5, CONFIRMED),
        (1.9, UNMEASURED),
        (2.1, UNMEASURED),
        (2.6, REFUTED),
    ):
        verdict, numbers, _ = rule(put(ds, "predicted_time", time, layer="attention"))
        assert verdict == expected, time
        assert numbers["undecided within the errors of the times"].value == (expected == UNMEASURED)
    # the layer itself is not off against itself, and a layer that is dear by far does not matter
    ds["predicted_error"].loc[{"layer": "attention"}] = 9.0
    alone = put(ds, "log_arrival", -30, layer=[x for x in CHOICES if x != "attention"])
    assert rule(alone)[0] == CONFIRMED
    assert choosing.factors(alone, "attention", 1).tolist() == [1]
    assert choosing.factors(
        put(ds, "predicted_error", 0.0, layer="attention"), "attention", 1
    ) == pytest.approx(math.exp(0.1))


def test_how_far_a_recurrence_sees_decides():
    ds = made(decision_tree.CELLS)
    part = "untrained, the gradient reaches the far past through a recurrence"
    assert verdicts(decision_tree.CLAIM, ds)[part] == REFUTED
    finding = decision_tree.CLAIM.judge(ds)[-1]
    assert finding.numbers["gru"].value == 22
    assert "beyond lag 24" in finding.note
    both = ds.isel(recurrence=[0, 0]).assign_coords(recurrence=["gru", "lstm:forget_bias=6"])
    both = put(both, "horizon", choosing.FAR, recurrence="lstm:forget_bias=6")
    assert verdicts(decision_tree.CLAIM, both)[part] == QUALIFIED
    assert "through lstm:forget_bias=6 it arrives from lag 2999" in decision_tree.CLAIM.judge(both)[-1].note


def test_a_forget_gate_that_stays_open_lets_the_gradient_arrive(monkeypatch, tmp_path):
    monkeypatch.setattr(arriving, "WIDTH", 8)
    assert {"lstm", "lstm:forget_bias=4", "lstm:forget_bias=6"} <= set(decision_tree.REACHING)
    for spec, arrives in (("lstm", False), ("lstm:forget_bias=6", True)):
        logs = arriving.arrivals(spec, 1, 200, kept_in(tmp_path))
        assert (logs[:, -1] > math.log(2.0**-23)).all() == arrives


def test_rules_and_tree_contradict_each_other_where_they_name_other_layers():
    part = rules_of_thumb.CLAIM.judge(made(rules_of_thumb.CELLS))[-1]
    assert part.part == "the rules agree with the decision tree of C12"
    assert part.verdict == "by definition"
    assert "dilated convolution where the tree takes recurrence" in part.note
    assert "recurrence where the tree takes attention" in part.note
    alike = [Cell(rules_of_thumb.SHORT, 200, 9), Cell(rules_of_thumb.LOCAL, 1000, 9)]
    assert rules_of_thumb.against_the_tree(alike) == (2, {})
    apart = [Cell(rules_of_thumb.STREAM, 200, 9, stream=True)]
    assert rules_of_thumb.against_the_tree(apart) == (1, {"recurrence where the tree takes attention": 1})


def test_broken_truths_are_told():
    ds = made(decision_tree.CELLS)
    assert choosing.checks(ds) == []
    ds["log_arrival"][0, 0] = 0.1
    ds["layers_needed"][0, 0] = 2
    assert choosing.checks(ds) == [
        "a gradient exceeds the largest of its row",
        "attention does not reach every lag in one layer",
    ]


def test_what_is_measured_is_what_the_advice_says(monkeypatch, tmp_path):
    monkeypatch.setattr(arriving, "WIDTH", 8)
    monkeypatch.setattr(choosing, "QUICK", Grid((8, 16), (8,), seconds=1e-3, threads=1, sizes=False))
    cells, kept = (Cell("a", 20, 3), Cell("b", 20, 19, stream=True)), kept_in(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(choosing, "kept_in", lambda folder: kept)
        layer = CostModel(lambda found, n, d: [1.0], np.array([2.0]), 0.3)
        patch.setattr(choosing, "fitted", lambda specs, *rest: Costs(rest[0], dict.fromkeys(specs, layer)))
        patch.setattr(choosing, "FAR", 63)
        ds = choosing.measured(About("C12", "a title", "", 0, 0, True, 0), cells, None, ("rnn", "gru"))
    once, streamed = (ds.isel(cell=i) for i in range(2))
    assert int(once["layers_needed"].sel(layer="conv")) == 3
    assert int(streamed["layers_needed"].sel(layer="conv:causal=true")) == 10
    # 2 s a layer
    assert once["predicted_time"].sel(layer=["conv", "gru"]).values.tolist() == [6, 2]
    for spec in ("conv", "gru", "dilated-attention"):
        found = arriving.arrival(spec, 20, 3, kept).log
        assert float(once["log_arrival"].sel(layer=spec)) == pytest.approx(found, rel=1e-12)
    # what is not in its causal form takes no stream
    assert np.isnan(streamed["predicted_time"].sel(layer="attention"))
    assert choosing.checks(ds) == []
    epsilon = math.log(2.0**-23)
    for spec, far in zip(ds["recurrence"].values, ds["horizon"].values, strict=True):
        logs = arriving.arrivals(str(spec), 1, 64, kept)
        assert far.tolist() == [max(lag for lag, log in enumerate(row) if log > epsilon) for row in logs]
