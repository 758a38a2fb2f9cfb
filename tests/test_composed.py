"""The composed operator against autograd: mixed stacks, exponents beyond float, supports."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from depprobe.core.calling.passes import call_once as call
from depprobe.core.scaled import log_norms
from depprobe.errors import BadInput, OverBudget
from depprobe.layers.convolution import Convolution
from depprobe.layers.dilated_convolution import ConvolutionBlock
from depprobe.operators import temporal_jacobian
from depprobe.operators.composed.operator import GraphJacobian
from depprobe.operators.composed.rules import operator as composed
from depprobe.operators.composed.rules.levels import Rows, gathered
from depprobe.registry import Spec, layers

N, D_IN = 13, 4


def _named(text, d=6):
    torch.manual_seed(0)
    spec = Spec.parse(text)
    return layers[spec.name].build(d, d_in=D_IN, **spec.options())


def _along_time(d_in, d, kernel, *, padding=0, padding_mode="zeros", **options):
    """A convolution that takes (n, d) like the layers around it, padded on both sides as nn.Conv1d is."""
    module = Convolution(d_in, d, **options)
    module.conv = nn.Conv1d(d_in, d, kernel, **options)
    module.pad, module.padding_mode = (padding, padding), padding_mode
    return module


def _attention(d, heads):
    return layers["attention"].build(d, heads=heads)


def _stacks():
    torch.manual_seed(0)
    batch_norm = nn.BatchNorm1d(6).eval()
    with torch.no_grad():
        batch_norm.running_mean.normal_()
        batch_norm.running_var.uniform_(0.5, 2)
    stacks = {
        "convs": nn.Sequential(nn.Conv1d(D_IN, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv1d(6, 5, 3)),
        "strided": nn.Sequential(
            nn.Conv1d(D_IN, 6, 3, stride=2), nn.Tanh(), nn.Conv1d(6, 6, 2, stride=2, groups=2)
        ),
        "wrapped": nn.Sequential(
            nn.Conv1d(D_IN, 6, 5, padding=2, padding_mode="circular"),
            nn.Conv1d(6, 5, 3, padding=2, padding_mode="reflect"),
            nn.GELU(),
        ),
        "linear": nn.Sequential(
            _along_time(D_IN, 6, 3, padding=2),
            nn.Linear(6, 7),
            _along_time(7, 5, 3, stride=2, padding=1),
        ),
        "norms": nn.Sequential(
            nn.Linear(D_IN, 6),
            nn.LayerNorm(6),
            _along_time(6, 6, 3, padding=1),
            nn.Dropout(0.5),
            _along_time(6, 5, 3),
            nn.RMSNorm(5),
            nn.Softmax(-1),
        ).eval(),
        "batch norm": nn.Sequential(nn.Conv1d(D_IN, 6, 3), batch_norm, nn.ReLU(), nn.Conv1d(6, 5, 3)).eval(),
        "lstm in the middle": nn.Sequential(
            _along_time(D_IN, 5, 3, padding=1),
            nn.LSTM(5, 6, num_layers=2, batch_first=True),
            nn.SiLU(),
            _along_time(6, 7, 3),
        ),
        "gru both ways below": nn.Sequential(
            nn.GRU(D_IN, 3, bidirectional=True, batch_first=True),
            nn.Linear(6, 5),
            _along_time(5, 6, 3, padding=1),
        ),
        "attention on top": nn.Sequential(_along_time(D_IN, 6, 3), nn.ELU(), _attention(6, 2)),
        "attention on a wrapped convolution": nn.Sequential(
            _along_time(D_IN, 6, 3, padding=2, padding_mode="reflect", groups=2), _attention(6, 3)
        ),
        "attention on a strided convolution": nn.Sequential(
            _along_time(D_IN, 6, 4, stride=2, padding=3), _attention(6, 2)
        ),
        "attention below": nn.Sequential(
            nn.Linear(D_IN, 6), _attention(6, 3), nn.LayerNorm(6), _along_time(6, 5, 3, padding=1)
        ),
        "attention below an lstm": nn.Sequential(
            nn.Linear(D_IN, 6),
            _named_attention("sliding-window:window=3,heads=2"),
            nn.LSTM(6, 5, batch_first=True),
        ),
        "nested": nn.Sequential(
            nn.Sequential(nn.Conv1d(D_IN, 6, 3, padding=1), nn.Identity()), nn.Sequential(nn.Sigmoid())
        ),
        "residual": nn.Sequential(
            ConvolutionBlock(Convolution(D_IN, 6, dilation=2), nn.ReLU(), nn.Linear(D_IN, 6, bias=False)),
            ConvolutionBlock(Convolution(6, 6, causal=True), nn.Tanh(), nn.Identity()),
        ),
    }
    for name in ("dilated-conv", "conv-attention"):
        for text in (name + (":heads=2" if "attention" in name else ""), *layers[name].examples):
            stacks[text] = _named(text)
    stacks["dilated-conv:base=3,groups=2"] = _named("dilated-conv:base=3,groups=2,depth=2,residual=true")
    return stacks


def _named_attention(text):
    spec = Spec.parse(text)
    return layers[spec.name].build(6, **spec.options())


STACKS = _stacks()


def _both(module, n=N, dtype=torch.float64):
    """The operator, and the whole Jacobian by batched reverse mode: (n_out, d_out, n_in, d_in)."""
    module = copy.deepcopy(module).to(dtype)
    x = torch.randn(n, D_IN, dtype=dtype, generator=torch.Generator().manual_seed(1))
    leaf = x.clone().requires_grad_()
    y = call(module, leaf)
    unit = torch.eye(y.numel(), dtype=dtype).view(-1, *y.shape)
    (J,) = torch.autograd.grad(y, leaf, unit, is_grads_batched=True, materialize_grads=True)
    return temporal_jacobian(module, x), J.view(*y.shape, *x.shape)


def _log_norms(J, norm="fro"):
    """Log norms of every block, (n_out, n_in)."""
    with np.errstate(divide="ignore"):
        return (
            torch.linalg.matrix_norm(J.transpose(1, 2), ord={"fro": "fro", "spectral": 2}[norm]).log().numpy()
        )


def _by_source(norms, position, n):
    """(targets, lags) as (targets, n)."""
    if norms.lags is None:
        return norms.values
    out = np.full((len(position), n), -np.inf)
    for row, at in enumerate(position):
        source = int(np.floor(at + 0.5)) - norms.lags
        inside = (source >= 0) & (source < n)
        out[row, source[inside]] = norms.values[row, inside]
        assert np.isnan(norms.values[row, ~inside]).all()
    return out


@pytest.mark.parametrize("name", STACKS)
def test_every_block_and_norm_is_that_of_autograd(name):
    fast, J = _both(STACKS[name])
    assert (fast.method, fast.shape) == ("composed", J.shape)
    for t in range(fast.shape[0]):
        torch.testing.assert_close(fast.row(t).dense(), J[t], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(fast.block(2, 3).dense(), J[2, :, 3], rtol=1e-10, atol=1e-14)
    for norm in ("fro", "spectral"):
        found = fast.log_norms(range(fast.shape[0]), range(N), norm).values
        np.testing.assert_allclose(found, _log_norms(J, norm), rtol=0, atol=1e-10)
    torch.manual_seed(2)
    tangent, cotangent = torch.randn(fast.shape[2:]).double(), torch.randn(fast.shape[:2]).double()
    torch.testing.assert_close(fast.jvp(tangent), torch.einsum("tokp,kp->to", J, tangent))
    torch.testing.assert_close(fast.vjp(cotangent), torch.einsum("tokp,to->kp", J, cotangent))


@pytest.mark.parametrize(
    "name",
    ["convs", "strided", "linear", "residual", "nested", "dilated-conv:depth=2,kernel=2,nonlinearity=none"],
)
def test_bands_stay_bands(name):
    fast, J = _both(STACKS[name], 53)
    norms = fast.log_norms(range(fast.shape[0]))
    assert norms.lags is not None
    np.testing.assert_allclose(_by_source(norms, fast.position, 53), _log_norms(J), rtol=0, atol=1e-10)


@pytest.mark.parametrize("padding", [(2, 0, 1), (0, 3, 0), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_linear_stacks_compute_one_row_and_the_edges(padding, stride, mode, monkeypatch):
    torch.manual_seed(0)
    first, second, third = padding
    stack = nn.Sequential(
        _along_time(D_IN, 5, 3, padding=first, padding_mode=mode),
        _along_time(5, 5, 2, padding=second, stride=stride, padding_mode=mode),
        nn.Linear(5, 6),
        _along_time(6, 3, 3, padding=third, padding_mode=mode),
    )
    fast, J = _both(stack, 29)
    pulled = []
    monkeypatch.setattr(composed, "pull_through", _counted(composed.pull_through, pulled))
    found = fast.log_norms(range(fast.shape[0]), range(29)).values
    np.testing.assert_allclose(found, _log_norms(J), rtol=0, atol=1e-10)
    assert len(pulled) < 20


def _counted(function, calls):
    def counted(*args):
        calls.append(1)
        return function(*args)

    return counted


def test_a_causal_linear_stack_is_one_row(monkeypatch):
    pulled = []
    monkeypatch.setattr(composed, "pull_through", _counted(composed.pull_through, pulled))
    fast, J = _both(_named("dilated-conv:depth=3,nonlinearity=none,residual=true"), 21)
    np.testing.assert_allclose(fast.log_norms(range(21), range(21)).values, _log_norms(J), rtol=0, atol=1e-10)
    assert len(pulled) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_below_the_range_of_floats(dtype):
    """Weights of 1e-100 in an LSTM's input and a chain of scalings: a closed form for every exponent."""
    scale = {torch.float32: 1e-12, torch.float64: 1e-100}[dtype]
    down = [nn.Linear(1, 1, bias=False) for _ in range(6)]
    stack = nn.Sequential(_along_time(1, 1, 3, padding=1, bias=False), *down).to(dtype)
    with torch.no_grad():
        stack[0].conv.weight.fill_(0.5)
        for layer in down:
            layer.weight.fill_(scale)
    J = temporal_jacobian(stack, torch.randn(9, 1, dtype=dtype))
    expected = np.log(0.5) + 6 * np.log(scale)
    assert J.log_norms([4]).values[0, 3:6].tolist() == pytest.approx([expected] * 3, rel=1e-6)
    assert np.isneginf(J.log_norms([4]).values[0, [0, 1, 2, 6, 7, 8]]).all()


