"""Formulas of cost against published counts, brute force over masks, and the support of the Jacobian."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.complexity import Complexity, complexity, overtakes
from depprobe.errors import BadInput
from depprobe.operators import temporal_jacobian
from depprobe.registry import Spec, layers

SPECS = [spec for name in layers for spec in (name, *layers[name].examples)]


def build(spec: str, d: int = 8) -> nn.Module:
    parsed = Spec.parse(spec)
    return layers[parsed.name].build(d, **parsed.options()).double().eval()


def known(module: nn.Module, n: int) -> Complexity:
    found = complexity(module, n)
    assert found is not None
    return found


@pytest.mark.parametrize("spec", SPECS)
def test_every_named_layer_has_formulas(spec):
    module = build(spec)
    found = known(module, 31)
    assert found.total > 0
    assert found.chain > 0
    assert found.n_out == temporal_jacobian(module, torch.zeros(31, 8, dtype=torch.float64)).shape[0]
    assert 1 <= found.parallelism <= found.total


def test_published_counts():
    assert known(nn.LSTM(300, 512, num_layers=2), 100).total == 2 * 376_012_800
    core = known(layers["attention"].build(768, heads=12), 64)
    assert core.flops["scores"] + core.flops["mixing"] == 12_582_912


@pytest.mark.parametrize(("name", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_recurrences(name, gates):
    n, d = 37, 24
    assert known(layers[name].build(d), n).total == 4 * gates * n * d * d


def test_attention_costs_as_much_as_a_recurrence():
    d = 24
    attention = layers["attention"].build(d)
    assert known(attention, 2 * d).total == known(layers["lstm"].build(d), 2 * d).total
    assert known(attention, d).total == known(layers["gru"].build(d), d).total
    assert overtakes(attention, layers["lstm"].build(d)) == 2 * d + 1
    assert overtakes(attention, layers["gru"].build(d)) == d + 1
    assert overtakes(layers["rnn"].build(d), attention) is None


def test_layers_without_a_formula_are_named():
    assert complexity(nn.Bilinear(2, 2, 2), 5) is None
    with pytest.raises(BadInput, match="no formula for Bilinear"):
        overtakes(nn.Bilinear(2, 2, 2), nn.Linear(2, 2))
    with pytest.raises(BadInput, match="n must be at least 1, not 0"):
        complexity(nn.Linear(2, 2), 0)


@pytest.mark.parametrize("n", [1, 2, 9, 16, 31])
@pytest.mark.parametrize("causal", [False, True])
def test_pairs_are_those_of_the_mask(n, causal):
    t, j = np.indices((n, n))
    past = (j <= t) if causal else np.ones((n, n), dtype=bool)
    width = min(5, n)
    low, high = (width - 1, 0) if causal else (width // 2, (width - 1) // 2)
    size = int(np.ceil(np.sqrt(n)))
    last = np.minimum((j // size + 1) * size, n) - 1
    distance = np.abs(t - j)
    masks = {
        "attention": past,
        f"sliding-window:window={width}": (t - j <= low) & (j - t <= high),
        "dilated-attention": past & ((distance & (distance - 1)) == 0),
        "block-attention": past & ((t // size == j // size) | (j == last)),
    }
    for spec, mask in masks.items():
        joined = f"{spec}{',' if ':' in spec else ':'}causal={str(causal).lower()}"
        found = known(build(joined), n)
        assert found.pairs == mask.sum(), joined
        assert found.flops["scores"] == 2 * 8 * mask.sum()


@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        ("attention", 1),
        ("rnn", 999),
        ("lstm", 999),
        ("conv:causal=true", 500),
        ("dilated-conv", 9),
        ("dilated-conv:base=3", 7),
        ("sliding-window:window=3,causal=true", 500),
        ("sliding-window:window=64,causal=true", 16),
        ("block-attention", 2),
    ],
)
def test_path_lengths_at_a_thousand(spec, steps):
    assert known(build(spec), 1000).path_length == steps


REPEATED = [
    "attention",
    "conv:causal=true",
    "conv:kernel=5,dilation=2",
    "conv:padding_mode=circular,kernel=5",
    "sliding-window:window=8",
    "sliding-window:window=5,causal=true",
    "dilated-attention",
    "dilated-attention:causal=true",
    "block-attention:causal=true",
    "block-attention:block=4",
]


@pytest.mark.parametrize("spec", REPEATED)
@pytest.mark.parametrize("n", [13, 17])
def test_path_length_is_the_depth_at_which_the_jacobian_reaches(spec, n):
    length = known(build(spec), n).path_length
    x = torch.randn(n, 8, dtype=torch.float64)

    def reaches(depth: int) -> bool:
        stack = nn.Sequential(*(build(spec) for _ in range(depth)))
        return bool(np.isfinite(temporal_jacobian(stack, x).log_norms([n - 1]).values[0, 0]))

    assert reaches(length)
    assert length == 1 or not reaches(length - 1)


@pytest.mark.parametrize(("n", "options"), [(20, {"kernel": 2}), (20, {"base": 3}), (16, {"causal": False})])
def test_path_length_of_growing_dilations_is_a_depth(n, options):
    length = known(layers["dilated-conv"].build(3, depth=2, **options), n).path_length

    def reaches(depth: int) -> bool:
        stack = layers["dilated-conv"].build(3, depth=depth, nonlinearity="none", **options).double()
        x = torch.zeros(n, 3, dtype=torch.float64)
        return bool(np.isfinite(temporal_jacobian(stack, x).log_norms([n - 1], [0]).values[0, 0]))

    assert reaches(length)
    assert not reaches(length - 1)


def test_dilations_reach_multiples_of_themselves_only():
    assert known(build("conv:kernel=5,dilation=2"), 12).path_length is None
    assert known(build("conv:kernel=5,dilation=2,padding_mode=replicate"), 12).path_length == 3


def test_a_recurrence_takes_its_steps_and_a_hybrid_its_layers():
    assert known(build("conv-attention"), 50).path_length == 2
    both = nn.Sequential(build("conv:kernel=3,causal=true"), build("lstm"))
    # the convolution carries two of the 49 positions
    assert known(both, 50).path_length == 1 + 47
    assert known(nn.LSTM(8, 8, num_layers=3), 50).sequential_steps == 52
    # every layer is an application, one after another or in one module
    assert known(nn.LSTM(8, 8, num_layers=3), 50).path_length == 49 + 2
    assert known(nn.Sequential(*(nn.GRU(8, 8) for _ in range(3))), 50).path_length == 49 + 2
    assert known(nn.LSTM(8, 8, num_layers=3, bidirectional=True), 50).sequential_steps == 150


@pytest.mark.parametrize("causal", [False, True])
def test_what_a_stream_keeps(causal):
    flag = f"causal={str(causal).lower()}"
    found = {
        spec: known(build(f"{spec}{',' if ':' in spec else ':'}{flag}"), 100).state
        for spec in ("attention", "sliding-window:window=9", "block-attention", "conv:kernel=5,dilation=2")
    }
    kept = [2 * 8 * 100, 2 * 8 * 9, 2 * 8 * (10 + 9), 8 * 8] if causal else [None] * 4
    assert list(found.values()) == kept
    assert known(build("lstm:depth=2"), 100).state == 32


def test_formulas_do_not_depend_on_what_was_imported_first():
    code = (
        "import torch, depprobe.costs.streaming\n"
        "from depprobe.complexity import complexity\n"
        "print(complexity(torch.nn.LSTM(3, 5), 7).total)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(2 * 7 * 20 * (3 + 5))]
