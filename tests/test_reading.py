"""What chains read at each step, and rows of low share, in single precision, against double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.core.scaled import Scaled
from depprobe.operators import temporal_jacobian
from depprobe.operators.chain import compression as compression_module
from depprobe.operators.chain import operator as chain_norms_module
from depprobe.operators.chain import reading as reading_module
from depprobe.operators.chain import runs as runs_module
from depprobe.operators.chain.trajectories import step_chains

F64 = torch.float64

MODULES = {
    "rnn": lambda: nn.RNN(64, 24),
    "gru": lambda: nn.GRU(64, 24),
    "lstm": lambda: nn.LSTM(64, 24),
    "lstm projected": lambda: nn.LSTM(64, 24, proj_size=9),
    "lstm stacked": lambda: nn.LSTM(64, 24, 2),
    "gru both ways": lambda: nn.GRU(64, 24, bidirectional=True),
}


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setattr(runs_module, "NARROW", 0)
    monkeypatch.setattr(reading_module, "_FEWEST", 1)
    monkeypatch.setattr(compression_module, "_FEWEST_LOW", 1)


def norms(module, x, tolerance=1e-6, norm="fro"):
    return temporal_jacobian(module, x, tolerance=tolerance).log_norms([len(x) - 1, len(x) // 2], None, norm)


@pytest.mark.parametrize("name", MODULES)
def test_columns_are_those_of_the_whole_step(name):
    chains = step_chains(MODULES[name]().to(F64), torch.randn(9, 64, dtype=F64))
    for chain in (chain for layer in chains for chain in layer):
        parts = [chain.columns(of, F64).matrices(2, 6) for of in ("h", "x")]
        torch.testing.assert_close(torch.cat(parts, 2), chain.matrices(2, 6), rtol=1e-13, atol=1e-15)
        assert chain.columns("x", torch.float32).matrices(2, 6).dtype == torch.float32


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", MODULES)
def test_the_error_stated_holds_and_tells_of_single_precision(name, seed, monkeypatch):
    torch.manual_seed(seed)
    module, x = MODULES[name]().to(F64), torch.randn(151, 64, dtype=F64)
    exact, found = norms(module, x, 0), norms(module, x)
    assert 1e-10 < found.error.max() <= 1e-6
    inside = np.isfinite(exact.values)
    gap = np.abs(found.values[inside] - exact.values[inside])
    assert (gap <= found.error[inside]).all()
    monkeypatch.setattr(chain_norms_module, "_SINGLE_TOLERANCE", 1.0)
    double = norms(module, x)
    # a row that is swept again, for what single precision loses, is one of double precision in both
    assert (double.error < found.error)[inside].any()
    assert not np.array_equal(double.values, found.values)


def test_few_rows_stay_in_double_precision(monkeypatch):
    monkeypatch.setattr(reading_module, "_FEWEST", 1000)
    monkeypatch.setattr(compression_module, "_FEWEST_LOW", 1000)
    module, x = nn.LSTM(64, 24).to(F64), torch.randn(51, 64, dtype=F64)
    found = norms(module, x)
    monkeypatch.setattr(chain_norms_module, "_SINGLE_TOLERANCE", 1.0)
    np.testing.assert_allclose(found.values, norms(module, x).values, rtol=0, atol=1e-13)


@pytest.mark.parametrize("given", [{"tolerance": 1e-8}, {"norm": "spectral"}])
def test_double_precision_where_single_would_not_do(given, monkeypatch):
    module, x = nn.LSTM(64, 24).to(F64), torch.randn(51, 64, dtype=F64)
    found = norms(module, x, **given)
    monkeypatch.setattr(chain_norms_module, "_SINGLE_TOLERANCE", 1.0)
    assert np.array_equal(found.values, norms(module, x, **given).values)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_what_float32_cannot_hold_is_taken_again(scale):
    module, x = nn.GRU(64, 24).to(F64), torch.randn(51, 64, dtype=F64)
    with torch.no_grad():
        module.weight_ih_l0 *= scale
    x /= scale
    exact, found = norms(module, x, 0), norms(module, x)
    np.testing.assert_allclose(found.values, exact.values, atol=1e-6)
    assert np.isfinite(found.values[0]).all()


def test_a_single_step_that_reads_next_to_nothing_is_not_a_zero():
    """Between two comparisons: gates that shut at one position, with slopes below the range of float32."""
    module, x = nn.LSTM(64, 24).to(F64), torch.randn(51, 64, dtype=F64)
    with torch.no_grad():
        module.weight_ih_l0[:, 0] = 0
        module.weight_ih_l0[:24, 0], module.weight_ih_l0[72:, 0] = -1.0, -1.0
        module.weight_ih_l0[24:48, 0] = 1.0
        module.weight_ih_l0[48:72, 0] = -1.0
    x[:, 0] = 0
    x[41, 0] = 140
    exact, found = norms(module, x, 0), norms(module, x)
    assert exact.values[0, 41] < exact.values[0, 40] - 100
    np.testing.assert_allclose(found.values, exact.values, atol=1e-6)


def test_rounding_beyond_the_tolerance_is_seen_and_taken_again(monkeypatch):
    module, x = nn.LSTM(64, 24).to(F64), torch.randn(51, 64, dtype=F64)
    exact = norms(module, x, 0)
    taps = reading_module.SingleReading.taps
    monkeypatch.setattr(
        reading_module.SingleReading, "taps", lambda self, k, states: taps(self, k, states) * (1 + 1e-5)
    )
    found = norms(module, x)
    assert found.error.max() <= 1e-6
    np.testing.assert_allclose(found.values, exact.values, atol=1e-6)


def test_rows_of_low_share_are_carried_in_single_precision(monkeypatch):
    module, x = nn.LSTM(64, 24).to(F64), torch.randn(151, 64, dtype=F64)
    dtypes = []
    read = compression_module.RowBlock.read

    def spy(self, logs, taps, norm):
        dtypes.append([part.rows.dtype for part in self.parts])
        return read(self, logs, taps, norm)

    monkeypatch.setattr(compression_module.RowBlock, "read", spy)
    norms(module, x)
    assert [F64, torch.float32] in dtypes
    dtypes.clear()
    norms(module, x, tolerance=1e-8)
    assert all(torch.float32 not in found for found in dtypes)


def test_what_is_lost_of_the_low_rows_is_in_the_error(monkeypatch):
    """Low rows of a wrong size err the norms by the square of their share: less than stated."""
    module, x = nn.LSTM(64, 24).to(F64), torch.randn(151, 64, dtype=F64)
    exact, right = norms(module, x, 0), norms(module, x)
    advance = runs_module.advance

    def worse(stack, rows, k, steps, wrt, **errors):
        taps, after, states = advance(stack, rows, k, steps, wrt, **errors)
        return taps, after * (1 + 1e-2 * (rows.dtype == torch.float32)), states

    monkeypatch.setattr(runs_module, "advance", worse)
    monkeypatch.setattr(chain_norms_module, "_SHARES", (0.06,))
    wrong = norms(module, x)
    inside = np.isfinite(exact.values)
    gap = np.abs(wrong.values[inside] - exact.values[inside])
    assert gap.max() > 10 * np.abs(right.values[inside] - exact.values[inside]).max()
    assert (gap <= wrong.error[inside]).all()
    assert wrong.error.max() > 5 * right.error.max()


def test_low_rows_that_leave_the_range_of_float32_are_taken_again(monkeypatch):
    """A step that nothing but the high rows comes through."""
    module, x = nn.LSTM(64, 24).to(F64), torch.randn(151, 64, dtype=F64)
    exact = norms(module, x, 0)
    advance = runs_module.advance

    def vanishing(stack, rows, k, steps, wrt, **errors):
        taps, after, states = advance(stack, rows, k, steps, wrt, **errors)
        return taps * (0 if rows.dtype == torch.float32 else 1), after, states

    monkeypatch.setattr(runs_module, "advance", vanishing)
    found = norms(module, x)
    np.testing.assert_allclose(found.values, exact.values, atol=1e-6)


def split_block():
    """A block whose rows of low share are apart, and the rows themselves."""
    torch.manual_seed(0)
    sizes = torch.logspace(0, -8, 33, dtype=F64)
    block = compression_module.RowBlock(torch.linalg.qr(torch.randn(40, 33, dtype=F64))[0].T * sizes[:, None])
    block.compress(2e-8, split=True)
    assert [part.rows.dtype for part in block.parts] == [F64, torch.float32]
    return block


def read(block, disturbed=0.0):
    """Norm and error of what the block reads through the identity, its low rows too large by so much."""
    taps = [part.rows[None] for part in block.parts]
    taps[1:] = [tap * (1 + disturbed) for tap in taps[1:]]
    logs = []
    for part, tap in zip(block.parts, taps, strict=True):
        logs.append(torch.stack([part.read(name, tap).log_norm((1, 2)) for name in part.of], 1))
    found = compression_module.norms_of(block.read(logs, taps, "fro").numpy())
    return (float(part[0]) for part in found)


def test_rounding_of_the_step_that_is_read_is_in_its_error():
    block = split_block()
    right, least = read(block)
    wrong, error = read(block, 1e-2)
    assert 1e-7 < wrong - right < error
    assert error > 20 * least


@pytest.mark.parametrize("again", [True, False])
def test_rounding_seen_once_rides_along(again):
    """Also where no rows are in float32 any more."""
    block = split_block()
    part = block.parts[1]
    part.rows[part.of["kept"]] *= 1 + 1e-2
    block.compress(1e-7, split=again)
    error = list(read(block))[1]
    assert error > 1e-4
    for threshold in (3e-7, 1e-6):
        block.compress(threshold, split=again)
        assert len(block.parts) == 1 + again
        assert list(read(block))[1] == pytest.approx(error, rel=0.5)


@pytest.mark.parametrize("dim", [0, 1])
def test_errors_that_share_a_row_or_a_column_are_not_averaged(dim):
    """One row, or one column, that is off: the norm errs by all of it."""
    cell = step_chains(nn.GRU(64, 24).to(F64), torch.randn(3, 64, dtype=F64))[0][0]
    reading = reading_module.SingleReading(cell)
    states = torch.randn(24, cell.width, dtype=F64)
    states /= states.abs().amax(1, keepdim=True)
    exact = states @ cell.columns("x", F64).matrices(2, 3)[0]
    factor = torch.ones(exact.shape)
    factor.select(dim, 7)[:] += 1e-2
    block = compression_module.Carried(F64, kept=Scaled(states, torch.zeros(24, 1, dtype=F64)))
    close = exact.float() * factor
    reading.compare(2, states, close, [block])
    off = float((close.double() * exact).sum() / exact.square().sum()) - 1
    assert off == pytest.approx(reading.deviation, rel=0.2)
    assert reading.deviation >= off
