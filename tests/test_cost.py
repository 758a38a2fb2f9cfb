"""``depprobe.cost``: a module here, a layer in a process of its own, and how wrong calls end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import depprobe
from depprobe import store
from depprobe.errors import BadInput, DepprobeError
from depprobe.runs.subprocess_executor import measured_alone
from depprobe.store.finished import Finished

SHORT = {"d": 8, "threads": 1, "seconds": 0.001}


def test_a_module_is_measured_here_and_left_as_it_was():
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    ds = depprobe.cost(module, torch.ones(10, 4), threads=1, seconds=0.001)
    store.validate(ds)
    assert ds.flops.values.ravel().tolist() == [2 * 10 * 4 * 3, 3 * 2 * 10 * 4 * 3]
    assert np.isnan(ds.process_bytes).all()
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize(
    ("module", "path", "steps"),
    [
        (nn.LSTM(8, 6, num_layers=3), 32 + 2, 35),
        (nn.GRU(8, 6, bidirectional=True), 32, 33),
        (weight_norm(nn.RNN(8, 6, batch_first=True), "weight_hh_l0"), 32, 33),
        (nn.MultiheadAttention(8, 2), 1, 1),
        (nn.Conv1d(8, 6, 5, padding=4, dilation=2, groups=2), 8, 1),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False), 2, 2),
    ],
)
def test_torchs_own_modules_cost_what_their_formulas_say(module, path, steps):
    ds = depprobe.cost(module, torch.randn(33, 8), threads=1, seconds=0.001)
    np.testing.assert_array_equal(ds.flops, ds.flops_formula)
    assert (ds.path_length.item(), ds.sequential_steps.item()) == (path, steps)
    assert ds.parallelism.item() > 1


def test_points_are_kept_and_taken_up(tmp_path):
    kept = Finished(tmp_path / "points")
    first = depprobe.cost("conv:causal=true", n=[8], finished=kept, **SHORT)
    assert first.state_bytes.item() == 2 * 8 * 4
    assert first.flops.isel(phase=0).item() == first.flops_formula.isel(phase=0).item() == 2 * 8 * 3 * 64
    assert depprobe.cost("conv:causal=true", n=[8], finished=kept, **SHORT).identical(first)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"phases": "backward"}, "unknown phase 'backward'"),
        ({"n": [8, 8]}, "n 8 is given twice"),
        ({"n": [8.5]}, r"n must be integers of at least 2, not 8\.5"),
        ({"n": 1}, "n must be integers of at least 2, not 1"),
        ({"n": 65536, "memory": "5MiB"}, r"n = 65536, d = 8 needs .* budget is 5 MiB; n = \d+ would fit"),
    ],
)
def test_wrong_calls(options, match):
    with pytest.raises(BadInput, match=match):
        depprobe.cost("conv", **(SHORT | {"n": 8} | options))


def test_a_point_that_fails_is_named():
    with pytest.raises(DepprobeError, match="no-such-layer at n = 8, d = 8: unknown layer"):
        measured_alone({"layer": "no-such-layer", "n": 8, "d": 8, "seed": 0, "dtype": "float32"})
