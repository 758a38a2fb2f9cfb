"""What differs from device to device, as far as it can be seen without a GPU.

Where the host would wait for a device, sweeps take other sizes, orders and compressions, and look at nothing
until the end: made to take that way here, they find the same norms.
"""

from __future__ import annotations

import threading
from collections import UserList

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.core import device, scaled
from depprobe.core.device import Recorder, full_precision, rounded_up
from depprobe.dynamics import orthonormal, trajectory
from depprobe.operators import temporal_jacobian
from depprobe.operators.chain import operator, recurrence, runs, sweep
from depprobe.operators.chain.compression import RowBlock
from depprobe.operators.chain.kinds import lstm

F64 = torch.float64


@pytest.fixture
def _as_on_a_device(monkeypatch):
    for module in (device, scaled, operator, recurrence, runs, sweep, lstm):
        monkeypatch.setattr(module, "waits", lambda _: True)


MODULES = {
    "rnn": lambda: nn.RNN(5, 7),
    "relu": lambda: nn.RNN(5, 7, nonlinearity="relu"),
    "gru": lambda: nn.GRU(5, 7),
    "lstm": lambda: nn.LSTM(5, 7),
    "projected": lambda: nn.LSTM(5, 7, proj_size=3),
    "stacked": lambda: nn.LSTM(5, 7, 2),
    "both ways": lambda: nn.GRU(5, 7, bidirectional=True),
}


