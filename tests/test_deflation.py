"""Probes of which some are directions that blocks are large in: unbiased, closer, the error as stated."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.core.function import SequenceFunction
from depprobe.core.options import Options
from depprobe.errors import BadInput, OverBudget
from depprobe.operators.autograd.forward_products import forward_products
from depprobe.operators.autograd.probe_statistics import told_by, traces
from depprobe.operators.dispatch import temporal_jacobian

F64, N, WIDTH, TARGETS = torch.float64, 30, 12, [9, 29]


class Readout(nn.Module):
    """A recurrence whose far blocks are nearly of rank one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.out(self.lstm(x)[0]).sin()


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(3)
    module = Readout().to(F64)
    with torch.no_grad():
        for weight in module.lstm.parameters():
            weight.mul_(2)
    return module, torch.randn(N, WIDTH, dtype=F64)


@cache
def draws(case, deflate, seeds=60):
    module, x = case
    exact = temporal_jacobian(module, x, method="autograd").log_norms(TARGETS).values
    found = [
        temporal_jacobian(module, x, method="probes", probes=6, deflate=deflate, seed=seed).log_norms(TARGETS)
        for seed in range(seeds)
    ]
    return exact, found, np.isfinite(exact)


def test_estimates_are_unbiased_closer_and_covered_by_what_is_stated(case):
    exact, plain, live = draws(case, 0)
    _, found, _ = draws(case, 3)
    spread = []
    for each in (plain, found):
        ratio = np.exp(2 * np.array([one.values[live] - exact[live] for one in each]))
        mean = ratio.mean(1)
        assert abs(mean.mean() - 1) < 4 * mean.std() / np.sqrt(len(mean))
        spread.append(np.sqrt(((ratio - 1) ** 2).mean()))
    assert spread[1] < spread[0] / 3
    held = np.mean([((one.low <= exact) & (exact <= one.high))[live] for one in found])
    assert 0.92 < held < 0.98
    apart = np.array([one.values[live] - exact[live] for one in found])
    stated = np.array([one.stderr[live] for one in found])
    assert 0.8 < np.sqrt((stated**2).mean() / (apart**2).mean()) < 2
    assert all(np.isneginf(one.values[~live]).all() and (one.stderr[~live] == 0).all() for one in found)


def test_effective_ranks_are_those_of_whole_blocks(case):
    module, x = case
    s = temporal_jacobian(module, x, method="autograd").singular_values(29, 20).values.flatten().numpy()
    true = (s**2).sum() ** 2 / (s**4).sum()
    _, found, _ = draws(case, 3)
    assert abs(np.median([one.rank[1, 20] for one in found[:20]]) / true - 1) < 0.25


def test_traces_of_whole_blocks_are_unbiased_from_known_and_random_rows():
    draw = torch.Generator().manual_seed(0)
    d, q, m = 8, 2, 3
    block = (
        torch.randn(d, 5, generator=draw, dtype=F64) * torch.tensor([3.0, 2, 1, 1, 1, 0.5, 0.5, 0.5])[:, None]
    )
    gram, sums = block @ block.T, []
    for _ in range(4000):
        haar = torch.linalg.qr(torch.randn(d - q, m, generator=draw, dtype=F64))[0].T
        rows = (haar @ block[q:])[:, None]
        told = traces(rows, d - q, block[:q, None])
        size = float(block[:q].square().sum() + (d - q) / m * rows.square().sum())
        sums.append([float(told.all_squared[0]) * size**2, float(told.all_of_square[0]) * size**2])
    true = [float(gram.trace() ** 2), float(gram.square().sum())]
    np.testing.assert_allclose(np.mean(sums, 0), true, rtol=0.01)
    assert told_by(told, d, q).shape == (3, 1)


def test_forward_products_are_those_of_the_blocks(case):
    module, x = case
    tangents = torch.randn(3, N, WIDTH, dtype=F64, generator=torch.Generator().manual_seed(1))
    found = forward_products(SequenceFunction(module, x), tangents, 1 << 30)
    row = temporal_jacobian(module, x, method="autograd").row(29).values
    torch.testing.assert_close(found[:, 29], torch.einsum("ikj,rkj->ri", row, tangents))
    with pytest.raises(OverBudget, match="the recorded backward pass needs"):
        forward_products(SequenceFunction(module, x), tangents, 10_000)


def test_how_many_are_taken_exactly_is_recorded_and_said(case):
    module, x = case
    given = {"method": "probes", "targets": "random:8", "probes": 6}
    ds = depprobe.jacobian(module, x, deflate=3, **given)
    assert (ds.attrs["probes"], ds.attrs["deflated"]) == (6, 3)
    assert "deflated" not in depprobe.jacobian(module, x, **given).attrs
    both = depprobe.combine([ds, depprobe.jacobian(module, x, **given)], labels=["a", "b"])
    assert both["deflated"].values.tolist() == [3, 0]
    # with as many as outputs all norms are exact
    full = depprobe.jacobian(module, x, deflate=3, **given | {"probes": WIDTH})
    assert "deflated" not in full.attrs
    assert float(full["log_norm_stderr"].max()) == 0


def test_depths_and_the_fisher_norm_have_directions_of_their_own():
    torch.manual_seed(0)
    module, x = nn.Sequential(Readout(), Readout()).to(F64), torch.randn(12, WIDTH, dtype=F64)
    for given in ({"wrt": ["0", "1"]}, {"norm": "fisher", "of": "output"}):
        names = given.pop("wrt", ["x"])
        for name in names:
            wrt = {"wrt": name}
            exact = depprobe.jacobian(module, x, method="autograd", targets=[11], **given, **wrt)
            found = depprobe.jacobian(
                module, x, method="probes", targets=[11], probes=11, deflate=8, **given, **wrt
            )
            gap = (found["log_norm"] - exact["log_norm"]).values
            assert np.abs(gap[np.isfinite(gap)]).max() < 0.05
    every = depprobe.jacobian(module, x, method="probes", targets=[11], probes=11, deflate=8, wrt="*")
    alone = depprobe.jacobian(module, x, method="probes", targets=[11], probes=11, deflate=8, wrt="0")
    np.testing.assert_allclose(every["log_norm"].values[0], alone["log_norm"].values, atol=1e-12)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient


class NoSecond(nn.Module):
    def forward(self, x):
        return Once.apply(x.sin()).cumsum(-2) + x


def test_forward_products_through_a_function_without_second_derivative_take_rows():
    x = torch.randn(9, 3, dtype=F64)
    operator = temporal_jacobian(NoSecond(), x, method="autograd", layout="b n d")
    found = operator.jvp(x)
    torch.testing.assert_close(found, (2 * x * x.cos()).cumsum(0) + x)


def test_what_cannot_be_deflated_is_refused(case):
    x = case[1]
    for given, words in [
        ({"method": "autograd"}, "deflate=2 has no meaning with method 'autograd'; use method='probes'"),
        ({"probes": "10%"}, "deflate=2 needs a number of probes, not '10%'"),
        ({"probes": 2}, "deflate must be at least 0 and less than the number of probes, 2: 2"),
        ({"probes": 4, "deflate": -1}, "less than the number of probes, 4: -1"),
        ({"probes": 4, "deflate": 1.5}, "deflate must be a whole number, not 1.5"),
    ]:
        with pytest.raises(BadInput, match=words):
            Options(**{"method": "probes", "deflate": 2} | given)
    with pytest.raises(BadInput, match="needs second derivatives, and something in NoSecond has none"):
        depprobe.jacobian(NoSecond(), x, method="probes", probes=4, deflate=2, layout="b n d")
