"""C15: support, range and arrival against naive loops and autograd; verdicts that flip with the data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from claim_evidence import small

import depprobe
from depprobe.ledger.gradients import gradient_reach as reach
from depprobe.ledger.gradients.gettysburg_address import TEXT, prose
from depprobe.ledger.gradients.gradient_reach import CLAIM
from depprobe.runs.cases import cases_of_specs


@pytest.fixture(scope="module")
def ds():
    return small("C15")


def verdicts(ds):
    return [finding.verdict for finding in CLAIM.judge(ds)]


def changed(ds, **values):
    """The dataset with other numbers: name to {layers: value}."""
    ds = ds.copy(deep=True)
    for name, by_layers in values.items():
        for layers, value in by_layers.items():
            ds[name].loc[{"layer": list(layers)}] = value
    return ds


def test_numbers_of_a_row_by_a_naive_loop():
    rng = np.random.default_rng(0)
    norms = rng.normal(-5, 3, (4, 11))
    norms[1, :6] = -np.inf
    norms[2, 3] = -np.inf
    for row, support, within, arrival in zip(norms, *reach.row_numbers(norms), strict=True):
        square = [math.exp(2 * value) for value in row]
        assert support == max(10 - k for k in range(11) if square[k] > 0)
        total, held = sum(square), 0.0
        for lag in range(11):
            held += square[10 - lag]
            if held >= 0.95 * total:
                break
        assert within == lag
        expected = 0.5 * math.log(square[0] / max(square)) if square[0] else -math.inf
        assert arrival == pytest.approx(expected, abs=1e-12)


def test_rows_are_those_of_autograd_on_both_inputs(ds):
    for name, source in (("noise", None), ("text", prose())):
        for layer in ("gru", "dilated-conv:depth=4", "attention:causal=true"):
            case = cases_of_specs([layer], source, 40, 8, 1, [1], "float64", "cpu")[0]
            module = case.build()

            def last(x, module=module):
                y = module(x)
                return (y[0] if isinstance(y, tuple) else y)[-1]

            J = torch.autograd.functional.jacobian(last, case.x)
            norms = J.square().sum((0, 2)).sqrt().log().numpy()
            found = ds["log_norm"].sel(input=name, layer=layer, seed=1).values[0]
            np.testing.assert_allclose(found, norms, rtol=0, atol=1e-7)


def test_its_numbers_are_those_of_distances(ds):
    one = ds[["log_norm"]].sel(input="text", layer=["lstm", "conv:causal=true"], seed=0)
    found = depprobe.distances(one, resamples=2)
    for name in ("receptive_field", "effective_range"):
        np.testing.assert_array_equal(ds[name].sel(input="text", layer=one.layer, seed=0), found[name])


def test_supports_are_checked_by_arithmetic(ds):
    assert CLAIM.checks(ds) == []
    wrong = changed(ds, receptive_field={("dilated-conv:depth=4",): 29})
    assert CLAIM.checks(wrong) == ["the support of dilated-conv:depth=4 ends at lag 29, not 30"]


def test_verdicts_follow_the_data(ds):
    default = [layer for layer in reach.RECURRENCE if layer != "lstm:forget_bias=4"]
    kept = changed(ds, effective_range={tuple(default): 1, ("lstm:forget_bias=4",): 39})
    assert verdicts(kept) == ["by definition", "qualified", "qualified", "confirmed"]
    assert "lstm:forget_bias=4" in CLAIM.judge(kept)[1].note
    everything = {reach.RECURRENCE: 2}
    assert verdicts(changed(ds, effective_range=everything))[1] == "confirmed"
    assert verdicts(changed(ds, effective_range={reach.RECURRENCE: 39}))[1] == "refuted"
    one = changed(ds, effective_range={reach.RECURRENCE: 2, reach.ATTENTION: 39})
    one["effective_range"].loc[{"layer": ["gru", *reach.ATTENTION], "seed": 1, "input": "text"}] = [39, 3]
    assert verdicts(one)[1::2] == ["qualified", "qualified"], "one draw with one input decides"
    assert verdicts(changed(ds, receptive_field={reach.CONVOLUTION: 38}))[2] == "confirmed"
    assert verdicts(changed(ds, receptive_field={reach.CONVOLUTION: 39}))[2] == "refuted"
    assert verdicts(changed(ds, effective_range={reach.ATTENTION: 12}))[3] == "qualified"
    assert verdicts(changed(ds, effective_range={reach.ATTENTION: 3}))[3] == "refuted"
    assert "the support of attention" in CLAIM.checks(changed(ds, receptive_field={reach.ATTENTION: 20}))[0]


def test_the_text_is_long_enough_for_the_full_measurement():
    assert len(TEXT) >= reach.FULL[0]
    assert TEXT.isascii()
