"""C2 to C5: counts against closed forms at small size, and verdicts that flip with the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from depprobe.costs.memory import parameter_bytes, tensor_bytes
from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED
from depprobe.ledger.costs import attention_memory, cost_orders, lstm_step
from depprobe.ledger.costs import efficiency_claim as efficiency_table
from depprobe.ledger.costs.efficiency_table import ARTICLE, efficiency
from depprobe.registry import layers


def found(claim, ds):
    return [finding.verdict for finding in claim.judge(ds)]


def changed(ds, **variables):
    """A copy with variables replaced by functions of them."""
    return ds.assign({name: change(ds[name].copy()) for name, change in variables.items()})


# --- C2, orders of cost ---


@pytest.fixture(scope="module")
def orders():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost_orders, "QUICK", ((8, 16, 64), (8, 16), 0.001))
        return cost_orders.CLAIM.measure(True)


def timed(ds, power):
    """The dataset with times that are a power of the FLOPs."""
    times = 1e-9 * ds["flops"] ** power
    return ds.assign({name: times.where(ds["time"].notnull()) for name in ("time", "time_low", "time_high")})


def test_counts_are_the_closed_forms(orders):
    assert cost_orders.CLAIM.checks(orders) == []
    one = orders.sel(layer="attention:heads=2,fused=false", n=64, d=16)
    assert one.flops == 8 * 64 * 16**2 + 4 * 64**2 * 16
    assert one.flops_part.values.tolist() == [2 * 64 * 16 * 8] * 3 + [2 * 64**2 * 8] * 2 + [2 * 64 * 16**2]
    assert cost_orders.CLAIM.checks(changed(orders, flops=lambda v: scaled(v, "gru", 2))) == [
        "gru does not count 12 n d^2",
        "attention does not cost as the gru at n = 1 d, and there only",
    ]
    assert cost_orders.CLAIM.checks(changed(orders, flops_part=lambda v: 2 * v)) == [
        "the parts of attention do not make up its count"
    ]


def test_orders_are_confirmed_and_flip(orders):
    ds = timed(orders, 1.0)
    assert found(cost_orders.CLAIM, ds) == [
        *(CONFIRMED, CONFIRMED, CONFIRMED, QUALIFIED, CONFIRMED, CONFIRMED, CONFIRMED, CONFIRMED, CONFIRMED)
    ]
    findings = cost_orders.CLAIM.judge(ds)
    # scores and mixing 4 n^2 d, projections 8 n d^2: equal at n = 2 d
    assert findings[5].numbers["n / d at which both terms are equal"].value == pytest.approx(2, rel=1e-9)
    assert findings[5].numbers["share of n^2 d at n = 1000, d = 512"].value == pytest.approx(1000 / 2024)
    # three projections of n d^2 and a fourth that the statement leaves out
    shares = [number.value for number in findings[3].numbers.values()]
    n, d = np.array([8, 64]), np.array([16, 8])
    np.testing.assert_allclose(shares, 2 * n * d**2 / (8 * n * d**2 + 4 * n**2 * d))
    steeper = changed(ds, flops=lambda v: v * v.n, flops_part=lambda v: v * v.n)
    assert found(cost_orders.CLAIM, steeper)[:5] == [REFUTED, REFUTED, REFUTED, QUALIFIED, REFUTED]
    assert found(cost_orders.CLAIM, steeper)[6:8] == [REFUTED, REFUTED]
    assert found(cost_orders.CLAIM, timed(orders, 2.0))[-1] == REFUTED
    mixed = timed(orders, 1.0)
    mixed["time"] = mixed.time * mixed.n**0.5
    assert found(cost_orders.CLAIM, mixed)[-1] == QUALIFIED
    short = ds.sel(n=[8]).assign_coords(n=[8])
    assert (
        found(cost_orders.CLAIM, xr.concat([short, ds.sel(n=[16])], "n", data_vars="minimal").sel(d=[16, 8]))[
            5
        ]
        == REFUTED
    )


# --- C3, one LSTM step ---


@pytest.fixture(scope="module")
def steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lstm_step, "QUICK", ((3, 7), (4, 9), 0.001))
        return lstm_step.CLAIM.measure(True)


def test_a_step_by_hand(steps):
    assert lstm_step.CLAIM.checks(steps) == []
    for d_in, d in ((3, 4), (7, 9)):
        here = steps.sel(d_in=d_in, d=d)
        assert (here.flops_gate == 2 * (d_in * d + d * d)).all()
        # the sum of both products, two biases, the nonlinearity
        assert (here.elements_gate == 4 * d).all()
        # f c, i g and their sum; tanh and its product with o
        assert here.elements_update.values.tolist() == [3 * d, 2 * d]
    assert found(lstm_step.CLAIM, steps) == [CONFIRMED, CONFIRMED]
    assert lstm_step.CLAIM.judge(steps)[1].numbers["operations a unit"].value == 5


def test_the_verdicts_of_a_step_flip(steps):
    assert found(lstm_step.CLAIM, changed(steps, flops_gate=lambda v: v * v.d)) == [REFUTED, CONFIRMED]
    assert found(lstm_step.CLAIM, changed(steps, elements_update=lambda v: v * v.d)) == [CONFIRMED, REFUTED]
    assert found(lstm_step.CLAIM, changed(steps, flops_update=lambda v: v + 1)) == [CONFIRMED, REFUTED]
    assert lstm_step.CLAIM.checks(changed(steps, macs=lambda v: v - 1, step_gap=lambda v: v + 1)) == [
        "the step is not that of nn.LSTMCell: it differs by 1.0e+00",
        "an LSTM 300 -> 512, 2 layers, n = 100 counts 376012799, not 376012800",
    ]


# --- C4, the efficiency table ---


@pytest.fixture(scope="module")
def table():
    """The claim's dataset with costs that are in the article's proportions."""
    names, phases = list(ARTICLE), ["forward", "forward+backward"]
    times, sizes = ([[getattr(ARTICLE[x][1000], f)] * 2 for x in names] for f in ("time", "bytes"))
    over = ("layer", "n", "phase")
    values = {
        name: (over, np.array(times)[:, None] * k)
        for name, k in (("time", 2), ("time_low", 1.9), ("time_high", 2.1))
    }
    values |= {"peak_bytes": (over, np.array(sizes)[:, None] * 3.0), "flops": (over, np.ones((4, 1, 2)))}
    for name, column in (
        ("sequential_steps", (1, 1, 1, 1000)),
        ("path_length", (1, 1, 999, 999)),
        ("parallelism", (9, 9, 9, 2)),
    ):
        values[name] = (("layer", "n"), np.array(column, dtype=float)[:, None])
    ds = efficiency(xr.Dataset(values, {"layer": names, "n": [1000], "d": [512], "phase": phases}))
    return ds.assign(stack_path=("other", [999.0, 500.0, 9.0, 7.0])).assign_coords(
        other=list(efficiency_table.STACKS)
    )


def scaled(values, layer, factor):
    return values.where(values.layer != layer, values * factor)


def test_the_table_in_the_articles_proportions_is_confirmed(table):
    assert efficiency_table.CLAIM.checks(table) == []
    assert found(efficiency_table.CLAIM, table) == [*[CONFIRMED] * 5, QUALIFIED, QUALIFIED]


def test_the_verdicts_of_the_table_flip(table):
    fused = dict.fromkeys(("time", "time_low", "time_high"), lambda v: scaled(v, "attention", 0.4))
    assert found(efficiency_table.CLAIM, changed(table, **fused))[0] == QUALIFIED
    # a median outside the band, with quartiles that reach into it
    wide = {"time": lambda v: scaled(v, "attention", 1.7), "time_high": lambda v: scaled(v, "attention", 2)}
    assert found(efficiency_table.CLAIM, changed(table, **wide))[0] == CONFIRMED
    slow = dict.fromkeys(("time", "time_low", "time_high"), lambda v: scaled(v, "lstm", 3))
    assert found(efficiency_table.CLAIM, changed(table, **slow))[:2] == [REFUTED, QUALIFIED]
    small = changed(table, peak_bytes=lambda v: scaled(v, "lstm", 1 / 9))
    assert found(efficiency_table.CLAIM, small)[2:4] == [QUALIFIED, REFUTED]
    paths = changed(table, path_length=lambda v: v + 5, stack_path=lambda v: v * 0 + 10)
    assert found(efficiency_table.CLAIM, paths)[4:6] == [REFUTED, CONFIRMED]
    assert efficiency_table.CLAIM.checks(paths) == [
        "stacks of k = 3 carry x_1 to h_1000 in (10, 10, 10), not (500, 9, 7) layers"
    ]
    assert found(efficiency_table.CLAIM, changed(table, stack_path=lambda v: v + 1))[5] == REFUTED
    alone = changed(table, parallelism=lambda v: v.where(v.layer != "lstm", 1))
    assert found(efficiency_table.CLAIM, alone)[6] == CONFIRMED
    assert found(efficiency_table.CLAIM, changed(table, sequential_steps=lambda v: v * 2))[6] == REFUTED


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
    """Bytes at the claim's lengths, small in width; and the claim's lengths are not run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_memory, "WIDTH", 8)
        patch.setattr(attention_memory, "LENGTHS", (200, 1000, 5000))
        return attention_memory.CLAIM.measure(True)


