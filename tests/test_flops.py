"""FLOPs counted in torch's products against the formulas of the layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from depprobe.complexity import complexity
from depprobe.costs.flops import count_flops
from depprobe.errors import DepprobeError
from depprobe.registry import Spec, layers

N, D_IN, D = 19, 6, 8
SPECS = [spec for name in layers for spec in (name, *layers[name].examples)]
#: masks and tiles: products that are made and then not used
PADDED = ("causal=true", "sliding-window", "dilated-attention", "block-attention")


@pytest.mark.parametrize("spec", SPECS)
def test_the_count_is_the_formula(spec):
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


def test_other_modules_are_counted_too():
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.across = nn.Parameter(torch.randn(N, N))

        def forward(self, x):
            return self.across @ x if bool((x == x).all()) else x  # the branch needs numbers

    assert count_flops(Mixer(), torch.randn(N, 5)) == 2 * N * N * 5


def test_a_count_of_nothing_for_work_done_is_refused():
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 5))

        def forward(self, x):
            return (x[:, :, None] * self.weight).sum(1)

    with pytest.raises(DepprobeError, match="Hidden works with weights and 0 FLOPs were counted"):
        count_flops(Hidden(), torch.randn(N, 5))


def test_switches_come_back_as_they_were():
    before = torch.backends.mkldnn.enabled
    count_flops(nn.Linear(2, 2), torch.zeros(3, 2))
    assert torch.backends.mkldnn.enabled is before
