"""The Toeplitz operator against autograd: every block of every option, on odd n and d_in != d_out."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.core.calling.passes import call_once as call
from depprobe.errors import BadInput
from depprobe.layers.convolution import Convolution, output_length
from depprobe.operators import temporal_jacobian
from depprobe.operators.convolution import operator as toeplitz
from depprobe.registry import Spec, layers

N, D_IN = 11, 4

# torch itself says so of every even kernel
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


def _conv(padding, mode, stride=1, dilation=1, groups=1, kernel=3, d=6):
    torch.manual_seed(0)
    return nn.Conv1d(
        D_IN, d, kernel, stride, padding, dilation, groups=groups, padding_mode=mode, dtype=torch.float64
    )


CONVS = [
    _conv(padding, mode, stride, dilation, groups, kernel)
    for mode, padding, stride, dilation, groups, kernel in itertools.product(
        ("zeros", "reflect", "replicate", "circular"), (0, 1, 4), (1, 2), (1, 2), (1, 2), (3, 4)
    )
] + [
    _conv(padding, mode, 1, dilation, 2, kernel)
    for mode, padding, dilation, kernel in itertools.product(
        ("zeros", "reflect", "replicate", "circular"), ("same", "valid"), (1, 3), (2, 3, 4)
    )
]
NAMED = [
    layers[spec.name].build(6, d_in=D_IN, **spec.options()).double()
    for text in (
        "conv",
        *layers["conv"].examples,
        "conv:groups=2,causal=true,padding_mode=replicate,dilation=3",
        "conv:causal=true,stride=3,kernel=2",
        "conv:bias=false,kernel=1",
    )
    for spec in [Spec.parse(text)]
]


def _both(module, n=N):
    """The operator, and the whole Jacobian by reverse mode: (n_out, d_out, n_in, d_in)."""
    x = torch.randn(n, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return temporal_jacobian(module, x), torch.func.jacrev(lambda z: call(module, z))(x)


def _log_norms(J, norm):
    """Log norms of every block, (n_out, n_in)."""
    with np.errstate(divide="ignore"):
        return (
            torch.linalg.matrix_norm(J.transpose(1, 2), ord={"fro": "fro", "spectral": 2}[norm])
            .log()
            .detach()
            .numpy()
        )


def _by_source(norms, position, n):
    """(targets, lags) as (targets, n): the definition of the banded form, written out."""
    if norms.lags is None:
        return norms.values
    out = np.full((len(position), n), -np.inf)
    for row, at in enumerate(position):
        for column, lag in enumerate(norms.lags):
            k = int(np.floor(at + 0.5)) - lag
            if 0 <= k < n:
                out[row, k] = norms.values[row, column]
            else:
                assert np.isnan(norms.values[row, column])
    return out


@pytest.mark.parametrize("module", [*CONVS, *NAMED], ids=str)
def test_every_block_and_norm_is_that_of_autograd(module):
    fast, J = _both(module)
    assert (fast.method, fast.shape) == ("toeplitz", J.shape)
    every = range(fast.shape[0])
    for t in every:
        torch.testing.assert_close(fast.row(t).values, J[t], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(fast.block(1, 2).values, J[1, :, 2], rtol=1e-10, atol=1e-14)
    for norm in ("fro", "spectral"):
        found = _by_source(fast.log_norms(every, None, norm), fast.position, fast.shape[2])
        np.testing.assert_allclose(found, _log_norms(J, norm), rtol=0, atol=1e-10)
    torch.manual_seed(2)
    tangent, cotangent = torch.randn(fast.shape[2:]).double(), torch.randn(fast.shape[:2]).double()
    torch.testing.assert_close(fast.jvp(tangent), torch.einsum("tokp,kp->to", J, tangent))
    torch.testing.assert_close(fast.vjp(cotangent), torch.einsum("tokp,to->kp", J, cotangent))


@pytest.mark.parametrize("module", [*CONVS[::7], *NAMED], ids=str)
def test_bands_hold_what_rows_hold(module):
    fast, J = _both(module, 61)
    every = range(fast.shape[0])
    banded = fast.log_norms(every)
    assert banded.lags is not None
    assert len(banded.lags) <= 61 / 4
    dense = fast.log_norms(every, range(61)).values
    np.testing.assert_array_equal(_by_source(banded, fast.position, 61), dense)
    np.testing.assert_allclose(dense, _log_norms(J, "fro"), rtol=0, atol=1e-10)
    assert fast.log_norms([3]).lags is None


@pytest.mark.parametrize(
    ("module", "position"),
    [
        (nn.Conv1d(2, 3, 3, padding=1), [0, 1, 2, 3]),
        (nn.Conv1d(2, 3, 4, padding="same"), [0, 1, 2, 3]),
        (nn.Conv1d(2, 3, 4), [1.5, 2.5, 3.5, 4.5]),
        (nn.Conv1d(2, 3, 4, stride=2, padding=1), [0.5, 2.5, 4.5]),
        (nn.Conv1d(2, 3, 5, stride=3, padding=0), [2, 5, 8]),
        (Convolution(2, 3, kernel=4, causal=True, stride=3), [0, 3, 6, 9]),
        (Convolution(2, 3, kernel=5, dilation=2, stride=2), [0, 2, 4, 6]),
    ],
    ids=str,
)
def test_position_is_the_centre_of_what_an_output_reads(module, position):
    J = temporal_jacobian(module, torch.randn(12, 2))
    assert J.position[: len(position)].tolist() == position


def test_half_positions_count_lags_from_the_input_after():
    J = temporal_jacobian(nn.Conv1d(2, 3, 2, stride=2), torch.randn(40, 2))
    assert J.position[:2].tolist() == [0.5, 2.5]
    norms = J.log_norms(range(20))
    assert norms.lags is not None
    assert norms.lags.tolist() == [0, 1]
    assert np.isfinite(norms.values).all()


def test_tiny_and_zero_kernels_keep_their_logs():
    conv = nn.Conv1d(1, 1, 3, padding=1, dtype=torch.float64)
    with torch.no_grad():
        conv.weight[:] = torch.tensor([1e-300, 0.0, 2.0], dtype=torch.float64)
    norms = temporal_jacobian(conv, torch.randn(7, 1).double()).log_norms([3]).values[0]
    assert norms[[2, 4]].tolist() == pytest.approx([-300 * np.log(10), np.log(2)])
    assert np.isneginf(norms[3])


def test_taps_that_cancel_give_an_exact_zero():
    conv = nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect", dtype=torch.float64)
    with torch.no_grad():
        conv.weight[:] = torch.tensor([1.0, 5.0, -1.0])
    norms = temporal_jacobian(conv, torch.randn(7, 1).double()).log_norms([0]).values[0]
    assert norms[0] == pytest.approx(np.log(5))
    assert np.isneginf(norms[1])


class _Doubled(nn.Conv1d):
    def _conv_forward(self, input, weight, bias):
        return 2 * super()._conv_forward(input, weight, bias)


def test_a_changed_convolution_is_a_graph_of_its_own():
    changed, hooked = _Doubled(2, 3, 3, padding=1), nn.Conv1d(2, 3, 3, padding=1)
    hooked.register_forward_hook(lambda module, args, out: 2 * out)
    for module in (changed, hooked):
        assert temporal_jacobian(module, torch.randn(9, 2)).method == "composed"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("conv:kernel=4", "same padding needs an odd kernel, not 4; use kernel=5 or causal=true"),
        ("dilated-conv:kernel=2,causal=false", "same padding needs an odd kernel, not 2"),
        ("conv:stride=0", "stride must be at least 1, not 0"),
        ("conv:groups=4", "groups must divide d_in = 6 and d = 6, and 4 does not"),
        ("conv:causal=true,padding_mode=reflect", "padding_mode=reflect shows later inputs"),
        ("conv:padding_mode=zero", "unknown value of conv:padding_mode 'zero'; did you mean 'zeros'"),
        ("dilated-conv:depth=0", "depth must be at least 1, not 0"),
        ("dilated-conv:base=0", "base must be at least 1, not 0"),
    ],
)
def test_bad_options(spec, message):
    with pytest.raises(BadInput, match=message):
        layers[Spec.parse(spec).name].build(6, **Spec.parse(spec).options())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv1d(2, 3, 9), "the kernel spans 9 positions and the padded input has 5"),
        (
            Convolution(2, 3, kernel=11, padding_mode="reflect"),
            "reflect padding of 5 needs n >= 6, not n = 5",
        ),
        (
            Convolution(2, 3, kernel=13, padding_mode="circular"),
            "circular padding of 6 needs n >= 6, not n = 5",
        ),
    ],
    ids=str,
)
def test_an_input_too_short_for_the_kernel(module, message):
    with pytest.raises(BadInput, match=message):
        temporal_jacobian(module, torch.randn(5, 2))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv1d(5, 8, 3), r"^x is 7 wide and the convolution reads 5; of a table, --columns "),
        (Convolution(5, 8), r"^x is 7 wide and the convolution reads 5; of a table, --columns "),
        (nn.Sequential(nn.ReLU(), nn.Conv1d(5, 8, 3)), r"^Sequential fails on x of shape \(11, 7\)"),
        (nn.Sequential(nn.ReLU(), nn.Linear(5, 2)), r"^Sequential fails on x of shape \(11, 7\)"),
    ],
)
def test_an_input_of_another_width(module, message):
    with pytest.raises(BadInput, match=message):
        temporal_jacobian(module, torch.randn(11, 7))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("groups", [1, 2])
def test_norms_of_taps_that_meet_are_those_of_their_sums(mode, groups, monkeypatch):
    module = Convolution(4, 6, kernel=9, dilation=2, padding_mode=mode, groups=groups).double()
    with torch.no_grad():  # taps of all sizes, some of which nearly cancel
        module.conv.weight *= 10.0 ** torch.arange(0, -45, -5)
        module.conv.weight[:, :, 1] = -module.conv.weight[:, :, 0] * (1 + 1e-9)
    x = torch.randn(21, 4, dtype=torch.float64)
    found = temporal_jacobian(module, x).log_norms(range(21), range(21)).values
    monkeypatch.setattr(toeplitz, "_ACCURACY", 0)
    expected = temporal_jacobian(module, x).log_norms(range(21), range(21)).values
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_layers_take_a_batch():
    module = layers["dilated-conv"].build(5, d_in=3, depth=2)
    x = torch.randn(4, 9, 3)
    torch.testing.assert_close(module(x)[2], module(x[2]))


def test_output_length_is_that_of_torch():
    for n, kernel, stride, dilation, pad in itertools.product((9, 12), (1, 4), (1, 3), (1, 2), (0, 2)):
        expected = nn.Conv1d(1, 1, kernel, stride, pad, dilation)(torch.zeros(1, n)).shape[1]
        assert output_length(n, kernel, stride=stride, dilation=dilation, pad=(pad, pad)) == expected
