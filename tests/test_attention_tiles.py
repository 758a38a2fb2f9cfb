"""Tiles of attention's norms: sums over pairs of heads by the reference and the kernel, what the host looks
at, and memory.
"""

import itertools

import numpy as np
import pytest
import torch
from conftest import tolerance
from torch.utils._python_dispatch import TorchDispatchMode

from depprobe.core.device import compiled
from depprobe.core.memory import StorageTracker
from depprobe.layers.attention import Attention
from depprobe.layers.sparse_attention import Blocks, PowersOfTwo, SparseAttention, Window
from depprobe.operators import temporal_jacobian
from depprobe.operators.attention import closed_form, head_pairs, operator

SHAPES = [(1, 1, 5, 7), (3, 2, 4, 1025), (2, 8, 37, 1500)]
LAYERS = {
    "full": lambda: Attention(16, 4),
    "causal": lambda: Attention(16, 4, causal=True),
    "window": lambda: SparseAttention(16, Window(9), 4),
    "blocks": lambda: SparseAttention(16, Blocks(), 4),
}


def factors(shape, dtype=torch.float64, device="cpu"):
    """Value, products of all pairs of heads, and weights."""
    T, H, c, m = shape
    parts = torch.randn(T, c, m), torch.randn(T, H, H, c, m), torch.rand(T, H, c, m)
    return [part.to(device, dtype) for part in parts]


def summed(X, b, first):
    """The sums, a pair of heads at a time."""
    pairs = itertools.product(range(X.shape[1]), range(X.shape[2]))
    return sum(X[:, g, h] * b[:, h] * b[:, first + g] for g, h in pairs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_reference_is_the_plain_sum(shape):
    value, X, b = factors(shape)
    expected = value + summed(X, b, 0)
    for first, part in enumerate(X.split((1, shape[1] - 1), 1)):
        head_pairs.add_pairs(value, part.clone(), b, first)
    torch.testing.assert_close(value, expected, rtol=tolerance(), atol=tolerance())


@pytest.mark.parametrize("name", LAYERS)
def test_norms_are_those_of_the_plain_sum(name, monkeypatch):
    module, x = LAYERS[name]().double(), torch.randn(40, 16, dtype=torch.float64)
    found = temporal_jacobian(module, x).log_norms(range(40))
    monkeypatch.setattr(closed_form, "add_pairs", lambda value, *rest: value.add_(summed(*rest)))
    expected = temporal_jacobian(module, x).log_norms(range(40))
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_is_its_reference(shape, dtype):
    assert compiled("depprobe.operators.attention.kernel", torch.device("cuda")) is not None
    expected, X, b = factors(shape, dtype)
    value = expected.cuda()
    for first, part in enumerate(X.split((1, shape[1] - 1), 1)):
        head_pairs.add_pairs(value, part.cuda().contiguous(), b.cuda(), first)
        head_pairs.add_pairs(expected, part, b, first)
    terms = shape[1] ** 2 * tolerance(dtype)
    torch.testing.assert_close(value.cpu(), expected, rtol=tolerance(dtype), atol=terms)


@pytest.mark.parametrize("e", [1, 7, 64])
def test_largest_eigenvalues_by_squaring(e):
    A = (
        torch.randn(5, e, e, dtype=torch.float64)
        * torch.logspace(-90, 90, 5, dtype=torch.float64)[:, None, None]
    )
    A[1] = 0
    A[2, :, 1:] = 0
    gram = A @ A.mT
    found = closed_form.by_squaring(gram.movedim(0, 2))
    torch.testing.assert_close(found, torch.linalg.eigvalsh(gram)[:, -1], rtol=1e-6, atol=1e-300)


class Looks(TorchDispatchMode):
    """Counts how often the host asks for a number or for the length of a result."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.count += name in ("_local_scalar_dense", "nonzero", "unique", "_unique2", "masked_select")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LAYERS)
def test_the_host_does_not_look_at_tiles(name, monkeypatch):
    module, x = LAYERS[name]().double(), torch.randn(40, 16, dtype=torch.float64)
    counts = []
    for pairs in (1 << 21, 400):
        monkeypatch.setattr("depprobe.operators.attention.operator._PAIRS", pairs)
        J = temporal_jacobian(module, x)
        with Looks() as looks:
            J.log_norms(range(40))
        counts.append(looks.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("heads", [1, 8])
@pytest.mark.parametrize("pattern", [None, Window(32), PowersOfTwo(), Blocks()], ids=str)
def test_norms_take_what_the_budget_was_asked_for(pattern, heads, monkeypatch):
    """Beside the results: what the constructor announces covers every tile."""
    n, announced = 1500, []
    monkeypatch.setattr(operator, "require", lambda needed, *rest: announced.append(needed))
    monkeypatch.setattr(operator, "_PAIRS", 1 << 18)
    module = Attention(64, heads) if pattern is None else SparseAttention(64, pattern, heads)
    x = torch.randn(n, 64)
    with StorageTracker([x]) as tracker:
        found = temporal_jacobian(module, x).log_norms(range(n))
    assert tracker.peak - found.values.nbytes - found.error.nbytes <= announced[0]
