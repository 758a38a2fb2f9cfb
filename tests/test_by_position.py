"""Which glue acts by position, read off its nodes, against what cotangents of NaN show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F

from depprobe.core.by_position import axes_below, shape_of
from depprobe.operators import temporal_jacobian

N, D = 7, 4
W, V = torch.randn(D, 6), torch.randn(6, D)

#: what acts by position on x (1, n, d), time wherever it ends up
APART = {
    "linear": lambda x: F.linear(x, W.T, torch.ones(6)),
    "product": lambda x: x @ W @ V,
    "product from the left": lambda x: W.T @ x[0].T,
    "gated": lambda x: x.sigmoid() * F.silu(x) + x.tanh() / (1 + x.exp()),
    "norms": lambda x: F.layer_norm(x, (D,), torch.ones(D), torch.ones(D)) + F.rms_norm(x, (D,)),
    "by hand": lambda x: (x - x.mean(-1, keepdim=True)) * (x * x).mean(-1, keepdim=True).rsqrt(),
    "sum without its axis": lambda x: x.sum(-1)[..., None] * x + x.sum(0),
    "softmax over features": lambda x: (x @ W).softmax(-1).log_softmax(-1),
    "heads": lambda x: (x @ W).view(1, N, 2, 3).transpose(1, 2).reshape(2, N, 3),
    "split and joined": lambda x: torch.cat([part * 2 for part in (x @ W).split([2, 4], -1)], -1),
    "chunks, reversed": lambda x: torch.cat((x @ W).chunk(2, -1)[::-1], -1)[..., 1:5],
    "permuted": lambda x: x.permute(2, 0, 1).unsqueeze(0).squeeze(),
    "one feature": lambda x: x[..., 2] * x.select(-1, 1),
    "cast": lambda x: x.to(torch.float64).clone(),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x).clamp(-1, 1).masked_fill(x > 3, 0.0),
}
#: what mixes positions, or of which the nodes do not tell
MIXES = {
    "sum over time": lambda x: x + x.mean(1, keepdim=True),
    "softmax over time": lambda x: x.softmax(1),
    "cumulative sum": lambda x: x.cumsum(1),
    "flipped": lambda x: x.flip(1),
    "shifted": lambda x: torch.cat([x[:, 1:], x[:, :1]], 1),
    "its own weights": lambda x: x @ x.mT @ x,
    "time and features in one": lambda x: F.layer_norm(x, (N, D)),
    "reordered": lambda x: x.reshape(1, D, N).mT + x,
    "normalised over everything": lambda x: x / x.norm(),
    "the first position": lambda x: x + x[:, :1],
    "one position for all": lambda x: x[:, 2:3].expand(1, N, D),
}


def place(x):
    node, number = get_gradient_edge(x)[:2]
    return node, number


def heard(y, x):
    """For each axis of y of length N, which positions of x hear of each position there: (n, n) bool."""
    for axis in (i for i, size in enumerate(y.shape) if size == N):
        rows = []
        for t in range(N):
            v = torch.zeros_like(y)
            v.select(axis, t)[...] = torch.nan
            (found,) = torch.autograd.grad(y, x, v, retain_graph=True)
            rows.append(found[0].isnan().any(1))
        yield axis, torch.stack(rows).numpy()


@pytest.mark.parametrize("name", APART)
def test_what_acts_by_position_is_known_to(name):
    x = torch.randn(1, N, D, requires_grad=True)
    y = APART[name](x.clone())
    apart = 0
    for axis, positions in heard(y, x):
        found = axes_below(place(y), axis, [place(x)])
        if np.array_equal(positions, np.eye(N, dtype=bool)):
            assert found == {place(x): 1}
            apart += 1
    assert apart == 1


@pytest.mark.parametrize("name", MIXES)
def test_what_mixes_positions_is_not_said_to_keep_them_apart(name):
    x = torch.randn(1, N, D, requires_grad=True)
    y = MIXES[name](x.clone())
    for axis in (i for i, size in enumerate(y.shape) if size == N):
        assert axes_below(place(y), axis, [place(x)]) is None


def test_ends_on_different_axes_are_told_one_by_one():
    x, z = torch.randn(1, N, D, requires_grad=True), torch.randn(D, N, requires_grad=True)
    y = x * z.T
    assert axes_below(place(y), 1, [place(x), place(z)]) == {place(x): 1, place(z): 1}
    assert shape_of(place(y)) == y.shape


class Block(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal, self.attention = causal, nn.MultiheadAttention(D, 2, batch_first=True)

    def forward(self, x):
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if self.causal else None
        z = F.layer_norm(x, (D,))
        return x + self.attention(z, z, z, attn_mask=mask, need_weights=False)[0]


@pytest.mark.parametrize("causal", [False, True])
def test_support_passes_attention_and_recurrences(causal):
    parts = [Block(causal)] if not causal else [Block(True), nn.GRU(D, D, batch_first=True), Block(True)]
    module, x = nn.Sequential(*parts).double().eval(), torch.randn(N, D, dtype=torch.float64)
    for operator in (temporal_jacobian(module, x), temporal_jacobian(module, x, method="probes")):
        for t in (0, 3):
            known = operator._products.structure(t) if operator.method == "probes" else operator.support(t)
            assert known.tolist() == [k <= t or not causal for k in range(N)]
