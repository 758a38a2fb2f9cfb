"""Distances: closed forms with known answers, freedom from scale, standard errors that hold."""

from __future__ import annotations

import numpy as np
import pytest
from curve_cases import band, dataset, last_row
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from depprobe.cli.summaries import summary_of
from depprobe.curves import FORMS, distances
from depprobe.curves.align import by_layer
from depprobe.curves.pool import collect, log_weighted, weigh
from depprobe.curves.resampling.intervals import drawn_residuals, drawn_units, spread_factor, target_runs
from depprobe.errors import BadInput

SCALARS = (
    "decay_rate",
    "half_life",
    "mean_distance",
    "effective_range",
    "receptive_field",
    "receptive_width",
)


def logs(weights):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(weights, float))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("ratio", [0.3, 0.9, 0.99])
def test_geometric_norms(ratio, power):
    n = 400
    found = distances(last_row(np.arange(n) * np.log(ratio)), power)
    r = ratio**power
    mean = r / (1 - r) - n * r**n / (1 - r**n)
    held = np.ceil(np.log(1 - 0.95 * (1 - r**n)) / np.log(r)) - 1
    assert found["mean_distance"].item() == pytest.approx(mean, rel=1e-12)
    assert found["effective_range"].item() == held
    assert found["decay_rate"].item() == pytest.approx(np.log(ratio), rel=1e-12)
    assert found["half_life"].item() == pytest.approx(np.log(0.5) / np.log(ratio), rel=1e-12)
    assert found["best_form"].item() == "exponential"
    assert found["receptive_field"].item() == n - 1
    assert found["receptive_width"].item() == n
    assert found.attrs["share_power"] == power


def test_far_below_floats():
    found = distances(last_row(-2.0 * np.arange(1000) - 5000))
    assert found["decay_rate"].item() == pytest.approx(-2, rel=1e-13)
    assert found["receptive_field"].item() == 999


def uniform_causal_attention(n):
    t, k = np.mgrid[1 : n + 1, 1 : n + 1]
    return dataset(logs(np.where(k <= t, 1 / t, 0)))


