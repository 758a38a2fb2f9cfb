"""The attention operator against autograd, block by block: every mask, option and pattern, odd n."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.errors import BadInput, OverBudget
from depprobe.layers.attention import Attention
from depprobe.operators import AttentionJacobian, temporal_jacobian
from depprobe.registry import Spec, layers

N, D, H = 11, 8, 4
TOLERANCE = 1e-10
NAMES = ("attention", "sliding-window", "dilated-attention", "block-attention")
SPECS = [spec for name in NAMES for spec in (name, *layers[name].examples)]


def noise(n=N, d=D, seed=0, dtype=torch.float64):
    return 2 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def build(spec, d=D):
    torch.manual_seed(1)
    parsed = Spec.parse(spec)
    return layers[parsed.name].build(d, **parsed.options()).double()


def mha(**options):
    torch.manual_seed(2)
    module = nn.MultiheadAttention(D, H, **options).double()
    for parameter in module.parameters():  # torch starts biases at 0, where a lost one would not show
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return module


def masks():
    generator = torch.Generator().manual_seed(3)
    some = torch.rand(N, N, generator=generator) > 0.6
    some.fill_diagonal_(False)
    heads = torch.rand(H, N, N, generator=generator) > 0.6
    heads[:, :, 0] = False
    number = torch.randn(H, N, N, generator=generator, dtype=torch.float64)
    later = torch.ones(N, N, dtype=torch.bool).triu(1)
    padding = torch.arange(N) > 7
    one_head = heads.clone()
    one_head[1, 2] = one_head[3, 5:7] = True
    return {
        "none": {},
        "boolean": {"attn_mask": some},
        "self hidden": {"attn_mask": torch.eye(N, dtype=torch.bool)},
        "boolean per head": {"attn_mask": heads},
        "float": {"attn_mask": number[0].masked_fill(some, -math.inf)},
        "float per head": {"attn_mask": number},
        "causal": {"attn_mask": later, "is_causal": True},
        "causal, with weights": {"attn_mask": later, "is_causal": True, "need_weights": True},
        "padding": {"key_padding_mask": padding},
        "padding and causal": {"key_padding_mask": padding, "attn_mask": later, "is_causal": True},
        "float padding": {"key_padding_mask": number[0, 0]},
        "padding and float": {"key_padding_mask": number[0, 0], "attn_mask": number[1]},
        "first row without a key": {"key_padding_mask": torch.arange(N) < 1, "attn_mask": later},
        "heads without a key": {"attn_mask": one_head},
        "no key at all": {"key_padding_mask": torch.ones(N, dtype=torch.bool)},
    }


def assert_equal(module, x, forward=None):
    """Every law of an operator, against the autograd operator."""
    J = temporal_jacobian(module, x, method="structured", forward=forward)
    reference = temporal_jacobian(module, x, method="autograd", forward=forward)
    assert J.shape == reference.shape
    n = len(x)
    norms = J.log_norms(range(n), range(n)).values
    spectral = J.log_norms(range(n), range(n), "spectral").values
    for t in range(n):
        expected = reference.row(t).values.transpose(0, 1)
        found = J.row(t).dense().transpose(0, 1)
        size = torch.linalg.matrix_norm(expected)
        assert (torch.linalg.matrix_norm(found - expected) <= TOLERANCE * size).all()
        assert (np.abs(np.exp(norms[t]) - size.numpy()) <= TOLERANCE * size.numpy()).all()
        largest = torch.linalg.matrix_norm(expected, ord=2).numpy()
        assert (np.abs(np.exp(spectral[t]) - largest) <= TOLERANCE * largest).all()
        assert (np.isneginf(norms[t]) == (size.numpy() == 0)).all()
        k = (5 * t + 3) % n
        torch.testing.assert_close(J.block(t, k).dense(), found[k], rtol=1e-12, atol=1e-14)
    u = noise(n, x.shape[1], seed=9)
    torch.testing.assert_close(J.vjp(u), reference.vjp(u), rtol=TOLERANCE, atol=1e-12)
    torch.testing.assert_close(J.jvp(u), reference.jvp(u), rtol=TOLERANCE, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_named_layers_equal_autograd(spec):
    assert isinstance(temporal_jacobian(build(spec), noise()), AttentionJacobian)
    assert_equal(build(spec), noise())


@pytest.mark.parametrize("mask", list(masks()))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "batch_first": True},
        {"add_bias_kv": True},
        {"add_zero_attn": True},
        {"add_bias_kv": True, "add_zero_attn": True},
    ],
    ids=str,
)
def test_multihead_attention_as_it_is(options, mask):
    assert_equal(mha(**options), noise(), masks()[mask])


@pytest.mark.parametrize("spec", SPECS)
def test_norms_when_tiles_are_split(spec, monkeypatch):
    whole = temporal_jacobian(build(spec), noise(53)).log_norms(range(53)).values
    monkeypatch.setattr("depprobe.operators.attention.operator._PAIRS", 300)
    split = temporal_jacobian(build(spec), noise(53)).log_norms(range(53)).values
    np.testing.assert_allclose(split, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_targets_and_sources_in_any_order(spec):
    J = temporal_jacobian(build(spec), noise())
    every = J.log_norms(range(N), range(N)).values
    some = J.log_norms([7, 2, 7, 10], [3, 9, 3, 0]).values
    np.testing.assert_allclose(some, every[[7, 2, 7, 10]][:, [3, 9, 3, 0]], atol=1e-12)
    np.testing.assert_allclose(J.log_norms([6]).values, every[[6]], atol=1e-12)


def test_own_blocks_may_be_left_out():
    J = temporal_jacobian(build("attention"), noise())
    every, others = J.log_norms(range(N)).values, J.log_norms(range(N), own=False).values
    assert np.isnan(others.diagonal()).all()
    away = ~np.eye(N, dtype=bool)
    np.testing.assert_array_equal(others[away], every[away])


@pytest.mark.parametrize("spec", SPECS)
def test_float32_agrees_with_float64(spec):
    module, x = build(spec, 24 if "heads" not in spec else D), noise(101, 24 if "heads" not in spec else D)
    exact = temporal_jacobian(module, x).log_norms(range(101)).values
    found = temporal_jacobian(module.float(), x.float()).log_norms(range(101)).values
    np.testing.assert_allclose(found, exact, atol=1e-3)


def test_batched_input_and_second_call_leave_layers_as_they_were():
    for spec in SPECS:
        module, x = build(spec), noise()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        both = module(torch.stack([x, x.flip(0)]))
        torch.testing.assert_close(both[0], module(x))
        torch.testing.assert_close(both[1], module(x.flip(0)))
        temporal_jacobian(module, x).log_norms([3])
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_module_that_overrides_forward_is_a_graph_of_its_own():
    class Doubled(Attention):
        def forward(self, x):
            return 2 * super().forward(x)

    assert temporal_jacobian(Doubled(D, 2).double(), noise()).method == "composed"
    module = mha()
    module.register_forward_hook(lambda *_: None)
    assert temporal_jacobian(module, noise()).method == "composed"


BAD_MASKS = {
    "shape": (
        {"attn_mask": torch.zeros(N, N + 1, dtype=torch.bool)},
        r"attn_mask must have shape .*\(11, 12\)",
    ),
    "heads": ({"attn_mask": torch.zeros(3, N, N, dtype=torch.bool)}, r"\(4, 11, 11\), not \(3, 11, 11\)"),
    "padding": (
        {"key_padding_mask": torch.zeros(2, N, dtype=torch.bool)},
        r"key_padding_mask must have shape",
    ),
    "dtype": ({"attn_mask": torch.zeros(N, N, dtype=torch.int64)}, "torch.bool or of x's torch.float64"),
    "nan": ({"attn_mask": torch.full((N, N), math.nan, dtype=torch.float64)}, "NaN or"),
    "hint": ({"is_causal": True}, "is_causal is a hint"),
    "argument": ({"attn_maks": None}, "did you mean 'attn_mask'"),
}


@pytest.mark.parametrize("case", list(BAD_MASKS))
def test_bad_masks_are_refused_in_one_line(case):
    forward, message = BAD_MASKS[case]
    with pytest.raises(BadInput, match=message) as caught:
        temporal_jacobian(mha(), noise(), forward=forward)
    assert "\n" not in str(caught.value)


def test_a_row_masked_by_least_numbers_sees_all_keys_alike():
    """The gradient of torch's plain attention; that of its fused one loses ln 10 in rounding ln sum exp."""
    module, x = mha(), noise()
    mask, padding = torch.zeros(N, N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
    mask[0, 1:], padding[0] = torch.finfo(torch.float64).min, -math.inf
    forward = {"attn_mask": mask, "key_padding_mask": padding}
    leaf = x.clone().requires_grad_()
    y = module(leaf, leaf, leaf, need_weights=True, **forward)[0][0]
    expected = torch.stack([torch.autograd.grad(unit, leaf, retain_graph=True)[0] for unit in y])
    found = temporal_jacobian(module, x, forward=forward).row(0).dense()
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=1e-13)


