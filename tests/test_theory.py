"""Closed forms and mean field against printed values, second closed forms, simulations and autograd."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch

from depprobe.errors import BadInput
from depprobe.theory.circular import circular_radius, edge_singular_value
from depprobe.theory.critical import critical_gain_gru, critical_gain_lstm, critical_gain_rnn
from depprobe.theory.eigenvalue import eigenvalue_rate
from depprobe.theory.gated import Gate, gate_factor, gru_update, lstm_forget
from depprobe.theory.gaussian import normal_mean
from depprobe.theory.linear_unit import gradient_variance, state_variance
from depprobe.theory.meanfield import mean_field
from depprobe.theory.newman import newman_exponents
from depprobe.theory.receptive import Level, exact_profile, log_gaussian_profile, moments
from depprobe.theory.singular_bound import bound_rate, log_bound

F64 = torch.float64


def gaussian_by_mpmath(f, mu, s):
    with mpmath.workdps(25):
        z = [-14, -8, -4, -2, -1, -0.5, -0.1, 0, 0.1, 0.5, 1, 2, 4, 8, 14]
        return float(mpmath.quad(lambda u: f(mu + s * u) * mpmath.npdf(u), z))


@pytest.mark.parametrize(
    ("gain", "bias", "field", "value"),
    [
        (2.0, 0.0, "q", 2.121474),
        (2.0, 0.0, "chi", 1.362673),
        (2.0, 0.0, "exponent", 0.154724),
        (1.5, 0.0, "exponent", 0.065217),
        (1.0, 0.05, "chi", 0.934059),
        (1.0, 0.3, "chi", 0.700258),
        (1.3, 0.3, "chi", 0.939807),
    ],
)
def test_mean_field_of_tanh_gives_the_printed_digits(gain, bias, field, value):
    assert getattr(mean_field(gain, bias), field) == pytest.approx(value, abs=5.1e-7)


def test_gain_10_is_right_where_gauss_hermite_fails():
    found = mean_field(10.0)
    # substituting u = sqrt(q) z puts the narrow slope at unit scale
    root = mpmath.sqrt(found.q)
    with mpmath.workdps(25):
        ends = [-60, -20, -8, -3, -1, 0, 1, 3, 8, 20, 60]
        mean = mpmath.quad(lambda u: mpmath.sech(u) ** 4 * mpmath.npdf(u / root) / root, ends)
    assert found.chi == pytest.approx(100 * float(mean), rel=1e-9)
    assert found.exponent > 0.5
    z, w = np.polynomial.hermite_e.hermegauss(20)
    crude = 100 * (w / math.sqrt(2 * math.pi)) @ (1 / np.cosh(np.sqrt(found.q) * z)) ** 4
    assert math.log(crude) < 0


@pytest.mark.parametrize("bias", [0.0, 0.3])
@pytest.mark.parametrize("gain", [1.2, 2.0, 10.0, 300.0])
def test_mean_field_of_erf_satisfies_its_closed_forms(gain, bias):
    found = mean_field(gain, bias, "erf")
    square = 2 / math.pi * math.asin(math.pi * found.q / (2 + math.pi * found.q))
    assert found.q == pytest.approx(gain**2 * square + bias**2, rel=1e-10)
    assert found.slope == pytest.approx(1 / math.sqrt(1 + math.pi * found.q), rel=1e-10)
    assert found.chi == pytest.approx(gain**2 * found.slope, rel=1e-14)


@pytest.mark.parametrize("phi", ["tanh", "erf"])
def test_without_drive_small_gains_end_at_zero(phi):
    found = mean_field(0.7, phi=phi)
    assert (found.q, found.exponent) == (0.0, pytest.approx(math.log(0.7)))
    assert mean_field(0.0, 0.5, phi).exponent == -math.inf
    assert mean_field(0.0, 0.5, phi).q == pytest.approx(0.25)


@pytest.mark.parametrize(("sw", "sb"), [(1.0, 0.05), (1.0, 0.3), (1.3, 0.3)])
def test_wide_networks_multiply_gradients_by_chi(sw, sb):
    N, warm, lag = 512, 60, 25
    slopes = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        W = rng.standard_normal((N, N)) * sw / math.sqrt(N)
        z = rng.standard_normal(N)
        for _ in range(warm):
            z = W @ np.tanh(z) + sb * rng.standard_normal(N)
        J, logs = np.eye(N), []
        for _ in range(lag):
            z = W @ np.tanh(z) + sb * rng.standard_normal(N)
            J = (1 - np.tanh(z) ** 2)[:, None] * (W @ J)
            logs.append(math.log((J**2).sum() / N))
        slopes.append((logs[-1] - logs[4]) / (lag - 5))
    # 1.5 % a step at width 1024 and 8 seeds; finite lag and half the width widen it
    assert np.exp(np.mean(slopes)) == pytest.approx(mean_field(sw, sb).chi, rel=0.03)


def test_wide_network_settles_at_the_fixed_point():
    N, found = 1024, []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        J, z = rng.standard_normal((N, N)) * 2 / math.sqrt(N), rng.standard_normal(N)
        for step in range(300):
            z = J @ np.tanh(z)
            if step >= 100:
                found.append((z**2).mean())
    assert np.mean(found) == pytest.approx(mean_field(2.0).q, rel=0.03)


@pytest.mark.parametrize(("mu", "s"), [(0.0, 0.3), (2.0, 1.0), (-6.0, 0.5), (1.0, 8.0)])
def test_gate_factor_against_high_precision(mu, s):
    truth = gaussian_by_mpmath(lambda u: 1 / (1 + mpmath.exp(-u)) ** 2, mu, s)
    assert gate_factor(mu, s) == pytest.approx(truth, rel=1e-9)


def test_gate_factor_at_its_ends():
    assert gate_factor(1.0, 0.0) == pytest.approx((1 / (1 + math.exp(-1))) ** 2, rel=1e-15)
    # a closed gate with little spread is exp(2 mu + 2 s^2)
    assert math.log(gate_factor(-100.0, 2.0)) == pytest.approx(-200 + 8, rel=1e-9)
    assert gate_factor(0.0, 1e6) == pytest.approx(0.5, rel=1e-5)


def _wide_state(kind, gates, steps=150, N=600):
    """Mean square of the carrying gate and of h for independent noise input and random weights."""
    rng = np.random.default_rng(3)
    W = [gate.gain * rng.standard_normal((N, N)) / math.sqrt(N) for gate in gates]
    h, c, keep, size = np.zeros(N), np.zeros(N), [], []
    for step in range(steps):
        z = [g.mu + g.s * rng.standard_normal(N) for g in gates]
        if kind == "lstm":
            i, f, g, o = (a + w @ h for a, w in zip(z, W, strict=True))
            i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
            c = f * c + i * np.tanh(g)
            h, carry = o * np.tanh(c), f
        else:
            r, u = (1 / (1 + np.exp(-(a + w @ h))) for a, w in zip(z[:2], W[:2], strict=True))
            h, carry = (1 - u) * np.tanh(z[2] + r * (W[2] @ h)) + u * h, u
        if step > 40:
            keep.append((carry**2).mean())
            size.append((h**2).mean())
    return np.mean(keep), np.mean(size)


@pytest.mark.parametrize(("candidate", "lowest", "highest"), [(0.0, 0.96, 1.04), (1.0, 0.75, 1.0)])
def test_forget_path_factor_against_a_wide_lstm(candidate, lowest, highest):
    gates = [Gate(0.0, 0.5, 1.0), Gate(1.0, 0.4, 2.0), Gate(0.0, 0.6, candidate), Gate(0.0, 0.5, 1.0)]
    factor, h2 = lstm_forget(*gates)
    seen, size = _wide_state("lstm", gates)
    assert factor == pytest.approx(seen, rel=0.01)
    # candidates that follow h add up over time, which the closure leaves out
    assert lowest < h2 / size < highest


def test_update_path_factor_against_a_wide_gru():
    gates = [Gate(0.0, 0.5, 1.0), Gate(1.0, 0.4, 2.0), Gate(0.0, 0.6, 1.0)]
    factor, h2 = gru_update(*gates)
    seen, size = _wide_state("gru", gates)
    assert factor == pytest.approx(seen, rel=0.01)
    assert h2 == pytest.approx(size, rel=0.1)


def test_default_recurrence_fills_the_disc():
    d, sd = 512, 1 / math.sqrt(3 * 512)
    W = np.random.default_rng(0).uniform(-1, 1, (d, d)) / math.sqrt(d)
    assert circular_radius(sd, d) == pytest.approx(0.57735, abs=5e-6)
    assert edge_singular_value(sd, d) == pytest.approx(1.1547, abs=5e-5)
    assert math.exp(eigenvalue_rate(W)) == pytest.approx(circular_radius(sd, d), rel=0.04)
    assert math.exp(bound_rate(W)) == pytest.approx(edge_singular_value(sd, d), rel=0.03)


def test_newman_exponents_give_the_printed_digits():
    assert newman_exponents(2) == pytest.approx([-0.288608, -0.981755], abs=5e-7)
    assert newman_exponents(4)[[0, -1]] == pytest.approx([-0.135181, -1.328329], abs=5e-7)


def test_linear_unit_against_sums_of_its_impulse_response():
    lag = np.arange(3000.0)
    assert state_variance(0.9) == pytest.approx((0.9 ** (2 * lag)).sum(), rel=1e-12)
    assert gradient_variance(0.9) == pytest.approx(((lag * 0.9 ** (lag - 1)) ** 2).sum(), rel=1e-12)
    assert gradient_variance(0.9) == pytest.approx(263.8868639743404, rel=1e-14)


def test_bound_holds_along_a_trajectory_and_is_met_by_a_scaled_rotation():
    rng = np.random.default_rng(0)
    W, slopes = rng.standard_normal((5, 5)), rng.uniform(0.1, 1, (7, 5))
    bound, J = log_bound(W, slopes), np.eye(5)
    for back in range(1, 8):
        J = J @ (slopes[-back][:, None] * W)
        assert math.log(np.linalg.norm(J, 2)) <= bound[-1 - back] + 1e-12
    Q = np.linalg.qr(W)[0]
    assert log_bound(0.5 * Q, np.ones((3, 5))) == pytest.approx(math.log(0.5) * np.array([3, 2, 1, 0]))


def _cell(kind, gain, d=300):
    torch.manual_seed(0)
    module = kind(d, d, bias=True, dtype=F64)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.zero_() if "hh" not in name or "bias" in name else p.normal_(0, gain / math.sqrt(d))
    return module


@pytest.mark.parametrize(
    ("kind", "critical"),
    [
        (torch.nn.RNNCell, critical_gain_rnn()),
        (torch.nn.GRUCell, critical_gain_gru()),
        (torch.nn.LSTMCell, critical_gain_lstm()),
    ],
)
def test_zero_state_loses_stability_at_the_critical_gain(kind, critical):
    d = 300
    cell, x = _cell(kind, critical, d), torch.zeros(d, dtype=F64)

    def step(state):
        if kind is torch.nn.LSTMCell:
            return torch.cat(cell(x, (state[:d], state[d:])))
        return cell(x, state)

    width = 2 * d if kind is torch.nn.LSTMCell else d
    J = torch.autograd.functional.jacobian(step, torch.zeros(width, dtype=F64), vectorize=True)
    assert float(torch.linalg.eigvals(J).real.max()) == pytest.approx(1.0, abs=0.04)


def test_biases_move_the_critical_gain():
    assert critical_gain_gru(2.0) == pytest.approx(1 + math.exp(-2))
    assert critical_gain_lstm(forget_bias=2.0) == pytest.approx(4 / (1 + math.exp(2)))


@pytest.mark.parametrize(("k", "L"), [(3, 4), (2, 5), (5, 3)])
def test_receptive_fields_of_stacks(k, L):
    plain = [Level(k)] * L
    lags, profile = exact_profile(plain)
    counts = np.zeros(L * (k - 1) + 1)
    for taps in itertools.product(range(k), repeat=L):
        counts[sum(taps)] += 1 / k**L
    assert profile == pytest.approx(counts, rel=1e-12)
    assert moments(plain)[2] == pytest.approx(L * (k**2 - 1) / 12)
    dilated = [Level(k, 2**level) for level in range(L)]
    lags, profile = exact_profile(dilated)
    assert len(lags) == 1 + (k - 1) * (2**L - 1)
    assert moments(dilated)[2] == pytest.approx((k**2 - 1) / 12 * (4**L - 1) / 3)
    mean = lags @ profile
    assert (lags - mean) ** 2 @ profile == pytest.approx(moments(dilated)[2])


def test_deep_stacks_tend_to_the_gaussian():
    levels = [Level(3, first=-1, gain=0.25, residual=level % 2 == 0) for level in range(60)]
    lags, profile = exact_profile(levels)
    near = np.abs(lags) <= 6
    assert log_gaussian_profile(levels, lags[near]) == pytest.approx(np.log(profile[near]), abs=0.03)
    assert profile.sum() == pytest.approx(moments(levels)[0])


def test_means_of_constants_and_squares():
    assert normal_mean(lambda u: 1.0, 3.0, 5.0) == pytest.approx(1.0, rel=1e-12)
    assert normal_mean(lambda u: u**4, 0.0, 2.0) == pytest.approx(48.0, rel=1e-11)


def test_a_mean_takes_few_values_and_finds_what_lies_far_from_zero():
    asked = []
    normal_mean(lambda u: asked.append(u) or math.tanh(u) ** 2)
    assert len(asked) < 800
    # nearly all of it around z = 6
    assert normal_mean(math.exp, 0.0, 6.0) == pytest.approx(math.exp(18), rel=1e-11)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean_field(-1.0), "gain and bias must be finite numbers >= 0, not -1.0 and 0.0"),
        (lambda: mean_field(1.0, math.nan), "not 1.0 and nan"),
        (lambda: mean_field(1.0, phi="relu"), "phi 'relu'.*tanh"),
        (lambda: normal_mean(math.tanh, 0.0, -1.0), "standard deviation >= 0, not 0.0 and -1.0"),
        (lambda: eigenvalue_rate(np.ones((2, 3))), r"must be a square matrix, not \(2, 3\)"),
        (lambda: bound_rate([[math.inf]]), "must be finite"),
        (lambda: newman_exponents(0), "at least 1, not 0"),
        (lambda: state_variance(1.0), "between -1 and 1, not 1.0"),
        (lambda: exact_profile([]), "at least one convolution"),
        (lambda: exact_profile([Level(0)]), "at least 1, not 0 and 1"),
    ],
)
def test_wrong_calls_are_told(call, words):
    with pytest.raises(BadInput, match=words):
        call()
