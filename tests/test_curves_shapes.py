"""Forms with floors, two rates and stretches: known ones are found; correlated residuals; what is printed."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from curve_cases import dataset, last_row
from scipy import linalg

from depprobe.cli.output import with_interval
from depprobe.cli.summaries import summary_of
from depprobe.curves import distances
from depprobe.curves.form import ALIKE, FORMS, SMOOTH, fit
from depprobe.curves.noise import Whitening, slope_error
from depprobe.errors import BadInput

NONE = np.array([], np.int64)


def fit_one(distance, y):
    return fit(distance, y[None], np.zeros((1, len(y))), NONE)


def laws(L):
    return {
        "exponential with floor": np.log(0.97**L + 1e-3),
        "two-rate exponential": np.log(0.9 * 0.5**L + 0.1 * 0.99**L),
        "stretched exponential": -((L / 20.0) ** 0.5),
        "power law with floor": np.log(L**-2.0 + 1e-3),
        "Gaussian with floor": np.log(np.exp(-(L**2) / 800) + 1e-4),
        "stretched exponential with floor": np.log(np.exp(-((L / 3) ** 0.6)) + 1e-4),
        "two-rate exponential with floor": np.log(0.5**L + 0.01 * 0.95**L + 1e-5),
    }


@pytest.mark.parametrize("name", laws(np.arange(1, 2)))
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_known_form_is_found(name, noise):
    L = np.arange(1, 300)
    found = fit_one(L, laws(L)[name] + noise * np.random.default_rng(0).normal(size=len(L)))
    assert FORMS[found.best[0]] == name
    assert found.alike[0].sum() == 1 or noise
    assert not found.unfit[0]


@pytest.mark.parametrize("n", [300, 1000])
def test_a_floor_is_no_power_law(n):
    L = np.arange(n)
    found = distances(last_row(np.log(0.97**L + 1e-3)), resamples=2)
    assert found["best_form"] == "exponential with floor"
    assert found["slope"].sel(form="exponential with floor").item() == pytest.approx(np.log(0.97), rel=1e-6)
    small = distances(last_row(np.log(0.8**L + 1e-6)), resamples=2)
    assert small["best_form"] == "exponential with floor"


def test_derivatives_of_every_shape():
    rng, L = np.random.default_rng(1), np.arange(2, 40)
    for shape in SMOOTH.values():
        theta = rng.normal(-1, 0.3, (2, shape.size))
        _, tangents = shape(theta, L)
        for i in range(shape.size):
            step = 1e-6 * np.eye(shape.size)[i]
            numeric = (shape(theta + step, L)[0] - shape(theta - step, L)[0]) / 2e-6
            np.testing.assert_allclose(tangents[:, i], numeric, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("phi", [0.0, 0.4, 0.95])
def test_whitening_is_the_likelihood_of_contrasts(phi):
    """Against the written-out density of the contrasts of y, also where lags are missing."""
    rng = np.random.default_rng(2)
    L = np.array([1, 2, 3, 5, 6, 9, 10])
    seen = np.array([[True, True, True, True, False, True, True]])
    y = rng.normal(size=(1, len(L)))
    noise, at = Whitening(L, seen, phi), L[seen[0]]
    V = phi ** abs(np.subtract.outer(at, at)) / (1 - phi**2)
    A = linalg.null_space(np.ones((1, len(at)))).T
    z, S = A @ y[seen], A @ V @ A.T
    r = noise(np.where(seen, y, 0.0))
    square = z @ np.linalg.solve(S, z)
    assert (r**2).sum() == pytest.approx(square, rel=1e-9)
    variance = square / len(z)
    expected = len(z) * (np.log(2 * np.pi * variance) + 1) + np.linalg.slogdet(S)[1]
    # contrasts of another basis differ by a constant that no phi changes
    at_zero = np.linalg.slogdet(A @ A.T)[1] - Whitening(L, seen, 0.0).log_det[0]
    assert noise.criterion(np.array([square]), 0)[0] == pytest.approx(expected - at_zero, rel=1e-9)


def test_a_random_walk_is_the_limit():
    y = np.random.default_rng(3).normal(size=(1, 30)).cumsum(1)
    L, seen = np.arange(1, 31), np.ones((1, 30), bool)
    near, walk = (Whitening(L, seen, phi) for phi in (1 - 1e-9, 1.0))
    square = (walk(y) ** 2).sum(1)
    assert square == pytest.approx((np.diff(y[0]) ** 2).sum())
    assert (near(y) ** 2).sum() == pytest.approx(square[0], rel=1e-6)
    assert near.log_det == pytest.approx(walk.log_det, abs=1e-6)


def ar(rng, size, phi, sd=0.3):
    e = sd * rng.normal(size=size)
    u = e * np.sqrt(1 - phi**2)
    u[0] = e[0]
    for i in range(1, size):
        u[i] += phi * u[i - 1]
    return u


@pytest.mark.parametrize(("phi", "n", "least"), [(0.0, 50, 0.88), (0.9, 1000, 0.85)])
def test_an_interval_of_the_decay_rate_covers_the_truth(phi, n, least):
    """95 % nominal; 60 cases fall below these shares in fewer than 2 of 100 runs."""
    rng, L, hits = np.random.default_rng(4), np.arange(1, n), []
    for _ in range(60):
        y = -0.05 * L + ar(rng, n - 1, phi)
        slope, level = np.polyfit(L, y, 1)
        error = slope_error(L, slope, y - slope * L - level, L[None].astype(float))
        hits.append(error.low <= -0.05 <= error.high)
        assert error.lags >= 20
    assert np.mean(hits) >= least


def test_a_walk_has_no_interval_and_the_summary_says_so():
    rng = np.random.default_rng(5)
    found = distances(last_row(-0.05 * np.arange(300) + 0.3 * rng.normal(size=300).cumsum()), resamples=20)
    assert found["independent_lags"] < 20
    assert np.isnan([found["decay_rate_low"], found["decay_rate_high"]]).all()
    assert found["decay_rate_stderr"] > 0.01
    ds = last_row(-0.05 * np.arange(300) + 0.3 * rng.normal(size=300).cumsum())
    assert any("fewer than 20 lags are independent" in note for note in summary_of(ds).notes)


@pytest.fixture
def form_coverage(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "studies")
    return importlib.import_module("_form_coverage")


@pytest.mark.parametrize("form", ["constant", "exponential", "two-rate exponential", "Gaussian with floor"])
@pytest.mark.parametrize(("kind", "n", "least"), [("independent", 100, 0.75), ("AR(.9)", 50, 0.0)])
def test_the_right_form_is_named_or_among_those_named(form_coverage, form, kind, n, least):
    """Laws that simpler forms fit worse by 10 in BIC; nominal 90 % and 95 %, 20 curves."""
    right, among, alike = form_coverage.named(form, kind, n, 20)
    assert right >= least
    assert among >= 0.8
    assert alike < 6


def test_a_constant_under_a_walk_is_among_the_forms():
    rng, L = np.random.default_rng(6), np.arange(1, 200)
    y = 0.3 * rng.normal(size=(40, 199)).cumsum(1)
    found = fit(L, y, 0 * y, NONE)
    assert found.alike[:, FORMS.index("constant")].mean() >= 0.9


def test_what_no_form_describes():
    L = np.arange(300)
    ds = last_row(3 * np.sin(L / 20) + 0.05 * np.random.default_rng(7).normal(size=300))
    found = distances(ds, resamples=2)
    assert found["best_form"] == "none"
    assert np.isfinite(found["bic"]).any()
    said = summary_of(ds)
    assert any("no form fits" in note for note in said.notes)
    assert said.columns[0][said.headings.index("form")] == "no form fits"


def test_forms_that_are_not_told_apart_are_named():
    rng = np.random.default_rng(0)
    ds = last_row(-np.log(np.arange(1.0, 31)) + 0.8 * rng.normal(size=30))
    found = distances(ds, resamples=2)
    alike = found["form"].values[found["alike"].values == 1]
    bic = found["bic"].sel(form=alike)
    assert len(alike) > 1
    assert float(bic.max() - bic.min()) <= ALIKE
    best = found["best_form"].item()
    note = next(note for note in summary_of(ds).notes if "indistinguishable" in note)
    assert all(form in note for form in alike)
    assert f"{best} is indistinguishable from" in note


@pytest.mark.parametrize(("relative_to", "expected"), [("peak", 14), ("lag0", 10)])
def test_threshold_lag(relative_to, expected):
    by_lag = -np.arange(60.0)
    by_lag[0] = 0.0
    by_lag[1:] += 4.0
    found = distances(last_row(by_lag), threshold=1e-6, relative_to=relative_to, resamples=20)
    below = by_lag < np.log(1e-6) + (by_lag.max() if relative_to == "peak" else by_lag[0])
    first = max(np.flatnonzero(~below)) + 1
    assert found["threshold_lag"].item() == first
    assert found["threshold_lag_low"] <= first <= found["threshold_lag_high"]
    assert abs(first - expected) < 12


def test_threshold_lag_at_the_ends():
    assert distances(last_row(np.zeros(20)), resamples=2)["threshold_lag"] == np.inf
    cut = np.where(np.arange(20) < 5, 0.0, -np.inf)
    assert distances(last_row(cut), resamples=2)["threshold_lag"] == 5
    late = np.where(np.arange(20) == 12, 0.0, -50.0)
    assert distances(last_row(late), resamples=2)["threshold_lag"] == 13
    away = np.where(np.arange(20) == 0, -np.inf, 0.0)
    assert np.isnan(distances(last_row(away), resamples=2, relative_to="lag0")["threshold_lag"])


def test_a_threshold_of_the_lags_that_are_not_skipped():
    """A residual path 1000 times above the rest: without lag 0 the peak is that of the rest."""
    by_lag = np.r_[0.0, -7.0 - np.arange(40.0)]
    assert distances(last_row(by_lag), threshold=1e-2, resamples=2)["threshold_lag"] == 1
    assert distances(last_row(by_lag), threshold=1e-2, skip_lags=1, resamples=2)["threshold_lag"] == 6
    about_lag_0 = distances(last_row(by_lag), threshold=1e-4, relative_to="lag0", skip_lags=1, resamples=2)
    assert about_lag_0["threshold_lag"] == 4


def test_skipped_lags_and_sources():
    rng = np.random.default_rng(9)
    x = rng.normal(size=(8, 12)) - 0.2 * np.arange(12)[::-1]
    ds = dataset(x, np.arange(4, 12))
    squares = np.exp(2 * x)
    lag = np.arange(4, 12)[:, None] - np.arange(12)
    for options, kept in (
        ({"skip_lags": 1}, lag != 0),
        ({"skip_lags": 3}, abs(lag) >= 3),
        ({"skip_first": 2}, np.broadcast_to(np.arange(12) >= 2, lag.shape)),
        ({"skip_first": 1, "skip_lags": 1}, (lag != 0) & (np.arange(12) >= 1)),
    ):
        left = np.where(kept, squares, 0)
        mean = (left * abs(lag)).sum(1) / left.sum(1)
        found = distances(ds, resamples=2, **options)
        assert found["mean_distance"].item() == pytest.approx(mean.mean(), rel=1e-12)


def test_pooling():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(5, 1, 40)) - 0.3 * np.arange(40)[::-1]
    ds = dataset(x, [39], "seed")
    by_lag, L = x[:, 0, ::-1], np.arange(1, 40)
    for pooling, pooled in (("median", np.median(by_lag, 0)), ("geometric", by_lag.mean(0))):
        found = distances(ds, pooling=pooling, resamples=4)
        assert found["decay_rate"].item() == pytest.approx(np.polyfit(L, pooled[1:], 1)[0], rel=1e-10)


def test_normalised_by_the_diagonal():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(6, 30)) + np.arange(6)[:, None]
    position = np.arange(24, 30)
    diagonal = x[np.arange(6), position][:, None]
    a = distances(dataset(x, position), normalise="diagonal", resamples=2)
    b = distances(dataset(x - diagonal, position), resamples=2)
    assert a["decay_rate"].item() == pytest.approx(b["decay_rate"].item(), rel=1e-12)
    assert a["threshold_lag"].item() == b["threshold_lag"].item()
    assert a["mean_distance"].item() == pytest.approx(b["mean_distance"].item(), rel=1e-12)


def test_a_residual_path_and_a_first_token_are_said():
    t, k = np.mgrid[:40, :40]
    causal = np.where(k <= t, -5.0, -np.inf)
    residual = np.where(k == t, 0.0, causal)
    (note,) = [note for note in summary_of(dataset(residual)).notes if "residual path" in note]
    assert "--skip-lags 1" in note
    assert not [n for n in summary_of(dataset(residual), skip_lags=1).notes if "residual path" in n]
    sink = np.where((k == 0) & (t > 0), 0.0, causal)
    assert any("first token" in note for note in summary_of(dataset(sink)).notes)
    fast = dataset(np.where(k <= t, -2.0 * (t - k), -np.inf))
    assert not [n for n in summary_of(fast).notes if "residual path" in n or "first token" in n]


def test_no_interval_passes_zero():
    """A residual Transformer: lag 0 near 1, the rest far below and uneven."""
    rng = np.random.default_rng(12)
    x = np.full((1, 1, 300), -6.0) + 2 * rng.normal(size=(4, 1, 300))
    x[:, 0, -1] = 0.0
    found = distances(dataset(x, [299], "sample"))
    for name in ("mean_distance", "effective_range", "receptive_field", "threshold_lag"):
        assert 0 <= found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert found["effective_range_high"] <= 299
    assert with_interval(0.0, 0.0, 78.0) == "0 [0, 78]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold must lie between 0 and 1.*got 0"),
        ({"threshold": "x"}, "threshold must lie between 0 and 1.*got 'x'"),
        ({"relative_to": "lag1"}, "unknown relative_to 'lag1'"),
        ({"pooling": "mean"}, "unknown pooling 'mean'"),
        ({"normalise": "row"}, "unknown normalise 'row'"),
        ({"skip_lags": -1}, "skip_lags must be at least 0; got -1"),
        ({"skip_first": 1.5}, "skip_first must be a number of sources.*got 1.5"),
        ({"resamples": "many"}, "resamples must be at least 2; got 'many'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(BadInput, match=message):
        distances(last_row(np.zeros(5)), **options)
