"""FLOPs counted in torch's products against the formulas of the layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from depprobe.complexity import complexity
from depprobe.costs.flops import count_flops
from depprobe.errors import BadInput, DepprobeError
from depprobe.registry import Spec, layers

N, D_IN, D = 19, 6, 8
SPECS = [spec for name in layers for spec in (name, *layers[name].examples)]
#: masks and tiles: products that are made and then not used
PADDED = ("causal=true", "sliding-window", "dilated-attention", "block-attention")


@pytest.mark.parametrize("spec", SPECS)
def test_the_count_is_the_formula(spec, monkeypatch):
    parsed = Spec.parse(spec)
    entry = layers[parsed.name]
    d_in = D_IN if entry.reads_any_width else D
    widths = {"d_in": d_in} if entry.reads_any_width else {}
    module, x = entry.build(D, **widths, **parsed.options()), torch.randn(N, d_in)
    formula = complexity(module, N)
    forward, both = count_flops(module, x), count_flops(module, x, backward=True)
    attends = "attention" in spec or "transformer" in spec
    if (attends and any(word in spec for word in PADDED)) or "sliding" in spec:
        assert formula.total <= forward
        assert both == 3 * forward
    else:
        assert forward == formula.total
        assert both == formula.with_backward
    monkeypatch.setattr("depprobe.costs.flops._FEW_PRODUCTS", 0)
    assert count_flops(module, x, backward=True) == both
    assert all(parameter.grad is None for parameter in module.parameters())


def test_what_pads_sparse_patterns_is_bounded():
    for name in ("sliding-window", "dilated-attention", "block-attention"):
        module = layers[name].build(D)
        for n in (256, 1000):
            formula = complexity(module, n)
            pairs = formula.flops["scores"] + formula.flops["mixing"]
            counted = count_flops(module, torch.randn(n, D)) - (formula.total - pairs)
            assert pairs <= counted < 2.3 * pairs, name


def test_steps_of_a_long_recurrence_are_alike(monkeypatch):
    module, x = nn.LSTM(3, 4, num_layers=2), torch.randn(200, 3)
    continued = count_flops(module, x, backward=True)
    assert continued == complexity(module, 200).with_backward
    monkeypatch.setattr("depprobe.costs.flops._MANY_STEPS", 150)
    assert count_flops(module, x, backward=True) == continued


def test_what_does_not_grow_by_steps_is_counted_whole():
    module, n = nn.Sequential(nn.GRU(4, 4, batch_first=True), layers["attention"].build(4, heads=2)), 150
    assert count_flops(module, torch.randn(n, 4)) == complexity(module, n).total


def test_other_modules_are_counted_too(monkeypatch):
    monkeypatch.setattr("depprobe.costs.flops._FEW_PRODUCTS", 0)

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.across = nn.Parameter(torch.randn(N, N))

        def forward(self, x):
            return self.across @ x if bool((x == x).all()) else x  # the branch needs numbers

    assert count_flops(Mixer(), torch.randn(N, 5)) == 2 * N * N * 5


PLAIN = {
    "pool": (nn.MaxPool1d(3, 2), "b d n", 0, (N - 3) // 2 + 1),
    "pool that rounds up": (nn.AvgPool1d(2, ceil_mode=True), "b d n", 0, (N + 1) // 2),
    "bins": (nn.AdaptiveAvgPool1d(4), "b d n", 0, 4),
    "softmax": (nn.Softmax(-1), "b n d", 0, N),
    "transposed": (nn.ConvTranspose1d(8, 6, 4, 2, 1, groups=2), "b d n", 2 * N * 4 * 4 * 6, 2 * N),
    "stack": (nn.Sequential(nn.Conv1d(8, 6, 3, padding=1), nn.MaxPool1d(2)), "b d n", 2 * N * 24 * 6, N // 2),
    "attention": (nn.MultiheadAttention(8, 2, batch_first=True).eval(), None, 8 * N * 64 + 4 * 8 * N * N, N),
    "encoder layer": (
        nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval(),
        None,
        8 * N * 64 + 4 * 8 * N * N + 4 * N * 8 * 12,
        N,
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_modules_have_the_formula_that_is_counted(name):
    """Counted by torch's counter, by the table's formula, and by hand."""
    module, layout, flops, n_out = PLAIN[name]
    found = complexity(module, N)
    assert found.total == count_flops(module, torch.randn(N, 8), layout=layout) == flops
    assert found.n_out == n_out
    x = torch.randn(1, 8, N) if layout == "b d n" else torch.randn(1, N, 8)
    out = module(x, x, x)[0] if name == "attention" else module(x)
    assert out.shape[-1 if layout == "b d n" else 1] == n_out


def test_a_softmax_over_time_has_no_formula():
    assert complexity(nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.Softmax(-1)), N) is None
    assert complexity(nn.Softmax(1), N) is None
    with pytest.raises(BadInput, match="n = 2 is too short for MaxPool1d"):
        complexity(nn.MaxPool1d(3), 2)


def test_a_count_of_nothing_for_work_done_is_refused():
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 5))

        def forward(self, x):
            return torch.cdist(x, self.weight)  # small, hence not by a product

    with pytest.raises(DepprobeError, match="Hidden works with weights and 0 FLOPs were counted"):
        count_flops(Hidden(), torch.randn(N, 5))


def test_switches_come_back_as_they_were():
    before = torch.backends.mkldnn.enabled
    count_flops(nn.Linear(2, 2), torch.zeros(3, 2))
    assert torch.backends.mkldnn.enabled is before
    assert torch.backends.mha.get_fastpath_enabled()


class Applied(nn.Module):
    """A function of x (1, n, d) and of weights."""

    def __init__(self, function, *shapes, dtype=torch.float32) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes)

    def forward(self, x):
        return self.function(x, *self.weights)


def loop(x, W, U):
    h, rows = x.new_zeros(7), []
    for row in x[0]:
        h = W @ h + U @ row
        rows.append(h)
    return torch.stack(rows)[None]


def row_by_row(function):
    return lambda x, *weights: torch.stack([function(row, *weights) for row in x[0]])[None]


C64 = torch.complex64
EYE = torch.eye(19).to_sparse()
FIRST = 2 * 7 * 7  # no gradient flows into the state before the first step
PRODUCTS = {
    "matrix times vector": (Applied(loop, (7, 7), (7, 5)), 19 * 2 * 7 * (7 + 5), FIRST),
    "addmv": (Applied(row_by_row(lambda r, b, W: torch.addmv(b, W, r)), (7,), (7, 5)), 19 * 2 * 7 * 5, 0),
    "outer": (Applied(row_by_row(lambda r, a: torch.outer(r, a).flatten()), (3,)), 19 * 2 * 5 * 3, 0),
    "einsum": (Applied(lambda x, a: torch.einsum("bni,j->bnij", x, a).flatten(2), (3,)), 2 * 19 * 5 * 3, 0),
    "addr": (Applied(row_by_row(lambda r, S, a: torch.addr(S, r, a)[0]), (5, 3), (3,)), 19 * 2 * 5 * 3, 0),
    "written out": (Applied(lambda x, W: (x[..., None] * W).sum(2), (5, 3)), 2 * 19 * 5 * 3, 0),
    "complex": (Applied(lambda x, W: (x.to(C64) @ W).abs(), (5, 3), dtype=C64), 8 * 19 * 5 * 3, 0),
    "complex vector": (
        Applied(row_by_row(lambda r, W: (W @ r.to(C64)).abs()), (3, 5), dtype=C64),
        8 * 19 * 5 * 3,
        0,
    ),
    "sparse": (
        Applied(lambda x, W: (EYE @ (x[0] @ W))[None], (5, 3)),
        2 * 19 * 5 * 3 + 2 * 19 * 3,
        2 * 19 * 3,  # the sparse matrix is no weight
    ),
    "grouped": (nn.Conv1d(6, 9, 4, groups=3, padding=1), 2 * 18 * 9 * 4 * 2, 0),
    "depthwise": (nn.Conv1d(6, 6, 3, groups=6, stride=2), 2 * 9 * 6 * 3, 0),
    "grouped transposed": (nn.ConvTranspose1d(6, 9, 4, groups=3), 2 * 19 * 6 * 4 * 3, 0),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_those_of_a_hand_count(name):
    module, forward, constant = PRODUCTS[name]
    x = torch.randn(19, 5 if isinstance(module, Applied) else 6)
    assert count_flops(module, x) == forward
    assert count_flops(module, x, backward=True) == 3 * forward - constant


def test_a_bilinear_layer_counts_beside_others():
    both = nn.Bilinear(4, 3, 6)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.both = nn.Linear(5, 4), nn.Linear(5, 3), both

        def forward(self, x):
            return self.both(self.left(x), self.right(x))

    linear = 2 * 19 * 5 * (4 + 3)
    # x^T W first, for each of the six W, then y
    bilinear = 2 * 19 * 6 * 3 * (4 + 1)
    assert count_flops(Mixed(), torch.randn(19, 5)) == linear + bilinear
    # of its three gradients that of W sums over positions last, the others over outputs
    assert count_flops(Mixed(), torch.randn(19, 5), backward=True) > 3 * linear + 2 * bilinear


def fft_convolution(x, kernel):
    return torch.fft.irfft(torch.fft.rfft(x, n=64, dim=1) * torch.fft.rfft(kernel, n=64, dim=0), dim=1)


@pytest.mark.parametrize(
    ("function", "shape", "flops"),
    [
        (fft_convolution, (19, 5), 3 * 5 * (5 * 64 * 6) // 2),
        (
            lambda x, a: torch.fft.fft(torch.complex(x, x * a), dim=1).abs(),
            (5,),
            5 * round(95 * math.log2(19)),
        ),
        (lambda x, a: torch.fft.fft2(torch.complex(x, x * a)).abs(), (5,), round(5 * 95 * math.log2(95))),
        (lambda x, a: (x * a).cumsum(1), (5,), 19 * 5),
        (lambda x, a: torch.cumprod(torch.complex(x, x * a), 1).abs(), (5,), 6 * 19 * 5),
        (lambda x, a: (x * a).logcumsumexp(1), (5,), 19 * 5),
        # work on each entry is not counted, whole numbers neither
        (lambda x, a: x * a + torch.ones(19, 5, dtype=torch.int64).cumsum(0), (5,), 0),
    ],
)
def test_transforms_and_scans_have_formulas(function, shape, flops):
    assert count_flops(Applied(function, shape), torch.randn(19, 5)) == flops