def test_an_lstm_in_a_stack_below_1e_308_is_the_chain_through_a_linear_layer():
    torch.manual_seed(0)
    lstm, n = nn.LSTM(4, 4).double(), 1001
    x = torch.randn(n, 4).double()
    orthogonal = nn.Linear(4, 4, bias=False).double()
    nn.init.orthogonal_(orthogonal.weight)
    with torch.no_grad():
        lstm.weight_hh_l0 *= 0.3
    alone = temporal_jacobian(lstm, x, tolerance=0).log_norms([n - 1]).values
    stacked = temporal_jacobian(nn.Sequential(lstm, orthogonal), x)
    found = stacked.log_norms([n - 1]).values
    assert stacked.method == "composed"
    assert found[0, 0] < -320 * np.log(10)
    np.testing.assert_allclose(found, alone, rtol=1e-9)


def test_a_window_below_a_deep_lstm_keeps_exponents():
    """Cotangents hundreds of decades apart reach far sources through a window: none may vanish."""
    torch.manual_seed(0)
    window, lstm = _named_attention("sliding-window:window=3,heads=2"), nn.LSTM(6, 6, batch_first=True)
    with torch.no_grad():
        lstm.weight_hh_l0 *= 0.1
    x, n = torch.randn(1701, 6).double(), 1701
    norms = temporal_jacobian(nn.Sequential(window, lstm).double(), x).log_norms([n - 1]).values[0]
    alone = temporal_jacobian(lstm.double(), window(x).detach(), tolerance=0).log_norms([n - 1]).values[0]
    assert norms[0] < -310 * np.log(10)
    assert np.isfinite(norms).all()
    assert np.abs(norms - alone).max() < 10


