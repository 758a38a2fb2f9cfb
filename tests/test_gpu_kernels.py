"""On a CUDA device each kernel of a recurrence's sweep does what the torch code beside it does."""

from __future__ import annotations

import pytest
import torch

from depprobe.core.device import Recorder
from depprobe.operators.chain.kernels import steps
from depprobe.operators.chain.rounding import ROWS, Perturbation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
CLOSE = {torch.float32: 2e-5, torch.float64: 1e-13}


def both(make, monkeypatch):
    """What a function returns with kernels and without."""
    torch.manual_seed(0)
    quick = make()
    with monkeypatch.context() as patch:
        patch.setattr(steps, "compiled", lambda *_: None)
        torch.manual_seed(0)
        return quick, make()


def drawn(*shape, dtype):
    return torch.randn(*shape, dtype=dtype, device="cuda")


@DTYPES
def test_step_jacobians_of_an_lstm(dtype, monkeypatch):
    def make():
        packed, out = drawn(5, 60, dtype=dtype), torch.full((5, 14, 20), 9.0, dtype=dtype, device="cuda")
        slopes = packed[:, :28].unflatten(1, (4, 7))
        steps.lstm_matrices(drawn(4, 7, 13, dtype=dtype), slopes, packed[:, 28:35], out[:, :, 7:])
        return out

    quick, plain = both(make, monkeypatch)
    torch.testing.assert_close(quick, plain, atol=CLOSE[dtype], rtol=CLOSE[dtype])


@DTYPES
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("more", [True, False])
@pytest.mark.parametrize("kind", ["lstm", "gru", ""])
def test_what_stands_between_two_products(kind, more, targets, dtype, monkeypatch):
    d, inputs, q = 300, 40, ROWS * targets
    width = 2 * d if kind == "lstm" else d

    def make():
        block, after = (drawn(6 + 3 * q, width + inputs, dtype=dtype) for _ in range(2))
        direct = [drawn(d, dtype=dtype) for _ in range({"lstm": 2, "gru": 1, "": 0}[kind])]
        b, w = drawn(2, ROWS, width, dtype=dtype)
        v = drawn(ROWS, width + inputs, dtype=dtype)
        steps.between(kind, direct, block, after, width, v, (b, w) if more else None, q)
        return after

    quick, plain = both(make, monkeypatch)
    torch.testing.assert_close(quick, plain, atol=CLOSE[dtype], rtol=CLOSE[dtype])


@pytest.mark.parametrize("width", [14, 40, 128])
@pytest.mark.parametrize("targets", [1, 2])
def test_a_whole_run_of_a_narrow_layer(width, targets):
    torch.manual_seed(0)
    count, inputs, q, dtype = 5, 20, ROWS * targets, torch.float32
    matrices = drawn(count, width, width + inputs, dtype=dtype) / width**0.5
    rows = drawn(count + 1, 7 + 3 * q, width + inputs, dtype=dtype)
    odd = 2 * torch.randint(1 << 20, (ROWS, width), device="cuda", dtype=torch.int32) + 1
    signs = drawn(count, ROWS, 2 * width + inputs, dtype=dtype).sign()
    p = Perturbation.of(drawn(count, width, dtype=dtype).abs(), odd, signs, targets)
    plain = rows.clone()
    s, e, u = plain[0, 7:].unflatten(0, (3, -1, ROWS))
    e[..., :width] += p.matrices[0] * s[..., :width]
    u[..., :width] = p.products[0] * s[..., :width]
    for j in range(count):
        torch.mm(plain[j][:, :width], matrices[-1 - j], out=plain[j + 1])
        more = (p.matrices[j + 1], p.products[j + 1]) if j + 1 < count else None
        steps._between("", (), plain[j], plain[j + 1], width, p.signs[j], more, q)
    assert steps.whole_run(matrices, rows, width, p.matrices, p.products, p.signs, q)
    torch.testing.assert_close(rows[1:], plain[1:], atol=1e-4, rtol=1e-4)


@DTYPES
def test_rows_are_brought_to_range(dtype, monkeypatch):
    def make():
        rows = drawn(9, 30, dtype=dtype) * torch.logspace(-20, 20, 9, dtype=dtype, device="cuda")[:, None]
        rows[3], rows[4, 2], rows[5, 7] = 0, float("inf"), float("nan")
        scale = drawn(9, 1, dtype=torch.float64)
        scale[8] = -float("inf")
        return torch.cat([part.double() for part in steps.rescaled(rows[:, :23], scale)], 1)

    quick, plain = both(make, monkeypatch)
    torch.testing.assert_close(quick, plain, equal_nan=True, atol=0, rtol=CLOSE[dtype])


@DTYPES
@pytest.mark.parametrize("targets", [1, 3])
def test_errors_are_brought_to_range(targets, dtype, monkeypatch):
    def make():
        own = drawn(2 * ROWS * targets, 30, dtype=dtype)
        if targets > 1:
            own[ROWS : 2 * ROWS] = own[ROWS * (targets + 1) : ROWS * (targets + 2)] = 0
        w, scales = 2.5 * drawn(ROWS, 23, dtype=dtype).sign(), drawn(targets, dtype=torch.float64)
        found = steps.settled(own[:, :23], scales, [w])
        return torch.cat([part.double().flatten() for part in found])

    quick, plain = both(make, monkeypatch)
    torch.testing.assert_close(quick, plain, atol=0, rtol=CLOSE[dtype])


def test_recorded_work_reads_what_it_is_given_each_time():
    record, state = Recorder(2), torch.zeros(3, device="cuda")
    for step in range(1, 6):
        given = [state, torch.full((3,), float(step), device="cuda")]
        state = record("sum", lambda given: [given[0] + given[1]], given, 1)[0]
    assert state.tolist() == [15, 15, 15]
    other = record("sum", lambda given: [given[0] + given[1]], [torch.ones(3, device="cuda"), given[1]], 1)
    assert other[0].tolist() == [6, 6, 6]
    for size in range(4, 9):
        made = record("sum", lambda given: [2 * given[0]], [torch.ones(size, device="cuda")])
        assert made[0].tolist() == [2] * size
