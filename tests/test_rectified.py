"""Rows of rectified convolutions, from the units that are alive, against autograd and all units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.core.memory import Growth
from depprobe.core.options import DEFAULT_MEMORY
from depprobe.layers.convolution import Convolution
from depprobe.operators import temporal_jacobian
from depprobe.operators.composed.rules import rectified

STACKS = {
    "causal, wider below": lambda: nn.Sequential(
        Convolution(5, 9, kernel=3, causal=True),
        nn.ReLU(),
        Convolution(9, 7, kernel=2, causal=True),
        nn.ReLU(),
    ),
    "no rectifier on top": lambda: nn.Sequential(
        Convolution(5, 9), nn.ReLU(), Convolution(9, 7, dilation=2, padding_mode="reflect")
    ),
    "rectified input, strides": lambda: nn.Sequential(
        nn.ReLU(),
        Convolution(5, 9, stride=2, kernel=5),
        nn.Hardtanh(),
        Convolution(9, 4, padding_mode="circular"),
    ),
    "convolutions in a row": lambda: nn.Sequential(Convolution(5, 9), Convolution(9, 6), nn.ReLU6()),
}


def _by_autograd(module: nn.Module, x: torch.Tensor, t: int) -> np.ndarray:
    row = torch.autograd.functional.jacobian(lambda z: module(z)[t], x)
    return row.norm(dim=(0, 2)).log().numpy()


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("memory", [DEFAULT_MEMORY, 4000], ids=["whole", "a few rows at a time"])
def test_every_row_is_that_of_autograd(name, memory):
    torch.manual_seed(1)
    module, x = STACKS[name]().double().eval(), torch.randn(13, 5, dtype=torch.float64)
    J = temporal_jacobian(module, x)
    assert rectified.is_rectified(J._levels)
    for t in range(J.shape[0]):
        where, norms = rectified.row_log_norms(J._levels, t, memory, Growth(memory))
        expected = _by_autograd(module, x, t)
        np.testing.assert_allclose(norms, expected[where], rtol=0, atol=1e-12)
        assert np.isneginf(np.delete(expected, where)).all()


def test_a_dead_output_has_a_row_of_zeros():
    module = nn.Sequential(Convolution(3, 4), nn.ReLU()).double()
    nn.init.constant_(module[0].conv.bias, -1e3)
    norms = temporal_jacobian(module, torch.randn(9, 3, dtype=torch.float64)).log_norms([4])
    assert np.isneginf(norms.values).all()


@pytest.mark.parametrize("size", [1e-120, 1e120])
def test_what_leaves_the_float_range_keeps_its_exponent(size):
    torch.manual_seed(0)
    module = nn.Sequential(
        Convolution(4, 6, bias=False), nn.ReLU(), Convolution(6, 5, bias=False), nn.ReLU()
    ).double()
    x = torch.randn(11, 4, dtype=torch.float64)
    expected = temporal_jacobian(module, x).log_norms([5]).values
    with torch.no_grad():
        module[0].conv.weight *= size
        module[2].conv.weight *= size
    found = temporal_jacobian(module, x).log_norms([5]).values
    np.testing.assert_allclose(found, expected + 2 * np.log(size), rtol=1e-12)


def test_few_dead_units_are_not_worth_it():
    leaky = nn.Sequential(Convolution(4, 6), nn.LeakyReLU(), Convolution(6, 5)).double()
    J = temporal_jacobian(leaky, torch.randn(9, 4, dtype=torch.float64))
    assert not rectified.is_rectified(J._levels)


def test_a_block_that_cancels_is_a_zero_and_not_a_rounding_error():
    lower, upper = Convolution(31, 9), Convolution(9, 6)
    with torch.no_grad():
        lower.conv.weight[:, :, 0] = lower.conv.weight[:, :, 2]
        lower.conv.weight[:, :, 1] = 0
        upper.conv.weight[:, :, 0] = -upper.conv.weight[:, :, 2]
    module, x = nn.Sequential(lower, upper, nn.ReLU()).double(), torch.randn(13, 31, dtype=torch.float64)
    found = temporal_jacobian(module, x).log_norms([6]).values[0]
    assert np.isneginf(found[6])
    np.testing.assert_allclose(found, _by_autograd(module, x, 6), rtol=0, atol=1e-12)
