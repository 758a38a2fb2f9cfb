"""Norms below a convolution from Gram matrices, against the blocks themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tolerance

from depprobe.core.options import DEFAULT_MEMORY
from depprobe.layers.convolution import Convolution
from depprobe.operators.composed.levels import overlapping_taps as meeting
from depprobe.operators.composed.levels.convolution import Conv
from depprobe.operators.composed.levels.overlapping_taps import log_norms_below
from depprobe.operators.convolution.taps import Taps

N, D_IN, D, ALIVE, ROWS = 23, 31, 9, 5, 4

#: convolutions, and the positions on which rows stand
CASES = {
    "every other position": ({"kernel": 3, "causal": True}, range(2, 20, 2)),
    "neighbours": ({"kernel": 5}, range(N)),
    "taps far apart": ({"kernel": 3, "dilation": 4}, [3, 7, 8, 15]),
    "strides": ({"kernel": 5, "stride": 2}, range(1, 11)),
    "reflected": ({"kernel": 7, "padding_mode": "reflect"}, range(N)),
    "replicated": ({"kernel": 5, "dilation": 2, "padding_mode": "replicate"}, range(N)),
    "wrapped": ({"kernel": 5, "dilation": 3, "padding_mode": "circular"}, [0, 1, 4, 12, 21, 22]),
}


def setting(name, scale=1.0):
    options, positions = CASES[name]
    module = Convolution(D_IN, D, **options).double()
    taps = Taps.of(module, N)
    units = torch.stack([torch.randperm(D)[:ALIVE] for _ in positions])
    values = scale * torch.randn(len(units), ROWS, ALIVE, dtype=torch.float64)
    values[:, :, -1] *= torch.rand(len(units), 1) < 0.5  # filled up with dead units
    source = taps.sources(np.array(positions))
    return values, units, Conv(module.conv, taps), source, np.unique(source[source >= 0])


def naive(values, units, conv, source, where):
    """Every block made, tap by tap."""
    blocks = torch.zeros(len(where), ROWS, D_IN, dtype=torch.float64)
    for p in range(len(values)):
        for tap in range(conv.taps.kernel):
            if source[p, tap] >= 0:
                place = np.flatnonzero(where == source[p, tap])[0]
                blocks[place] += values[p] @ conv.matrix(tap)[units[p]]
    return 0.5 * blocks.square().sum((1, 2)).log().numpy()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("near", [meeting._NEAR_BYTES, 1], ids=["at once", "one by one"])
def test_norms_are_those_of_the_blocks(name, near, monkeypatch):
    monkeypatch.setattr(meeting, "_NEAR_BYTES", near)
    given = setting(name)
    found, known = log_norms_below(*given, DEFAULT_MEMORY)
    assert known.all()
    np.testing.assert_allclose(found, naive(*given), rtol=0, atol=0.01 * tolerance())


def test_what_cancels_is_not_taken_for_known():
    values, units, conv, source, where = setting("every other position")
    # positions 4 and 6 read source 4 through the last tap and the first, with opposite blocks
    conv._weight[0] = conv._weight[2]
    units[2], values[2] = units[1], -values[1] * (1 + 1e-9)
    found, known = log_norms_below(values, units, conv, source, where, DEFAULT_MEMORY)
    assert known.tolist() == (where != 4).tolist()
    exact = naive(values, units, conv, source, where)
    np.testing.assert_allclose(found[known], exact[known], rtol=0, atol=0.01 * tolerance())
    assert abs(found - exact)[~known] > 1e-6


def test_dead_positions_are_left_to_exact_zeros():
    values, units, conv, source, where = setting("taps far apart")
    values[0] = 0
    _, known = log_norms_below(values, units, conv, source, where, DEFAULT_MEMORY)
    alone = np.setdiff1d(source[0], source[1:])
    assert known.tolist() == (~np.isin(where, alone)).tolist()


@pytest.mark.parametrize("size", [0.0, 1e-90, 1e90])
def test_rows_that_cannot_be_squared_are_left_alone(size):
    assert log_norms_below(*setting("neighbours", size), DEFAULT_MEMORY) is None


def test_nothing_is_done_where_blocks_are_cheaper_or_memory_short():
    values, _, conv, source, where = setting("neighbours")
    wide = values.repeat(1, 1, 2), torch.arange(10).expand(N, 10) % D
    conv.width = 3
    assert log_norms_below(*wide, conv, source, where, DEFAULT_MEMORY) is None
    assert log_norms_below(*setting("neighbours"), 1000) is None
