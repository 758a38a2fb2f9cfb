"""The chain operator against autograd of torch's own pass, closed forms and high-precision arithmetic."""

from __future__ import annotations

import math
from functools import cache
from itertools import chain

import mpmath
import numpy as np
import pytest
import torch
from conftest import tolerance
from torch import nn

from depprobe.errors import BadInput, OverBudget
from depprobe.operators import temporal_jacobian
from depprobe.operators.chain import operator as chain_norms_module
from depprobe.operators.chain import runs as runs_module
from depprobe.operators.chain import sweep as sweep_module
from depprobe.registry import layers

F32, F64 = torch.float32, torch.float64

MODULES = {
    "rnn": lambda: nn.RNN(4, 7, batch_first=True),
    "rnn relu": lambda: nn.RNN(4, 7, nonlinearity="relu"),
    "gru": lambda: nn.GRU(4, 7),
    "gru no bias": lambda: nn.GRU(4, 7, bias=False),
    "lstm": lambda: nn.LSTM(4, 7, batch_first=True),
    "lstm projected": lambda: nn.LSTM(4, 7, proj_size=3),
    "lstm stacked": lambda: nn.LSTM(4, 7, 3, batch_first=True, dropout=0.5).eval(),
    "gru stacked": lambda: nn.GRU(4, 7, 2),
    "lstm both": lambda: nn.LSTM(4, 7, bidirectional=True),
    "rnn both stacked": lambda: nn.RNN(4, 7, 2, bidirectional=True),
    "lstm both stacked projected": lambda: nn.LSTM(4, 7, 2, bidirectional=True, proj_size=3),
}


def reference(module, x):
    """Every block, (n, d_out, n, d_in): one backward pass, with a copy of x for each output unit."""
    n, d_in = x.shape
    size = n * module(x[None] if module.batch_first else x[:, None])[0].shape[-1]
    copies = x.repeat(size, 1, 1).requires_grad_()
    y = module(copies)[0] if module.batch_first else module(copies.transpose(0, 1))[0].transpose(0, 1)
    (rows,) = torch.autograd.grad(y.flatten(1).diagonal().sum(), copies)
    return rows.view(n, -1, n, d_in)


@cache
def known_blocks(name):
    """A module, x of 23 positions, and every block."""
    torch.manual_seed(0)
    module, x = MODULES[name]().to(F64), torch.randn(23, 4, dtype=F64)
    return module, x, reference(module, x)


@pytest.fixture(params=["whole steps", "split steps"])
def _both_ways_to_step(request, monkeypatch):
    if request.param == "split steps":
        monkeypatch.setattr(runs_module, "NARROW", 0)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("_both_ways_to_step")
def test_every_block_is_that_of_autograd(name):
    module, x, J = known_blocks(name)
    operator = temporal_jacobian(module, x, tolerance=0)
    assert operator.method == "chain"
    assert operator.shape == tuple(J.shape)
    for t in (0, 11, 22):
        row = operator.row(t).dense()
        for k in range(23):
            assert (row[:, k] - J[t, :, k]).norm() <= tolerance() * J[t, :, k].norm()
            if abs(t - k) < 3:
                assert torch.equal(operator.block(t, k).dense(), row[:, k])
        blocks = J[t].transpose(0, 1)
        for norm, ref in (
            ("fro", blocks.norm(dim=(1, 2))),
            ("spectral", torch.linalg.matrix_norm(blocks, 2)),
        ):
            found = operator.log_norms([t], None, norm).values[0]
            np.testing.assert_allclose(found, ref.log().numpy(), atol=tolerance(), rtol=0)
    scaled = operator.singular_values(20, 17)
    svd = torch.linalg.svdvals(J[20, :, 17])
    torch.testing.assert_close(scaled.dense(), svd, rtol=1e-9, atol=1e-9 * float(svd[0]))


