"""Padded batches: left or right, lags count tokens, padding is marked and not measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.errors import BadInput
from depprobe.vocabulary import STATUS

D, PAD = 6, 0
TEXTS = [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8, 1, 8, 4]]
LONGEST = 9


class Model(nn.Module):
    """Masked causal attention on embeddings with the position among the tokens; pooled if asked to."""

    def __init__(self, pooled=False, leaks=False):
        super().__init__()
        self.embed, self.places = nn.Embedding(11, D), nn.Embedding(LONGEST, D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.pooled, self.leaks = pooled, leaks

    def forward(self, input_ids, attention_mask):
        place = (attention_mask.cumsum(1) - 1).clamp_min(0)
        x = self.embed(input_ids) + self.places(place)
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        n = x.shape[1]
        seen = torch.ones(n, n, dtype=torch.bool).tril() & attention_mask[:, None, :].bool()
        # a row that sees nothing would be NaN
        seen = seen | torch.eye(n, dtype=torch.bool)
        y = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])[:, 0])
        if self.leaks:
            y = y + x.mean(1, keepdim=True)
        if self.pooled:
            return (y * attention_mask[..., None]).sum(1)
        return y


def batch(side, texts=TEXTS):
    ids, mask = torch.zeros(len(texts), LONGEST, dtype=torch.long), torch.zeros(len(texts), LONGEST)
    for i, text in enumerate(texts):
        at = slice(0, len(text)) if side == "right" else slice(LONGEST - len(text), LONGEST)
        ids[i, at], mask[i, at] = torch.tensor(text), 1
    return {"input_ids": ids, "attention_mask": mask.long()}


def model(**kwargs):
    torch.manual_seed(0)
    return Model(**kwargs).double()


def truth(f, text):
    """Norms (n, n) of a text without padding, by plain autograd in the embedding's output."""
    ids, mask = torch.tensor([text]), torch.ones(1, len(text), dtype=torch.long)
    z = f.embed(ids).detach()

    def after(z):
        hook = f.embed.register_forward_hook(lambda m, a, y: z)
        y = f(ids, mask)[0]
        hook.remove()
        return y

    J = torch.autograd.functional.jacobian(after, z)[..., 0, :, :]
    return J.square().sum((-3, -1)).sqrt().log().numpy()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_norms_are_those_of_each_text_alone(side, method):
    f = model()
    ds = depprobe.jacobian(f, batch(side), targets="all", method=method)
    assert ds.tokens.values.tolist() == [len(text) for text in TEXTS]
    assert ds.padding == "read by no output"
    for i, text in enumerate(TEXTS):
        n = len(text)
        part = ds.isel(sample=i)
        np.testing.assert_allclose(part.log_norm[:n, :n], truth(f, text), rtol=1e-9)
        measured = (part.log_norm_status != STATUS["not_measured"]).values
        inside = np.arange(LONGEST) < n
        np.testing.assert_array_equal(measured, inside[:, None] & inside[None, :])
        assert part.log_norm.where(measured == 0).isnull().all()
    np.testing.assert_array_equal(ds.position, ds.target)
    depprobe.decay_curve(ds)


def test_left_and_right_are_alike_in_every_number_derived():
    f = model()
    left, right = (depprobe.jacobian(f, batch(side), targets="random:4") for side in ("left", "right"))
    np.testing.assert_array_equal(left.target, right.target)
    np.testing.assert_allclose(left.log_norm, right.log_norm, rtol=1e-9)
    curves = [depprobe.decay_curve(ds, skip_first=1) for ds in (left, right)]
    np.testing.assert_allclose(curves[0].log_rms, curves[1].log_rms, rtol=1e-9)
    np.testing.assert_array_equal(curves[0]["count"], curves[1]["count"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_target_is_the_last_token_of_each(side):
    f = model()
    ds = depprobe.jacobian(f, batch(side))
    assert ds.target.values.tolist() == [5, 8]
    for i, text in enumerate(TEXTS):
        row = ds.log_norm.isel(sample=i).sel(target=len(text) - 1)[: len(text)]
        np.testing.assert_allclose(row, truth(f, text)[-1], rtol=1e-9)
    one = depprobe.jacobian(f, batch(side, TEXTS[:1]))
    assert one.tokens.item() == 6
    assert one.target.values.tolist() == [5]


def test_a_pooled_output_sits_at_the_last_token():
    f = model(pooled=True)
    one = depprobe.jacobian(f, batch("left", TEXTS[:1]))
    assert one.position.values.tolist() == [5]
    np.testing.assert_allclose(one.log_norm[0, :6], truth(f, TEXTS[0]), rtol=1e-9)


def test_padding_that_is_read_is_said(run):
    ds = depprobe.jacobian(model(leaks=True), batch("left", TEXTS[:1]), targets="all")
    assert ds.padding == "18 blocks not proved zero"
    depprobe.save(ds, "padded.nc")
    code, out, _ = run("show", "padded.nc")
    assert code == 0
    assert "positions count real tokens; padding: 18 blocks not proved zero" in out


def test_a_mask_without_tokens_is_refused():
    given = batch("left", TEXTS[:1]) | {"attention_mask": torch.zeros(1, LONGEST, dtype=torch.long)}
    with pytest.raises(BadInput, match="attention_mask is 0 everywhere"):
        depprobe.jacobian(model(), given)


def test_tokens_of_a_padded_text_stand_first():
    class Tokenized(dict):
        def tokens(self, i):
            pairs = zip(self["input_ids"][i].tolist(), self["attention_mask"][i].tolist(), strict=True)
            return [f"{i}:{token}" if real else "[PAD]" for token, real in pairs]

    given = Tokenized(batch("left", TEXTS[:1]))
    ds = depprobe.jacobian(model(), given, targets="all")
    assert ds.source_token.values.tolist() == ["0:3", "0:1", "0:4", "0:1", "0:5", "0:9", "", "", ""]
    assert ds.target_token.values.tolist() == ["0:3", "0:1", "0:4", "0:1", "0:5", "0:9"]


class Blind(nn.Module):
    """Attention on all but the first positions, summed up."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, D) for _ in range(3))

    def forward(self, x):
        x = torch.where((torch.arange(x.shape[-2]) >= D)[:, None], x, 0.0)
        weights = (self.q(x) @ self.k(x).transpose(-1, -2)).softmax(-1)
        return (weights @ self.v(x) + x).cumsum(-2)


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_cells_that_are_zero_tell_nothing_of_the_rounding_of_others(method):
    torch.manual_seed(0)
    found = depprobe.jacobian(Blind(), torch.randn(30, D), targets=[D + 3, 29], method=method)
    first, last = found.log_norm_error.values
    # the first row, whose rounding is measured, is zero at lags that the last one reaches
    assert last[D:].min() > 0.5 * first[D:].min()