@pytest.mark.parametrize("t", [1, 2, 8, 20, 40, 41, 60, 80])
def test_v13_uniform_causal_attention(t):
    row = uniform_causal_attention(80).isel(target=[t - 1])
    found = distances(row, power=1)
    assert found["mean_distance"].item() == pytest.approx((t - 1) / 2, rel=1e-12)
    assert found["receptive_field"].item() == t - 1
    # t equal shares: the smallest number of them that makes 95 %
    assert found["effective_range"].item() == -(-19 * t // 20) - 1


def test_v13_every_target_weighs_alike():
    found = distances(uniform_causal_attention(41), power=1)
    assert found["mean_distance"].item() == pytest.approx(np.mean((np.arange(1, 42) - 1) / 2), rel=1e-12)


def test_constant_has_no_half_life():
    found = distances(last_row(np.full(60, -3.0)))
    assert found["best_form"].item() == "constant"
    assert np.isnan(found["half_life"])
    assert found["decay_rate"].item() == pytest.approx(0, abs=1e-13)


def test_noise_about_a_constant_has_no_half_life():
    rng = np.random.default_rng(3)
    found = [distances(last_row(rng.normal(size=60)), resamples=2) for _ in range(12)]
    level = [one for one in found if one["best_form"] == "constant"]
    assert any(one["decay_rate"] < 0 for one in level)
    assert all(np.isnan(one["half_life"]) for one in level)


def test_growth_has_no_half_life():
    found = distances(last_row(1.5 * np.arange(800)))
    assert found["best_form"].item() == "exponential"
    assert found["decay_rate"].item() == pytest.approx(1.5)
    assert np.isnan(found["half_life"])


def test_only_exponential_decay_has_a_half_life():
    lag = np.arange(60.0)
    for form, log in (("power law", -2 * np.log(np.maximum(lag, 1))), ("Gaussian", -0.01 * lag**2)):
        found = distances(last_row(log))
        assert found["best_form"].item() == form
        assert found["decay_rate"] < 0
        assert np.isnan(found["half_life"])
        assert np.isnan(found["half_life_stderr"])


def test_error_of_a_half_life_is_finite_where_some_draws_do_not_fall():
    """To first order it is that of the rate; a draw without a half-life must not take it away."""
    log = -0.03 * np.arange(80.0) + np.random.default_rng(2).normal(0, 0.2, 80).cumsum()
    found = distances(last_row(log))
    assert found["best_form"].item() == "exponential"
    assert -2 < found["decay_rate"] / found["decay_rate_stderr"] < 0
    expected = found["half_life"] * found["decay_rate_stderr"] / -found["decay_rate"]
    assert found["half_life_stderr"].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize(("depth", "window"), [(1, 4), (2, 5), (4, 3)])
def test_v16_stacked_uniform_windows(depth, window):
    n = 101
    t, k = np.mgrid[:n, :n]
    layer = np.where((k <= t) & (k > t - window), 1 / window, 0)
    row = dataset(logs(np.linalg.matrix_power(layer, depth))).isel(target=[n - 1])
    found = distances(row, power=1)
    reach = depth * (window - 1)
    assert found["receptive_field"].item() == reach
    assert found["receptive_width"].item() == reach + 1
    assert found["mean_distance"].item() == pytest.approx(reach / 2, rel=1e-12)
    assert found["best_form"].item() == "compact support"
    assert np.isnan(found["half_life"])


@pytest.mark.parametrize(("kernel", "depth"), [(2, 4), (3, 3)])
def test_v19_dilations_as_a_band(kernel, depth):
    profile = np.ones(1)
    for level in range(depth):
        taps = np.zeros((kernel - 1) * 2**level + 1)
        taps[:: 2**level] = 1 / kernel
        profile = np.convolve(profile, taps)
    n, lags = 64, np.arange(len(profile))
    t, k = np.mgrid[:n, :n]
    inside = (k <= t) & (k > t - len(profile))
    weights = np.where(inside, profile[np.where(inside, t - k, 0)], 0)
    ds = band(dataset(logs(weights)), lags).isel(target=[n - 1])
    found = distances(ds, power=1)
    assert found["receptive_width"].item() == 1 + (kernel - 1) * (2**depth - 1)
    assert found["mean_distance"].item() == pytest.approx((kernel - 1) * (2**depth - 1) / 2, rel=1e-12)


def test_gaussian_looking_both_ways():
    sd, n = 8.0, 301
    t, k = np.array([[n // 2]]), np.arange(n)[None]
    ds = dataset(-((t - k) ** 2) / (2 * sd**2), [n // 2])
    found = distances(ds, power=1)
    assert found["best_form"].item() == "Gaussian"
    assert found["slope"].sel(form="Gaussian").item() == pytest.approx(-1 / (2 * sd**2), rel=1e-10)
    # Euler-Maclaurin: the sum of L exp(-L^2 / 2 sd^2) is sd^2 - 1/12 up to terms of order 1 / sd^2
    mean = 2 * (sd**2 - 1 / 12) / (sd * np.sqrt(2 * np.pi))
    assert found["mean_distance"].item() == pytest.approx(mean, rel=1e-4)
    assert found["effective_range"].item() == pytest.approx(1.96 * sd, abs=1)
    assert found["receptive_width"].item() == n


def test_a_power_law_gives_its_exponent():
    found = distances(last_row(np.r_[0.0, -1.5 * np.log(np.arange(1, 500))]))
    assert found["best_form"].item() == "power law"
    assert found["slope"].sel(form="power law").item() == pytest.approx(-1.5, rel=1e-12)


def test_past_and_future_are_pooled_by_distance():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 9, 9)) - 0.2 * abs(np.subtract.outer(np.arange(9), np.arange(9)))
    x[:, 4, 7] = -np.inf
    x[:, 0, 3] = np.nan
    norms = np.exp(x)
    shares = norms / np.nansum(norms, axis=2, keepdims=True)
    lag = abs(np.subtract.outer(np.arange(9), np.arange(9)))
    found = distances(dataset(x, dims="sample"), power=1)
    assert found["mean_distance"].item() == pytest.approx(np.nansum(shares * lag) / 27, rel=1e-12)
    assert found["unknown"].item() == 3
    rms = [0.5 * np.log(np.nanmean(norms[:, lag == L] ** 2)) for L in range(1, 9)]
    assert found["decay_rate"].item() == pytest.approx(np.polyfit(np.arange(1, 9), rms, 1)[0], rel=1e-10)
    held = [np.nansum(shares[:, lag <= L]) / 27 for L in range(9)]
    assert found["effective_range"].item() == np.argmax(np.array(held) >= 0.95)


def test_future_of_a_causal_layer_is_not_counted_as_zeros():
    t, k = np.mgrid[:30, :30]
    causal = np.where(k <= t, -0.5 * (t - k), -np.inf)
    found = distances(dataset(causal))
    assert found["best_form"].item() == "exponential"
    assert found["decay_rate"].item() == pytest.approx(-0.5, rel=1e-12)
    mirrored = distances(dataset(causal.T))
    for name in SCALARS:
        assert mirrored[name].item() == pytest.approx(found[name].item(), rel=1e-12)


def test_targets_in_the_middle_see_no_end_in_the_future():
    t, k = np.mgrid[:40, :40]
    causal = dataset(np.where(k <= t, -0.5 * (t - k), -np.inf)).isel(target=slice(10, 13))
    assert distances(causal)["best_form"].item() == "exponential"


def test_zeros_of_either_side_count_where_a_layer_looks_both_ways():
    t, k = np.mgrid[:30, :30]
    lag = t - k
    x = np.where(lag >= -1, -0.1 * abs(lag), -np.inf)
    found = distances(dataset(x))
    rms = [0.5 * np.log(np.mean(np.exp(2 * x[abs(lag) == L]))) for L in range(1, 30)]
    assert found["decay_rate"].item() == pytest.approx(np.polyfit(np.arange(1, 30), rms, 1)[0], rel=1e-10)
    assert rms[1] - rms[0] == pytest.approx(-0.1 - np.log(2) / 2)


def test_what_reaches_nowhere():
    identity = distances(dataset(logs(np.eye(20))))
    assert [identity[name].item() for name in SCALARS[2:]] == [0, 0, 0, 1]
    assert identity["best_form"].item() == "compact support"
    assert np.isnan(identity["decay_rate"])
    assert np.isnan(identity["half_life"])
    for nothing, form, said in [
        (-np.inf, "zero", "zero everywhere"),
        (np.nan, "undetermined", "undetermined"),
    ]:
        for targets in (1, 20):
            ds = dataset(np.full((20, 20), nothing)).isel(target=slice(targets))
            found = distances(ds)
            assert all(np.isnan(found[name]) for name in SCALARS)
            assert found["best_form"].item() == form
            (row,) = summary_of(ds).columns
            assert said in row
    delayed = distances(dataset(logs(np.eye(20, k=-3))))
    assert [delayed[name].item() for name in SCALARS[2:]] == [3, 3, 3, 1]


def test_one_sided_reach_of_width():
    weights = np.zeros((20, 20))
    weights[np.arange(9, 20), np.arange(9, 20) - 9] = 1
    weights[np.arange(3, 20), np.arange(3, 20) - 3] = 1
    found = distances(dataset(logs(weights)))
    assert (found["receptive_field"].item(), found["receptive_width"].item()) == (9, 7)


@pytest.mark.parametrize("n", [2, 3])
def test_too_few_distances(n):
    found = distances(last_row(-np.arange(n)))
    assert found["best_form"].item() == "undetermined"
    assert np.isnan(found["decay_rate"])
    assert np.isnan(found["half_life"])
    assert np.isnan(found["decay_rate_stderr"])
    assert found["receptive_field"].item() == n - 1


def test_unknown_blocks_are_left_out_and_counted():
    known = -0.7 * np.arange(300)
    half = np.where(np.arange(300) < 200, known, np.nan)
    found = distances(last_row(half))
    assert found["unknown"].item() == 100
    assert found["best_form"].item() == "exponential"
    assert found["decay_rate"].item() == pytest.approx(-0.7, rel=1e-12)
    assert found["receptive_field"].item() == 199


def assert_same(a, b):
    assert a["best_form"].item() == b["best_form"].item()
    for name in a.data_vars:
        if name != "best_form":
            np.testing.assert_allclose(a[name], b[name], rtol=1e-7, atol=1e-9, err_msg=str(name))


@pytest.mark.parametrize("offset", [-5000.0, -1.0, 3000.0])
@pytest.mark.parametrize("power", [1, 2])
def test_free_of_scale(offset, power):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, 3, 40, 40)) - 0.3 * np.arange(40)[::-1]
    x[rng.random(x.shape) < 0.1] = -np.inf
    for ds in (dataset(x, dims="seed sample"), dataset(x[0, 0, -1:], [39])):
        assert_same(distances(ds + offset, power, 20), distances(ds, power, 20))


blocks = arrays(
    float, (2, 5, 11), elements=st.sampled_from([-np.inf, np.nan, -900.0, -40.0, -3.0, -1.0, 0.0, 2.0])
)


@settings(deadline=None, max_examples=30)
@given(blocks, st.sampled_from([-5000.0, -8.0, 600.0]))
def test_free_of_scale_whatever_the_blocks(x, offset):
    ds = dataset(x, np.arange(5) * 2.5, "sample")
    a, b = distances(ds, 1, 5), distances(ds + offset, 1, 5)
    for name in SCALARS:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-7, atol=1e-9)
    if np.isfinite(a["effective_range"]):
        assert 0 <= a["mean_distance"] <= a["receptive_field"] + 1e-9
        assert 0 <= a["effective_range"] <= a["receptive_field"]


def test_bit_for_bit_and_seeded():
    ds = dataset(np.random.default_rng(7).normal(size=(3, 30, 30)), dims="sample")
    assert distances(ds).identical(distances(ds))
    other = distances(ds, seed=1)
    assert other["mean_distance"].item() == distances(ds)["mean_distance"].item()
    assert other["mean_distance_stderr"].item() != distances(ds)["mean_distance_stderr"].item()


@pytest.mark.parametrize(
    ("shape", "dims", "resampled", "run"),
    [
        ((1, 30), "", "lag", 5),
        ((1, 1, 30), "sample", "lag", 5),
        ((30, 30), "", "target", 5),
        ((4, 1, 30), "sample", "sample", 1),
        ((4, 3, 1, 30), "seed sample", "seed, sample", 1),
        ((4, 9, 30), "seed", "target, seed", 3),
    ],
)
def test_what_was_drawn_again_is_stated(shape, dims, resampled, run):
    x = np.random.default_rng(8).normal(size=shape)
    ds = dataset(x, 29 - np.arange(shape[-2]), dims)
    found = distances(ds, resamples=10)
    assert (found.attrs["resampled"], found.attrs["resampled_run"]) == (resampled, run)
    assert (found.attrs["resamples"], found.attrs["resample_seed"]) == (10, 0)
    assert all(np.isfinite(found[f"{name}_stderr"]) for name in ("decay_rate", "mean_distance"))
    assert found["form_share"].sum().item() == pytest.approx(1)
    assert found["form"].values.tolist() == list(FORMS)


def test_error_of_a_mean_over_samples():
    rng = np.random.default_rng(9)
    rate = rng.uniform(0.05, 0.2, 40)
    ds = dataset(-rate[:, None, None] * np.arange(200)[::-1], [199], "sample")
    share = np.exp(-2 * rate[:, None] * np.arange(200))
    each = (share * np.arange(200)).sum(1) / share.sum(1)
    found = distances(ds, resamples=2000)
    assert found["mean_distance"].item() == pytest.approx(np.mean(each), rel=1e-12)
    assert found["mean_distance_stderr"].item() == pytest.approx(np.std(each, ddof=1) / np.sqrt(40), rel=0.06)


def test_error_of_two_seeds_is_not_too_small():
    ds = dataset(np.array([-0.5, -0.7])[:, None, None] * np.arange(50)[::-1], [49], "seed")
    each = [distances(ds.isel(seed=[i]), resamples=2)["mean_distance"].item() for i in range(2)]
    found = distances(ds, resamples=4000)
    assert found["mean_distance_stderr"].item() == pytest.approx(np.std(each, ddof=1) / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("kind", ["noise", "walk"])
def test_error_of_one_curve_covers_the_truth(kind):
    rng = np.random.default_rng(10)
    misses = []
    for _ in range(30):
        e = rng.normal(size=300)
        e = 0.3 * (np.cumsum(e) if kind == "walk" else e)
        found = distances(last_row(-0.5 * np.arange(300) + e), resamples=60)
        misses.append((found["decay_rate"].item() + 0.5) / found["decay_rate_stderr"].item())
    spread = np.std(misses)
    assert 0.7 < spread < 1.4


@pytest.mark.parametrize(("kind", "power"), [("noise", 1), ("noise", 2), ("walk", 2)])
def test_error_of_one_mean_distance(kind, power):
    rng = np.random.default_rng(14)
    means, errors = [], []
    for _ in range(40):
        e = rng.normal(size=100)
        e = 0.3 * (np.cumsum(e) if kind == "walk" else e)
        found = distances(last_row(-0.2 * np.arange(100) + e), power, resamples=40)
        means.append(found["mean_distance"].item())
        errors.append(found["mean_distance_stderr"].item())
    assert 0.6 < np.median(errors) / np.std(means) < 1.6


@pytest.mark.parametrize("power", [1, 2])
def test_moved_curves_have_moved_shares(power):
    rng = np.random.default_rng(15)
    y, change = rng.normal(size=30), rng.normal(scale=3, size=30)
    change[7] = 900

    def curve(log_norm):
        (_, found), *_ = by_layer(last_row(log_norm))
        return weigh(collect(found, power, np.array([0])), np.ones((1, 1)))

    moved, expected = curve(y).moved(change[None], power), curve(y + change)
    np.testing.assert_allclose(moved.share, expected.share, rtol=1e-9)
    np.testing.assert_allclose(moved.log_rms, expected.log_rms, rtol=1e-12)


def test_error_of_a_reach_comes_from_units_that_differ():
    x = np.full((2, 1, 30), -np.inf)
    x[0, 0, 20:], x[1, 0, 10:] = 0.0, 0.0
    found = distances(dataset(x, [29], "seed"), resamples=4000)
    assert found["receptive_field"].item() == 19
    # two draws of two: the shorter reach alone in one of four; and few units widen it by the root of 2
    expected = 10 * np.sqrt(3) / 4 * np.sqrt(2)
    for name in ("receptive_field", "receptive_width"):
        assert found[f"{name}_stderr"].item() == pytest.approx(expected, rel=0.05)


def test_share_of_draws_by_form():
    far = -0.5 * np.arange(60.0)
    near = np.where(np.arange(60) < 30, far, -np.inf)
    found = distances(dataset(np.array([near, far])[:, None, ::-1], [59], "seed"), resamples=4000)
    assert found["best_form"].item() == "exponential"
    assert found["form_share"].sel(form="compact support").item() == pytest.approx(0.25, abs=0.03)
    assert found["form_share"].sel(form="exponential").item() == pytest.approx(0.75, abs=0.03)


def test_residuals_are_described():
    e = np.random.default_rng(16).normal(size=3000)
    for i in range(1, 3000):
        e[i] += 0.8 * e[i - 1]
    found = distances(last_row(-0.5 * np.arange(3000) + e), resamples=2)
    assert found["residual_sd"].item() == pytest.approx(1 / 0.6, rel=0.1)
    assert found["residual_autocorrelation"].item() == pytest.approx(0.8, abs=0.04)


def test_neighbouring_targets_are_drawn_together():
    assert target_runs(20).tolist() == [0, 4, 8, 12, 16]
    rng = np.random.default_rng(11)
    own = np.repeat(rng.uniform(0.1, 0.4, 10), 10)
    x = -own[:, None] * np.arange(99, -1, -1)
    twins = distances(dataset(x, np.full(100, 99)), resamples=2000)
    each = [distances(dataset(x[[i]], [99]), resamples=2)["mean_distance"].item() for i in range(0, 100, 10)]
    # a hundred targets of which ten each are the same tell as much as ten
    expected = np.std(each, ddof=1) / np.sqrt(10)
    assert twins["mean_distance_stderr"].item() == pytest.approx(expected, rel=0.08)


def test_targets_of_one_input_tell_no_more_of_the_rate_than_one_curve():
    rng = np.random.default_rng(17)
    n, lag = 150, np.subtract.outer(np.arange(150), np.arange(150))
    rates, errors = [], []
    for _ in range(24):
        log_product = np.cumsum(-0.5 + 0.3 * rng.normal(size=n))
        x = np.where(lag >= 0, np.subtract.outer(log_product, log_product), -np.inf)
        found = distances(dataset(x), resamples=40)
        rates.append(found["decay_rate"].item())
        errors.append(found["decay_rate_stderr"].item())
    assert found.attrs["resampled_for_rates"] == "target or lag"
    assert 0.5 < np.median(errors) / np.std(rates) < 1.6


def test_crossed_draws_multiply():
    weights = drawn_units((3, 4), 500, np.random.default_rng(12)).reshape(500, 3, 4)
    np.testing.assert_array_equal(weights.sum((1, 2)), 12)
    np.testing.assert_array_equal(weights * 12, weights.sum(2)[:, :, None] * weights.sum(1)[:, None, :])
    assert spread_factor((1, 2, 16)) == pytest.approx(np.sqrt(2))


def test_drawn_residuals_keep_variance_and_persistence():
    rng = np.random.default_rng(13)
    e = rng.normal(size=2000)
    for i in range(1, 2000):
        e[i] += 0.6 * e[i - 1]
    drawn = drawn_residuals(e - e.mean(), 50, rng)
    assert drawn.shape == (50, 2000)
    assert drawn.std() == pytest.approx(e.std(), rel=0.1)
    assert np.mean(drawn[:, 1:] * drawn[:, :-1]) / drawn.var() == pytest.approx(0.6, abs=0.05)


def test_a_draw_without_the_largest_unit_does_not_underflow():
    logs_ = np.array([[0.0, -3.0], [-2000.0, -3000.0], [-2001.0, -np.inf]])
    weights = np.array([[1.0, 1, 1], [0, 1, 2], [0, 0, 3], [2, 0, 1]])
    with np.errstate(divide="ignore"):
        naive = [[np.logaddexp.reduce(np.log(w) + column) for column in logs_.T] for w in weights]
    np.testing.assert_allclose(log_weighted(weights, logs_), naive, rtol=1e-14)


def test_seeds_of_very_different_scale():
    by_lag = -3.0 * np.arange(300)[::-1]
    found = distances(dataset([[by_lag], [by_lag - 4000], [by_lag - 9000]], [299], "seed"))
    assert found["decay_rate"].item() == pytest.approx(-3, rel=1e-12)
    assert found["decay_rate_stderr"].item() < 1e-10
    assert found["mean_distance_stderr"].item() < 1e-10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 3}, "power must be 1 or 2.*got 3"),
        ({"power": 0}, "power must be 1 or 2.*got 0"),
        ({"resamples": 1}, "resamples must be at least 2; got 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(BadInput, match=message):
        distances(last_row(np.zeros(5)), **options)
