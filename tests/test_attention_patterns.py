"""Sparse attention: each pattern against its definition, the banded form, and memory that stays linear."""

import math

import numpy as np
import pytest
import torch

from depprobe.core.memory import StorageTracker
from depprobe.errors import BadInput
from depprobe.layers.sparse_attention import Blocks, PowersOfTwo, SparseAttention, Window
from depprobe.operators import temporal_jacobian


def noise(n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def window(t, n, width, causal):
    if causal:
        return {k for k in range(n) if t - width < k <= t}
    return set(sorted(range(-n, 2 * n), key=lambda k: (abs(t - k), k))[:width]) & set(range(n))


def dilated(t, n, causal):
    offsets = [0] + [2**i for i in range(n) if 2**i < n]
    return {t - o for o in offsets if t - o >= 0} | {t + o for o in offsets if not causal and t + o < n}


def blocks(t, n, size, causal):
    own = {k for k in range(n) if k // size == t // size and (k <= t or not causal)}
    lasts = {min(n, first + size) - 1 for first in range(0, n, size)}
    return own | {k for k in lasts if k // size != t // size and (k < t or not causal)}


CASES = [
    (Window(w, c), lambda t, n, w=w, c=c: window(t, n, w, c)) for w in (1, 2, 5, 6) for c in (True, False)
]
CASES += [(PowersOfTwo(c), lambda t, n, c=c: dilated(t, n, c)) for c in (True, False)]
CASES += [
    (Blocks(b, c), lambda t, n, b=b, c=c: blocks(t, n, b or math.ceil(math.sqrt(n)), c))
    for b in (None, 1, 2, 5)
    for c in (True, False)
]


@pytest.mark.parametrize("n", [7, 9, 16, 17, 33])
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case[0]))
def test_support_is_the_definition(case, n):
    pattern, definition = case
    module = SparseAttention(8, pattern, 2).double()
    norms = temporal_jacobian(module, noise(n, 8)).log_norms(range(n), range(n)).values
    moved = module(noise(n, 8)).detach()
    for t in range(n):
        assert set(np.flatnonzero(~np.isneginf(norms[t]))) == definition(t, n)
    for k in range(n):  # and of the forward pass
        x = noise(n, 8)
        x[k] += 1
        changed = set((module(x) != moved).any(1).nonzero().flatten().tolist())
        assert changed == {t for t in range(n) if k in definition(t, n)}


@pytest.mark.parametrize("pattern", [Window(4), Window(5, True), PowersOfTwo(), PowersOfTwo(True)])
def test_many_targets_come_by_lag(pattern):
    n, targets = 23, [22, 0, 3, 11]
    J = temporal_jacobian(SparseAttention(8, pattern, 2).double(), noise(n, 8))
    full, band = J.log_norms(targets, range(n)).values, J.log_norms(targets)
    assert band.lags is not None
    assert list(band.lags) == pattern.lags(n)
    for row, t in enumerate(targets):
        sources = t - band.lags
        inside = (sources >= 0) & (sources < n)
        assert np.isnan(band.values[row, ~inside]).all()
        np.testing.assert_allclose(band.values[row, inside], full[row, sources[inside]], atol=1e-12)
        rest = np.setdiff1d(np.arange(n), sources[inside])
        assert np.isneginf(full[row, rest]).all()


@pytest.mark.parametrize("pattern", [Window(8), PowersOfTwo(), Blocks()])
def test_no_array_of_n_by_n(pattern):
    n, d = 4096, 8
    module, x = SparseAttention(d, pattern, 2).double(), noise(n, d)
    with StorageTracker() as tracker:
        module(x.requires_grad_()).sum().backward()
    assert tracker.peak < 4 * n * n  # bytes: half of one float64 array
    x = x.detach()
    targets = range(0, n, 64)
    with StorageTracker() as tracker:
        temporal_jacobian(module, x).log_norms(targets)
    assert tracker.peak < 4 * n * n


def test_patterns_larger_than_the_sequence():
    with pytest.raises(BadInput, match="window = 12 is larger than n = 11; use a window of 1 to 11"):
        SparseAttention(8, Window(12), 2)(torch.zeros(11, 8))
    with pytest.raises(BadInput, match="block = 12 is larger than n = 11"):
        SparseAttention(8, Blocks(12), 2)(torch.zeros(11, 8))
    with pytest.raises(BadInput, match="window = 12"):
        temporal_jacobian(SparseAttention(8, Window(12), 2), torch.zeros(11, 8))


@pytest.mark.parametrize("spec", ["sliding-window:window=0", "block-attention:block=-1"])
def test_patterns_of_nothing(spec):
    from depprobe.registry import Spec, layers

    parsed = Spec.parse(spec)
    with pytest.raises(BadInput, match="must be at least 1"):
        layers[parsed.name].build(8, **parsed.options())
