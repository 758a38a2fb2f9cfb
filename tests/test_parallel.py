"""Work side by side: what it gives is what a loop gives."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.core.parallel import each
from depprobe.operators import temporal_jacobian
from depprobe.operators.chain import operator as chain_norms_module
from depprobe.operators.chain import runs as runs_module


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
def test_results_in_order_from_threads_with_one_thread_each():
    meet = threading.Barrier(2, timeout=60)

    def work(item, stop):
        if item < 2:
            meet.wait()  # would time out one after the other
        return item, torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        assert each(work, range(5)) == [(item, 1, False) for item in range(5)]
    assert torch.get_num_threads() == 2
    assert torch.ones(3, requires_grad=True).sum().requires_grad


@pytest.mark.usefixtures("_two_threads")
def test_an_error_is_raised_where_the_work_was_asked_for():
    def work(item, stop):
        raise ValueError(f"no {item}")

    with pytest.raises(ValueError, match="no 0"):
        each(work, [0, 1])
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_two_threads")
def test_what_is_under_way_is_told_to_stop():
    told, meet = [], threading.Barrier(2, timeout=60)

    def work(item, stop):
        meet.wait()
        if item == 0:
            raise KeyboardInterrupt
        told.append(stop.wait(60))

    with pytest.raises(KeyboardInterrupt):
        each(work, [0, 1])
    assert told == [True]


@pytest.mark.usefixtures("_two_threads")
def test_rows_swept_side_by_side_are_those_swept_alone(monkeypatch):
    monkeypatch.setattr(runs_module, "NARROW", 0)
    module, x = nn.GRU(3, 5).double(), torch.randn(40, 3, dtype=torch.float64)
    operator = temporal_jacobian(module, x, tolerance=0)
    wanted = [39, 30, 21, 12, 3]
    together = operator.log_norms(wanted).values
    alone = np.concatenate([operator.log_norms([t]).values for t in wanted])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("_two_threads")
def test_an_interrupted_sweep_is_not_finished_beside_it(monkeypatch):
    monkeypatch.setattr(runs_module, "NARROW", 0)
    sweep, visits, meet = chain_norms_module.sweep, [], threading.Barrier(2, timeout=60)

    def slowly(stack, targets, lowest, wrt, threshold, visit, *rest):
        meet.wait()
        if targets[0] == 39:
            raise KeyboardInterrupt

        def after_a_while(index, step):
            time.sleep(0.05)
            visits.append(index)
            visit(index, step)

        return sweep(stack, targets, lowest, wrt, threshold, after_a_while, *rest)

    monkeypatch.setattr(chain_norms_module, "sweep", slowly)
    module, x = nn.GRU(3, 5).double(), torch.randn(200, 3, dtype=torch.float64)
    with pytest.raises(KeyboardInterrupt):
        temporal_jacobian(module, x).log_norms([39, 199])
    monkeypatch.setattr(chain_norms_module, "sweep", sweep)
    steps = []
    monkeypatch.setattr(
        chain_norms_module, "sweep", lambda *given: sweep(*given[:5], counted(steps, given[5]), *given[6:])
    )
    temporal_jacobian(module, x).log_norms([199])
    assert len(visits) < len(steps)


def counted(steps, visit):
    def counting(index, step):
        steps.append(index)
        visit(index, step)

    return counting
