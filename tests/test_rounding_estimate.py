"""Rounding of automatic differentiation: estimated errors cover the truth, and lost norms are not stated."""

from __future__ import annotations

import copy
from collections import defaultdict
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.operators import temporal_jacobian
from depprobe.registry import Spec, layers
from depprobe.vocabulary import STATUS

N, D = 30, 6


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x):
        return (self.q(x) @ self.k(x).transpose(-1, -2)).softmax(-1) @ self.v(x) + x


class Loop(nn.Module):
    """A tanh recurrence, saturated by large inputs."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(D, D) / D**0.5)

    def forward(self, x):
        h, out = torch.zeros_like(x[..., 0, :]), []
        for z in x.unbind(-2):
            h = torch.tanh(h @ self.W + z)
            out.append(h)
        return torch.stack(out, -2)


class Fourier(nn.Module):
    """A causal convolution with the kernel 0.5^lag, by FFT: far lags are round-off."""

    def forward(self, x):
        n = x.shape[-2]
        kernel = torch.fft.rfft(0.5 ** torch.arange(n, dtype=x.dtype), 2 * n)[:, None]
        return torch.fft.irfft(torch.fft.rfft(x, 2 * n, dim=-2) * kernel, 2 * n, dim=-2)[..., :n, :]


class Recurrences(nn.Module):
    """Two recurrences, one upon the other, and glue that cancels: cut out, with autograd between."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(D, D, batch_first=True), nn.GRU(D, D, batch_first=True)
        self.norm = nn.LayerNorm(D)

    def forward(self, x):
        h = self.first(x)[0]
        return self.norm(h - self.second(h)[0]) * h.sigmoid()


class Residual(nn.Module):
    def __init__(self, dilation):
        super().__init__()
        self.convolution = nn.Conv1d(8, 8, 3, padding=dilation, dilation=dilation)

    def forward(self, x):
        return x + torch.nn.functional.gelu(self.convolution(x))


def plain_stack():
    return nn.Sequential(*(nn.Conv1d(D if i == 0 else 8, 8, 3, padding=1) for i in range(4)))


def tanh_stack():
    layers = ((nn.Conv1d(D if i == 0 else 8, 8, 3, padding=2**i, dilation=2**i), nn.Tanh()) for i in range(4))
    return nn.Sequential(*(layer for pair in layers for layer in pair))


def residual_stack():
    return nn.Sequential(nn.Conv1d(D, 8, 3, padding=1), *(Residual(2**i) for i in range(4)))


def encoder():
    return nn.TransformerEncoderLayer(D, 2, 12, batch_first=True, norm_first=True).eval()


@pytest.mark.parametrize(
    ("make", "method"),
    [
        *((make, "autograd") for make in (Attention, Loop, Fourier)),
        *((make, "auto") for make in (Recurrences, encoder, plain_stack, tanh_stack, residual_stack)),
        (lambda: nn.LSTM(D, D, 2, bidirectional=True, batch_first=True), "auto"),
        (lambda: nn.GRU(D, D, 3, bidirectional=True, batch_first=True), "auto"),
    ],
)
def test_the_estimate_covers_what_float32_loses(make, method):
    held, ratio = [], []
    for seed in range(8):
        torch.manual_seed(seed)
        module, x = make().float(), torch.randn(N, D) * (1 + 2 * (seed % 3))
        layout = "b d n" if isinstance(module, nn.Sequential) else "b n d"
        given = {"layout": layout, "method": method}
        low = temporal_jacobian(module, x, **given)
        high = temporal_jacobian(copy.deepcopy(module).double(), x.double(), **given)
        found, truth = low.log_norms([N - 1 - seed % 5]), high.log_norms([N - 1 - seed % 5])
        both = np.isfinite(found.values) & np.isfinite(truth.values)
        true = np.abs(found.values[both] - truth.values[both])
        held += list(true <= found.error[both])
        ratio += list(found.error[both] / np.maximum(true, torch.finfo(torch.float32).eps))
    assert low.error_kind == "estimate"
    assert np.mean(held) > 0.93
    assert np.median(ratio) < 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_line_of_convolutions_states_what_exact_arithmetic_finds(dtype):
    """Products of 2x2 taps in fractions; the estimate follows the dtype."""
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Conv1d(2, 2, 3, padding=1) for _ in range(5))).to(dtype)
    found = temporal_jacobian(module, torch.randn(21, 2, dtype=dtype), layout="b d n").log_norms([10])
    rows = {10: [[Fraction(i == j) for j in range(2)] for i in range(2)]}
    for layer in reversed(module):
        taps = [[[Fraction(v) for v in row] for row in tap] for tap in layer.weight.permute(2, 0, 1).tolist()]
        below = defaultdict(lambda: [[Fraction(0)] * 2 for _ in range(2)])
        for t, R in rows.items():
            for i, W in enumerate(taps):
                old = below[t + i - 1]
                below[t + i - 1] = [
                    [old[a][b] + sum(R[a][c] * W[c][b] for c in range(2)) for b in range(2)] for a in range(2)
                ]
        rows = below
    for k, R in rows.items():
        square = sum(entry**2 for row in R for entry in row)
        true = float(mpmath.log(mpmath.mpf(square.numerator) / square.denominator) / 2)
        assert abs(found.values[0, k] - true) <= found.error[0, k] < 1000 * torch.finfo(dtype).eps


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_norms_that_are_nothing_but_round_off_are_undecided(method):
    """Whatever a processor's Fourier transform makes of them: some come out as exactly zero on one."""
    x = torch.randn(200, 2, dtype=torch.float64)
    found = temporal_jacobian(Fourier(), x, layout="b n d", method=method).log_norms([199])
    far = found.values[0, :120]
    assert np.isnan(far).mean() > 0.7
    assert (found.status[0, :120][np.isnan(far)] == STATUS["undecided"]).all()


