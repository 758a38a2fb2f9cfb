"""Decay curves and the dense form, against naive loops over blocks."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from curve_cases import band, dataset, last_row

from depprobe.curves import decay_curve, dense, distances
from depprobe.errors import BadInput
from depprobe.vocabulary import DIMENSIONS, VARIABLES

N = 23


def noisy(rng, shape, zeros=0.2, unknown=0.1):
    x = rng.normal(scale=2, size=shape)
    x[rng.random(shape) < zeros] = -np.inf
    x[rng.random(shape) < unknown] = np.nan
    return x


def naive(ds, lag):
    """Every norm at a lag, one by one, in plain numbers."""
    found = []
    for t, position in enumerate(ds["position"].values):
        for k in ds["source"].values:
            if np.floor(position + 0.5) - k == lag:
                found += list(ds["log_norm"].isel(target=t).sel(source=k).values.ravel())
    return np.exp(np.array(found))


@pytest.mark.parametrize("zeros", [0.2, 0.97])
@pytest.mark.parametrize("dims", ["", "sample", "seed sample"])
@pytest.mark.parametrize("stride", [1, 2.5])
def test_curve_is_numpy_on_the_pooled_norms(dims, stride, zeros):
    rng = np.random.default_rng(0)
    shape = {"": (), "sample": (3,), "seed sample": (2, 3)}[dims]
    targets = int(N / stride)
    ds = dataset(noisy(rng, (*shape, targets, N), zeros, zeros / 20), stride * np.arange(targets) + 0.5, dims)
    curve = decay_curve(ds)
    lags = np.unique(np.floor(ds["position"].values + 0.5)[:, None] - np.arange(N))
    np.testing.assert_array_equal(curve["lag"], lags)
    assert lags.min() < 0
    for lag in lags:
        here = curve.sel(lag=lag)
        norms = naive(ds, lag)
        known = norms[~np.isnan(norms)]
        assert here["count"] == len(known)
        assert here["zeros"] == (known == 0).sum()
        assert here["unknown"] == np.isnan(norms).sum()
        if len(known) == 0:
            assert np.isnan([here[name] for name in ("log_median", "log_low", "log_high", "log_rms")]).all()
            continue
        for name, q in {"log_median": 0.5, "log_low": 0.05, "log_high": 0.95}.items():
            np.testing.assert_allclose(np.exp(here[name]), np.quantile(known, q), rtol=1e-12)
        np.testing.assert_allclose(np.exp(here["log_rms"]), np.sqrt(np.mean(known**2)), rtol=1e-12)


@pytest.mark.parametrize(
    ("logs", "median"),
    [
        ([-np.inf, -np.inf, 0.0], -np.inf),
        ([-np.inf, 0.0], np.log(0.5)),
        ([-np.inf, -5000.0], -5000 + np.log(0.5)),
        ([-5000.0, -4000.0], -4000 + np.log(0.5)),
        ([np.nan, -np.inf, -2.0, -1.0], -2.0),
        ([-np.inf, -np.inf], -np.inf),
        ([np.nan, np.nan], np.nan),
    ],
)
def test_median_of_norms_with_exact_zeros(logs, median):
    ds = dataset(np.array(logs)[:, None, None], [0.0], "sample")
    np.testing.assert_allclose(decay_curve(ds)["log_median"].values, [median], rtol=1e-15)


def test_rms_counts_zeros_and_survives_any_exponent():
    logs = np.array([-np.inf, -5000.0, -5000.0, -np.inf])
    curve = decay_curve(dataset(logs[:, None, None], [0.0], "sample"))
    np.testing.assert_allclose(curve["log_rms"].values, [-5000 - np.log(2) / 2], rtol=1e-15)
    assert (curve["zeros"].item(), curve["count"].item()) == (2, 4)


def test_future_is_kept_unless_every_layer_is_zero_there():
    t, k = np.mgrid[:N, :N]
    causal = np.where(k <= t, 0.0, -np.inf)
    both = np.where(k == t + 2, -1.0, causal)
    assert decay_curve(dataset(causal))["lag"].values.min() == 0
    curve = decay_curve(dataset([causal, both], dims="layer"))
    assert curve["lag"].values.min() == 1 - N
    assert curve["log_rms"].sel(lag=-2).values.tolist() == [-np.inf, -1.0]
    assert curve["zeros"].sel(lag=-2).values.tolist() == [N - 2, 0]


def test_a_layer_in_company_is_the_layer_alone():
    rng = np.random.default_rng(1)
    x = noisy(rng, (2, 3, N, N))
    together = dataset(x, dims="layer sample").assign_coords(
        layer=["lstm", "gru"], method=("layer", ["a", "b"])
    )
    alone = dataset(x[1], dims="sample")
    for measure in (decay_curve, distances):
        second = measure(together).sel(layer="gru")
        assert second["method"] == "b"
        for name, values in measure(alone).items():
            np.testing.assert_array_equal(second[name], values, err_msg=name)


def test_layers_may_sit_at_different_positions():
    x = np.zeros((2, 3, 6))
    ds = dataset(x, dims="layer").drop_vars("position")
    ds = ds.assign_coords(position=(("layer", "target"), [[0.0, 1, 2], [1.0, 3, 5]]))
    curve = decay_curve(ds)
    assert curve["count"].sel(lag=5).values.tolist() == [0, 1]
    assert np.isnan(curve["log_rms"].sel(lag=5).values[0])
    assert distances(ds)["receptive_width"].values.tolist() == [8, 10]


def test_largest_error_bound_is_carried_by_lag():
    x = np.zeros((3, 3))
    error = np.arange(9.0).reshape(3, 3)
    curve = decay_curve(dataset(x, log_norm_error=error))
    np.testing.assert_array_equal(curve["log_norm_error"], [2, 5, 8, 7, 6])


def banded_case(stride=1.0, seed=2, lags=(-2, 0, 1, 5)):
    rng = np.random.default_rng(seed)
    targets = int(N / stride)
    position = stride * np.arange(targets) + (0.5 if stride != 1 else 0)
    lag = np.floor(position + 0.5)[:, None] - np.arange(N)
    x = np.where(np.isin(lag, lags), noisy(rng, (2, targets, N)), -np.inf)
    full = dataset(x, position, "sample")
    return full, band(full, lags)


@pytest.mark.parametrize("stride", [1, 2.5])
@pytest.mark.parametrize("lags", [(-2, 0, 1, 5), (0, 1, 2), (-3, -1)])
def test_both_stored_forms_give_the_same(stride, lags):
    full, banded = banded_case(stride, lags=lags)
    np.testing.assert_array_equal(dense(banded)["log_norm"], full["log_norm"])
    for measure in (decay_curve, distances):
        a, b = measure(full), measure(banded)
        assert list(a) == list(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_what_stands_outside_the_sequence_is_not_read():
    _, banded = banded_case()
    k = banded["position"] - banded["lag"]
    junk = banded.assign(log_norm=banded["log_norm"].where((k >= 0) & (k < N), 7.0))
    for measure in (decay_curve, distances, dense):
        assert measure(junk).identical(measure(banded))


def test_dense_keeps_labels_errors_and_what_is_dense():
    full, banded = banded_case()
    banded["log_norm_error"] = xr.full_like(banded["log_norm"], 0.25)
    out = dense(banded)
    assert out["log_norm"].dims == full["log_norm"].dims
    assert out.attrs == banded.attrs
    np.testing.assert_array_equal(out["position"], full["position"])
    lag = full["position"].values[:, None] - np.arange(N)
    np.testing.assert_array_equal(out["log_norm_error"][0], np.where(np.isin(lag, banded["lag"]), 0.25, 0))
    assert dense(full) is full


def test_order_of_dimensions_is_free():
    ds = dataset(noisy(np.random.default_rng(5), (2, 3, N, N)), dims="layer sample")
    turned = ds.transpose("source", "sample", "target", "layer")
    for measure in (decay_curve, distances):
        assert measure(turned).identical(measure(ds))
    full, banded = banded_case()
    turned = dense(banded.transpose("lag", "sample", "target"))
    np.testing.assert_array_equal(turned["log_norm"], full["log_norm"])


def test_dense_with_positions_by_layer():
    full, _ = banded_case()
    two = band(dataset(np.stack([full["log_norm"].values] * 2), dims="layer sample"), [-2, 0, 1, 5])
    two = two.assign_coords(layer=["a", "b"], method=("layer", ["x", "y"]))
    by_layer = two.drop_vars("position").assign_coords(
        position=(("layer", "target"), np.stack([full["position"].values] * 2))
    )
    out = dense(by_layer)
    np.testing.assert_array_equal(out["log_norm"], dense(two)["log_norm"])
    assert out["log_norm"].dims == ("layer", "sample", "target", "source")
    assert out["method"].values.tolist() == ["x", "y"]
    assert out.attrs == by_layer.attrs


@pytest.mark.parametrize("measure", [decay_curve, distances, dense])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda ds: ds.rename(log_norm="norm"), "no variable 'log_norm'; it holds norm"),
        (
            lambda ds: ds.mean("target", keep_attrs=True),
            r"dimensions \(source\); valid: \(target, source\) or \(target, lag\)",
        ),
        (lambda ds: ds.expand_dims("head"), r"dimensions \(head, target, source\); valid"),
        (lambda ds: ds.drop_vars("position"), "no coordinate 'position'"),
        (lambda ds: ds.isel(source=slice(0)), "log_norm is empty"),
        (lambda ds: ds + np.inf, "inf in 9 blocks"),
        (lambda ds: band(ds, [0, 1]).drop_attrs(), "needs the attribute 'n'"),
        (lambda ds: band(ds, [0, 1]).drop_vars("lag"), "the coordinate 'lag'"),
    ],
)
def test_bad_datasets_are_refused_in_one_line(measure, spoil, message):
    with pytest.raises(BadInput, match=message) as caught:
        measure(spoil(dataset(np.zeros((3, 3)))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("measure", [decay_curve, distances])
def test_every_variable_explains_itself(measure):
    found = measure(last_row(-np.arange(9.0)))
    for name, values in found.variables.items():
        assert values.attrs["long_name"], name
        assert values.attrs["units"], name
        assert {str(name), re.sub("_(stderr|low|high)$", "", str(name))} & {*DIMENSIONS, *VARIABLES}
    assert "known blocks" in found.attrs["title"]
    assert found.attrs["n"] == 9


@pytest.mark.parametrize("measure", [decay_curve, distances])
def test_results_fit_in_a_file(measure, tmp_path):
    from depprobe.store import load, save

    x = np.where(np.tri(9) > 0, 0.0, -np.inf)
    found = measure(dataset([x, x - 1], dims="layer").assign_coords(layer=["lstm", "gru:bias=false"]))
    path = tmp_path / "found.nc"
    save(found, path)
    back = load(path)
    for name, values in found.items():
        np.testing.assert_array_equal(back[name], values, err_msg=name)


def test_no_torch():
    code = "import sys, depprobe.curves; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