def test_a_zero_does_not_set_the_exponent_of_what_it_is_added_to():
    """A dead position beside one at 1e-400: their sum is the 1e-400."""
    values = torch.tensor([[[0.0]], [[1.0]]], dtype=torch.float64)
    log_scale = torch.tensor([[[0.0]], [[-921.0]]], dtype=torch.float64)
    rows = Rows(values, log_scale, torch.tensor([3, 4])).settled()
    total = gathered([rows._replace(where=torch.tensor([2, 2]))])
    assert float(total.log_scale + total.values.log()) == -921


def test_slopes_of_saturated_tanh_are_not_rounded_to_zero():
    """At z = 30, 1 - tanh(z)^2 rounds to 0 and the slope is 4 exp(-60)."""
    stack = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Tanh()).double()
    with torch.no_grad():
        stack[0].weight.fill_(1.0)
        stack[0].bias.fill_(0.0)
    norms = temporal_jacobian(stack, torch.full((5, 1), 30.0).double()).log_norms([2]).values[0]
    assert norms[2] == pytest.approx(np.log(4) - 60, rel=1e-12)


def test_dead_units_are_exact_zeros_and_saturated_ones_unknown():
    dead = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv1d(3, 2, 3, padding=1)).double()
    with torch.no_grad():
        dead[0].bias.fill_(-1e6)
    J = temporal_jacobian(dead, torch.randn(15, 2).double())
    assert np.isneginf(J.log_norms([7]).values).all()
    saturated = nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv1d(3, 2, 3, padding=1)
    ).double()
    with torch.no_grad():
        saturated[0].bias.fill_(1e6)
    norms = temporal_jacobian(saturated, torch.randn(15, 2).double()).log_norms([7]).values[0]
    assert np.isnan(norms[5:10]).all()
    assert np.isneginf(np.delete(norms, range(5, 10))).all()


