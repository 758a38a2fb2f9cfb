"""Exponents and crossovers of costs that are known powers of length and width."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr

import depprobe
from depprobe.curves import crossovers, scaling
from depprobe.errors import BadInput

N, D = np.array([100.0, 200.0, 400.0, 800.0]), np.array([16.0, 64.0])


def costs(flops, time=None, spread=0.0, n=N, d=D):
    """Dataset of costs by functions of n and d, one a layer."""

    def over(functions):
        return np.array([[[f(a, b) for b in d] for a in n] for f in functions])

    names = [f"layer{i}" for i in range(len(flops))]
    ds = xr.Dataset({"flops": (("layer", "n", "d"), over(flops))}, {"layer": names, "n": n, "d": d})
    if time:
        values = over(time)[:, :, :, None]
        for name, factor in (("time", 1), ("time_low", math.exp(-spread)), ("time_high", math.exp(spread))):
            ds[name] = (("layer", "n", "d", "threads"), values * factor)
        ds = ds.assign_coords(threads=[1])
    return ds


def test_exponents_of_powers():
    ds = costs([lambda n, d: 3 * n**1.5 * d**2], [lambda n, d: 1e-6 * n**2 * d], 0.1)
    found = scaling(ds)
    np.testing.assert_allclose(found.scaling_n.sel(quantity="flops").item(), 1.5, rtol=1e-12)
    np.testing.assert_allclose(found.scaling_d.sel(quantity="flops").item(), 2.0, rtol=1e-12)
    np.testing.assert_allclose(found.scaling_n.sel(quantity="time").item(), 2.0, rtol=1e-12)
    np.testing.assert_allclose(found.scaling_d.sel(quantity="time").item(), 1.0, rtol=1e-12)
    assert found.scaling_n_stderr.max() < 1e-10
    # two widths at four lengths leave 8 - 4 - 1 residuals
    assert np.isfinite(found.scaling_d_stderr).all()
    assert found.stderr_unknown == ""
    assert all({"long_name", "units"} <= set(v.attrs) for v in found.variables.values())


def test_exponent_and_error_are_those_of_weighted_least_squares():
    rng = np.random.default_rng(0)
    ds = costs([lambda n, d: n], [lambda n, d: n], d=D[:1])
    ds["time"] = ds.time * np.exp(0.2 * rng.standard_normal(ds.time.shape))
    half = np.array([0.1, 0.2, 0.3, 0.4])[None, :, None, None]
    ds["time_low"], ds["time_high"] = ds.time * np.exp(-half), ds.time * np.exp(half)
    found = scaling(ds).sel(quantity="time")
    root = 1 / half.ravel()
    X = np.stack([np.ones(4), np.log(N)], axis=1) * root[:, None]
    y = np.log(ds.time.values.ravel()) * root
    beta, (rss,), *_ = np.linalg.lstsq(X, y)
    cov = np.linalg.inv(X.T @ X) * rss / 2
    np.testing.assert_allclose(found.scaling_n.item(), beta[1], rtol=1e-12)
    np.testing.assert_allclose(found.scaling_n_stderr.item(), math.sqrt(cov[1, 1]), rtol=1e-12)


def test_standard_error_is_the_spread_over_repeats():
    rng = np.random.default_rng(1)
    n = np.geomspace(64, 4096, 13)
    sd = 0.1
    values = n[:, None] ** 1.3 * np.exp(sd * rng.standard_normal((13, 400)))
    ds = xr.Dataset(
        {"flops": (("layer", "n"), values.T)}, coords={"layer": [f"l{i}" for i in range(400)], "n": n}
    )
    found = scaling(ds).sel(quantity="flops")
    # the mean of 400 estimates has a twentieth of their spread; that of a spread is 1 / sqrt(2 * 399)
    spread = float(found.scaling_n.std(ddof=1))
    assert abs(float(found.scaling_n.mean()) - 1.3) < 4 * spread / 20
    assert abs(float((found.scaling_n_stderr**2).mean()) / spread**2 - 1) < 4 * math.sqrt(2 / 399)


def test_two_lengths_have_no_error():
    found = scaling(costs([lambda n, d: n**2], n=N[:2], d=D[:1]))
    np.testing.assert_allclose(found.scaling_n.item(), 2.0, rtol=1e-12)
    assert np.isnan(found.scaling_n_stderr.item())
    assert np.isnan(found.scaling_d.item())
    assert found.stderr_unknown == "n: as many points as parameters; d: one d only"


def test_unknown_values_are_left_out():
    ds = costs([lambda n, d: n**2, lambda n, d: n])
    ds.flops[0, 1, 0] = np.nan
    ds.flops[1] = np.nan
    found = scaling(ds).scaling_n.squeeze()
    np.testing.assert_allclose(found[0], 2.0, rtol=1e-12)
    assert np.isnan(found[1])


def test_crossover_of_powers():
    ds = costs([lambda n, d: n**2 * d, lambda n, d: n * d**2 * 5, lambda n, d: 1e9 * n])
    found = crossovers(ds).crossover.sel(quantity="flops")
    # n = 5 d
    np.testing.assert_allclose(found.sel(layer="layer0", other="layer1", d=64), 320, rtol=1e-12)
    assert found.sel(layer="layer1", other="layer0", d=64) == math.inf
    # n = 80 is below all lengths
    assert found.sel(layer="layer0", other="layer1", d=16) == 0
    assert (found.sel(layer="layer2", other=["layer0", "layer1"]) == 0).all()
    assert (found.sel(other="layer2", layer=["layer0", "layer1"]) == math.inf).all()
    assert np.isnan(found.sel(layer="layer0", other="layer0")).all()


def test_formula_comes_before_count():
    ds = costs([lambda n, d: n**2, lambda n, d: 200 * n])
    ds["flops_formula"] = ds.flops.copy()
    ds["flops_formula"][1] = 300 * ds.n * xr.ones_like(ds.d)
    found = crossovers(ds).crossover.sel(layer="layer0", other="layer1", quantity="flops")
    np.testing.assert_allclose(found, 300, rtol=1e-12)


def test_the_last_crossing_counts_and_equals_are_unknown():
    ds = xr.Dataset(
        {"flops": (("layer", "n"), [[2.0, 1, 1, 4], [1.0, 2, 2, 1], [1.0, 2, 2, 1]])},
        coords={"layer": ["a", "b", "c"], "n": N},
    )
    found = crossovers(ds).crossover.sel(quantity="flops")
    # from a half to four times: a third of the octave in logs
    np.testing.assert_allclose(found.sel(layer="a", other="b"), 400 * 2 ** (1 / 3), rtol=1e-12)
    assert found.sel(layer="b", other="a") == math.inf
    assert np.isnan(found.sel(layer="b", other="c"))


def test_interval_covers_the_crossover():
    n = np.geomspace(64, 4096, 13)
    sd, truth, trials = 0.1, 500.0, 400
    true = np.stack([n**2, truth * n])[:, :, None]
    noise = sd * np.random.default_rng(2).standard_normal((2, 13, trials))
    dims, half = ("layer", "n", "phase"), math.exp(1.3489795 / 2 * sd)
    measured = true * np.exp(noise)
    ds = xr.Dataset(
        {
            "flops": (dims[:2], true[:, :, 0]),
            "time": (dims, measured),
            "time_low": (dims, measured / half),
            "time_high": (dims, measured * half),
        },
        coords={"layer": ["a", "b"], "n": n},
    )
    found = crossovers(ds, resamples=200).sel(quantity="time", layer="a", other="b")
    low, high = found.crossover_low.values, found.crossover_high.values
    assert (low < high).all()
    # four standard errors of a share of 0.95
    assert abs(((low <= truth) & (truth <= high)).mean() - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_what_does_not_vary_has_no_interval():
    ds = costs([lambda n, d: n**2, lambda n, d: 300 * n], [lambda n, d: n**2, lambda n, d: 300 * n], 0.05)
    found = crossovers(ds).sel(layer="layer0", other="layer1", d=16).squeeze()
    assert np.isnan(found.crossover_low.sel(quantity="flops"))
    time = found.sel(quantity="time")
    assert 200 < time.crossover_low < 300 < time.crossover_high < 400
    assert crossovers(ds).identical(crossovers(ds))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: scaling(costs([lambda n, d: n], n=N[:1])), "^a fit needs at least two n, not 1$"),
        (lambda: crossovers(costs([lambda n, d: n], n=N[:1])), "^a crossover needs at least two n, not 1$"),
        (
            lambda: crossovers(costs([lambda n, d: n]), resamples=1),
            "resamples must be a whole number from 2 to 100,000, not 1",
        ),
        (lambda: scaling(xr.Dataset({"log_norm": ("lag", [0.0])})), "not a dataset of costs"),
    ],
)
def test_wrong_calls(call, match):
    with pytest.raises(BadInput, match=match):
        call()


def test_both_are_public():
    assert depprobe.scaling is scaling
    assert depprobe.crossovers is crossovers
