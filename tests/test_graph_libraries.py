"""Models of other libraries, built small: blocks against plain autograd, and far lags."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import depprobe
from depprobe.vocabulary import STATUS

transformers = pytest.importorskip("transformers")
F64 = torch.float64


def gpt2(n):
    config = transformers.GPT2Config(
        n_layer=2, n_embd=12, n_head=2, n_positions=n, vocab_size=9, use_cache=False,
        initializer_range=0.3, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2Model(config)


def llama(n):
    config = transformers.LlamaConfig(
        num_hidden_layers=2, hidden_size=12, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=24, vocab_size=9, use_cache=False, initializer_range=0.3,
        max_position_embeddings=n, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.LlamaModel(config)


def x_transformer(n):
    decoder = pytest.importorskip("x_transformers").Decoder
    return decoder(dim=12, depth=2, heads=2, attn_dim_head=6, ff_mult=2, rotary_pos_emb=True)


def conformer_block(n):
    block = pytest.importorskip("conformer").ConformerBlock
    return block(dim=12, dim_head=6, heads=2, ff_mult=2, conv_kernel_size=5)


MODELS = {"GPT-2": gpt2, "Llama": llama, "x-transformers": x_transformer, "conformer": conformer_block}
#: those whose outputs ignore what follows
CAUSAL = ("GPT-2", "Llama", "x-transformers")


def made(name, n, dtype):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = MODELS[name](n).to(dtype).eval()
    x = torch.randn(n, 12, dtype=torch.float32).to(dtype)
    return module, ({"inputs_embeds": x} if name in ("GPT-2", "Llama") else x)


def truth(module, x, t):
    """Row t by one autograd.grad an output unit: (d_out, n, d)."""
    given = x["inputs_embeds"] if isinstance(x, dict) else x
    leaf = given.clone().requires_grad_()
    y = (
        module(inputs_embeds=leaf[None]).last_hidden_state[0]
        if isinstance(x, dict)
        else module(leaf[None])[0]
    )
    return torch.stack([torch.autograd.grad(unit, leaf, retain_graph=True)[0] for unit in y[t]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_those_of_plain_autograd(name, attention):
    module, x = made(name, 17, F64)
    if hasattr(module, "set_attn_implementation"):
        module.set_attn_implementation(attention)
    elif attention == "eager":
        pytest.skip("one implementation")
    J = depprobe.temporal_jacobian(module, x)
    # Llama's norms round to float32 inside
    close = 1e-6 if name == "Llama" else 1e-10
    for t in (0, 8, 16):
        expected = truth(module, x, t)
        sizes = expected.norm(dim=(0, 2))
        gap = (J.row(t).dense() - expected).norm(dim=(0, 2))
        assert (gap <= close * sizes).all()
        norms = J.log_norms([t])
        np.testing.assert_array_equal(norms.status[0] == STATUS["zero"], (sizes == 0).numpy())
        if name in CAUSAL:
            assert (norms.status[0, t + 1 :] == STATUS["zero"]).all()


@pytest.mark.parametrize(("dtype", "n"), [(torch.float32, 1000), (F64, 400)])
@pytest.mark.parametrize("name", MODELS)
def test_no_norm_is_unknown_at_many_positions(name, dtype, n):
    module, x = made(name, n, dtype)
    found = depprobe.temporal_jacobian(module, x).log_norms([n - 1])
    assert (found.status == STATUS["finite"]).all()
    sizes = truth(module, x, n - 1).norm(dim=(0, 2)).log().numpy()
    known = np.isfinite(sizes) & (sizes > -60)
    atol = 1e-9 if dtype == F64 and name != "Llama" else 1e-3
    np.testing.assert_allclose(found.values[0][known], sizes[known], atol=atol, rtol=0)
