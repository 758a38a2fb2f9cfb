"""C8: its numbers against torch's derivative of an unrolled cell; verdicts that flip with the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from claim_evidence import small, with_gap
from conftest import tolerance

import depprobe
from depprobe.ledger.gradients import lstm_highway
from depprobe.ledger.gradients.lstm_highway import CLAIM


@pytest.fixture(scope="module")
def ds():
    return small("C8")


def verdicts(ds):
    return [finding.verdict for finding in CLAIM.judge(ds)]


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


def test_a_share_of_the_cells_decides(ds):
    """Ten cells, of which as many as given are far from the product."""
    biases = np.arange(10)
    many = with_gap(ds, 0.0, 0.5).isel(forget_bias=[0] * 10).assign_coords(forget_bias=biases)
    for far, expected in ((1, "confirmed"), (2, "qualified"), (5, "refuted")):
        away = many.assign(log_gap=many["log_gap"] + 99 * (many["forget_bias"] < far))
        assert verdicts(away)[0] == expected
        finding = CLAIM.judge(away)[0]
        # the cells without recurrent weights, where the product is exact, are no evidence
        assert finding.numbers["cells within 1 decade"][::2] == (10 - far, "of 10")
        assert expected == "confirmed" or "bias 9" in finding.note
        lost = many.assign(log_norm_cc=many["log_norm_cc"].where(many["forget_bias"] >= far, -99.0))
        lost["log_norm_cc"][{"source": -1}] = 0.5 * np.log(ds.attrs["d"])
        assert verdicts(lost)[1] == expected
