"""C8: its numbers against torch's derivative of an unrolled cell; verdicts that flip with the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tolerance

import depprobe
from depprobe.ledger.gradients import lstm_highway
from depprobe.ledger.gradients.lstm_highway import CLAIM


@pytest.fixture(scope="module")
def ds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lstm_highway, "QUICK", (24, 5, 2))
        patch.setattr(lstm_highway, "BIASES", (-2, 6))
        patch.setattr(lstm_highway, "GAINS", (0.0, 1.0))
        return CLAIM.measure(True)


def verdicts(ds):
    return [finding.verdict for finding in CLAIM.judge(ds)]


def with_gap(ds, true, product):
    """Every coupled cell loses ``true`` and ``product`` decades from lag 0 to the largest."""
    ramp = np.linspace(1, 0, ds.sizes["source"]) * lstm_highway.LN10
    start = 0.5 * np.log(ds.attrs["d"])
    shape = ds["log_norm_cc"].dims
    changed = {
        "log_norm_cc": start - true * ramp,
        "log_norm_product": start - product * ramp,
        "log_gap": (product - true) * ramp,
    }
    return ds.assign({name: (shape, np.broadcast_to(v, ds[name].shape)) for name, v in changed.items()})


def test_norms_are_those_of_an_unrolled_cell(ds):
    bias, gain, seed = 6, 1.0, 1
    from depprobe.runs.cases import cases_of_specs

    spec = f"lstm:forget_bias={bias},gain={gain:g}"
    case = cases_of_specs([spec], None, ds.attrs["n"], ds.attrs["d"], 1, [seed], "float64", "cpu")[0]
    module, x = case.build(), case.x
    cell = torch.nn.LSTMCell(5, 5, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in module.state_dict().items()})
    state = (torch.zeros(5, dtype=torch.float64),) * 2
    states = [state := cell(one, state) for one in x]
    k, t = 3, len(x) - 1

    def onwards(c):
        # h_k = o_k tanh(c_k) moves with c_k, the gate o_k being the one it was
        o = states[k][0] / states[k][1].tanh()
        now = (o * c.tanh(), c)
        for one in x[k + 1 :]:
            now = cell(one, now)
        return now[1]

    J = torch.autograd.functional.jacobian(onwards, states[k][1].detach())
    found = ds["log_norm_cc"].sel(forget_bias=bias, gain=gain, seed=seed, source=k)
    assert float(found) == pytest.approx(float(J.norm().log()), abs=1e-9)
    W, U = module.weight_ih_l0[5:10], module.weight_hh_l0[5:10]
    b = (module.bias_ih_l0 + module.bias_hh_l0)[5:10]
    before = torch.stack([h for h, _ in states[k:t]])
    f = (x[k + 1 :] @ W.T + before @ U.T + b).sigmoid().detach()
    product = ds["log_norm_product"].sel(forget_bias=bias, gain=gain, seed=seed, source=k)
    assert float(product) == pytest.approx(float(f.prod(0).norm().log()), rel=tolerance())


def test_its_cells_are_the_probes(ds):
    alone = depprobe.gates("lstm:forget_bias=-2,gain=1", n=24, d=5, seeds=2)
    for name in lstm_highway.KEPT:
        np.testing.assert_array_equal(ds[name].sel(forget_bias=-2, gain=1.0), alone[name])


def test_the_product_is_all_without_recurrent_weights(ds):
    assert CLAIM.checks(ds) == []
    coupled = ds.assign(log_gap=ds["log_gap"] + 0.1)
    assert any("recurrent weights" in fault for fault in CLAIM.checks(coupled))
    assert any("sqrt" in fault for fault in CLAIM.checks(ds.assign(log_norm_cc=ds["log_norm_cc"] + 1)))


@pytest.mark.parametrize(
    ("true", "product", "expected"),
    [
        (0.0, 0.5, ["confirmed", "confirmed"]),
        (-3.0, 0.5, ["refuted", "qualified"]),
        (1.2, 0.5, ["confirmed", "refuted"]),
        (4.0, 0.5, ["refuted", "refuted"]),
        (5.0, 20.0, ["refuted", "not measured here"]),
    ],
)
def test_verdicts_follow_the_data(ds, true, product, expected):
    assert verdicts(with_gap(ds, true, product)) == expected


def test_a_product_that_holds_in_some_cells_is_qualified(ds):
    far = ds["log_gap"].where(ds["forget_bias"] > 0, 0) * 0 + with_gap(ds, 0.0, 0.5)["log_gap"]
    some = with_gap(ds, 0.0, 0.5).assign(log_gap=far + 99 * (ds["forget_bias"] < 0))
    assert verdicts(some)[0] == "qualified"
    finding = CLAIM.judge(some)[0]
    assert "bias 6" in finding.note
    # the cells without recurrent weights, where the product is exact, are no evidence
    assert finding.numbers["cells within 1 decade"][::2] == (1, "of 2")