def test_bytes_by_shapes_are_those_of_a_pass(memory):
    assert attention_memory.CLAIM.checks(memory) == []
    module, x = layers["attention"].build(8, fused=False), torch.zeros(200, 8)
    real = tensor_bytes(module, x, "forward+backward").peak + parameter_bytes(module) + x.nbytes
    here = memory.sel(layer="attention:fused=false", n=200, phase="forward+backward")
    assert here.predicted_bytes == pytest.approx(real, rel=0.02)
    assert here.measured_bytes == real
    broken = changed(memory, predicted_bytes=lambda v: v / 4)
    assert len(attention_memory.CLAIM.checks(broken)) == 3


def test_the_verdicts_of_memory_flip(memory):
    linear = 500e6 * memory.n / 5000 + 0 * memory.predicted_bytes
    stated = linear.where(memory.n == 5000, 210e6)
    assert found(attention_memory.CLAIM, memory.assign(predicted_bytes=stated)) == [CONFIRMED, CONFIRMED]
    assert found(attention_memory.CLAIM, memory.assign(predicted_bytes=linear)) == [CONFIRMED, REFUTED]
    one = scaled(stated, "attention", 10).where((memory.n == 5000) | (memory.layer != "attention"), 210e6)
    assert found(attention_memory.CLAIM, memory.assign(predicted_bytes=one)) == [QUALIFIED, QUALIFIED]
    assert found(attention_memory.CLAIM, memory.assign(predicted_bytes=10 * linear)) == [REFUTED, REFUTED]