def test_attention_on_a_convolution_keeps_weights_below_the_range_of_floats():
    """The short way against rows of blocks, where weights of 1e-400 and blocks of rounding size occur."""
    torch.manual_seed(0)
    module = _named("conv-attention:heads=2").double()
    with torch.no_grad():
        module[1].weights.in_proj_weight[:12] *= 40
    x = torch.randn(31, D_IN).double()
    short = temporal_jacobian(module, x)
    found = short.log_norms(range(31)).values
    by_rows = np.stack([log_norms(short.row(t), "fro", (0, 2)).numpy() for t in range(31)])
    np.testing.assert_allclose(found, by_rows, rtol=0, atol=1e-9)
    assert found.min() < -400 * np.log(10)


@pytest.mark.parametrize(
    ("stack", "where"),
    [
        (nn.Sequential(_along_time(2, 2, 3, padding=1), _attention(2, 1)), range(15)),
        (
            nn.Sequential(_named("conv:causal=true", 6), _named_attention("attention:causal=true,heads=1")),
            range(8),
        ),
        (
            nn.Sequential(_named("conv", 6), _named_attention("sliding-window:window=3,heads=1")),
            range(5, 10),
        ),
    ],
    ids=["conv below attention", "causal", "window"],
)
def test_support_of_hybrids(stack, where):
    d_in = stack[0].conv.in_channels
    norms = temporal_jacobian(stack.double(), torch.randn(15, d_in).double()).log_norms([7]).values[0]
    assert np.flatnonzero(np.isfinite(norms)).tolist() == list(where)
    assert np.isneginf(np.delete(norms, where)).all()


@pytest.mark.parametrize(
    "stack",
    [
        nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.InstanceNorm1d(4)),
        nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Softmax(-1)),
        type("Odd", (nn.Sequential,), {"forward": lambda self, x: x.cumsum(-2)})(nn.Linear(4, 4)),
    ],
    ids=["time norm", "softmax over time", "own forward"],
)
def test_what_mixes_time_unseen_is_left_to_autograd(stack):
    assert type(temporal_jacobian(stack, torch.randn(9, 4))) is GraphJacobian


#: bytes that count besides tensors
OBJECTS = 2 << 20


def test_small_budgets_take_rows_in_parts_and_smaller_ones_are_refused():
    module, x = _named("dilated-conv:depth=2").double(), torch.randn(N, D_IN).double()
    exact = temporal_jacobian(module, x).log_norms([9]).values
    few = temporal_jacobian(module, x, memory=OBJECTS + 40_000)
    np.testing.assert_allclose(few.log_norms([9]).values, exact, rtol=0, atol=1e-12)
    with pytest.raises(OverBudget, match=r"the forward pass needs .* and the memory budget is 500 B"):
        temporal_jacobian(module, x, memory=500).log_norms([9])


class Largest(TorchDispatchMode):
    """The size in bytes of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, torch.Tensor):
                self.size = max(self.size, one.untyped_storage().nbytes())
        return made


def test_wide_rows_are_made_within_the_budget_from_their_unit_vectors_on():
    module = nn.Sequential(nn.Conv1d(2, 600, 3, padding=1), nn.ReLU()).double()
    x, budget = torch.randn(9, 2).double(), 400_000
    expected = torch.autograd.functional.jacobian(lambda z: module(z.T[None])[0, :, 4], x).norm(dim=(0, 2))
    J = temporal_jacobian(module, x, memory=OBJECTS + budget)
    with Largest() as largest:
        next(iter(J._row_parts(4, J._chunk(4))))
    assert largest.size <= budget < 8 * 600**2
    np.testing.assert_allclose(np.exp(J.log_norms([4]).values[0]), expected, atol=1e-12)
    with pytest.raises(OverBudget, match=r"a row of 3 blocks needs 84.4 KiB .* or --norm fro"):
        temporal_jacobian(module, x, memory=80_000).log_norms([4], None, "spectral")


def test_bad_calls():
    module = _named("dilated-conv:depth=2")
    J = temporal_jacobian(module, torch.randn(N, D_IN))
    with pytest.raises(BadInput, match="unknown norm 'max'"):
        J.log_norms([1], None, "max")
    with pytest.raises(BadInput, match="window=3 needs attention=sliding-window, not attention=attention"):
        _named("conv-attention:window=3,heads=2")
    with pytest.raises(BadInput, match="heads must divide d = 6, and 4 does not"):
        _named("conv-attention:heads=4")
