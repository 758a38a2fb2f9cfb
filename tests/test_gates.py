"""Gates: the true Jacobian against naive loops and closed forms, the product against sums of logs."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe import store
from depprobe.errors import BadInput, OverBudget
from depprobe.runs.cases import cases_of_specs

F64 = torch.float64
N, D_IN, D = 23, 4, 7


def weights(module, level=0):
    return [
        getattr(module, f"{name}_l{level}").detach()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]


def lstm_step(module, level, x, c, h):
    """One step of nn.LSTM as its documentation writes it: (c, h) and the gates."""
    W, U, b, a = weights(module, level)
    i, f, g, o = (W @ x + b + U @ h + a).chunk(4)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * c + i * g
    m = o * c.tanh()
    return (
        c,
        m if module.proj_size == 0 else getattr(module, f"weight_hr_l{level}").detach() @ m,
        (i, f, g, o),
    )


def gru_step(module, x, h):
    W, U, b, a = weights(module)
    (xr, xz, xn), (hr, hz, hn) = (W @ x + b).chunk(3), (U @ h + a).chunk(3)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    new = (xn + r * hn).tanh()
    return (1 - z) * new + z * h, (r, z, new)


def lstm_truth(module, level, x, t, held):
    """dc_t/dc_k and dh_t/dc_k for k <= t by jacrev through the loop, and the gates (4, n, d)."""
    d, p = module.hidden_size, module.proj_size or module.hidden_size
    c, h, states, gates = torch.zeros(d, dtype=F64), torch.zeros(p, dtype=F64), [], []
    for one in x:
        c, h, found = lstm_step(module, level, one, c, h)
        states.append((c, h))
        gates.append(torch.stack(found))
    gates = torch.stack(gates, 1)
    cc, hc = [], []
    for k in range(t + 1):

        def run(c_k, k=k):
            h_k = gates[3, k] * c_k.tanh()
            if module.proj_size:
                h_k = getattr(module, f"weight_hr_l{level}").detach() @ h_k
            c, h = c_k, states[k][1] if held else h_k
            for i in range(k + 1, t + 1):
                c, h, _ = lstm_step(module, level, x[i], c, h)
            return c, h

        J_c, J_h = torch.func.jacrev(run)(states[k][0])
        cc.append(J_c.norm())
        hc.append(J_h.norm())
    return torch.stack(cc).log().numpy(), torch.stack(hc).log().numpy(), gates


def close(found, expected, digits=1e-10):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=digits)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("proj_size", [0, 3])
@pytest.mark.parametrize("t", [N - 1, 11])
def test_lstm_against_jacrev_through_a_naive_loop(held, proj_size, t):
    module, x = nn.LSTM(D_IN, D, proj_size=proj_size).to(F64), torch.randn(N, D_IN, dtype=F64)
    cc, hc, gates = lstm_truth(module, 0, x, t, held)
    ds = depprobe.gates(module, x, target=t, hold_h=held, tolerance=0)
    close(ds.log_norm_cc, cc)
    close(ds.log_norm_hc, hc)
    close(ds.gate_value, gates)
    f = gates[1]
    product = torch.stack([f[k + 1 : t + 1].prod(0) for k in range(t + 1)])
    close(ds.log_gate_product, product.log())
    close(ds.log_norm_product, product.norm(dim=1).log())
    close(ds.log_gap, cc - product.norm(dim=1).log().numpy())
    assert ds.gate.values.tolist() == ["i", "f", "g", "o"]
    assert ds.attrs["wrt"] == ("c" if held else "cell")


def test_held_state_agrees_with_the_jacobian_command():
    module, x = nn.LSTM(D_IN, D).to(F64), torch.randn(N, D_IN, dtype=F64)
    close(
        depprobe.gates(module, x, hold_h=True).log_norm_hc,
        depprobe.jacobian(module, x, wrt="c").log_norm.isel(target=0),
    )


def test_gru_against_jacrev_through_a_naive_loop():
    module, x = nn.GRU(D_IN, D, batch_first=True).to(F64), torch.randn(N, D_IN, dtype=F64)
    h, states, gates = torch.zeros(D, dtype=F64), [], []
    for one in x:
        h, found = gru_step(module, one, h)
        states.append(h)
        gates.append(torch.stack(found))
    expected = []
    for k in range(N):

        def run(h, k=k):
            for one in x[k + 1 :]:
                h, _ = gru_step(module, one, h)
            return h

        expected.append(torch.func.jacrev(run)(states[k]).norm().log())
    ds = depprobe.gates(module, x, tolerance=0)
    close(ds.log_norm_hh, torch.stack(expected))
    close(ds.gate_value, torch.stack(gates, 1))
    z = torch.stack(gates)[:, 1]
    close(ds.log_gate_product[3], z[4:].log().sum(0))
    assert (ds.gate.values.tolist(), ds.attrs["wrt"], ds.attrs["keeper"]) == (["r", "z", "n"], "h", "z")
    assert "log_norm_cc" not in ds


def test_a_stacked_layer_is_measured_on_what_the_one_below_puts_out():
    module, x = nn.LSTM(D_IN, D, 3, batch_first=True).to(F64), torch.randn(N, D_IN, dtype=F64)
    inner = x
    for level in (0, 1):
        c, h, out = torch.zeros(D, dtype=F64), torch.zeros(D, dtype=F64), []
        for one in inner:
            c, h, _ = lstm_step(module, level, one, c, h)
            out.append(h)
        ds = depprobe.gates(module, x, depth=level, tolerance=0)
        cc, hc, gates = lstm_truth(module, level, inner, N - 1, False)
        close(ds.log_norm_cc, cc)
        close(ds.log_norm_hc, hc)
        close(ds.gate_value, gates)
        inner = torch.stack(out)


@pytest.mark.parametrize("forget_bias", [-3.0, 0.0, 5.0])
def test_v8_without_recurrent_weights_the_product_is_all_there_is(forget_bias):
    ds = depprobe.gates(f"lstm:gain=0,forget_bias={forget_bias}", n=301, d=9, tolerance=0)
    close(ds.log_norm_cc, ds.log_norm_product)
    close(ds.log_gap, np.zeros(301))
    with_weights = depprobe.gates(f"lstm:gain=1,forget_bias={forget_bias}", n=301, d=9)
    assert abs(with_weights.log_gap[0]) > 1e-3


def gru_with_gates_forced(reset, update):
    module = nn.GRU(D_IN, D).to(F64)
    with torch.no_grad():
        module.bias_ih_l0[:D], module.bias_ih_l0[D : 2 * D] = reset, update
    return module


def test_v9_a_gru_forced_to_keep_is_the_identity():
    ds = depprobe.gates(gru_with_gates_forced(0, 60), torch.randn(201, D_IN, dtype=F64))
    close(ds.log_norm_hh, np.full(201, 0.5 * math.log(D)))
    close(ds.log_gap, np.zeros(201))
    assert (ds.hold_share == 1).all()


def test_v9_a_gru_forced_to_overwrite_is_the_plain_rnn():
    module, x = gru_with_gates_forced(60, -60), torch.randn(N, D_IN, dtype=F64)
    plain = nn.RNN(D_IN, D).to(F64)
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(plain, name).copy_(getattr(module, name)[2 * D :])
    ds = depprobe.gates(module, x, tolerance=0)
    expected = depprobe.jacobian(plain, x, wrt="h", tolerance=0).log_norm.isel(target=0)
    close(ds.log_norm_hh, expected)
    # the product alone says that all is lost at once
    assert float(ds.log_gap[0]) > 20 * N


def test_far_below_underflow_against_high_precision():
    n, d = 401, 2
    module, x = nn.LSTM(1, d).to(F64), torch.randn(n, 1, dtype=F64)
    with torch.no_grad():
        module.bias_ih_l0[d : 2 * d] = -3.0
    ds = depprobe.gates(module, x)
    W, U, b, a = (w.double().numpy() for w in weights(module))
    with mpmath.workdps(60):
        one = mpmath.mpf(1)

        def sigmoid(v):
            return one / (1 + mpmath.exp(-v))

        c, h = [mpmath.mpf(0)] * d, [mpmath.mpf(0)] * d
        # columns (d/dc_0) of the state (c, h), h following c at step 0
        dc, dh, product = mpmath.eye(d), mpmath.zeros(d, d), [one] * d
        for t in range(n):
            z = [
                mpmath.fsum([float(W[r, 0]) * float(x[t, 0]), float(b[r]), float(a[r])])
                + mpmath.fsum(float(U[r, j]) * h[j] for j in range(d))
                for r in range(4 * d)
            ]
            dz = mpmath.matrix(U.tolist()) * dh
            i, f, o = ([sigmoid(v) for v in z[k * d : (k + 1) * d]] for k in (0, 1, 3))
            g = [mpmath.tanh(v) for v in z[2 * d : 3 * d]]
            new = [f[u] * c[u] + i[u] * g[u] for u in range(d)]
            if t:
                moved = mpmath.zeros(d, d)
                for u in range(d):
                    for v in range(d):
                        moved[u, v] = (
                            f[u] * dc[u, v]
                            + c[u] * f[u] * (1 - f[u]) * dz[d + u, v]
                            + g[u] * i[u] * (1 - i[u]) * dz[u, v]
                            + i[u] * (1 - g[u] ** 2) * dz[2 * d + u, v]
                        )
                dc = moved
                product = [product[u] * f[u] for u in range(d)]
            for u in range(d):
                for v in range(d):
                    through = dz[3 * d + u, v] * o[u] * (1 - o[u]) * mpmath.tanh(new[u]) if t else 0
                    dh[u, v] = o[u] * (1 - mpmath.tanh(new[u]) ** 2) * dc[u, v] + through
            c, h = new, [o[u] * mpmath.tanh(new[u]) for u in range(d)]

        def log_norm(matrix):
            return float(mpmath.log(mpmath.sqrt(mpmath.fsum(v**2 for v in matrix))))

        expected = log_norm(dc), log_norm(dh), log_norm(product)
    assert max(expected) < -760
    close([ds.log_norm_cc[0], ds.log_norm_hc[0], ds.log_norm_product[0]], expected, 1e-8)


def test_a_gate_far_below_the_floats_keeps_its_logarithm():
    module = nn.LSTM(D_IN, D).to(F64)
    with torch.no_grad():
        module.weight_ih_l0.zero_()
        module.weight_hh_l0.zero_()
        module.bias_hh_l0.zero_()
        module.bias_ih_l0[D : 2 * D] = -921.0
    ds = depprobe.gates(module, torch.randn(N, D_IN, dtype=F64))
    lag = N - 1 - ds.source.values
    close(ds.log_gate_product, np.repeat(-921.0 * lag[:, None], D, 1))
    close(ds.time_constant, np.full(D, 1 / 921.0))
    # the factor itself is zero in floats: the true norm is unknown, not zero
    assert np.isnan(ds.log_norm_cc[:-1]).all()


def test_time_constants_of_constant_gates():
    module = nn.LSTM(D_IN, 3).to(F64)
    f = torch.tensor([0.5, 0.99, 0.9999], dtype=F64)
    with torch.no_grad():
        module.weight_ih_l0.zero_()
        module.weight_hh_l0.zero_()
        module.bias_hh_l0.zero_()
        module.bias_ih_l0[3:6] = f.logit()
    ds = depprobe.gates(module, torch.randn(N, D_IN, dtype=F64), lags=[1, 10, 100, 1000, 10000])
    close(ds.time_constant * -np.log(f.numpy()), np.ones(3))
    # time constants 1.44, 99.5 and 9999.5
    close(ds.hold_share, [1, 2 / 3, 1 / 3, 1 / 3, 0])


@pytest.mark.parametrize(("kind", "gate"), [(nn.LSTM, 1), (nn.GRU, 1)])
def test_a_gate_that_is_one_in_floats_holds_for_ever(kind, gate):
    module = kind(D_IN, 3).to(F64)
    with torch.no_grad():
        module.bias_ih_l0[3 * gate : 3 * gate + 3] = 800
    ds = depprobe.gates(module, torch.randn(N, D_IN, dtype=F64), lags=[1, 10**6])
    assert np.isposinf(ds.time_constant).all()
    close(ds.hold_share, [1, 1])


def test_compression_keeps_to_its_measured_error():
    spec = "lstm:gain=1.5,forget_bias=1"
    exact = depprobe.gates(spec, n=151, d=40, tolerance=0)
    ds = depprobe.gates(spec, n=151, d=40, tolerance=1e-4)
    for name in ("log_norm_cc", "log_norm_hc"):
        error = ds[f"{name}_error"]
        assert 0 < float(error.max()) <= 1e-4
        assert (abs(ds[name] - exact[name]) <= error + 1e-10).all()
        assert float(exact[f"{name}_error"].max()) < 1e-8


def test_float32_agrees_with_float64():
    wide, narrow = (depprobe.gates("lstm", n=N, d=D, dtype=dtype) for dtype in ("float64", "float32"))
    assert narrow.attrs["dtype"] == "float32"
    for name in ("log_norm_cc", "log_norm_product"):
        assert narrow[name].dtype == np.float64
        close(narrow[name], wide[name], 1e-4)


def test_layers_seeds_and_samples_are_dimensions_and_the_dataset_stores(tmp_path):
    specs = ["lstm", "lstm:forget_bias=3"]
    ds = depprobe.gates(specs, n=11, d=3, seeds=2, samples=2, seed=5, target=7, lags=[2, 5])
    assert ds.log_norm_cc.dims == ("layer", "seed", "sample", "source")
    assert ds.gate_value.dims == ("layer", "seed", "sample", "gate", "target", "unit")
    assert (ds.sizes["source"], ds.sizes["target"], ds.attrs["target"]) == (8, 11, 7)
    alone = depprobe.gates("lstm:forget_bias=3", n=11, d=3, samples=2, seed=6, target=7, lags=[2, 5])
    xr_pick = ds.sel(layer="lstm:forget_bias=3", seed=6)
    for name in alone.data_vars:
        np.testing.assert_array_equal(alone[name], xr_pick[name])
    store.validate(ds)
    assert store.load(store.save(ds, tmp_path / "a.nc")).identical(ds)
    case = cases_of_specs(["lstm"], None, 11, 3, 1, [5], "float64", "cpu")[0]
    module = depprobe.gates(case.build(), case.x, target=7, lags=[2, 5])
    np.testing.assert_array_equal(module.log_norm_cc, ds.log_norm_cc[0, 0, 0])


def test_the_module_is_left_as_it_was():
    module, x = nn.LSTM(D_IN, D).to(F64).train(), torch.randn(N, D_IN, dtype=F64)
    before, state = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    depprobe.gates(module, x)
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), state)


class Changed(nn.LSTM):
    def forward(self, x, hx=None):
        return super().forward(2 * x, hx)


X = torch.randn(9, D_IN, dtype=F64)


@pytest.mark.parametrize(
    ("module", "options", "match"),
    [
        (nn.RNN(D_IN, D).to(F64), {}, "RNN has no gates to read; gates needs an nn.LSTM or nn.GRU"),
        (nn.Linear(D_IN, D).to(F64), {}, "Linear has no gates"),
        (Changed(D_IN, D).to(F64), {}, "Changed with a forward or hooks of its own has no gates"),
        (
            nn.LSTM(D_IN, D, bidirectional=True).to(F64),
            {},
            "both directions; gates needs bidirectional=false",
        ),
        (nn.LSTM(D_IN, D, 2).to(F64), {"depth": 2}, "depth must lie between 0 and 1 for LSTM, not 2"),
        (nn.LSTM(D_IN, D).to(F64), {"depth": -1}, "depth must be 0"),
        (nn.GRU(D_IN, D).to(F64), {"hold_h": True}, "hold_h needs a cell state and GRU has none"),
        (nn.LSTM(D_IN + 1, D).to(F64), {}, "x is 4 wide and the module reads 5"),
        (nn.LSTM(D_IN, D), {}, "bring them together"),
        (nn.LSTM(D_IN, D, 2, dropout=0.1).to(F64), {}, "dropout 0.1"),
        (nn.LSTM(D_IN, D).to(F64), {"target": 9}, "target 9 lies outside the 9 positions"),
        (nn.LSTM(D_IN, D).to(F64), {"target": "all"}, "one target .* not 'all'"),
        (nn.LSTM(D_IN, D).to(F64), {"target": "first"}, "targets must be last"),
        (nn.LSTM(D_IN, D).to(F64), {"lags": [0, 1]}, "lags must be whole numbers"),
        (nn.LSTM(D_IN, D).to(F64), {"lags": [10, 1]}, "each larger than the last"),
        (nn.LSTM(D_IN, D).to(F64), {"tolerance": 1.0}, r"tolerance must lie in \[0, 1\), not 1.0"),
        (["lstm", "gru"], {"n": 9, "d": 3}, "lstm and gru have different gates"),
        ("rnn", {"n": 9, "d": 3}, "rnn has no gates"),
        ("attention:heads=1", {"n": 9, "d": 3}, "attention:heads=1 has no gates"),
        (["lstm", "lstm"], {"n": 9, "d": 3}, "given twice"),
        (
            {"a": nn.LSTM(D_IN, D).to(F64), "b": nn.LSTM(D_IN, D + 1).to(F64)},
            {"x": X},
            f"layers need one width, not a {D}, b {D + 1}",
        ),
        ([], {}, "no layer was given"),
        ("lstm", {"n": 9, "d": 3, "seeds": 0}, "samples and seeds must be at least 1"),
        ("lstm", {"n": 1, "d": 3}, "n must be at least 2, not 1"),
    ],
)
def test_wrong_calls_are_one_clear_line(module, options, match):
    given = {"x": X} if isinstance(module, nn.Module) else {}
    with pytest.raises(BadInput, match=match) as caught:
        depprobe.gates(module, **given | options)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_the_budget_is_refused():
    with pytest.raises(OverBudget, match="gates at 1000 positions of 4 cases needs"):
        depprobe.gates("lstm", n=1000, d=64, samples=4, memory="16MiB")
