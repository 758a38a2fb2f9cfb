"""Architectures of transformers, built small from their configurations: norms against plain autograd.

Attention by matrices (eager) and fused (sdpa); tokens in a dictionary; outputs by name.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

import depprobe
from depprobe.errors import BadInput
from depprobe.vocabulary import STATUS

transformers = pytest.importorskip("transformers")

N, VOCABULARY = 12, 61
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2}
HEADS = SIZES | {"num_attention_heads": 2}
#: what Llama and its relatives share
LLAMA = HEADS | {"intermediate_size": 24, "num_key_value_heads": 1, "max_position_embeddings": 64}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
EXPERTS = {"head_dim": 8, "num_experts_per_tok": 1}
NEXT = {f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")}
NEXT |= {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "num_experts": 2,
    "full_attention_interval": 2,
}
NEXT |= {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
MAMBA2 = {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8}
GRIFFIN = {"head_dim": 8, "lru_width": 16, "attention_window_size": 4, "num_hidden_layers": 3}
XLSTM = {"num_blocks": 2, "num_heads": 2, "chunk_size": 8, "max_inference_chunksize": 16}

#: name -> (configuration, its arguments, ways to attend); of the ways, the last is tried in every run
ARCHITECTURES = {
    "gpt2": ("GPT2Config", GPT2, ("eager", "sdpa")),
    "bert": ("BertConfig", HEADS | {"intermediate_size": 24}, ("eager", "sdpa")),
    "llama": ("LlamaConfig", LLAMA, ("eager", "sdpa")),
    "mistral": ("MistralConfig", LLAMA | {"sliding_window": 4}, ("eager", "sdpa")),
    "qwen3": ("Qwen3Config", LLAMA | {"head_dim": 8}, ("eager", "sdpa")),
    "gemma3": ("Gemma3TextConfig", LLAMA | {"head_dim": 8, "sliding_window": 4}, ("eager", "sdpa")),
    "t5 encoder": ("T5Config", T5, ("eager", "sdpa")),
    "mamba": ("MambaConfig", SIZES | {"state_size": 4}, ("eager",)),
    "mamba2": ("Mamba2Config", SIZES | MAMBA2, ("eager",)),
    "rwkv": ("RwkvConfig", SIZES | {"attention_hidden_size": 16, "context_length": 64}, ("eager",)),
    "recurrent gemma": ("RecurrentGemmaConfig", LLAMA | GRIFFIN, ("eager", "sdpa")),
    "xlstm": ("xLSTMConfig", SIZES | XLSTM, ("eager",)),
    "qwen3-next": ("Qwen3NextConfig", LLAMA | EXPERTS | NEXT, ("eager", "sdpa")),
    "gpt-oss": ("GptOssConfig", LLAMA | EXPERTS | {"num_local_experts": 2, "sliding_window": 4}, ("eager",)),
}
LONG = ("recurrent gemma", "xlstm", "qwen3-next")
WITH_EXPERTS = ("qwen3-next", "gpt-oss")
#: their own float32 normalisations inside float64 models
OWN_FLOAT32 = 2e-5


def cases():
    for name, (_, _, ways) in ARCHITECTURES.items():
        for way in ways:
            every_run = way == ways[-1] and name not in LONG
            why = "takes seconds: set DEPPROBE_SLOW=1"
            slow = pytest.mark.skipif(not every_run and "DEPPROBE_SLOW" not in os.environ, reason=why)
            yield pytest.param(name, way, id=f"{name}-{way}", marks=slow)


def model_of(name, way):
    kind, sizes, _ = ARCHITECTURES[name]
    if not hasattr(transformers, kind):
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    config = getattr(transformers, kind)(**sizes)
    config.use_cache = False
    how = {"attn_implementation": way}
    if name in WITH_EXPERTS:
        # its fused product of experts knows no float64
        how["experts_implementation"] = "eager"
    torch.manual_seed(0)
    auto = transformers.AutoModel
    if name == "t5 encoder":
        how, auto = {"attn_implementation": way}, transformers.T5EncoderModel
        return auto._from_config(config, **how).eval().double()
    return auto.from_config(config, **how).eval().double()


def plain(model, given, t):
    """Norms (n,) of the row at t, in what the embedding of the ids gives, one backward pass a unit."""
    found = []

    def replaced(module, arguments, result):
        found.append(result.detach().clone().requires_grad_())
        return found[-1].clone()

    tied = model.get_input_embeddings().weight
    readers = [m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.weight is tied]
    hooks = [module.register_forward_hook(replaced) for module in readers]
    y = model(**given).last_hidden_state[0, t]
    for hook in hooks:
        hook.remove()
    (leaf,) = found
    rows = [torch.autograd.grad(one, leaf, retain_graph=True)[0][0] for one in y]
    return torch.stack(rows).square().sum((0, 2)).sqrt()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "way"), list(cases()))
def test_norms_are_those_of_plain_autograd(name, way):
    model = model_of(name, way)
    ids = torch.randint(0, VOCABULARY, (1, N), generator=torch.Generator().manual_seed(1))
    given = {"input_ids": ids}
    if name not in ("rwkv", "xlstm"):
        given["attention_mask"] = torch.ones_like(ids)
    ds = depprobe.jacobian(model, given, targets=[4, N - 1])
    for t in (4, N - 1):
        norms, row = plain(model, given, t), ds.sel(target=t)
        known = (row.log_norm_status == STATUS["finite"]).values
        assert not (row.log_norm_status >= STATUS["underflow"]).any()
        np.testing.assert_allclose(
            row.log_norm[known], norms.log()[torch.from_numpy(known)], atol=OWN_FLOAT32
        )
        assert not norms[torch.from_numpy(~known)].any()
    causal = name not in ("bert", "t5 encoder")
    assert bool((ds.log_norm_status.sel(target=4)[5:] == STATUS["zero"]).all()) is causal
    if "sliding_window" in ARCHITECTURES[name][1] and name != "gpt-oss":
        # two layers with a window of 4
        assert bool((ds.log_norm_status.sel(target=N - 1)[: N - 7] == STATUS["zero"]).all())


TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
TINY |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}


def small(kind: str, positions: int, **sizes: int) -> torch.nn.Module:
    """A model of transformers with one block and so many positions."""
    config = getattr(transformers, f"{kind}Config")(**TINY, **sizes, max_position_embeddings=positions)
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}Model")(config).eval()


@pytest.mark.parametrize(
    ("kind", "rows", "sizes"),
    [
        ("GPT2", 12, {}),
        ("Bert", 12, {"intermediate_size": 8}),
        ("OPT", 12, {"ffn_dim": 8, "word_embed_proj_dim": 8}),
        ("Roberta", 14, {"intermediate_size": 8}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_more_ids_than_learned_positions_are_refused(kind: str, rows: int, sizes: dict[str, int]) -> None:
    """As many as the model runs on are measured, one more is not."""
    model, ids = small(kind, rows, **sizes), torch.arange(13) % 7 + 2
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        model(ids[None])
    assert depprobe.jacobian(model, ids[:12])["log_norm"].sizes["source"] == 12
    said = f"{type(model).__name__} has 12 learned positions and the input holds n = 13; use n <= 12"
    with pytest.raises(BadInput, match=f"^{said}$"):
        depprobe.jacobian(model, ids)


def test_more_ids_than_rotary_positions_are_measured_with_a_warning() -> None:
    model = small("Llama", 12, intermediate_size=8, num_key_value_heads=1)
    ids = torch.arange(13) % 7 + 2
    assert depprobe.jacobian(model, ids[:12])["log_norm"].notnull().all()
    with pytest.warns(UserWarning, match="configured for up to 12 positions and the input holds n = 13"):
        assert depprobe.jacobian(model, ids)["log_norm"].notnull().all()


@pytest.mark.filterwarnings("ignore")
def test_a_cache_that_is_written_in_place_is_named_with_the_way_out():
    config = transformers.RwkvConfig(**SIZES, attention_hidden_size=16, context_length=64)
    model = transformers.RwkvForCausalLM(config).eval()
    ids = torch.randint(0, VOCABULARY, (1, N), generator=torch.Generator().manual_seed(1))
    with pytest.raises(BadInput, match=r"its own forward writes into numbers .*use_cache=False"):
        depprobe.jacobian(model, {"input_ids": ids, "use_cache": True})
    assert np.isfinite(depprobe.jacobian(model, {"input_ids": ids, "use_cache": False}).log_norm).all()
