"""Attention inside a forward whose weights are sharp: far paths, differences that cancel, rows far apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from depprobe.layers.attention import Attention
from depprobe.layers.sparse_attention import SparseAttention, Window
from depprobe.operators import temporal_jacobian

N, D = 7, 4


class OfTorch(nn.Module):
    """The same attention by ``nn.MultiheadAttention``, which is cut out of the forward as a call."""

    def __init__(self, attention):
        super().__init__()
        self.weights, self.causal = attention.weights, attention.causal

    def forward(self, x):
        later = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool).triu(1) if self.causal else None
        return self.weights(x, x, x, attn_mask=later, need_weights=False)[0]


def sharp(kind, sharpness, seed):
    torch.manual_seed(seed)
    made = {
        "all": lambda: Attention(D, 2),
        "causal": lambda: Attention(D, 2, causal=True),
        "window": lambda: SparseAttention(D, Window(4), 2),
    }[kind]()
    with torch.no_grad():
        made.weights.in_proj_weight[: 2 * D] *= sharpness
    return made.double()


def product_of_blocks(lower, upper, x):
    """ln norms (n, n) of sum_j J2[t,j] J1[j,k], from the blocks of each layer, which have exponents."""
    J1, J2 = temporal_jacobian(lower, x), temporal_jacobian(upper, lower(x).detach())
    blocks = [[[J.block(t, k) for k in range(N)] for t in range(N)] for J in (J1, J2)]
    found = np.full((N, N), -np.inf)
    for t in range(N):
        for k in range(N):
            pairs = [(blocks[1][t][j], blocks[0][j][k]) for j in range(N)]
            pairs = [(a.values @ b.values, float(a.log_scale + b.log_scale)) for a, b in pairs]
            scales = [scale for values, scale in pairs if values.any()]
            if scales:
                total = sum(values * np.exp(scale - max(scales)) for values, scale in pairs if values.any())
                found[t, k] = np.log(np.linalg.norm(total)) + max(scales)
    return found


@pytest.mark.parametrize("cut", [nn.Identity, OfTorch])
@pytest.mark.parametrize("kind", ["all", "causal", "window"])
@pytest.mark.parametrize("sharpness", [1, 8, 60])
def test_two_layers_are_the_product_of_their_blocks(kind, sharpness, cut):
    lower, upper = (sharp(kind, sharpness, seed) for seed in (1, 2))
    x = torch.randn(N, D, dtype=torch.float64)
    expected = product_of_blocks(lower, upper, x)
    if cut is OfTorch and kind == "window":
        pytest.skip("torch has no such pattern")
    layers = (lower, upper) if cut is nn.Identity else (OfTorch(lower), OfTorch(upper))
    # all targets together: what one of them hears of must not set the exponents of another
    found = temporal_jacobian(nn.Sequential(*layers), x, layout="b n d").log_norms(range(N)).values
    assert (np.isnan(found) <= (expected < -700)).all()
    known = np.isfinite(found)
    assert known.sum() > N * N / 3
    assert np.isneginf(expected[np.isneginf(found)]).all()
    np.testing.assert_allclose(found[known], expected[known], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_block_through_the_query_does_not_cancel(dtype):
    attention = sharp("causal", 6, 3)
    x = torch.randn(N, D, dtype=torch.float64)
    expected = temporal_jacobian(attention, x).log_norms(range(N)).values
    found = temporal_jacobian(OfTorch(attention).to(dtype), x.to(dtype), layout="b n d").log_norms(range(N))
    assert min(np.diagonal(expected)) < -20
    seen = np.isfinite(expected)
    atol = 1e-4 if dtype == torch.float32 else 1e-10
    np.testing.assert_allclose(found.values[seen], expected[seen], rtol=0, atol=atol)
