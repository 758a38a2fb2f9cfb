"""Forms of a decay curve: known forms are found, their slopes recovered, their zeros counted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from depprobe.curves.form import FORMS, fit
from depprobe.curves.noise import PHIS, RESOLUTION

L = np.arange(1, 200)
NONE = np.array([], np.int64)
SHAPES = {
    "exponential": (-0.5 * L, -0.5),
    "power law": (-1.5 * np.log(L), -1.5),
    "Gaussian": (-(L**2) / (2 * 30.0**2), -1 / 1800),
    "constant": (0.0 * L, 0.0),
}


def fit_one(log_rms, distance=L, empty=NONE, zero_share=None):
    log_rms = np.asarray(log_rms, float)
    share = np.isneginf(log_rms).astype(float) if zero_share is None else zero_share
    return fit(distance, log_rms[None], share[None], empty)


@pytest.mark.parametrize("offset", [0.0, -5000.0, 800.0])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("name", SHAPES)
def test_a_known_form_is_found(name, noise, offset):
    y, slope = SHAPES[name]
    found = fit_one(y + offset + noise * np.random.default_rng(0).normal(size=len(L)))
    assert FORMS[found.best[0]] == name
    # five standard errors of a least squares slope; rounding of the offset where there is no noise
    x = {"exponential": L, "power law": np.log(L), "Gaussian": L**2.0, "constant": L}[name]
    band = 5 * max(noise, 1e-11) / np.sqrt(((x - x.mean()) ** 2).sum())
    assert abs(found.slope[0, FORMS.index(name)] - slope) <= band


@pytest.mark.parametrize("inner", SHAPES)
def test_zeros_at_the_end_are_compact_support_whatever_the_shape_before(inner):
    y = np.where(L <= 120, SHAPES[inner][0], -np.inf)
    found = fit_one(y)
    assert FORMS[found.best[0]] == "compact support"
    assert found.slope[0, -1] == pytest.approx(SHAPES[inner][1], abs=1e-12)


def test_distances_known_by_their_number_count_like_zeros_in_the_curve():
    y, _ = SHAPES["exponential"]
    for zeros in (L > 120, (L > 120) | (L % 3 == 0)):
        whole = fit_one(np.where(zeros, -np.inf, y))
        split = fit_one(y[~zeros], L[~zeros], L[zeros])
        told = whole.contends[0] | np.isin(FORMS, list(SHAPES))
        np.testing.assert_allclose(split.bic[0, told], whole.bic[0, told], rtol=1e-9)
        np.testing.assert_allclose(split.bic, whole.bic, rtol=1e-3)


def test_holes_inside_the_support_are_not_an_end():
    y = np.where((L % 2 == 0) & (L < 199), -np.inf, SHAPES["power law"][0])
    assert FORMS[fit_one(y).best[0]] == "power law"


def test_bic_is_the_written_formula():
    rng = np.random.default_rng(3)
    y = -0.02 * L + rng.normal(size=len(L))
    y[[5, 6]] = -np.inf
    y[150:] = -np.inf
    y[10] = np.nan
    found = fit_one(y)
    seen = np.isfinite(y)
    m, zeros = (~np.isnan(y)).sum(), np.isneginf(y).sum()

    at = L[seen]
    contrasts = linalg.null_space(np.ones((1, len(at)))).T

    def log_likelihood(x):
        """Of contrasts, at the best correlation: a slope, a variance with its degrees of freedom."""
        found = []
        for phi in PHIS[:-1]:
            V = contrasts @ phi ** abs(np.subtract.outer(at, at)) @ contrasts.T / (1 - phi**2)
            root = np.linalg.cholesky(V)
            z, w = (linalg.solve_triangular(root, contrasts @ v[seen], lower=True) for v in (y, x))
            square = ((z - w * (z @ w) / (w @ w)) ** 2).sum()
            free = len(z)
            constant = free * (np.log(2 * np.pi * square / (free - 1)) + 1)
            # the level's own scale is that of a sum, not a mean, of the points
            found.append(-0.5 * (constant + 2 * np.log(np.diag(root)).sum() + np.log(len(at))))
        return max(found)

    hurdle = zeros * np.log(zeros / m) + (m - zeros) * np.log(1 - zeros / m)
    for name, x in {"exponential": L, "power law": np.log(L)}.items():
        expected = 4 * np.log(m) - 2 * (log_likelihood(1.0 * x) + hurdle)
        assert found.bic[0, FORMS.index(name)] == pytest.approx(expected, rel=1e-10)
    inside = (~np.isnan(y[:150])).sum()
    front = 2 * np.log(2 / inside) + (inside - 2) * np.log(1 - 2 / inside)
    expected = 5 * np.log(m) - 2 * (log_likelihood(1.0 * L) + front)
    assert found.bic[0, FORMS.index("compact support")] == pytest.approx(expected, rel=1e-10)
    assert FORMS[found.best[0]] == "compact support"


def test_growth_is_no_gaussian():
    found = fit_one(1e-4 * L**2.0)
    assert found.slope[0, FORMS.index("Gaussian")] == 0
    assert FORMS[found.best[0]] != "Gaussian"


def test_differences_below_the_resolution_are_constant():
    y = 1e-9 * np.random.default_rng(0).normal(size=len(L)) - 1e-10 * L
    assert np.abs(y).max() < RESOLUTION
    assert FORMS[fit_one(y).best[0]] == "constant"


def test_partial_zeros_cost_every_endless_form_the_same():
    y = SHAPES["exponential"][0] + np.random.default_rng(0).normal(size=len(L))
    with_zeros = fit_one(y, zero_share=np.full(len(L), 0.4))
    plain = fit_one(y)
    entropy = 0.4 * np.log(0.4) + 0.6 * np.log(0.6)
    np.testing.assert_allclose(with_zeros.bic - plain.bic, -2 * len(L) * entropy, rtol=1e-10)


@pytest.mark.parametrize(
    ("logs", "best"),
    [
        ([], -1),
        ([0.0], -1),
        ([0.0, -1.0], -1),
        ([np.nan] * 8, -1),
        ([0.0, -1.0, -2.0], FORMS.index("exponential")),
        ([0.0, -np.inf, -np.inf, -np.inf], FORMS.index("compact support")),
        ([-np.inf] * 8, FORMS.index("compact support")),
        ([-np.inf] * 7 + [0.0], -1),
    ],
)
def test_few_distances(logs, best):
    found = fit_one(logs, np.arange(1, len(logs) + 1))
    assert found.best[0] == best
    assert found.slope.shape == found.bic.shape == (1, len(FORMS))


def test_curves_are_fitted_each_on_its_own():
    rng = np.random.default_rng(4)
    curves = rng.normal(size=(6, len(L)))
    curves[rng.random(curves.shape) < 0.2] = -np.inf
    curves[rng.random(curves.shape) < 0.2] = np.nan
    curves[2, 60:] = -np.inf
    share = np.where(np.isneginf(curves), 1.0, 0.25)
    together = fit(L, curves, share, NONE)
    for i in range(len(curves)):
        alone = fit(L, curves[i : i + 1], share[i : i + 1], NONE)
        for name in set(alone._fields) - {"theta"}:
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name)[0], rtol=1e-6)
