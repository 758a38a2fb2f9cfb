"""What attention's Jacobian is known to be: closed forms, uniform weights, tiny weights, cancelling terms."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

from depprobe.layers.attention import Attention
from depprobe.layers.sparse_attention import SparseAttention, Window
from depprobe.operators import temporal_jacobian


def noise(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(module):
    """W_Q = 0 and identity values and output: equal weights on all keys seen."""
    d = module.weights.embed_dim
    with torch.no_grad():
        module.weights.in_proj_weight[:d] = 0
        module.weights.in_proj_weight[2 * d :] = torch.eye(d)
        module.weights.out_proj.weight.copy_(torch.eye(d))
    return module.double()


def test_closed_form_by_a_plain_loop():
    n, d, heads = 9, 6, 2
    e = d // heads
    torch.manual_seed(0)
    module, x = Attention(d, heads).double(), noise(n, d)
    W_Q, W_K, W_V = module.weights.in_proj_weight.detach().view(3, heads, e, d)
    W_O = module.weights.out_proj.weight.detach().view(d, heads, e)
    J = temporal_jacobian(module, x)
    for t in range(n):
        for k in range(n):
            expected = torch.zeros(d, d, dtype=torch.float64)
            for h in range(heads):
                q, keys, v = W_Q[h] @ x[t], x @ W_K[h].T, x @ W_V[h].T
                a = (keys @ q / math.sqrt(e)).softmax(0)
                o = a @ v
                block = a[k] * (W_V[h] + torch.outer(v[k] - o, W_K[h].T @ q / math.sqrt(e)))
                if t == k:
                    for j in range(n):
                        block += a[j] * torch.outer(v[j] - o, W_Q[h].T @ keys[j] / math.sqrt(e))
                expected += W_O[:, h] @ block
            torch.testing.assert_close(J.block(t, k).dense(), expected, rtol=1e-10, atol=1e-13)


def test_uniform_causal_attention_is_a_running_mean():
    n, d = 41, 4
    module = uniform(Attention(d, 2, causal=True))
    with torch.no_grad():
        module.weights.in_proj_weight[d : 2 * d] = 0
    J = temporal_jacobian(module, noise(n, d))
    norms = np.exp(J.log_norms(range(n)).values)
    for t in range(n):
        np.testing.assert_allclose(norms[t, : t + 1], 2 / (t + 1), rtol=1e-12)
        assert (norms[t, t + 1 :] == 0).all()
        share = norms[t] / norms[t].sum()
        assert share @ (t - np.arange(n)) == pytest.approx(t / 2)  # (t - 1) / 2 counting from 1


def test_two_uniform_layers_give_harmonic_numbers():
    n, d = 40, 4
    module = uniform(Attention(d, 2, causal=True))
    with torch.no_grad():
        module.weights.in_proj_weight[d : 2 * d] = 0
    x = noise(n, d)
    first, second = temporal_jacobian(module, x), temporal_jacobian(module, module(x).detach())
    total = sum(second.block(39, j).dense() @ first.block(j, 6).dense() for j in range(n))
    torch.testing.assert_close(
        total, 0.0457135759734094 * torch.eye(d, dtype=torch.float64), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize(("depth", "width"), [(1, 5), (3, 4), (4, 7)])
def test_uniform_windows_add_up_like_dice(depth, width):
    n, d = 61, 4
    module = uniform(SparseAttention(d, Window(width, causal=True), 2))
    with torch.no_grad():
        module.weights.in_proj_weight[d : 2 * d] = 0
    x, row = noise(n, d), torch.eye(n, dtype=torch.float64)[n - 1]
    weights = np.exp(temporal_jacobian(module, x).log_norms(range(n), range(n)).values) / 2
    for _ in range(depth):
        row = row @ torch.from_numpy(weights)
    share, lag = row.numpy(), n - 1 - np.arange(n)
    mean = share @ lag
    assert (share > 0).sum() == depth * (width - 1) + 1
    assert mean == pytest.approx(depth * (width - 1) / 2)
    assert share @ (lag - mean) ** 2 == pytest.approx(depth * (width**2 - 1) / 12)


def exact_log_norms(weights, x, seen):
    """ln norms of every block, in 600 digits, from the definition; ``seen(t, k)`` says which keys count."""
    n, d, heads = len(x), weights.embed_dim, weights.num_heads
    e = d // heads
    packed = weights.in_proj_weight.detach().view(3, heads, e, d).tolist()
    bias = weights.in_proj_bias
    bias = (torch.zeros(3 * d) if bias is None else bias.detach()).view(3, heads, e).tolist()
    W_O = weights.out_proj.weight.detach().view(d, heads, e).transpose(0, 1).tolist()
    out = np.full((n, n), -np.inf)
    with mpmath.workdps(600):
        X, ones, blocks = mpmath.matrix(x.tolist()), mpmath.ones(n, 1), {}
        for h in range(heads):
            W_Q, W_K, W_V = (mpmath.matrix(packed[i][h]) for i in range(3))
            Q, K, V = (X * W.T + ones * mpmath.matrix(bias[i][h]).T for i, W in enumerate((W_Q, W_K, W_V)))
            for t in range(n):
                keys = [k for k in range(n) if seen(t, k)]
                a = {k: mpmath.exp((Q[t, :] * K[k, :].T)[0] / mpmath.sqrt(e)) for k in keys}
                total = sum(a.values())
                a = {k: v / total for k, v in a.items()}
                o = mpmath.zeros(1, e)
                for k in keys:
                    o += a[k] * V[k, :]
                for k in keys:
                    block = a[k] * (W_V + (V[k, :] - o).T * (Q[t, :] * W_K) / mpmath.sqrt(e))
                    if k == t:
                        for j in keys:
                            block += a[j] * (V[j, :] - o).T * (K[j, :] * W_Q) / mpmath.sqrt(e)
                    blocks[t, k] = blocks.get((t, k), mpmath.zeros(d)) + mpmath.matrix(W_O[h]) * block
        for (t, k), block in blocks.items():
            out[t, k] = float(mpmath.log(mpmath.mnorm(block, "f")))
    return out


@pytest.mark.parametrize("kind", ["dense", "window"])
def test_a_weight_of_1e_minus_400_is_not_a_zero(kind):
    n, d = 7, 2
    layer = Attention(d, 1, bias=False) if kind == "dense" else SparseAttention(d, Window(6), 1, bias=False)
    layer, x = layer.double(), noise(n, d)
    with torch.no_grad():
        layer.weights.in_proj_weight[: 2 * d] *= 80
    J = temporal_jacobian(layer, x)
    expected = exact_log_norms(layer.weights, x, lambda t, k: kind == "dense" or -2 <= t - k <= 3)
    assert (np.isfinite(expected) & (expected < -330 * math.log(10))).sum() > 3
    norms = J.log_norms(range(n), range(n)).values
    np.testing.assert_allclose(norms, expected, rtol=1e-12, atol=1e-9)
    for t, k in np.argwhere(np.isfinite(expected)):
        assert float(J.block(t, k).log_norm()) == pytest.approx(expected[t, k], rel=1e-12, abs=1e-9)


def test_norms_hold_where_the_terms_cancel():
    # values near one point far from the origin, and a head that undoes most of another
    n, d = 7, 8
    torch.manual_seed(4)
    module, x = nn.MultiheadAttention(d, 2, bias=True).double(), noise(n, d)
    with torch.no_grad():
        module.in_proj_bias.normal_(0, 100)
        W, b = module.in_proj_weight.view(3, 2, 4, d), module.in_proj_bias.view(3, 2, 4)
        W[:, 1], b[:, 1] = W[:, 0], b[:, 0]
        out = module.out_proj.weight.view(d, 2, 4)
        out[:, 1] = -out[:, 0] * (1 + 1e-5)
    norms = temporal_jacobian(module, x).log_norms(range(n)).values
    # the heads agree to five digits, so that is what round-off costs
    np.testing.assert_allclose(norms, exact_log_norms(module, x, lambda t, k: True), rtol=0, atol=1e-8)


@pytest.mark.parametrize("sharpness", [1, 6, 10])
def test_float32_makes_the_blocks_it_cannot_measure(sharpness):
    # sharp weights put o_t next to one v_k: without made blocks k = t comes out wrong by a factor of e
    module, x = Attention(32, 2).double(), noise(101, 32)
    with torch.no_grad():
        module.weights.in_proj_weight[:64] *= sharpness
    exact = temporal_jacobian(module, x).log_norms(range(101)).values
    found = temporal_jacobian(module.float(), x.float()).log_norms(range(101)).values
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-4)


def test_causal_layers_have_no_future():
    for module in (Attention(8, 2, causal=True), SparseAttention(8, Window(3, causal=True), 2)):
        norms = temporal_jacobian(module.double(), noise(9, 8)).log_norms(range(9), range(9)).values
        assert np.isneginf(norms[np.triu_indices(9, 1)]).all()
