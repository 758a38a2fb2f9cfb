"""``depprobe.cost``: a module here, a layer in a process of its own, and how wrong calls end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe import store
from depprobe.errors import BadInput, DepprobeError
from depprobe.runs.cache import FinishedPoints
from depprobe.runs.subprocess_executor import measured_alone

SHORT = {"d": 8, "threads": 1, "seconds": 0.001}


def test_a_module_is_measured_here_and_left_as_it_was():
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    ds = depprobe.cost(module, torch.ones(10, 4), threads=1, seconds=0.001)
    store.validate(ds)
    assert ds.flops.values.ravel().tolist() == [2 * 10 * 4 * 3, 3 * 2 * 10 * 4 * 3]
    assert np.isnan(ds.process_bytes).all()
    assert all(part.training for part in module.modules())


def test_points_are_kept_and_taken_up(tmp_path):
    kept = FinishedPoints(tmp_path / "points")
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
