"""The Transformer by name: torch's own encoder layer with the same weights, and formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import depprobe
from depprobe.complexity import complexity
from depprobe.costs.flops import count_flops
from depprobe.errors import BadInput
from depprobe.registry import layers

F64 = torch.float64


def built(**options):
    return layers["transformer"].build(6, heads=2, **options).to(F64).eval()


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_torchs_encoder_with_the_norm_first(causal):
    ours = built(depth=2, mlp=10, causal=causal)
    x = torch.randn(1, 7, 6, dtype=F64)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=F64) if causal else None
    expected = x
    for block in ours[:-1]:
        theirs = nn.TransformerEncoderLayer(
            6, 2, 10, 0.0, F.gelu, batch_first=True, norm_first=True, dtype=F64
        )
        theirs.self_attn.load_state_dict(block.attention.weights.state_dict())
        for name, part in (
            ("norm1", block.before_attention),
            ("norm2", block.before_mlp),
            ("linear1", block.mlp[0]),
            ("linear2", block.mlp[2]),
        ):
            getattr(theirs, name).load_state_dict(part.state_dict())
        expected = theirs(expected, src_mask=mask)
    torch.testing.assert_close(ours(x), F.layer_norm(expected, (6,)), rtol=1e-12, atol=1e-12)


def test_without_the_stream_every_path_goes_through_every_layer():
    module, x = built(depth=1, mlp=5, residual=False), torch.randn(7, 6, dtype=F64)
    block = module[0]
    u = block.attention(F.layer_norm(x, (6,)))
    hidden = F.gelu(F.layer_norm(u, (6,)) @ block.mlp[0].weight.T + block.mlp[0].bias)
    expected = F.layer_norm(hidden @ block.mlp[2].weight.T + block.mlp[2].bias, (6,))
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


def test_formulas_count_what_is_counted():
    module = built(depth=3, mlp=11, causal=False)
    found = complexity(module, 9)
    assert found.total == count_flops(module, torch.randn(9, 6, dtype=F64))
    assert (found.sequential_steps, found.path_length, found.pairs) == (3, 3, 3 * 81)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("transformer:depth=0", "depth must be at least 1, not 0"),
        ("transformer:mlp=0", "mlp must be at least 1, not 0"),
        ("transformer:heads=5", "heads must divide d = 8"),
    ],
)
def test_bad_options(spec, fault):
    with pytest.raises(BadInput, match=fault):
        depprobe.jacobian(spec, n=9, d=8)