def test_only_targets_whose_output_is_nan_are_refused():
    """With weights asked for, torch gives NaN where a head sees no key, else what it gives without."""
    module, x, forward = mha(), noise(), masks()["heads without a key"]
    with_weights = temporal_jacobian(module, x, forward=forward | {"need_weights": True})
    lost = module(x, x, x, **forward)[0].isnan().any(1)
    assert lost.nonzero().flatten().tolist() == [2, 5, 6]
    sound = (~lost).nonzero().flatten().tolist()
    without = temporal_jacobian(module, x, forward=forward)
    found, expected = (J.log_norms(sound).values for J in (with_weights, without))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    for ask in (lambda: with_weights.log_norms([0, 5]), lambda: with_weights.row(5)):
        with pytest.raises(BadInput, match=r"target 5 no key, and with need_weights=True .* NaN there"):
            ask()
    with pytest.raises(BadInput, match="leave need_weights out"):
        with_weights.vjp(x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("heads", [0, 3, -1])
def test_heads_must_divide_the_width(name, heads):
    with pytest.raises(
        BadInput, match=rf"heads must divide d = 8, and {heads} does not; use one of \[1, 2, 4, 8\]"
    ):
        build(f"{name}:heads={heads}")


def test_other_bad_input():
    with pytest.raises(BadInput, match="width 5 and the attention takes embed_dim = 8"):
        temporal_jacobian(build("attention"), noise(d=5))
    with pytest.raises(BadInput, match="kdim = 5"):
        temporal_jacobian(nn.MultiheadAttention(D, 2, kdim=5).double(), noise())
    J = temporal_jacobian(build("attention"), noise(20_000))
    with pytest.raises(
        BadInput, match=r"spectral norms of 20000 x 20000 blocks .* hours; ask for 45553935 blocks"
    ):
        J.log_norms(range(20_000), norm="spectral")
    with pytest.raises(OverBudget, match="attention over 11 positions needs"):
        temporal_jacobian(build("attention"), noise(), memory=1000)
    J = temporal_jacobian(build("attention", 72), noise(4001, 72), memory=1 << 28)
    with pytest.raises(OverBudget, match="the row of 4001 blocks"):
        J.row(3)
