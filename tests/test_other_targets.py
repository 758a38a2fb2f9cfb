"""How far curves of some targets lie from those of all, from measured rows alone."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from depprobe.core.options import wanted_positions
from depprobe.curves.align import by_layer
from depprobe.curves.resampling.other_targets import other_targets

N, SD = 48, 0.6


def blocks_of(at, logs):
    lag = at[:, None] - np.arange(N)
    values = np.where(lag >= 0, np.take_along_axis(logs[at], np.maximum(lag, 0), 1), -np.inf)
    ds = xr.Dataset(
        {"log_norm": (("target", "source"), values)},
        {"target": at, "position": ("target", at.astype(float)), "source": np.arange(N)},
        {"n": N},
    )
    ((_, blocks),) = by_layer(ds)
    return blocks


def slope(curve, lags):
    apart = lags - lags.mean()
    return curve @ apart / (apart @ apart)


def log_rms(blocks, lags):
    values = np.exp(2 * blocks.values[np.searchsorted(blocks.lags, lags), :, 0])
    known = np.isfinite(values)
    return 0.5 * np.log(np.where(known, values, 0.0).sum(1) / known.sum(1))


@pytest.mark.parametrize("noisy", [False, True])
def test_slopes_of_some_targets_spread_about_those_of_all_as_is_said(noisy):
    """Rows that fall at rates of their own, so that the few rows of far lags decide."""
    lags, spreads, said = np.arange(1, 41), [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        logs = -0.1 * np.arange(N) + SD * (rng.standard_normal((N, 1)) + 0.5 * rng.standard_normal((N, N)))
        at = wanted_positions("random:24", N, seed)
        at[-1] = max(at[-1], N - 1 if seed % 2 else N - 2)
        some, every = blocks_of(at, logs), blocks_of(np.arange(N), logs)
        spreads.append(slope(log_rms(some, lags) - log_rms(every, lags), lags))
        variance = 0.0
        if noisy:
            variance = 1.0
            some.values[...] += 0.5 * rng.standard_normal(some.values.shape)
        noise = np.full(some.values.shape, variance)
        drawn = other_targets(some, noise, 0.0, np.ones((100, 1)), np.arange(N), rng)
        assert np.abs(drawn.mean(0)).max() < 1e-9
        said.append(slope(drawn[:, lags], lags))
    assert 0.7 < np.std(said) / np.std(spreads) < 1.5


def test_rows_that_are_alike_say_nothing_and_all_targets_leave_nothing():
    alike = np.broadcast_to(-0.1 * np.arange(N), (N, N))
    at = wanted_positions("random:24", N, 0)
    given = (0.0, np.ones((9, 1)), np.arange(N), np.random.default_rng(0))
    some = blocks_of(at, alike)
    np.testing.assert_allclose(other_targets(some, np.zeros(some.values.shape), *given), 0, atol=1e-9)
    rough = alike + np.random.default_rng(1).standard_normal((N, N))
    every = blocks_of(np.arange(N), rough)
    np.testing.assert_allclose(other_targets(every, np.zeros(every.values.shape), *given), 0, atol=1e-9)
