"""C2 to C5: counts against closed forms at small size, and verdicts that flip with the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from claim_evidence import TIMES, put, scaled, small, timed, with_bytes

from depprobe.costs.memory import parameter_bytes, tensor_bytes
from depprobe.ledger.costs import attention_memory, cost_orders, lstm_step
from depprobe.ledger.costs import efficiency_claim as efficiency_table
from depprobe.ledger.verdicts import CONFIRMED, DEFINED, QUALIFIED, REFUTED, UNMEASURED
from depprobe.registry import layers


def found(claim, ds):
    return [finding.verdict for finding in claim.judge(ds)]


def changed(ds, **variables):
    """A copy with variables replaced by functions of them."""
    return ds.assign({name: change(ds[name].copy()) for name, change in variables.items()})


# --- C2, orders of cost ---


@pytest.fixture(scope="module")
def orders():
    return small("C2")


def test_counts_are_the_closed_forms(orders):
    assert cost_orders.CLAIM.checks(orders) == []
    one = orders.sel(layer="attention:heads=2,fused=false", n=64, d=16)
    assert one.flops == 8 * 64 * 16**2 + 4 * 64**2 * 16
    assert one.flops_part.values.tolist() == [2 * 64 * 16 * 8] * 3 + [2 * 64**2 * 8] * 2 + [2 * 64 * 16**2]
    assert cost_orders.CLAIM.checks(changed(orders, flops=lambda v: v.where(v.layer != "gru", 2 * v))) == [
        "gru does not count 12 n d^2",
    ]
    assert cost_orders.CLAIM.checks(changed(orders, flops_part=lambda v: 2 * v)) == [
        "the parts of attention do not make up its count"
    ]


def test_orders_are_definitions_and_times_are_measured(orders):
    ds = timed(orders, 1.0)
    defined = [DEFINED] * 4
    assert found(cost_orders.CLAIM, ds) == [*defined[:3], QUALIFIED, *defined, *[CONFIRMED] * 3]
    findings = cost_orders.CLAIM.judge(ds)
    assert [number.value for number in findings[1].numbers.values()] == [2, 0, 1]
    assert [number.value for number in findings[6].numbers.values()] == [1, 2, 1]
    np.testing.assert_allclose([number.value for number in findings[4].numbers.values()], [4, 8])
    # scores and mixing 4 n^2 d, projections 8 n d^2: equal at n = 2 d
    assert findings[5].numbers["n / d at which both terms are equal"].value == pytest.approx(2, rel=1e-9)
    assert findings[5].numbers["share of n^2 d at n = 1000, d = 512"].value == pytest.approx(1000 / 2024)
    # three projections of n d^2 and a fourth that the statement leaves out
    shares = [number.value for number in findings[3].numbers.values()]
    n, d = np.array([8, 64]), np.array([16, 8])
    np.testing.assert_allclose(shares, 2 * n * d**2 / (8 * n * d**2 + 4 * n**2 * d))
    steeper = changed(ds, flops=lambda v: v * v.n, flops_part=lambda v: v * v.n)
    assert len(cost_orders.CLAIM.checks(steeper)) == 7
    mixed = timed(orders, 1.0)
    mixed["time"] = mixed.time * mixed.n**0.5
    assert found(cost_orders.CLAIM, mixed)[-1] == QUALIFIED
    near = timed(orders, 1.0)
    near["time"] = near.time * near.n**0.3
    assert found(cost_orders.CLAIM, near)[-1] == UNMEASURED


# --- C3, one LSTM step ---


@pytest.fixture(scope="module")
def steps():
    return small("C3")


def test_a_step_by_hand(steps):
    assert lstm_step.CLAIM.checks(steps) == []
    for d_in, d in ((3, 4), (7, 9)):
        here = steps.sel(d_in=d_in, d=d)
        assert (here.flops_gate == 2 * (d_in * d + d * d)).all()
        # the sum of both products, two biases, the nonlinearity
        assert (here.elements_gate == 4 * d).all()
        # f c, i g and their sum; tanh and its product with o
        assert here.elements_update.values.tolist() == [3 * d, 2 * d]
    assert found(lstm_step.CLAIM, steps) == [DEFINED, DEFINED]
    assert lstm_step.CLAIM.judge(steps)[1].numbers["operations a unit"].value == 5


def test_broken_truths_of_a_step_are_told(steps):
    gates = lstm_step.CLAIM.checks(changed(steps, flops_gate=lambda v: v * v.d))
    assert gates == ["d d_h and d_h^2 do not make up the count of every gate"]
    for broken in ({"elements_update": lambda v: v * v.d}, {"flops_update": lambda v: v + 1}):
        (fault,) = lstm_step.CLAIM.checks(changed(steps, **broken))
        assert fault == "operations of the updates are not in proportion to d_h"
    assert lstm_step.CLAIM.checks(changed(steps, macs=lambda v: v - 1, step_gap=lambda v: v + 1)) == [
        "the step is not that of nn.LSTMCell: it differs by 1.0e+00",
        "an LSTM 300 -> 512, 2 layers, n = 100 counts 376012799, not 376012800",
    ]


# --- C4, the efficiency table ---


@pytest.fixture(scope="module")
def table():
    return small("C4")


def test_the_table_in_the_articles_proportions_is_confirmed(table):
    assert found(efficiency_table.CLAIM, table) == [*[CONFIRMED] * 4, DEFINED, QUALIFIED, DEFINED]


def test_the_verdicts_of_the_table_flip(table):
    claim = efficiency_table.CLAIM
    fused = {"layer": "attention", "factor": 0.4}
    assert found(claim, scaled(table, *fused.values(), *TIMES))[0] == QUALIFIED
    # quartiles that reach out of the band, and a median close to its edge
    assert found(claim, scaled(table, "attention", 2, "time_high"))[0] == UNMEASURED
    assert found(claim, scaled(table, "conv", 1.4, *TIMES))[1] == UNMEASURED
    assert "allow confirmed and refuted" in claim.judge(scaled(table, "conv", 1.4, *TIMES))[1].note
    assert found(claim, scaled(table, "lstm", 3, *TIMES))[:2] == [REFUTED, REFUTED]
    # bytes are counted: no band about them
    assert found(claim, scaled(table, "conv", 1.4, "peak_bytes"))[3] == CONFIRMED
    assert found(claim, scaled(table, "lstm", 1 / 9, "peak_bytes"))[2:4] == [REFUTED, REFUTED]
    paths = changed(table, path_length=lambda v: v + 5, stack_path=lambda v: v * 0 + 10)
    assert found(claim, paths)[4:6] == [DEFINED, CONFIRMED]
    assert claim.checks(paths) == [
        "path_length of attention:fused=false is 6, not 1",
        "path_length of attention is 6, not 1",
        "path_length of lstm is 1004, not 999",
        "stacks of k = 3 carry x_1 to h_1000 in (10, 10, 10), not (500, 9, 7) layers",
    ]
    assert found(claim, changed(table, stack_path=lambda v: v + 1))[5] == REFUTED
    assert len(claim.checks(changed(table, sequential_steps=lambda v: v * 2))) == 3


def test_the_table_is_measured(monkeypatch):
    monkeypatch.setattr(efficiency_table, "N", 16)
    monkeypatch.setattr(efficiency_table, "D", 8)
    ds = efficiency_table.CLAIM.measure(True)
    assert ds.attrs["provenance"].count("depprobe claims C4 --quick --seed 0") == 1
    explicit = tensor_bytes(layers["attention"].build(8, fused=False), torch.zeros(16, 8), "forward").peak
    assert ds.peak_bytes.sel(layer="attention:fused=false", phase="forward").item() == explicit
    assert ds.stack_path.values.tolist() == [15, 8, 4, 3]
    lstm = ds.sel(layer="lstm", n=16)
    assert (float(lstm.sequential_steps), float(lstm.path_length)) == (16, 15)


# --- C5, attention's memory ---


@pytest.fixture(scope="module")
def memory():
    return small("C5")


def test_bytes_by_shapes_are_those_of_a_pass(memory):
    assert attention_memory.CLAIM.checks(memory) == []
    module, x = layers["attention"].build(8, fused=False), torch.zeros(200, 8)
    real = tensor_bytes(module, x, "forward+backward").peak + parameter_bytes(module) + x.nbytes
    here = memory.sel(layer="attention:fused=false", n=200, phase="forward+backward")
    assert here.predicted_bytes == pytest.approx(real, rel=0.02)
    assert here.measured_bytes == real
    broken = changed(memory, predicted_bytes=lambda v: v / 4)
    assert len(attention_memory.CLAIM.checks(broken)) == 3


def test_one_attention_has_to_take_what_is_stated_at_both_lengths(memory):
    claim = attention_memory.CLAIM
    assert found(claim, with_bytes(memory, 210e6, 500e6)) == [CONFIRMED, CONFIRMED]
    assert found(claim, with_bytes(memory, 100e6, 500e6)) == [REFUTED, REFUTED]
    assert found(claim, with_bytes(memory, 2100e6, 5000e6)) == [REFUTED, CONFIRMED]
    one = scaled(with_bytes(memory, 210e6, 500e6), "attention", 10, "predicted_bytes")
    assert found(claim, one) == [QUALIFIED, CONFIRMED]
    # one kind at one length and another at the other are none that takes both
    apart = put(
        with_bytes(memory, 21e6, 500e6), "predicted_bytes", [210e6, 5e9], layer="attention", n=[1000, 5000]
    )
    assert found(claim, apart)[0] == REFUTED
    assert "no kind is right at both: at n = 1000 attention, forward" in claim.judge(apart)[0].note
