"""The ledger: table and types; C6 and C7 against autograd and closed forms; verdicts flip with the data."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from claim_evidence import small, with_widths
from conftest import tolerance

from depprobe.errors import BadInput, DepprobeError
from depprobe.ledger import VERDICTS, Claim, Finding, Measured, claims
from depprobe.ledger.gradients import eigenvalues, receptive_field
from depprobe.ledger.table import Ledger
from depprobe.ledger.verdicts import CONFIRMED, DEFINED, QUALIFIED, REFUTED, UNMEASURED, verdict
from depprobe.runs.cases import cases_of_specs

# --- the table and the types ---


@pytest.mark.parametrize("name", claims)
def test_an_entry_says_what_it_states_and_how_it_is_judged(name):
    claim = claims[name]
    assert claim.id == name
    assert re.fullmatch(r"C[1-9]\d*", name)
    assert claim.statement.endswith(".")
    assert claim.rule.endswith(".")
    assert claims[name.lower()] is claim


def test_entries_are_in_the_order_of_their_numbers():
    numbers = [int(name[1:]) for name in claims]
    assert numbers == sorted(set(numbers))


def test_an_unknown_id_names_the_nearest():
    with pytest.raises(BadInput, match=r"unknown claim 'C66'; did you mean 'C6'\? Known: .*C6"):
        claims["C66"]


def test_two_files_with_one_id_are_refused(monkeypatch):
    monkeypatch.setattr(eigenvalues, "CLAIM", replace(eigenvalues.CLAIM, id="C6"))
    with pytest.raises(BadInput, match=r"two files define C6: .*receptive_field is the second"):
        len(Ledger())


def test_a_verdict_is_one_of_five():
    with pytest.raises(
        DepprobeError, match="no verdict 'true'; known: confirmed, qualified, refuted, by def"
    ):
        Finding("it rains", "true", {})


@pytest.mark.parametrize("word", VERDICTS[1:])
def test_what_is_not_confirmed_needs_a_word_why(word):
    with pytest.raises(DepprobeError, match=f"'it rains' is {word} without a word why"):
        Finding("it rains", word, {"drops": Measured(3)})
    assert Finding("it rains", word, note="only in April").note


def test_verdict_of_cases():
    assert [verdict(*pair) for pair in ((2, 2), (1, 2), (0, 2), (0, 0))] == [
        *(CONFIRMED, QUALIFIED, REFUTED),
        UNMEASURED,
    ]


def found(claim: Claim, ds) -> list[str]:
    return [finding.verdict for finding in claim.judge(ds)]


# --- C6, the receptive field ---


@pytest.fixture(scope="module")
def stacks():
    return small("C6")


def test_support_is_that_of_autograd(stacks):
    n, d = stacks.attrs["n"], stacks.attrs["d"]
    for spec, width in zip(stacks["layer"].values, stacks["receptive_width"].values, strict=True):
        case = cases_of_specs([str(spec)], None, n, d, 1, [0], "float64", "cpu")[0]
        x = case.x.clone().requires_grad_()
        rows = [torch.autograd.grad(y, x, retain_graph=True)[0] for y in case.build()(x)[-1]]
        assert int((torch.stack(rows) != 0).any(2).any(0).sum()) == width


def test_spread_is_that_of_uniform_and_two_point_weights():
    lag = np.arange(9)
    assert receptive_field.spread(np.zeros(9), lag) == pytest.approx(math.sqrt((9**2 - 1) / 12))
    # squared norms 1 and 3 at lags 2 and 6, far below the smallest float
    two = np.full(9, -np.inf)
    two[[2, 6]] = -9000.0, -9000.0 + 0.5 * math.log(3)
    assert receptive_field.spread(two, lag) == pytest.approx(math.sqrt(0.25 * 0.75 * 16))


def test_predicted_spread_is_the_formula(stacks):
    k, L, base = (stacks[name].values for name in ("kernel", "layers_stacked", "base"))
    levels = np.where(base == 2, (4.0**L - 1) / 3, L)
    np.testing.assert_allclose(stacks["predicted_width"], np.sqrt((k**2 - 1) / 12 * levels))


def test_verdicts_on_the_receptive_field_flip(stacks):
    claim = receptive_field.CLAIM
    assert found(claim, stacks) == [REFUTED, REFUTED, CONFIRMED]
    assert "the support has 1 + (k-1)(2^L - 1) positions" in claim.judge(stacks)[0].note
    assert "15 is L = 3 at k = 3" in claim.judge(stacks)[1].note
    stated = with_widths(stacks, lambda k, L: k * (2**L - 1))
    assert found(claim, stated) == [CONFIRMED, REFUTED, CONFIRMED]
    assert found(claim, with_widths(stacks, lambda k, L: 0 * k + 15))[1:] == [CONFIRMED, QUALIFIED]
    assert found(claim, with_widths(stacks, lambda k, L: 5 * k))[1] == QUALIFIED
    slow = with_widths(stacks, lambda k, L: 0 * k + 1)
    assert found(claim, slow) == [REFUTED, REFUTED, REFUTED]
    assert "no candidate fits" in claim.judge(slow)[0].note


def test_broken_truths_of_stacks_are_told(stacks):
    checks = receptive_field.CLAIM.checks
    assert checks(stacks) == []
    shorter = stacks.assign(receptive_width=stacks["receptive_width"] - 1)
    assert re.search("does not cover 1 \\+ \\(k-1\\) L.*has gaps", " ".join(checks(shorter)))
    wide = stacks["measured_width"].copy()
    wide[3] *= 1.5
    (fault,) = checks(stacks.assign(measured_width=wide))
    assert f"the spread of {stacks['layer'].values[3]} is " in fault


# --- C7, the largest eigenvalue ---


@pytest.fixture(scope="module")
def rates():
    return small("C7")


@pytest.mark.parametrize("gain", [0.35, 2.0])
def test_weights_have_the_spectral_radius_they_are_asked_for(gain):
    def radius(kind, d):
        W = eigenvalues.weights(kind, gain, d, np.random.default_rng(0))
        return np.abs(np.linalg.eigvals(W)).max(), np.linalg.svd(W, compute_uv=False)

    # the circular law; the largest of 400 lies within a few per cent of the edge
    assert radius("random", 400)[0] == pytest.approx(gain, rel=0.1)
    rho, sigma = radius("orthogonal", 30)
    np.testing.assert_allclose([rho, *sigma], gain, rtol=1e-10)
    rho, sigma = radius("non-normal", 24)
    assert rho == pytest.approx(gain, rel=1e-3)
    assert sigma[0] > 2 * gain


def test_linear_norms_are_those_of_powers():
    W = np.array([[0.9, 5.0], [0.0, 0.5]])
    wanted = [math.log(np.linalg.norm(np.linalg.matrix_power(W, lag))) for lag in range(30)]
    np.testing.assert_allclose(eigenvalues.linear_norms(W, 30), wanted, rtol=tolerance())
    # all singular values of a power of g Q are g^lag: past every float
    Q = eigenvalues.weights("orthogonal", 0.01, 9, np.random.default_rng(1))
    norms = eigenvalues.linear_norms(Q, 400)
    np.testing.assert_allclose(norms, np.arange(400) * math.log(0.01) + math.log(3), rtol=1e-10)
    assert eigenvalues.rate(norms) == pytest.approx(math.log(0.01), rel=1e-10)
    # slopes 1, -0.5 and 2 in the thirds: the transient and the start do not count
    assert eigenvalues.rate(np.cumsum(np.repeat([1.0, -0.5, 2.0], 20))) == pytest.approx(-0.5)


def test_tanh_norms_are_those_of_an_unrolled_cell():
    d, n = 5, 11
    rng = np.random.default_rng(2)
    W, x = eigenvalues.weights("random", 1.4, d, rng), rng.standard_normal((n, d))
    norms, states = eigenvalues.tanh_norms(W, x)
    weight, inputs = torch.from_numpy(W), torch.from_numpy(x)
    h = torch.zeros(d, dtype=torch.float64)
    for t in range(n):
        h = torch.tanh(weight @ h + inputs[t])
        np.testing.assert_allclose(states[t], h, atol=1e-12)

    def last(h, k):
        for u in inputs[k + 1 :]:
            h = torch.tanh(weight @ h + u)
        return h

    for lag in range(n):
        k = n - 1 - lag
        J = torch.autograd.functional.jacobian(lambda h, k=k: last(h, k), torch.from_numpy(states[k].copy()))
        assert norms[lag] == pytest.approx(float(J.norm().log()), abs=1e-6)


def test_rates_keep_to_their_bounds_and_limits(rates):
    """V3: no rate exceeds ln sigma_max; V2: orthogonal weights decay at ln g exactly; V25: mean field."""
    assert (rates["rate_tanh"] <= rates["log_sigma"]).all()
    orthogonal = rates.sel(layer="orthogonal")
    log_gain = np.log(rates["gain"].values)[:, None]
    np.testing.assert_allclose(orthogonal["rate_linear"] - log_gain, 0, atol=1e-10)
    np.testing.assert_allclose(orthogonal["log_sigma"] - log_gain, 0, atol=1e-10)
    np.testing.assert_allclose(orthogonal["log_rho"] - log_gain, 0, atol=1e-10)
    # the triangle of non-normal weights has its eigenvalues on the diagonal
    np.testing.assert_allclose(rates["log_rho"].sel(layer="non-normal") - log_gain, 0, atol=1e-3)
    assert float(rates["rate_mean_field"].sel(gain=1.3)) == pytest.approx(math.log(0.939807) / 2, abs=1e-6)


def test_broken_truths_of_rates_are_told(rates):
    checks = eigenvalues.CLAIM.checks
    assert checks(rates) == []
    (fault,) = checks(rates.assign(rate_tanh=rates["log_sigma"] + 0.1))
    assert "faster than the largest singular value allows" in fault
    (fault,) = checks(rates.assign(product_gap=rates["product_gap"] + 1))
    assert "not the product of diag(phi') W" in fault
    (fault,) = checks(rates.assign(rate_linear=rates["rate_linear"] + 1e-3))
    assert "orthogonal weights of gain g do not decay at ln g" in fault


def test_verdicts_on_the_eigenvalue_flip(rates):
    claim, law = eigenvalues.CLAIM, rates["log_rho"]
    assert found(claim, rates)[0] == DEFINED
    ruled = rates.assign(rate_tanh=law, rate_linear=law)
    assert found(claim, ruled) == [DEFINED, CONFIRMED, CONFIRMED, CONFIRMED]
    assert found(claim, ruled.assign(rate_tanh=abs(law)))[1:] == [REFUTED, CONFIRMED, QUALIFIED]
    assert found(claim, ruled.assign(rate_tanh=-abs(law)))[1:] == [CONFIRMED, REFUTED, QUALIFIED]


def test_a_cell_has_a_radius_below_one_if_all_its_draws_have(rates):
    law = rates["log_rho"]
    growing = rates.assign(rate_tanh=abs(law), rate_linear=law)
    first = law["seed"] == law["seed"][0]
    some = growing.assign(log_rho=xr.where(first, abs(law), law).transpose(*law.dims))
    assert found(eigenvalues.CLAIM, growing)[1] == REFUTED
    one = some.isel(gain=[0, -1]).sel(layer=["orthogonal", "random"])
    one["log_rho"].loc[{"layer": "orthogonal"}] = -1.0
    one["rate_tanh"].loc[{"layer": "orthogonal"}] = -1.0
    assert found(eigenvalues.CLAIM, one)[1] == CONFIRMED


def test_a_rate_within_its_error_of_zero_decides_nothing(rates):
    """Growth by less than two standard errors does not refute that gradients decay."""
    law = rates["log_rho"]
    inside = law.max("seed") < 0
    noise = rates["seed"] * 0 + np.array([-1.0, 0.2, 1.0])
    ds = rates.assign(rate_tanh=law.where(~inside, noise), rate_linear=law)
    assert found(eigenvalues.CLAIM, ds)[1] == CONFIRMED
    surely = law.where(~inside, noise / 100 + 0.2)
    assert found(eigenvalues.CLAIM, ds.assign(rate_tanh=surely))[1] == REFUTED


def test_the_module_measured_is_the_recurrence_stated():
    """Identity input weights and no bias: h_t = tanh(W h_{t-1} + x_t), nothing else."""
    W = np.zeros((3, 3))
    x = np.random.default_rng(0).standard_normal((4, 3))
    _, states = eigenvalues.tanh_norms(W, x)
    np.testing.assert_allclose(states, np.tanh(x), atol=1e-12)