@pytest.mark.parametrize("name", MODULES)
def test_products_are_adjoint_and_agree_with_the_blocks(name):
    module, x = MODULES[name]().to(F64), torch.randn(9, 4, dtype=F64)
    J = reference(module, x)
    operator = temporal_jacobian(module, x)
    v, u = torch.randn(J.shape[:2], dtype=F64), torch.randn_like(x)
    torch.testing.assert_close(operator.vjp(v), torch.einsum("td,tdks->ks", v, J), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(operator.jvp(u), torch.einsum("tdks,ks->td", J, u), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("wanted", [1e-2, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("spec", ["lstm", "gru:gain=1.5", "rnn:gain=1.2", "lstm:depth=2"])
def test_compression_stays_within_its_tolerance_and_its_own_bound(spec, wanted):
    name, _, rest = spec.partition(":")
    options = dict(part.split("=") for part in rest.split(",") if part)
    options = {k: int(v) if k == "depth" else float(v) for k, v in options.items()}
    module = layers[name].build(24, d_in=11, **options).to(F64)
    x = torch.randn(151, 11, dtype=F64)
    exact = temporal_jacobian(module, x, tolerance=0).log_norms([150, 77])
    close = temporal_jacobian(module, x, tolerance=wanted).log_norms([150, 77])
    inside = np.isfinite(exact.values)
    gap = np.abs(close.values[inside] - exact.values[inside])
    assert close.error.max() <= wanted + exact.error.max()
    assert (gap <= close.error[inside] + tolerance() * np.abs(exact.values[inside])).all()
    # it did compress: otherwise the bound would be met by doing nothing
    assert close.error.max() > 2 * exact.error.max() if wanted >= 1e-4 else True


def test_uncoupled_groups_where_the_dominant_one_is_reset(monkeypatch):
    """Rank truncation by a fixed threshold reports 1e-30 here; the truth is the other group's 1e-15."""
    half, n, reset = 6, 151, 60
    d = 2 * half
    module = nn.LSTM(3, d).to(F64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.3)
        module.weight_hh_l0.zero_()
        module.weight_hh_l0.view(4, d, d)[:, half:, half:] = 0.1 * torch.randn(4, half, half, dtype=F64)
        module.bias_ih_l0[d : d + half], module.bias_ih_l0[d + half : 2 * d] = 6.0, 1.1
        module.weight_ih_l0[d : d + half, 0] = -70.0
        module.weight_ih_l0[d + half : 2 * d, 0] = 0.0
    x = torch.randn(n, 3, dtype=F64)
    x[:, 0] = 0
    x[reset, 0] = 1  # closes the forget gates of the first group, and touches nothing of the second
    J = temporal_jacobian(module, x, method="autograd").row(n - 1).values.transpose(0, 1)
    expected = J.norm(dim=(1, 2)).log().numpy()
    assert -22 < expected[0] / math.log(10) < -10
    assert J[0, :half].norm() < 1e-25
    assert J[0, half:].norm() < 1e-6 * J[reset + 1, :half].norm()
    operator = temporal_jacobian(module, x)
    found = operator.log_norms([n - 1])
    np.testing.assert_allclose(found.values[0], expected, atol=1e-6)
    assert found.error.max() <= 1e-6
    # the threshold alone loses the second group; the rounding errors that it leaves outlive what is kept
    monkeypatch.setattr(chain_norms_module, "_SHARES", (0.03,))
    monkeypatch.setattr(sweep_module, "_LONG_RUN", sweep_module.RUN)
    lost = operator.log_norms([n - 1])
    assert np.isnan(lost.values[0, 0])


@pytest.mark.parametrize("tol", [0.0, 1e-6])
def test_linear_rnn_far_below_and_above_the_range_of_floats(tol):
    """V1 and V2: J[t,k] = W^(t-k) U; W = rho times orthogonal makes every singular value rho^(t-k)."""
    d, n = 5, 2101
    for rho in (0.004, 5.0):
        module = nn.RNN(d, d, nonlinearity="relu", bias=False).to(F64)
        with torch.no_grad():
            module.weight_hh_l0.copy_(rho * torch.eye(d, dtype=F64).roll(1, 0))
            module.weight_ih_l0.copy_(torch.eye(d, dtype=F64))
        x = torch.rand(n, d, dtype=F64) if rho < 1 else torch.rand(n, d, dtype=F64) * 0
        x[0] = 1 if rho < 1 else 1e-300  # positive all along: relu is the identity
        if rho > 1:
            n_used = 400
            x = x[:n_used]
        operator = temporal_jacobian(module, x, tolerance=tol)
        last = len(x) - 1
        lag = last - np.arange(len(x))
        found = operator.log_norms([last]).values[0]
        np.testing.assert_allclose(found, lag * math.log(rho) + 0.5 * math.log(d), rtol=1e-12, atol=1e-9)
        if rho < 1:
            assert found[0] / math.log(10) < -5000
        scaled = operator.singular_values(last, 0)
        logs = scaled.values.log() + scaled.log_scale
        np.testing.assert_allclose(logs.numpy(), last * math.log(rho), rtol=1e-12)
        spectral = operator.log_norms([last], None, "spectral").values[0]
        np.testing.assert_allclose(spectral, lag * math.log(rho), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("gain", [0.2, 5.0])
def test_strong_gains_against_products_of_step_jacobians(gain):
    """A naive product in exponent-carried arithmetic, one matrix at a time; V3 bounds it."""
    module = layers["rnn"].build(6, d_in=3, gain=gain).to(F64)
    x = torch.randn(400, 3, dtype=F64)
    h = module(x[None])[0][0].detach()
    W, U = module.weight_hh_l0.detach(), module.weight_ih_l0.detach()
    product, log = torch.eye(6, dtype=F64), 0.0
    found = temporal_jacobian(module, x).log_norms([399]).values[0]
    bound = 0.0
    spectral = temporal_jacobian(module, x, wrt="h").log_norms([399], None, "spectral").values[0]
    for k in range(399, -1, -1):
        assert spectral[k] <= bound + 1e-9
        step = 1 - h[k] ** 2
        expected = log + math.log(float((product @ (step[:, None] * U)).norm()))
        assert abs(found[k] - expected) <= 1e-6 + 1e-9 * abs(expected)
        bound += math.log(float(step.max())) + math.log(float(torch.linalg.matrix_norm(W, 2)))
        product = product @ (step[:, None] * W)
        scale = float(product.norm())
        product, log = product / scale, log + math.log(scale)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "lstm stacked", "lstm projected"])
@pytest.mark.parametrize("wrt", ["h", "c"])
def test_with_respect_to_the_earlier_state(name, wrt):
    module, x, t = MODULES[name]().to(F64), torch.randn(12, 4, dtype=F64), 9
    if wrt == "c" and not isinstance(module, nn.LSTM):
        with pytest.raises(BadInput, match="wrt='c' needs a cell state"):
            temporal_jacobian(module, x, wrt=wrt)
        return
    axis = 0 if module.batch_first else 1
    operator = temporal_jacobian(module, x, wrt=wrt, tolerance=0)
    norms = operator.log_norms([t]).values[0]
    for k in (0, 4, 8):
        _, state = module(x[: k + 1].unsqueeze(axis))
        pair = state if isinstance(state, tuple) else (state,)
        index = 1 if wrt == "c" else 0

        def tail(part, pair=pair, index=index, k=k):
            given = [s.detach() for s in pair]
            given[index] = part
            start = tuple(given) if len(given) > 1 else given[0]
            return module(x[k + 1 : t + 1].unsqueeze(axis), start)[0].squeeze(axis)[-1]

        J = torch.func.jacrev(tail, chunk_size=1)(pair[index].detach())[..., 0, :].flatten(1).detach()
        assert operator.shape[1::2] == tuple(J.shape)
        torch.testing.assert_close(operator.block(t, k).dense(), J, rtol=1e-10, atol=1e-14)
        assert abs(norms[k] - math.log(float(J.norm()))) < 1e-10
    assert np.isneginf(norms[t + 1 :]).all()


def test_lstm_without_recurrent_weights_is_the_product_of_forget_gates():
    """V8: dc_t/dc_k = diag(prod f), so dh_t/dc_k = diag(o_t tanh'(c_t) prod f)."""
    module, x = nn.LSTM(3, 5, batch_first=True).to(F64), torch.randn(40, 3, dtype=F64)
    with torch.no_grad():
        module.weight_hh_l0.zero_()
    z = x @ module.weight_ih_l0.T + module.bias_ih_l0 + module.bias_hh_l0
    i, f, g, o = (part.detach() for part in z.chunk(4, 1))
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = torch.zeros(5, dtype=F64)
    for k in range(40):
        c = f[k] * c + i[k] * g[k]
    operator = temporal_jacobian(module, x, wrt="c")
    for k in (0, 20, 38):
        expected = torch.diag(o[39] * (1 - c.tanh() ** 2) * f[k + 1 :].prod(0))
        torch.testing.assert_close(operator.block(39, k).dense(), expected, rtol=1e-10, atol=0)


def test_gru_forced_to_keep_and_to_overwrite():
    """V9: keeping, dh_t/dh_k is the identity; overwriting with r = 1, it is the plain RNN's."""
    module, x = nn.GRU(3, 5).to(F64), torch.randn(30, 3, dtype=F64)
    with torch.no_grad():
        module.bias_ih_l0[5:10] = 60.0
    kept = temporal_jacobian(module, x, wrt="h", tolerance=0).block(29, 0).dense()
    torch.testing.assert_close(kept, torch.eye(5, dtype=F64), rtol=0, atol=1e-12)
    plain = nn.RNN(3, 5).to(F64)
    with torch.no_grad():
        module.bias_ih_l0[5:10], module.bias_ih_l0[:5] = -60.0, 60.0
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(plain, name).copy_(getattr(module, name)[10:])
    overwritten = temporal_jacobian(module, x, tolerance=0).row(29).dense()
    torch.testing.assert_close(
        overwritten, temporal_jacobian(plain, x, tolerance=0).row(29).dense(), atol=1e-12, rtol=1e-9
    )


def test_lstm_row_against_high_precision_where_float64_underflows():
    """The whole row of a default LSTM with strong forgetting, by mpmath at 60 digits; 1e-400 and below."""
    d, d_in, n = 3, 2, 240
    module = layers["lstm"].build(d, d_in=d_in, forget_bias=-5.0, gain=0.1).to(F64)
    x = torch.randn(n, d_in, dtype=F64)
    found = temporal_jacobian(module, x).log_norms([n - 1]).values[0]
    with mpmath.workdps(60):
        Wi, Wh = (mpmath.matrix(getattr(module, f"weight_{s}_l0").tolist()) for s in ("ih", "hh"))
        b = mpmath.matrix((module.bias_ih_l0 + module.bias_hh_l0).tolist())
        h, c = mpmath.zeros(d, 1), mpmath.zeros(d, 1)
        steps = []
        for k in range(n):
            z = Wi * mpmath.matrix(x[k].tolist()) + Wh * h + b
            i, f, o = ([1 / (1 + mpmath.exp(-z[j + s * d])) for j in range(d)] for s in (0, 1, 3))
            g = [mpmath.tanh(z[j + 2 * d]) for j in range(d)]
            new = [f[j] * c[j] + i[j] * g[j] for j in range(d)]
            steps.append((i, f, g, o, list(c), new))
            c = mpmath.matrix(new)
            h = mpmath.matrix([o[j] * mpmath.tanh(new[j]) for j in range(d)])
        Rh, Rc = mpmath.eye(d), mpmath.zeros(d)
        expected = np.empty(n)
        for k in range(n - 1, -1, -1):
            i, f, g, o, before, new = steps[k]
            Z = mpmath.zeros(d, 4 * d)
            for r in range(d):
                for j in range(d):
                    t = mpmath.tanh(new[j])
                    cell = Rc[r, j] + Rh[r, j] * o[j] * (1 - t**2)
                    Z[r, j] = cell * g[j] * i[j] * (1 - i[j])
                    Z[r, d + j] = cell * before[j] * f[j] * (1 - f[j])
                    Z[r, 2 * d + j] = cell * i[j] * (1 - g[j] ** 2)
                    Z[r, 3 * d + j] = Rh[r, j] * t * o[j] * (1 - o[j])
                    Rc[r, j] = cell * f[j]
            Rh = Z * Wh
            expected[k] = float(mpmath.log(mpmath.mnorm(Z * Wi, "f")))
    assert expected[0] / math.log(10) < -330, "below the smallest float64"
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-9)


@pytest.mark.parametrize(
    ("factor", "last32", "last64"), [(0.5, 149, 1074), (3**-0.5, 188, 1355), (0.9, 980, 7065)]
)
def test_autograd_is_blind_where_the_chain_is_not(factor, last32, last64):
    """The exact value factor^lag leaves float32 and float64 at the lags of the published table."""
    smallest = {last32: -149, last64: -1074}
    for lag, exponent in smallest.items():
        assert lag * math.log2(factor) >= exponent > (lag + 1) * math.log2(factor)
    n = last32 + 40
    module = nn.RNN(1, 1, nonlinearity="relu", bias=False)
    with torch.no_grad():
        module.weight_hh_l0.fill_(factor)
        module.weight_ih_l0.fill_(1.0)
    x = torch.ones(n, 1)
    chain = temporal_jacobian(module, x, tolerance=0).log_norms([n - 1]).values[0]
    np.testing.assert_allclose(chain, np.arange(n)[::-1] * math.log(np.float32(factor)), rtol=1e-5, atol=1e-5)
    if last32 < 200:  # longer ones say the same, slowly
        plain = temporal_jacobian(module, x, method="autograd").log_norms([n - 1]).values[0]
        assert not np.isneginf(plain).any(), "an underflow must never be reported as zero"
        # the product vanishes, or sticks at the smallest subnormal: neither is a measurement
        blind = np.arange(n)[::-1] * math.log(factor) < math.log(torch.finfo(torch.float32).tiny)
        assert np.isnan(plain[blind]).all()
        np.testing.assert_allclose(plain[~blind], chain[~blind], atol=1e-4)


def test_dead_relu_is_an_exact_zero_and_underflowed_factor_is_not():
    module = nn.RNN(2, 3, nonlinearity="relu").to(F64)
    x = torch.randn(20, 2, dtype=F64)
    with torch.no_grad():
        module.bias_ih_l0.fill_(0.5)
        module.weight_ih_l0.copy_(torch.tensor([[-1e3, 0.1]] * 3, dtype=F64))
    x[:, 0] = 0
    x[8, 0] = 1.0  # kills every unit at step 8
    values = temporal_jacobian(module, x).log_norms([19]).values[0]
    assert np.isneginf(values[:9]).all()
    assert np.isfinite(values[9:]).all()
    saturated = nn.RNN(2, 3).to(F64)
    with torch.no_grad():
        saturated.bias_ih_l0.fill_(0.0)
        saturated.weight_ih_l0.copy_(torch.tensor([[-1e3, 0.1]] * 3, dtype=F64))
    values = temporal_jacobian(saturated, x).log_norms([19]).values[0]
    assert np.isnan(values[:9]).all(), "tanh' never is zero: what is left of it underflowed"


def test_float32_agrees_with_float64():
    module, x = nn.LSTM(6, 20), torch.randn(300, 6)
    narrow = temporal_jacobian(module, x).log_norms([299]).values
    wide = temporal_jacobian(module.double(), x.double()).log_norms([299]).values
    np.testing.assert_allclose(narrow, wide, atol=2e-4)
    assert wide.min() / math.log(10) < -50


def test_sources_and_targets_pick_entries_of_the_whole():
    module, x = nn.GRU(3, 4).to(F64), torch.randn(15, 3, dtype=F64)
    operator = temporal_jacobian(module, x, tolerance=0)
    whole = operator.log_norms(list(range(15))).values
    part = operator.log_norms([3, 14], [1, 9]).values
    np.testing.assert_allclose(part, whole[[3, 14]][:, [1, 9]], atol=1e-12)
    assert np.isneginf(whole[np.triu_indices(15, 1)]).all()


LONG = {
    "lstm": (nn.LSTM, {}),
    "two layers": (nn.LSTM, {"num_layers": 2}),
    "projected": (nn.LSTM, {"proj_size": 2}),
    "both": (nn.LSTM, {"bidirectional": True}),
    "gru": (nn.GRU, {"bidirectional": True}),
    "gru, two layers": (nn.GRU, {"num_layers": 2}),
    "rnn": (nn.RNN, {"num_layers": 2}),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("dtype", [F64, F32])
def test_a_trajectory_made_again_in_segments_is_the_one_held_whole(name, dtype, monkeypatch):
    kind, options = LONG[name]
    torch.manual_seed(3)
    module, x = kind(3, 5, **options).to(dtype), torch.randn(301, 3, dtype=dtype)
    quantities = ["x"] if module.bidirectional else ["x", "h", *(["c"] if kind is nn.LSTM else [])]
    for wrt in quantities:
        held = temporal_jacobian(module, x, wrt=wrt)
        whole = held.log_norms([300, 170, 64, 0])
        monkeypatch.setattr("depprobe.operators.chain.operator._HELD", 0)
        segments = temporal_jacobian(module, x, wrt=wrt)
        assert {cell.__class__.__name__ for stack in segments._stacks for cell in stack} == {"LongChain"}
        monkeypatch.setattr("depprobe.operators.chain.trajectories._SEGMENT_BYTES", 0)
        made = temporal_jacobian(module, x, wrt=wrt)
        assert made._stacks[0][0]._trajectory.length == 64  # five segments, the last of 45 steps
        starts = made._stacks[0][0]._trajectory._starts
        kept = [part for states in starts for parts in states for part in parts]
        # a view of one step would keep the numbers of every step
        assert all(one.untyped_storage().nbytes() < 64 * one.nbytes for one in kept if one is not None)
        monkeypatch.undo()
        if dtype == F64:
            # what a step is made of, and the errors that a cell gathers from all steps before
            for one, other in zip(chain(*held._stacks), chain(*made._stacks), strict=True):
                for first, last in ((0, 301), (60, 70), (255, 257)):
                    given = (cell.packed(first, last, True) for cell in (other, one))
                    np.testing.assert_allclose(*given, rtol=1e-9)
        for found in (segments.log_norms([300, 170, 64, 0]), made.log_norms([300, 170, 64, 0])):
            known = np.isfinite(whole.values)
            np.testing.assert_array_equal(known, np.isfinite(found.values))
            apart = np.abs(found.values[known] - whole.values[known])
            assert (apart <= (found.error + whole.error)[known]).all()
            if whole.digits is not None:
                np.testing.assert_allclose(found.digits, whole.digits, rtol=0.05)


def test_a_long_trajectory_that_overflows_says_so(monkeypatch):
    torch.manual_seed(0)
    module = nn.RNN(2, 3, nonlinearity="relu").to(F32)
    with torch.no_grad():
        module.weight_hh_l0.fill_(1.5)
        module.weight_ih_l0.abs_()
    x = torch.rand(300, 2)
    whole = temporal_jacobian(module, x).log_norms([299, 20])
    monkeypatch.setattr("depprobe.operators.chain.operator._HELD", 0)
    monkeypatch.setattr("depprobe.operators.chain.trajectories._SEGMENT_BYTES", 0)
    found = temporal_jacobian(module, x).log_norms([299, 20])
    assert np.isnan(whole.values[0]).all()
    assert np.isfinite(whole.values[1, :21]).all()
    np.testing.assert_array_equal(found.status, whole.status)
    np.testing.assert_allclose(found.values, whole.values, rtol=1e-6)


def test_what_cannot_be_answered_is_said_in_one_line():
    x = torch.randn(12, 3)
    with pytest.raises(BadInput, match="not defined for a bidirectional module"):
        temporal_jacobian(nn.LSTM(3, 4, bidirectional=True), x, wrt="h")
    with pytest.raises(OverBudget, match=r"a sweep through 1 layer of width 4 needs .* budget is 2 KiB"):
        temporal_jacobian(nn.LSTM(3, 4), x, memory=2048)
    with pytest.raises(OverBudget, match=r"row of 1000 norms needs"):
        temporal_jacobian(nn.LSTM(3, 4), torch.randn(1000, 3), memory=100_000)
    with pytest.raises(OverBudget, match=r"trajectory of 20000 steps needs"):
        temporal_jacobian(nn.LSTM(3, 4), torch.randn(20_000, 3), memory=5 << 20).vjp(torch.ones(20_000, 4))
    with pytest.raises(OverBudget, match="row of 1200 blocks"):
        temporal_jacobian(nn.LSTM(300, 4), torch.randn(1200, 300), memory=8 << 20).row(3)
    with pytest.raises(BadInput, match="wrt='x', not 'h'"):
        temporal_jacobian(nn.LSTM(3, 4), x, wrt="h").vjp(torch.ones(12, 4))
