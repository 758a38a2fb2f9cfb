"""Lyapunov exponents against closed forms, other routes to the same number, and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import psi
from torch import nn

import depprobe
from depprobe import figures, store
from depprobe.dynamics.benettin import _Walk, growth
from depprobe.dynamics.exponents import block_stderr, entropy_rate, exponents_of, kaplan_yorke
from depprobe.dynamics.orthonormal import orthonormalise
from depprobe.dynamics.trajectory import Recurrence
from depprobe.errors import BadInput, DepprobeError
from tests.conftest import tolerance

DOUBLE = torch.float64


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def frame_of(width, m, seed=5):
    return torch.linalg.qr(noise(width, m, seed=seed))[0]


# --- the order of exponents ---


@pytest.mark.parametrize("samples", [1, 3])
def test_exponents_fall_with_all_that_belongs_to_them(samples):
    """Growth whose columns stand in no order, and the same with its columns sorted by hand."""
    rng, stops = np.random.default_rng(0), np.arange(1, 61)
    centres = np.array([-0.4, 0.3, -np.inf, 0.1, np.nan])
    by_hand = [1, 3, 0, 2, 4]
    growth = centres + 0.01 * rng.standard_normal((samples, 60, 5))
    found, known = (
        exponents_of(one, [None] * samples, stops, ["map"], [0], [5] * samples, [1.0] * samples)
        for one in (growth, growth[..., by_hand])
    )
    assert found.identical(known)
    np.testing.assert_allclose(found["exponent"], centres[by_hand], atol=0.01)
    np.testing.assert_array_equal(found["exponent_running"][-1], found["exponent"])
    if samples > 1:
        np.testing.assert_array_equal(found["exponent_case"].mean("sample"), found["exponent"])


# --- maps with known exponents ---


def henon(s):
    return torch.stack([1 - 1.4 * s[0] ** 2 + s[1], 0.3 * s[0]])


def lorenz(s, step=0.01):
    def slope(s):
        x, y, z = s.unbind()
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    a = slope(s)
    b = slope(s + step / 2 * a)
    c = slope(s + step / 2 * b)
    return s + step / 6 * (a + 2 * b + 2 * c + slope(s + step * c))


def test_henon_map():
    ds = depprobe.lyapunov_of_map(henon, [0.1, 0.1], steps=8000, warmup=100)
    assert float(ds.exponent_sum) == pytest.approx(math.log(0.3), rel=1e-12)
    assert float(ds.log_det) == pytest.approx(math.log(0.3), rel=1e-12)
    first, error = float(ds.exponent[0]), float(ds.exponent_stderr[0])
    assert 0.0005 < error < 0.006
    assert abs(first - 0.4195) < 3 * error
    assert float(ds.kaplan_yorke) == pytest.approx(1 + first / (first - math.log(0.3)), rel=1e-9)
    assert float(ds.entropy_rate) == first


def test_logistic_map():
    ds = depprobe.lyapunov_of_map(lambda s: 4 * s * (1 - s), [0.3], steps=10000, warmup=100)
    assert float(ds.exponent[0]) == pytest.approx(math.log(2), abs=2e-3)
    assert abs(float(ds.exponent[0]) - math.log(2)) < 4 * float(ds.exponent_stderr[0])


def test_lorenz_flow_with_runge_kutta_steps():
    ds = depprobe.lyapunov_of_map(lorenz, [1.0, 1.0, 20.0], steps=20000, warmup=2000)
    values, errors = ds.exponent.values / 0.01, ds.exponent_stderr.values / 0.01
    assert float(ds.exponent_sum) / 0.01 == pytest.approx(-41 / 3, abs=2e-3)
    assert (errors < 0.06).all()
    assert (np.abs(values - [0.9056, 0, -14.572]) < 3 * errors + 0.01).all()


@pytest.mark.parametrize("width", [2, 4])
def test_products_of_gaussian_matrices(width):
    steps = 16000
    factors = noise(steps, width, width) / math.sqrt(width)
    ds = depprobe.lyapunov_of_map(lambda s, A: A @ s, np.zeros(width), factors, warmup=50)
    index = np.arange(1, width + 1)
    expected = (math.log(2 / width) + psi((width - index + 1) / 2)) / 2
    if width == 2:
        np.testing.assert_allclose(expected, [-0.288608, -0.981755], atol=1e-6)
    else:
        np.testing.assert_allclose(expected[[0, -1]], [-0.135181, -1.328329], atol=1e-6)
    assert (ds.exponent_stderr < 0.015).all()
    assert (np.abs(ds.exponent - expected) < 4 * ds.exponent_stderr).all()
    assert float(ds.exponent_sum) == pytest.approx(float(ds.log_det), rel=1e-10)


def test_linear_map_has_the_logs_of_its_eigenvalues():
    values = torch.tensor([1.1, -0.7, 0.3, 0.05], dtype=DOUBLE)
    basis = noise(4, 4)
    W = basis @ torch.diag(values) @ torch.linalg.inv(basis)
    ds = depprobe.lyapunov_of_map(lambda s: W @ s, np.zeros(4), steps=400, warmup=300)
    np.testing.assert_allclose(ds.exponent, values.abs().log().numpy(), atol=1e-9)
    assert (ds.exponent_stderr < 1e-8).all()


def test_linear_recurrence_in_a_relu_module():
    """Positive weights and bias keep every unit of a relu network alive, so that it is linear."""
    module = nn.RNN(3, 5, nonlinearity="relu").double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.abs() * 0.5 + 0.01)
    ds = depprobe.lyapunov(module, noise(600, 3).abs(), exponents="all", warmup=400)
    expected = np.sort(np.log(torch.linalg.eigvals(module.weight_hh_l0.detach()).abs().numpy()))[::-1]
    # a complex pair shares its modulus, and turns: means over a window meet it as 1 / steps
    np.testing.assert_allclose(ds.exponent, expected, atol=0.02)
    assert float(ds.exponent[0]) == pytest.approx(expected[0], abs=1e-9)
    assert float(ds.exponent_sum) == pytest.approx(expected.sum(), rel=1e-9)


def test_large_map_takes_one_product_a_column_and_agrees_with_whole_jacobians():
    W = noise(40, 40) / 5

    def step(s, u):
        return torch.tanh(W @ s + u)

    inputs = noise(200, 40, seed=1)
    few = depprobe.lyapunov_of_map(step, np.zeros(40), inputs, exponents=3)
    more = depprobe.lyapunov_of_map(step, np.zeros(40), inputs, exponents=12, warmup=40)
    np.testing.assert_allclose(few.exponent, more.exponent[:3], atol=2e-2)
    assert float(few.log_det) == pytest.approx(float(more.log_det), rel=1e-10)


def mean_field_exponent(g):
    def mean(f):
        return quad(lambda z: f(z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -12, 12, limit=200)[0]

    q = brentq(lambda q: g * g * mean(lambda z: math.tanh(math.sqrt(q) * z) ** 2) - q, 1e-3, g * g)
    return math.log(g * g * mean(lambda z: math.cosh(math.sqrt(q) * z) ** -4)) / 2


def test_random_network_meets_mean_field_theory():
    """V24 states 3 % at width 1024 with 8 seeds; width 512 and 3 seeds add three standard errors to that."""
    expected = mean_field_exponent(2.0)
    assert expected == pytest.approx(0.154724, abs=1e-6)
    ds = depprobe.lyapunov("rnn:gain=2,bias=false", n=1000, d=512, drive="none", exponents=1, seeds=3)
    first, error = float(ds.exponent[0]), float(ds.exponent_stderr[0])
    assert error < 0.006
    assert abs(first - expected) < 0.03 * expected + 3 * error
    assert ds.stderr_from == "the spread of 3 seeds"


# --- recurrent modules ---

MODULES = {
    "rnn": lambda: nn.RNN(3, 5),
    "gru": lambda: nn.GRU(3, 5, num_layers=2),
    "lstm": lambda: nn.LSTM(3, 5),
    "deep lstm": lambda: nn.LSTM(3, 4, num_layers=2, bias=False),
    "projected lstm": lambda: nn.LSTM(3, 5, num_layers=2, proj_size=2),
}


def step_of(module):
    """One step of a module on its joint state, by torch itself: (c, h) of each layer, bottom first."""
    lstm = isinstance(module, nn.LSTM)
    d_h = getattr(module, "proj_size", 0) or module.hidden_size
    widths = [module.hidden_size, d_h] if lstm else [d_h]

    def step(s, x):
        parts = [level.split(widths) for level in s.chunk(module.num_layers)]
        h = torch.stack([part[-1] for part in parts])[:, None]
        state = (h, torch.stack([part[0] for part in parts])[:, None]) if lstm else h
        after = module(x[None, None], state)[1]
        pairs = zip(after[1][:, 0], after[0][:, 0], strict=True) if lstm else ((one,) for one in after[:, 0])
        return torch.cat([part for pair in pairs for part in pair])

    return step


@pytest.mark.parametrize("name", MODULES)
def test_columns_are_pushed_by_the_step_jacobian_that_autograd_gives(name, monkeypatch):
    torch.manual_seed(1)
    module = MODULES[name]().double()
    x, flow = noise(7, 3), Recurrence(module)
    (stretch,) = flow.stretches(x)
    step, state = step_of(module), torch.zeros(flow.width, dtype=DOUBLE)
    columns = noise(flow.width, 4)
    logs = stretch.log_abs_det()
    for k in range(7):
        J = torch.autograd.functional.jacobian(lambda s, k=k: step(s, x[k]), state)
        torch.testing.assert_close(stretch.push(k, columns), J @ columns, rtol=tolerance(), atol=1e-14)
        torch.testing.assert_close(logs[k], torch.linalg.slogdet(J)[1], rtol=tolerance(), atol=1e-10)
        state = step(state, x[k]).detach()
    # as where the host waits: by the matrices of many steps
    monkeypatch.setattr("depprobe.dynamics.trajectory.waits", lambda device: True)
    together = stretch.push(1, columns, 6)
    for k in range(1, 7):
        columns = stretch._step(k, columns)
    torch.testing.assert_close(together, columns, rtol=tolerance(), atol=1e-14)


@pytest.mark.parametrize("name", MODULES)
def test_a_trajectory_goes_on_over_stretches_and_from_any_state(name, monkeypatch):
    module = MODULES[name]().double()
    flow, x = Recurrence(module), noise(9, 3)
    start = flow.random_state(np.random.default_rng(0))
    columns = noise(flow.width, 2)
    (whole,) = flow.stretches(x, [tuple(part) for part in start])
    monkeypatch.setattr("depprobe.dynamics.trajectory._STEPS", 4)
    parts = list(flow.stretches(x, [tuple(part) for part in start]))
    assert [part.steps for part in parts] == [4, 4, 1]
    for k in range(9):
        found = parts[k // 4].push(k % 4, columns)
        torch.testing.assert_close(found, whole.push(k, columns), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", MODULES)
def test_sum_of_all_exponents_is_the_mean_log_determinant(name):
    torch.manual_seed(2)
    ds = depprobe.lyapunov(MODULES[name]().double(), noise(150, 3), exponents="all")
    assert float(ds.exponent_sum) == pytest.approx(float(ds.log_det), rel=1e-9)
    assert ds.sizes["mode"] == int(ds.state)


def test_every_step_orthonormalised_gives_the_same_as_intervals():
    module = nn.LSTM(3, 8).double()
    flow, x, frame = Recurrence(module), noise(400, 3), frame_of(16, 6)
    found = growth(flow.stretches(x), frame, 100, [150, 300])
    assert found.interval > 3
    sums, Q = np.zeros((2, 6)), frame
    done = 0
    for stretch in flow.stretches(x):
        for k in range(stretch.steps):
            Q, R = torch.linalg.qr(stretch.push(k, Q))
            if done >= 100:
                sums[(done - 100) // 150] += R.diagonal().abs().log().numpy()
            done += 1
    np.testing.assert_allclose(found.increments, sums, rtol=1e-10)


@pytest.mark.parametrize("nearly", [0.0, 0.98])
def test_stretches_taken_ahead_give_the_same(nearly, monkeypatch):
    """Also where a column comes near the span of others in some stretches, which are taken again."""
    torch.manual_seed(4)
    module, x = nn.RNN(3, 8).double(), noise(600, 3)
    with torch.no_grad():
        # in some steps units are saturated, and the step Jacobian is nearly singular
        x[300:330] *= 1 + 40 * nearly
    flow, frame = Recurrence(module), frame_of(8, 6)
    monkeypatch.setattr("depprobe.dynamics.trajectory._STEPS", 50)
    plain = growth(flow.stretches(x), frame, 110, [150, 300, 490])
    looked = []
    take = _Walk._take
    monkeypatch.setattr(_Walk, "_take", lambda self, *given: looked.append(self.t) or take(self, *given))
    ahead = growth(flow.stretches(x), frame, 110, [150, 300, 490], ahead=True)
    again = {t // 50 for t in looked}
    assert again - {0} == (again & {6} if nearly else set())
    assert not nearly or 6 in again
    np.testing.assert_allclose(ahead.increments, plain.increments, rtol=1e-9)


class _Overwriting:
    """Gives back what work made in the same tensors each time, and reads anew only what is another tensor."""

    def __init__(self):
        self.made, self.held = {}, {}

    def __call__(self, key, work, given, carried=0, at_first=True):
        inputs = []
        for place, tensor in enumerate(given):
            where = place, tensor.shape, tensor.dtype
            into, last = self.held.get(where, (torch.empty_like(tensor), None))
            if last is not tensor:
                into.copy_(tensor)
            self.held[where] = into, tensor
            inputs.append(into)
        found = work(inputs)
        made = self.made.setdefault((key, *(part.shape for part in given)), [part.clone() for part in found])
        for into, part in zip(made, found, strict=True):
            into.copy_(part)
        return made


def test_recorded_steps_hand_on_copies_of_what_is_overwritten(monkeypatch):
    torch.manual_seed(5)
    module, x, frame = nn.LSTM(3, 8, 2).double(), noise(300, 3), frame_of(32, 6)
    plain = growth(Recurrence(module).stretches(x), frame, 40, [120, 260])
    monkeypatch.setattr("depprobe.dynamics.trajectory.waits", lambda device: True)
    monkeypatch.setattr("depprobe.dynamics.trajectory._BYTES", 12_000)  # matrices of two steps at a time
    for name in ("trajectory", "orthonormal"):
        monkeypatch.setattr(f"depprobe.dynamics.{name}._recorder", _Overwriting())
    found = growth(Recurrence(module).stretches(x), frame, 40, [120, 260], ahead=True)
    np.testing.assert_allclose(found.increments, plain.increments, rtol=1e-9)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_first_exponent_is_the_growth_of_one_tangent_by_finite_differences(kind):
    torch.manual_seed(3)
    module = kind(4, 12).double()
    width = 24 if kind is nn.LSTM else 12
    with torch.no_grad():
        module.weight_hh_l0.mul_(6)
    # the first directions of the two routes meet at the rate that parts the first two exponents
    x, n, before = noise(1500, 4), 1500, 750
    ds = depprobe.lyapunov(module, x, exponents=2, warmup=before)
    step, state, gap, total = step_of(module), torch.zeros(width, dtype=DOUBLE), 1e-7, 0.0
    tangent = frame_of(width, 1)[:, 0]
    with torch.no_grad():
        for k in range(n):
            moved = (step(state + gap * tangent, x[k]) - step(state - gap * tangent, x[k])) / (2 * gap)
            length = float(moved.norm())
            tangent, state = moved / length, step(state, x[k])
            total += math.log(length) if k >= before else 0.0
    assert float(ds.exponent[0]) == pytest.approx(total / (n - before), abs=2e-3)


def test_an_lstm_needs_its_cell_state():
    """With h alone the default LSTM of width 64 seems to decay at -2.07 a step."""
    torch.manual_seed(0)
    module = nn.LSTM(64, 64).double()
    x = noise(400, 64)
    ds = depprobe.lyapunov(module, x, exponents=1)
    assert float(ds.exponent[0]) == pytest.approx(-0.5, abs=0.03)
    h_only = torch.eye(64, dtype=DOUBLE)[:, :1]
    total = 0.0
    (first, second) = Recurrence(module).stretches(x)
    for stretch in (first, second):
        for k in range(stretch.steps):
            pair = stretch.push(k, torch.cat([torch.zeros_like(h_only), h_only]))
            length = float(pair[64:].norm())
            h_only, total = pair[64:] / length, total + math.log(length)
    assert total / 400 == pytest.approx(-2.07, abs=0.15)


@pytest.mark.parametrize("wrt", ["c", "h"])
def test_the_exponent_is_the_slope_of_the_jacobian_curve_on_the_same_window(wrt):
    torch.manual_seed(4)
    module, n, before = nn.LSTM(8, 16).double(), 1000, 200
    x = noise(n, 8)
    ds = depprobe.lyapunov(module, x, exponents=1, warmup=before)
    row = depprobe.jacobian(module, x, wrt=wrt).log_norm.values[0]
    # both ends lie inside the window, where the curve is a straight line but for fluctuations
    slope = (row[before + 20] - row[n - 20]) / (n - 40 - before)
    assert abs(slope - float(ds.exponent[0])) < 2 * float(ds.exponent_stderr[0])
    assert float(ds.exponent_stderr[0]) < 0.02


# --- singular steps ---


def test_dead_units_are_exact_zeros():
    """Two units that never fire: rank three, so two exponents are -inf and three are those of the others."""
    module = nn.RNN(2, 5, nonlinearity="relu").double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.abs() * 0.5 + 0.01)
        module.bias_ih_l0[3:] = -100
    ds = depprobe.lyapunov(module, noise(300, 2).abs(), exponents="all")
    alive = module.weight_hh_l0.detach()[:3, :3]
    values = np.log(torch.linalg.eigvals(alive).abs().numpy())
    assert float(ds.exponent[0]) == pytest.approx(values.max(), abs=1e-9)
    assert float(ds.exponent[:3].sum()) == pytest.approx(values.sum(), abs=1e-6)
    assert np.isneginf(ds.exponent[3:]).all()
    assert np.isneginf(ds.log_det)
    assert float(ds.kaplan_yorke) == 0
    store.validate(ds)


def test_a_zero_matrix_has_no_finite_exponent():
    module = nn.RNN(2, 3).double()
    with torch.no_grad():
        module.weight_hh_l0.zero_()
    ds = depprobe.lyapunov(module, noise(50, 2), exponents="all")
    assert np.isneginf(ds.exponent).all()
    with pytest.raises(BadInput, match="nothing to draw: every exponent is -inf or unknown"):
        figures.lyapunov(ds)


def test_without_recurrent_weights_the_forget_gate_is_all_and_the_rest_unknown():
    """V8: J = (f, 0; o tanh'(c) f, 0) has rank d, which floats cannot tell from nearly singular."""
    module = nn.LSTM(3, 4).double()
    with torch.no_grad():
        module.weight_hh_l0.zero_()
    x = noise(300, 3)
    ds = depprobe.lyapunov(module, x, exponents="all", warmup=150)
    gates = x @ module.weight_ih_l0.detach().T + (module.bias_ih_l0 + module.bias_hh_l0).detach()
    means = torch.nn.functional.logsigmoid(gates[150:, 4:8]).mean(0).sort(descending=True).values
    np.testing.assert_allclose(ds.exponent[:4].sum(), means.sum(), atol=0.02)
    assert float(ds.exponent[0]) == pytest.approx(float(means[0]), abs=0.01)
    assert np.isnan(ds.exponent[4:]).all()
    assert np.isneginf(ds.log_det)


def test_zero_steps_of_the_warmup_do_not_count():
    """One singular step before the window leaves every exponent of the window as it is."""
    factors = noise(300, 3, 3)
    clean = depprobe.lyapunov_of_map(lambda s, A: A @ s, np.zeros(3), factors, warmup=150)
    factors[100, 2] = 0
    ds = depprobe.lyapunov_of_map(lambda s, A: A @ s, np.zeros(3), factors, warmup=150)
    np.testing.assert_allclose(ds.exponent, clean.exponent, atol=0.05)
    factors[200, 2] = 0
    ds = depprobe.lyapunov_of_map(lambda s, A: A @ s, np.zeros(3), factors, warmup=150)
    assert np.isfinite(ds.exponent.values).tolist() == [True, True, False]


def test_growth_far_beyond_the_floats_is_carried_as_logs():
    scale = torch.tensor([1e200, 1e-200], dtype=DOUBLE)
    ds = depprobe.lyapunov_of_map(lambda s: scale * s, np.zeros(2), steps=100)
    np.testing.assert_allclose(ds.exponent, [200 * math.log(10), -200 * math.log(10)], rtol=1e-12)


# --- parts ---


@pytest.mark.parametrize("log_condition", [0, 3, 6, 9, 13])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_orthonormalise_against_householder(log_condition, dtype):
    U, V = frame_of(30, 6, seed=1), frame_of(6, 6, seed=2)
    values = torch.logspace(0, -log_condition, 6, dtype=DOUBLE)
    A = (U @ torch.diag(values) @ V.T).to(dtype)
    frame, log_r, kept, _ = orthonormalise(A)
    eps = torch.finfo(dtype).eps
    assert float((frame.T @ frame - torch.eye(6, dtype=dtype)).abs().max()) < 30 * eps
    exact = torch.linalg.qr(A.double())[1].diagonal().abs()
    lost = exact / A.double().norm(dim=0)
    trusted = lost > 1e3 * eps
    torch.testing.assert_close(
        kept[trusted].double(), lost[trusted], rtol=1e2 * eps / float(lost.min()), atol=0
    )
    error = (log_r - exact.log()).abs()[trusted] * lost[trusted]
    assert float(error.max()) < 100 * eps


def test_orthonormalise_is_free_of_scale():
    A = noise(9, 3)
    scale = torch.tensor([1e-250, 1.0, 1e250], dtype=DOUBLE)
    plain, scaled = orthonormalise(A), orthonormalise(A * scale)
    torch.testing.assert_close(scaled.log_r - scale.log(), plain.log_r, rtol=0, atol=1e-12)


def test_block_errors_of_independent_growth_are_those_of_the_mean():
    rng = np.random.default_rng(0)
    stops = np.arange(1, 101) * 50
    draws = rng.standard_normal((300, 100)) * math.sqrt(50)
    errors = [block_stderr(one[:, None], stops)[0][0] for one in draws]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(1 / math.sqrt(5000), rel=0.05)
    assert block_stderr(draws[:1, :5].T, np.arange(1, 6))[1] == 0


def test_dimension_and_entropy_say_when_more_exponents_are_needed():
    assert math.isnan(kaplan_yorke(np.array([0.5, 0.1]), False))
    assert kaplan_yorke(np.array([0.5, 0.1]), True) == 2
    assert kaplan_yorke(np.array([-0.5, -0.6]), False) == 0
    assert kaplan_yorke(np.array([1.0, -0.5, -1.0]), False) == 2.5
    assert kaplan_yorke(np.array([1.0, -math.inf]), True) == 1
    assert math.isnan(kaplan_yorke(np.array([1.0, math.nan]), True))
    assert math.isnan(entropy_rate(np.array([0.5, 0.1]), False))
    assert entropy_rate(np.array([0.5, -0.1]), False) == 0.5


# --- datasets and figures ---


def test_several_layers_seeds_and_samples(tmp_path):
    ds = depprobe.lyapunov(["lstm", "gru"], n=60, d=4, exponents=3, seeds=2, samples=3)
    store.validate(ds)
    assert ds.exponent.dims == ("layer", "mode")
    assert ds.exponent_case.dims == ("layer", "seed", "sample", "mode")
    np.testing.assert_allclose(ds.exponent, ds.exponent_case.mean(("seed", "sample")))
    by_seed = ds.exponent_case.mean("sample").values
    np.testing.assert_allclose(ds.exponent_stderr, by_seed.std(1, ddof=1) / math.sqrt(2))
    np.testing.assert_allclose(ds.exponent_running.isel(step=-1), ds.exponent)
    assert store.load(store.save(ds, tmp_path / "a.nc")).identical(ds)
    again = depprobe.lyapunov(["lstm", "gru"], n=60, d=4, exponents=3, seeds=2, samples=3)
    assert again.identical(ds)
    drawn = figures.lyapunov([ds])
    assert [len(lines) for lines in drawn.curves] == [1, 1]
    np.testing.assert_allclose(drawn.curves[1][0].get_ydata(), ds.exponent_running[1, :, 0])


def test_figure_shows_every_exponent_of_one_layer_and_counts_what_has_no_place():
    ds = depprobe.lyapunov("rnn", n=60, d=4)
    ds.exponent[3] = -np.inf
    drawn = figures.lyapunov(ds)
    assert len(drawn.curves[0]) == 4
    np.testing.assert_allclose(drawn.spectra[0][0].get_ydata(), ds.exponent[:3])
    words = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert words[1:3] == [
        "running means of the further exponents",
        "first exponent, one standard error either way",
    ]
    assert "unknown: 1" in words[3]
    with pytest.raises(BadInput, match="not a dataset of Lyapunov exponents"):
        figures.lyapunov(ds.drop_vars("exponent_running"))


def test_autonomous_and_driven_from_the_seed():
    one = depprobe.lyapunov("rnn:gain=2,bias=false", n=80, d=8, drive="none")
    other = depprobe.lyapunov("rnn:gain=2,bias=false", n=80, d=8, drive="none", seed=1)
    assert (one.exponent != other.exponent).all()
    module = nn.RNN(3, 8, bias=False).double()
    ds = depprobe.lyapunov(module, n=80, drive="none", samples=2)
    assert ds.stderr_from == "the spread of 2 samples"
    assert ds.d == 8


def test_float32_agrees_with_float64():
    options = {"n": 300, "d": 16, "exponents": 8}
    single, double = (
        depprobe.lyapunov("lstm", dtype="float32", **options),
        depprobe.lyapunov("lstm", **options),
    )
    np.testing.assert_allclose(single.exponent, double.exponent, atol=1e-4)


# --- wrong calls ---


@pytest.mark.parametrize(
    ("match", "layer", "options"),
    [
        ("between 1 and the width 8 of the state, not 9", "lstm", {"exponents": 9}),
        ("between 1 and the width 8 .* not 0", "lstm", {"exponents": 0}),
        ("exponents must be all, .*'some'", "lstm", {"exponents": "some"}),
        ("warm-up must lie between 0 and n - 1 = 29 steps, not 30", "lstm", {"warmup": 30}),
        ("warm-up must .*not -1", "lstm", {"warmup": -1}),
        ("conv has no known recurrence.*lyapunov_of_map", "conv", {}),
        ("opposite directions", "lstm:bidirectional=true", {}),
        ("unknown drive 'noise'.*input, none", "lstm", {"drive": "noise"}),
        ("drive='none' takes no input", "lstm", {"drive": "none", "x": np.ones((30, 4))}),
        ("samples and seeds must be", "lstm", {"seeds": 0}),
        ("given twice", ["lstm", "lstm"], {}),
        ("states of 8, 4; ask for at most 4", ["lstm", "gru"], {"exponents": "all"}),
        ("n must be at least 2", "lstm", {"n": 1}),
        ("a frame of 8 columns .* needs .*ask for fewer", "lstm", {"exponents": "all", "memory": 5000}),
    ],
)
def test_wrong_calls(match, layer, options):
    with pytest.raises(BadInput, match=match):
        depprobe.lyapunov(layer, **{"n": 30, "d": 4} | options)


def test_layers_are_compared_by_as_many_exponents_as_the_smallest_state_has():
    both = depprobe.lyapunov(["lstm", "gru"], n=30, d=4)
    assert (both.sizes["mode"], both.state.values.tolist()) == (4, [8, 4])
    alone = depprobe.lyapunov("lstm", n=30, d=4, exponents=4)
    np.testing.assert_array_equal(both.exponent.sel(layer="lstm"), alone.exponent)


def test_wrong_modules_and_inputs():
    with pytest.raises(BadInput, match="Linear has no known recurrence"):
        depprobe.lyapunov(nn.Linear(3, 3), noise(9, 3).float())
    with pytest.raises(BadInput, match="x is 4 wide and the module reads 3"):
        depprobe.lyapunov(nn.GRU(3, 3).double(), noise(9, 4))
    with pytest.raises(BadInput, match="a module needs its input"):
        depprobe.lyapunov(nn.GRU(3, 3))
    with pytest.raises(BadInput, match=r"dropout 0\.3"):
        depprobe.lyapunov(nn.GRU(3, 3, num_layers=2, dropout=0.3).double(), noise(9, 3))


def test_an_unstable_trajectory_fails_in_one_line():
    with pytest.raises(DepprobeError, match="reached Inf or NaN at step") as failed:
        depprobe.lyapunov("rnn:nonlinearity=relu,gain=30", n=900, d=8)
    assert failed.value.exit_code == 1
    with pytest.raises(DepprobeError, match="reached Inf or NaN at step"):
        depprobe.lyapunov_of_map(lambda s: s * s, [2.0], steps=100)


@pytest.mark.parametrize(
    ("match", "step", "state", "options"),
    [
        ("give steps, or inputs", lambda s: s, [1.0], {}),
        ("state must be a vector", lambda s: s, [[1.0]], {"steps": 5}),
        ("there are inputs for 3", lambda s, u: s, [1.0], {"steps": 5, "inputs": torch.zeros(3)}),
        (r"shape \(1,\) like its state, not \(2,\)", lambda s: torch.cat([s, s]), [1.0], {"steps": 5}),
        ("not float", lambda s: 1.0, [1.0], {"steps": 5}),
        ("made of torch operations", lambda s: torch.full_like(s, s.item()), [1.0], {"steps": 5}),
        ("width 1 of the state, not 2", lambda s: s, [1.0], {"steps": 5, "exponents": 2}),
    ],
)
def test_wrong_maps(match, step, state, options):
    with pytest.raises(BadInput, match=match):
        depprobe.lyapunov_of_map(step, state, **options)
