"""Distances of norms from random probes: intervals that hold what exact norms at all targets would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import special

import depprobe
from depprobe.curves import distances
from depprobe.curves.align import by_layer
from depprobe.curves.pool import collect
from depprobe.curves.resampling.intervals import mirrored
from depprobe.curves.resampling.probes import drawn_probes, within_strata
from depprobe.operators.autograd.probe_statistics import orthonormal_rows, traces

N, RATE = 40, -0.15
#: of one probe of a block of rank one in many outputs: chi-squared with one degree of freedom
STDERR = 0.5 * special.polygamma(1, 0.5) ** 0.5


def dataset(log_norm, targets, **beside):
    variables = {"log_norm": log_norm, **beside}
    return xr.Dataset(
        {name: (("target", "source"), values) for name, values in variables.items()},
        {"target": targets, "position": ("target", targets.astype(float)), "source": np.arange(N)},
        {"n": N},
    )


def probed(seed, loading, targets=None):
    """One probe a target of norms that fall exactly exponentially."""
    rng = np.random.default_rng(seed)
    targets = np.arange(N) if targets is None else targets
    lag = targets[:, None] - np.arange(N)
    own, common = rng.standard_normal((len(targets), N)), rng.standard_normal((len(targets), 1))
    z = np.where(rng.random(own.shape) < loading, common, own)
    logs = np.where(lag >= 0, RATE * lag + np.log(np.abs(z)), -np.inf)
    stderr = np.where(lag >= 0, STDERR, 0.0)
    return dataset(logs, targets, log_norm_stderr=stderr, probe_loading=np.full(own.shape, float(loading)))


@pytest.mark.parametrize("loading", [0, 1])
def test_rate_and_mean_distance_are_unbiased_and_inside_their_intervals(loading):
    lag = np.arange(N)[:, None] - np.arange(N)
    true = distances(dataset(np.where(lag >= 0, RATE * lag, -np.inf), np.arange(N)), resamples=2)
    found = [distances(probed(seed, loading), resamples=30) for seed in range(16)]
    assert found[0].attrs["resampled"] == "probe, target"
    for name in ("decay_rate", "mean_distance"):
        values = np.array([float(one[name]) for one in found])
        assert abs(values.mean() - float(true[name])) < 3 * values.std() / np.sqrt(len(found)) + 1e-9, name
        # where all sources of a target share its error, shares have none
        near = 1e-12 * abs(float(true[name]))
        held = [one[f"{name}_low"] - near <= true[name] <= one[f"{name}_high"] + near for one in found]
        assert np.mean(held) >= 0.8, (name, held)


@pytest.mark.parametrize("targets", [[N - 1], [N - 3, N - 1], list(range(3, N, 4))])
def test_few_targets_have_intervals_too(targets):
    """Of rows all alike, so that one target stands for the others."""
    targets = np.array(targets)
    lag = targets[:, None] - np.arange(N)
    true = distances(dataset(np.where(lag >= 0, RATE * lag, -np.inf), targets), resamples=2)
    found = [distances(probed(seed, 0.0, targets), resamples=39) for seed in range(12)]
    held = [one["mean_distance_low"] <= true["mean_distance"] <= one["mean_distance_high"] for one in found]
    assert np.mean(held) >= 0.75, held


def test_the_log_of_one_probe_is_too_low_by_its_digamma():
    """E ln (chi-squared of one degree of freedom) = digamma(1/2) - ln(1/2)."""
    ((_, blocks),) = by_layer(probed(0, 0.0, np.array([N - 1])))
    sums = lambda given, starts: collect(given, 2, starts)  # noqa: E731
    free = drawn_probes(blocks, sums, "rms", 1000, np.random.default_rng(0))
    expected = -0.5 * (special.digamma(0.5) - np.log(0.5))
    assert expected == pytest.approx(0.6352, abs=1e-4)
    raised = free.pooled.log_rms[0] - blocks.values[:, 0, 0]
    assert raised == pytest.approx(expected, abs=0.2)
    assert raised.mean() == pytest.approx(expected, abs=0.02)


def test_weights_within_strata_have_the_variance_of_a_stratified_mean():
    values, share = np.random.default_rng(0).standard_normal(9), 0.25
    weights = within_strata(9, share, 40_000, np.random.default_rng(1))
    assert weights.sum(1) == pytest.approx(9)
    means = weights @ values / 9
    groups = [values[0:2], values[2:4], values[4:6], values[6:9]]
    expected = sum(len(g) * g.var(ddof=1) for g in groups) * (1 - share) / 81
    assert means.var() == pytest.approx(expected, rel=0.05)
    # few of very many: no weight is lost below the range of floats
    pairs = within_strata(8, 0.001, 4_000, np.random.default_rng(2)) @ values[:8] / 8
    assert pairs.var() == pytest.approx((np.diff(values[:8])[::2] ** 2).sum() / 64, rel=0.08)
    # all targets there are
    assert (within_strata(9, 1.0, 3, np.random.default_rng(1)) == 1).all()


def test_draws_are_mirrored_about_the_value():
    draws = np.array([1.0, 2.0, 4.0])
    assert mirrored(draws, 6.0, 2.0, whole=False).tolist() == [12.0, 6.0, 3.0]
    assert mirrored(-draws, -5.0, -2.0, whole=False).tolist() == [-6.0, -5.0, -3.0]
    # a whole number hides up to one more on either side
    assert mirrored(draws, 5.0, 2.0, whole=True).tolist() == [7.0, 4.0, 2.0]
    assert mirrored(np.full(4, 2.0), 5.0, 2.0, whole=True).tolist() == [5.0] * 4


def test_loadings_from_gram_matrices():
    """Blocks that share their output direction have errors in common; those of unlike directions none."""
    d, m = 12, 4
    rng = np.random.default_rng(0)
    alike = np.einsum("i,kj->kij", rng.standard_normal(d), rng.standard_normal((30, 3)))
    unlike = np.einsum("ki,kj->kij", rng.standard_normal((300, d)), rng.standard_normal((300, 3)))
    for blocks, expected in ((alike, 1.0), (unlike, 0.0)):
        v = orthonormal_rows([0], m, d)
        told = traces(torch.from_numpy(np.einsum("mi,kij->mkj", v, blocks)), d)
        assert told.effective_rank(d) == pytest.approx(1.0)
        assert told.loading(d) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("memory", ["4GiB", "1MiB"])
def test_auto_draws_no_probes_however_little_memory_there_is(monkeypatch, memory):
    def refused(*given):
        raise AssertionError("probes were drawn")

    monkeypatch.setattr("depprobe.operators.dispatch.ProbedJacobian", refused)
    module = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Flatten(2))
    try:
        ds = depprobe.jacobian(module, torch.randn(30, 4), targets="all", memory=memory)
    except depprobe.errors.BadInput:  # more than the budget
        assert memory == "1MiB"
    else:
        assert "log_norm_stderr" not in ds
        assert "probes" not in ds.attrs
    with pytest.raises(AssertionError, match="probes were drawn"):
        depprobe.jacobian(module, torch.randn(30, 4), method="probes")


def test_a_pilot_that_is_orthogonal_by_chance_does_not_make_other_norms_exact():
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[[0, 7, 8, 15]] = x[
        [0, 7, 8, 15]
    ].abs()  # all units open, at the targets whose ranks are looked at first
    open_units = (x > 0).sum(1).numpy()
    alive = open_units > 0
    inside = []
    for seed in range(20):
        given = {"method": "probes", "probes": 1, "targets": "all", "layout": "n d", "seed": seed}
        found = depprobe.dense(depprobe.jacobian(torch.nn.ReLU(), x, **given))
        low, high = (found[f"log_norm_{end}"].values.diagonal()[alive] for end in ("low", "high"))
        assert (high > low + 0.1).all()
        true = 0.5 * np.log(open_units[alive])
        inside.append((low <= true) & (true <= high))
    assert np.mean(inside) > 0.75  # where pilots were trusted 0.5


def test_blocks_that_are_all_orthogonal_are_known_exactly():
    given = {"method": "probes", "probes": 1, "targets": "all", "layout": "n d"}
    found = depprobe.dense(depprobe.jacobian(torch.nn.Identity(), torch.randn(16, 3), **given))
    spread = (found.log_norm_high - found.log_norm_low).values.diagonal()
    assert (spread < 1e-5).all()