@pytest.mark.parametrize("narrow", [0, 256])
@pytest.mark.parametrize("kind", MODULES)
def test_norms_are_those_of_plain_autograd(kind, narrow, monkeypatch, request):
    monkeypatch.setattr(runs, "NARROW", narrow)
    torch.manual_seed(0)
    module, x = MODULES[kind]().to(F64).eval(), torch.randn(70, 5, dtype=F64)
    exact = temporal_jacobian(module, x, method="autograd").log_norms([69, 40, 3]).values
    request.getfixturevalue("_as_on_a_device")
    found = temporal_jacobian(module, x).log_norms([69, 40, 3])
    known = np.isfinite(found.values)
    assert (known == (np.isfinite(exact) & (exact > -600))).all()
    assert (np.abs(found.values[known] - exact[known]) <= found.error[known] + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_wide_rows_are_halved_and_the_error_holds(dtype, monkeypatch, request):
    torch.manual_seed(0)
    module, x = nn.LSTM(40, 176).to(dtype).eval(), torch.randn(300, 40, dtype=dtype)
    exact = temporal_jacobian(module, x, tolerance=0).log_norms([299, 200])
    counts = []
    half = RowBlock._half

    def spy(self, rows, threshold):
        found = half(self, rows, threshold)
        counts.append((len(rows), None if found is None else len(found[0])))
        return found

    monkeypatch.setattr(RowBlock, "_half", spy)
    monkeypatch.setattr(runs, "NARROW", 0)
    request.getfixturevalue("_as_on_a_device")
    found = temporal_jacobian(module, x).log_norms([299, 200])
    assert any(kept is not None for _, kept in counts)
    known = np.isfinite(exact.values)
    gap = np.abs(found.values[known] - exact.values[known])
    assert (gap <= (found.error + exact.error)[known]).all()
    assert gap.max() < 1e-4


@pytest.mark.usefixtures("_as_on_a_device")
@pytest.mark.parametrize("gain", [1e-7, 30.0])
def test_rows_that_leave_the_range_are_taken_again(gain, monkeypatch):
    """Nobody looks at runs under way; one that lost digits has the sweep taken again."""
    torch.manual_seed(0)
    module, x = nn.RNN(3, 5, nonlinearity="relu", bias=False), torch.rand(60, 3)
    with torch.no_grad():
        module.weight_hh_l0.copy_(gain * torch.eye(5))
        module.weight_ih_l0.abs_()
    looked = []
    init = sweep._Sweep.__init__

    def spy(self, *given):
        looked.append(given[-1])
        init(self, *given)

    monkeypatch.setattr(sweep._Sweep, "__init__", spy)
    found = temporal_jacobian(module, x[:20] if gain > 1 else x, tolerance=0).log_norms([-1]).values[0]
    size = float(module.weight_ih_l0.detach().norm().log())
    lag = np.arange(len(found))[::-1]
    np.testing.assert_allclose(found, lag * np.log(gain) + size, atol=1e-4)
    assert True in looked if gain < 1 else looked


def test_work_is_called_where_nothing_is_recorded():
    record, x = Recorder(4), torch.arange(3.0)
    made = record("twice", lambda given: [2 * given[0]], [x])
    assert made[0].tolist() == [0, 2, 4]
    with record.held(x.device):
        assert record("twice", lambda given: [3 * given[0]], [x])[0].tolist() == [0, 3, 6]


def test_sizes_are_rounded_up_to_few():
    assert rounded_up(77, torch.device("cpu")) == 77
    sizes = {rounded_up(size, torch.device("cuda")) for size in range(1, 2049)}
    assert len(sizes) < 90
    assert all(size <= rounded_up(size, torch.device("cuda")) <= 1.25 * size + 1 for size in range(1, 2049))


#: flags that a hook saw: in an object of the standard library, which is left as it is
SEEN: UserList[list[object]] = UserList()


def flags():
    backends = torch.backends
    new = hasattr(backends.cuda.matmul, "fp32_precision")
    parts = (
        [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul] if new else []
    )
    older = [torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32]
    return [part.fp32_precision for part in parts] + older


def test_float32_is_full_inside_and_the_flags_come_back():
    before = flags()
    torch.set_float32_matmul_precision("medium")
    try:
        asked = flags()
        seen = SEEN
        seen.clear()
        module, x = nn.Linear(2, 2), torch.randn(4, 2)
        module.register_forward_hook(lambda *_: SEEN.append(flags()))
        temporal_jacobian(module, x).log_norms([3])
        assert seen
        assert all(value in ("ieee", "none", "highest", False) for flag in seen for value in flag)
        assert flags() == asked
        with pytest.raises(ZeroDivisionError), full_precision():
            1 / 0  # noqa: B018
        assert flags() == asked
    finally:
        torch.set_float32_matmul_precision("highest")
    assert flags()[1:3] == before[1:3]


class _Looks(nn.Module):
    def forward(self, x):
        torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()
        with torch.backends.cudnn.flags(enabled=False):
            return x.cumsum(-2)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_code_of_the_users_may_look_at_the_flags(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        asked = flags()
        assert temporal_jacobian(_Looks(), torch.randn(5, 2)).support(3).tolist() == [True] * 4 + [False]
        assert flags() == asked
    finally:
        torch.set_float32_matmul_precision("highest")


def test_flags_come_back_when_the_last_of_several_threads_is_done():
    torch.set_float32_matmul_precision("high")
    try:
        asked, inside, leave = flags(), threading.Event(), threading.Event()

        def other():
            with full_precision():
                inside.set()
                leave.wait(20)

        thread = threading.Thread(target=other)
        with full_precision():
            thread.start()
            inside.wait(20)
        assert all(value in ("ieee", "none", "highest", False) for value in flags())
        leave.set()
        thread.join(20)
        assert flags() == asked
    finally:
        torch.set_float32_matmul_precision("highest")


class Replayed:
    """What a recorder keeps of one key: work that writes where it wrote before."""

    def __init__(self, work, given, carried):
        self.work, self.given, self.carried = work, given, carried
        self.made = [part.clone() for part in work(given)]

    def replay(self):
        for into, made in zip(self.made, self.work(self.given), strict=True):
            into.copy_(made)
        for into, made in zip(self.given, self.made[: self.carried], strict=False):
            into.copy_(made)


def replaying(self, key, work, given, carried=0, *, at_first=True):
    """``Recorder.__call__`` as on a CUDA device, where all that was returned before is lost at each call."""
    places = [(place, part.shape, part.dtype) for place, part in enumerate(given)]
    key = (key, *places)
    if key not in self._recorded and not at_first:
        self._recorded[key] = None
        return work(given)
    inputs, found = self._inputs.at(places, given), self._recorded.get(key)
    for other in filter(None, self._recorded.values()):
        for part in other.made:
            part.fill_(torch.nan if part.is_floating_point() else 0)
    if found is None:
        found = self._recorded[key] = Replayed(work, inputs, carried)
    found.replay()
    for into, made in zip(inputs, found.made[:carried], strict=False):
        self._inputs.hold(into, made)
    return found.made


@pytest.fixture
def _as_recorded(_as_on_a_device, monkeypatch):
    for module in (trajectory, orthonormal, recurrence, sweep):
        monkeypatch.setattr(module, "_recorder", Recorder(40))
    monkeypatch.setattr(trajectory, "waits", lambda _: True)
    monkeypatch.setattr(Recorder, "__call__", replaying)


@pytest.mark.parametrize("kind", MODULES)
def test_what_recorded_work_returned_is_read_before_it_is_overwritten(kind, request):
    torch.manual_seed(0)
    module, x = MODULES[kind]().to(F64).eval(), torch.randn(180, 5, dtype=F64)
    at = [179, 70]
    exact = temporal_jacobian(module, x, method="autograd")
    rows = [exact.row(t).dense() for t in at]
    norms = {norm: exact.log_norms(at, norm=norm).values for norm in ("fro", "spectral")}
    request.getfixturevalue("_as_recorded")
    # as it runs at first, as it is recorded, as it is replayed
    for _ in range(3):
        found = temporal_jacobian(module, x, tolerance=0)
        for t, row in zip(at, rows, strict=True):
            torch.testing.assert_close(found.row(t).dense(), row, rtol=1e-9, atol=1e-250)
        for norm, truth in norms.items():
            values = found.log_norms(at, norm=norm).values
            known = np.isfinite(truth) & (truth > -500)
            np.testing.assert_allclose(values[known], truth[known], atol=1e-9)


def test_exponents_are_those_of_work_that_is_not_recorded(request):
    asked = {"n": 300, "d": 6, "dtype": "float64", "exponents": "all"}
    plain = [depprobe.lyapunov(text, **asked)["exponent"].values for text in ("lstm", "gru:depth=2", "rnn")]
    request.getfixturevalue("_as_recorded")
    for _ in range(3):
        for text, truth in zip(("lstm", "gru:depth=2", "rnn"), plain, strict=True):
            np.testing.assert_allclose(depprobe.lyapunov(text, **asked)["exponent"], truth, atol=1e-9)
