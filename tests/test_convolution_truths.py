"""Convolutions and stacks against closed forms: receptive fields and expected profiles (V16, V18 to V20)."""

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.operators import temporal_jacobian
from depprobe.registry import Spec, layers


def _build(text, d, d_in=None, seed=0):
    torch.manual_seed(seed)
    spec = Spec.parse(text)
    return layers[spec.name].build(d, d_in=d_in or d, **spec.options()).double()


def _squared(module, n, t, d):
    """||J[t,k]||_F^2 over k, (n,)."""
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return np.exp(2 * temporal_jacobian(module, x).log_norms([t]).values[0])


def _moments(share):
    """Mean and variance of the position under the shares."""
    share, k = share / share.sum(), np.arange(len(share))
    mean = (share * k).sum()
    return mean, (share * (k - mean) ** 2).sum()


def _convolved(uniforms, n, centre):
    """Profile of a sum of independent uniform lags, given as lists of lags, around ``centre``: (n,)."""
    out = np.zeros(n)
    out[centre] = 1
    for lags in uniforms:
        out = sum(np.roll(out, lag) for lag in lags) / len(lags)
    return out


@pytest.mark.parametrize("kernel", [3, 5])
def test_plain_stacks_spread_like_sums_of_uniform_lags(kernel):
    """V18: iid weights, L layers: the expected squared profile is the L-fold convolution of uniform(k)."""
    depth, d, n, repeats = 4, 24, 41, 12
    profiles = np.array(
        [
            _squared(
                _build(
                    f"dilated-conv:depth={depth},kernel={kernel},base=1,causal=false,nonlinearity=none",
                    d,
                    seed=seed,
                ),
                n,
                n // 2,
                d,
            )
            for seed in range(repeats)
        ]
    )
    profiles /= profiles.sum(1, keepdims=True)
    reach = kernel // 2
    expected = _convolved([range(-reach, reach + 1)] * depth, n, n // 2)
    spread = profiles.std(0, ddof=1) / np.sqrt(repeats)
    inside = expected > 0
    assert (np.abs(profiles.mean(0) - expected)[inside] < 4.5 * spread[inside]).all()
    assert (profiles[:, ~inside] == 0).all()
    _, variance = _moments(profiles.mean(0))
    assert variance == pytest.approx(depth * (kernel**2 - 1) / 12, rel=0.03)


@pytest.mark.parametrize(("kernel", "depth"), [(2, 5), (3, 4)])
def test_dilations_that_double_reach_exponentially_far(kernel, depth):
    """V19: receptive field 1 + (k-1)(2^L - 1), and variance (k^2-1)/12 (4^L-1)/3 of the squared profile."""
    field = 1 + (kernel - 1) * (2**depth - 1)
    n, d = field + 7, 24
    profiles = [
        _squared(
            _build(f"dilated-conv:depth={depth},kernel={kernel},nonlinearity=none", d, seed=seed), n, n - 1, d
        )
        for seed in range(8)
    ]
    for profile in profiles:
        assert np.flatnonzero(profile).tolist() == list(range(n - field, n))
    _, variance = _moments(sum(p / p.sum() for p in profiles))
    assert variance == pytest.approx((kernel**2 - 1) / 12 * (4**depth - 1) / 3, rel=0.05)


def test_a_nonlinear_stack_has_the_same_receptive_field():
    module = _build("dilated-conv:depth=4,nonlinearity=tanh,residual=true", 5, d_in=3)
    x = torch.randn(47, 3).double()
    norms = temporal_jacobian(module, x).log_norms([45]).values[0]
    assert np.flatnonzero(np.isfinite(norms)).tolist() == list(range(45 - 30, 46))


@pytest.mark.parametrize(
    "shapes",
    [[(3, 1), (5, 1)], [(3, 2), (4, 1), (3, 3)], [(2, 2), (2, 2), (2, 2)], [(5, 3), (1, 2), (3, 1)]],
    ids=str,
)
def test_receptive_fields_of_strided_stacks(shapes):
    """V20: r = 1 + sum (k_l - 1) prod_{i<l} s_i, centred where the operator says the output sits."""
    stack = nn.Sequential(*(nn.Conv1d(2, 2, kernel, stride=stride) for kernel, stride in shapes)).double()
    field, step = 1, 1
    for kernel, stride in shapes:
        field, step = field + (kernel - 1) * step, step * stride
    n = field + 3 * step
    J = temporal_jacobian(stack, torch.randn(n, 2).double())
    for t in range(J.shape[0]):
        reads = np.flatnonzero(np.isfinite(J.log_norms([t]).values[0]))
        assert (reads[0], reads[-1]) == (step * t, step * t + field - 1)
        assert J.position[t] == (reads[0] + reads[-1]) / 2


@pytest.mark.parametrize(("window", "depth"), [(3, 2), (4, 3)])
def test_causal_stacks_of_uniform_kernels(window, depth):
    """V16: L uniform windows w: support L(w-1) + 1, mean lag L(w-1)/2, variance L(w^2-1)/12, power 1."""
    module = _build(f"dilated-conv:depth={depth},kernel={window},base=1,nonlinearity=none", 1)
    with torch.no_grad():
        for block in module:
            block.convolution.conv.weight.fill_(1 / window)
    share = np.sqrt(_squared(module, 31, 30, 1))
    assert np.count_nonzero(share) == depth * (window - 1) + 1
    mean, variance = _moments(share)
    assert 30 - mean == pytest.approx(depth * (window - 1) / 2, rel=1e-12)
    assert variance == pytest.approx(depth * (window**2 - 1) / 12, rel=1e-12)