def test_errors_of_fourier_transforms_are_covered():
    """At lags whose norms are more than round-off; errors of one transform depend on each other."""
    lags, inside = np.arange(39, -1, -1), []
    for n in (100, 128, 150, 200, 230, 256, 300):
        x = torch.randn(n, 2, dtype=torch.float64)
        found = temporal_jacobian(Fourier(), x, layout="b n d", method="autograd").log_norms([n - 1])
        near, error = found.values[0, -40:], found.error[0, -40:]
        true = np.abs(near - (0.5 * np.log(2) - lags * np.log(2)))
        inside.append((true <= error).mean())
        np.testing.assert_array_less(true, 8 * error)
    assert np.mean(inside) > 0.85


class Saturated(nn.Module):
    """A GRU whose gates are at their ends."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x):
        return self.gru(x * 100)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_factor_that_rounded_to_zero_is_no_proof(dtype):
    torch.manual_seed(0)
    module, x = Saturated().to(dtype), torch.randn(40, 4, dtype=dtype)
    found = temporal_jacobian(module, x, method="autograd").log_norms([39, 20])
    assert not np.isneginf(found.values[0]).any()
    assert np.isneginf(found.values[1, 21:]).all()


@pytest.mark.parametrize("options", ["", ":stride=2", ":attention=sliding-window,window=5"])
def test_attention_on_a_convolution_bounds_what_float32_loses(options):
    spec, held, ratio = Spec.parse(f"conv-attention{options}"), [], []
    for seed in range(3):
        torch.manual_seed(seed)
        module, x = layers[spec.name].build(16, **spec.options()).float(), torch.randn(40, 16)
        low, high = (temporal_jacobian(copy.deepcopy(module).to(z.dtype), z) for z in (x, x.double()))
        found, truth = (operator.log_norms(range(0, operator.shape[0], 5)) for operator in (low, high))
        both = np.isfinite(found.values) & np.isfinite(truth.values)
        true = np.abs(found.values[both] - truth.values[both])
        held += list(true <= found.error[both])
        ratio += list(found.error[both] / np.maximum(true, torch.finfo(torch.float32).eps / 2))
    assert low.error_kind == "bound"
    assert np.all(held)
    assert np.median(ratio) < 150


@pytest.mark.parametrize("name", sorted(layers))
def test_every_named_layer_states_what_rounding_changed(name):
    ds = depprobe.jacobian(name, n=12, d=8)
    stated = np.isfinite(ds["log_norm"].values)
    error = ds["log_norm_error"].values[stated]
    assert 0 < error.max() < 1e-9
    assert np.isfinite(error).all()


class ForwardBackward(nn.Module):
    """Marginals of a chain: far blocks are small differences of near ones, forwards and backwards."""

    def __init__(self):
        super().__init__()
        self.read, self.moves = nn.Linear(6, 5), nn.Parameter(0.3 * torch.randn(5, 5))

    def forward(self, x):
        emitted, n = self.read(x), x.shape[1]
        alpha, beta = [emitted[:, 0]], [torch.zeros_like(emitted[:, 0])]
        for t in range(1, n):
            alpha.append(torch.logsumexp(alpha[-1][:, :, None] + self.moves, 1) + emitted[:, t])
            back = (beta[-1] + emitted[:, n - t])[:, None]
            beta.append(torch.logsumexp(self.moves + back, -1))
        return (torch.stack(alpha, 1) + torch.stack(beta[::-1], 1)).log_softmax(-1)


def test_repeats_tell_of_the_farthest_lags_where_errors_grow_as_norms_fall():
    torch.manual_seed(0)
    module, x = ForwardBackward().double(), torch.randn(1, 14, 6, dtype=torch.float64)
    rows, leaf = [], x.clone().requires_grad_()
    for outputs in module(leaf)[0]:
        units = [torch.autograd.grad(unit, leaf, retain_graph=True)[0][0] for unit in outputs]
        rows.append(torch.stack(units).square().sum((0, 2)))
    truth = 0.5 * torch.stack(rows).log().numpy()
    # five orthonormal rows of five units are the whole block, rounded otherwise
    ds = depprobe.jacobian(module, x, layout="b n d", targets="all", method="probes", probes=5)
    known = (ds.log_norm_status == STATUS["finite"]).values
    apart = np.abs(ds.log_norm.values - truth)[known]
    assert known.mean() > 0.8
    assert apart.max() > 1e-8
    assert (apart <= ds.log_norm_error.values[known]).mean() > 0.97


def test_errors_within_known_lags_do_not_grow_where_those_beyond_would_fall():
    """A recurrence that leaves float32 after four steps: one block is lost, the rest of the row is not."""

    class Fades(nn.Module):
        def forward(self, x):
            state, states = torch.zeros_like(x[:, 0]), []
            for x_t in x.unbind(1):
                state = state * 1e-9 + x_t + 3e-10 * state.roll(1, -1)
                states.append(state)
            return torch.stack(states, 1)

    torch.manual_seed(0)
    x = torch.randn(30, 2)
    found = depprobe.temporal_jacobian(Fades(), x, layout="b n d", method="probes", probes=2)
    norms = found.log_norms(range(30))
    lag = np.arange(30)[:, None] - np.arange(30)
    near = (lag >= 0) & (lag <= 2)
    assert (norms.status[near] == STATUS["finite"]).all()
    assert (norms.error[near] < 1e-4).all()


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_numbers_that_are_picked_go_on_comparing_equal(method):
    """What is no less than the fifth largest: the fifth stays in, whatever its last bit."""

    class Sparse(nn.Module):
        def forward(self, x):
            scores = x @ x.mT
            least = scores.topk(5, -1).values[..., -1:]
            return scores.masked_fill(scores < least, -torch.inf).softmax(-1) @ x

    torch.manual_seed(0)
    x = torch.randn(20, 3, dtype=torch.float64)
    norms = depprobe.temporal_jacobian(Sparse(), x, layout="b n d", method=method).log_norms(range(20))
    leaf = x.clone().requires_grad_()
    y = Sparse()(leaf[None])[0]
    reads = [torch.autograd.grad(row.sum(), leaf, retain_graph=True)[0].abs().sum(1) > 0 for row in y]
    assert (norms.status[torch.stack(reads).numpy()] == STATUS["finite"]).all()
    assert norms.error.max() < 1e-9


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_a_forward_that_takes_forward_derivatives_states_errors(method):
    """Their shapes are tried on tensors that hold no numbers, which have no last bits."""

    class Tangent(nn.Module):
        def forward(self, x):
            y, tangent = torch.func.jvp(lambda z: z.tanh().cumsum(1), (x,), (torch.ones_like(x),))
            return y * tangent

    x = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = depprobe.jacobian(Tangent(), x, layout="b n d", targets="all", method=method)
    error = found.log_norm_error.values[found.log_norm_status.values == STATUS["finite"]]
    assert len(error) == 45
    assert (error < 1e-12).all()
