"""Parts of forwards such as users combine: known modules, and glue of every kind.

A part is a maker (random, n, d) -> ``Part``, a function (b, n, d) -> (b, n', d').
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

F64 = torch.float64
Maker = Callable[[random.Random, int, int], "Part"]


class Part(nn.Module):
    """A function (b, n, d_in) -> (b, n', d), with the length n' and width d of what it puts out."""

    def __init__(self, f: Callable[[Tensor], Tensor], n: int, d: int, *held: nn.Module) -> None:
        super().__init__()
        self.f, self.n, self.d, self.held = f, n, d, nn.ModuleList(held)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def recurrent(kind: type[nn.RNNBase], **fixed: Any) -> Maker:
    def make(r: random.Random, n: int, d: int) -> Part:
        options = {"num_layers": r.choice((1, 1, 2)), "bidirectional": r.random() < 0.4} | fixed
        first = r.random() < 0.5
        rnn = kind(d, r.choice((2, 3, 4)), batch_first=first, bias=r.random() < 0.7, **options)
        width = rnn.hidden_size * (2 if rnn.bidirectional else 1)
        if first:
            return Part(lambda x: rnn(x)[0], n, width, rnn)
        return Part(lambda x: rnn(x.transpose(0, 1))[0].transpose(0, 1), n, width, rnn)

    return make


def handed_on(kind: type[nn.RNNBase]) -> Maker:
    """The last states of one recurrence start another, and may be read besides."""

    def make(r: random.Random, n: int, d: int) -> Part:
        options: dict[str, Any] = {"num_layers": r.choice((1, 2)), "bidirectional": r.random() < 0.3}
        e, backwards, read = r.choice((2, 3)), r.random() < 0.5, r.random() < 0.5
        first, second = (kind(d, e, batch_first=True, **options) for _ in range(2))

        def f(x: Tensor) -> Tensor:
            _, state = first(x.flip(1) if backwards else x[:, : n // 2 + 1])
            y, last = second(x, state)
            h = last[0] if isinstance(last, tuple) else last
            return y + h.sum(0)[:, None].repeat(1, 1, y.shape[-1] // h.shape[-1]) if read else y

        return Part(f, n, e * (2 if options["bidirectional"] else 1), first, second)

    return make


def last_state(kind: type[nn.RNNBase]) -> Maker:
    """A last state in use (an LSTM's c too), and nothing else of the recurrence."""

    def make(r: random.Random, n: int, d: int) -> Part:
        rnn, which = kind(d, 3, num_layers=r.choice((1, 2)), batch_first=True), r.randrange(2)

        def f(x: Tensor) -> Tensor:
            state = rnn(x)[1]
            state = state[which] if isinstance(state, tuple) else state
            return x * state[-1].mean(-1)[:, None, None].tanh() + state[-1][:, None, :1]

        return Part(f, n, d, rnn)

    return make


def cell_loop(kind: type[nn.Module]) -> Maker:
    def make(r: random.Random, n: int, d: int) -> Part:
        cell, e = kind(d, 3), 3
        of_c, back, feedback = r.random() < 0.3, r.random() < 0.3, r.random() < 0.2
        start = r.choice(("zeros", "first", "default"))
        into = nn.Linear(d, e)

        def f(x: Tensor) -> Tensor:
            h = into(x[:, 0]) if start == "first" else x.new_zeros(len(x), e)
            state: Any = (h, h) if kind is nn.LSTMCell else h
            if start == "default":
                state = None
            out = []
            for x_t in reversed(x.unbind(1)) if back else x.unbind(1):
                if feedback and out:
                    x_t = x_t + 0.1 * out[-1][:, :1]
                state = cell(x_t, state)
                h, c = state if isinstance(state, tuple) else (state, state)
                out.append(c if of_c else h)
            return torch.stack(out, 1)

        return Part(f, n, e, cell, into)

    return make


def mask_of(r: random.Random, n: int, m: int, hidden: bool) -> Tensor | None:
    """A causal, windowed, random or additive mask (n, m); ``hidden`` is the boolean of a key not seen."""
    lag = torch.arange(n)[:, None] - torch.arange(m)
    kind = r.choice(("none", "causal", "window", "random", "additive", "lowest", "bias", "empty"))
    seen = {
        "causal": lag >= 0,
        "window": lag.abs() < 3,
        "empty": (lag >= 0) & (lag > -9) & (torch.arange(n) != 2)[:, None],
    }.get(kind, (torch.rand(n, m) < 0.6) | (lag == 0))
    if kind == "none" or (kind == "empty" and hidden):
        return None
    if kind in ("additive", "lowest"):
        low = -torch.inf if kind == "additive" else torch.finfo(F64).min
        return torch.zeros(n, m, dtype=F64).masked_fill(~seen, low)
    if kind == "bias":
        return torch.randn(n, m, dtype=F64)
    return seen != hidden


def multihead(used: bool) -> Maker:
    """Attention with masks; ``used``: its averaged weights are used besides."""

    def make(r: random.Random, n: int, d: int) -> Part:
        e = 4
        own = r.random() < 0.3
        mix = nn.MultiheadAttention(
            e,
            r.choice((1, 2)),
            batch_first=True,
            bias=r.random() < 0.5,
            kdim=d if own else None,
            vdim=d if own else None,
            add_bias_kv=r.random() < 0.1,
            add_zero_attn=r.random() < 0.1,
        )
        into, mask = nn.Linear(d, e), mask_of(r, n, n, hidden=True)
        weights = used or r.random() < 0.4
        padding = None if r.random() < 0.7 else torch.arange(n) == n - 2
        if padding is not None and mask is not None and mask.dtype != torch.bool:
            padding = None  # torch warns of mixed types

        def f(x: Tensor) -> Tensor:
            q = into(x)
            kv = x if own else q
            pad = None if padding is None else padding.expand(len(x), n)
            y, a = mix(q, kv, kv, attn_mask=mask, key_padding_mask=pad, need_weights=weights)
            return y + a[..., :n] @ q if used else y

        return Part(f, n, e, mix, into)

    return make


def fused(r: random.Random, n: int, d: int) -> Part:
    """scaled_dot_product_attention called as a function: causal, masked, grouped, cross, scaled."""
    heads, e, v = r.choice((1, 2, 4)), r.choice((1, 3)), r.choice((2, 3))
    grouped = heads > 1 and r.random() < 0.3
    shared = 1 if grouped else heads
    causal = r.random() < 0.4
    m = n if r.random() < 0.7 else max(1, n - 2)
    mask = None if causal else mask_of(r, n, m, hidden=False)
    q, k, w = nn.Linear(d, heads * e), nn.Linear(d, shared * e), nn.Linear(d, shared * v)
    scale = r.choice((None, 0.5))

    def split(z: Tensor, count: int) -> Tensor:
        return z.unflatten(-1, (count, -1)).transpose(1, 2)

    def f(x: Tensor) -> Tensor:
        past = x[:, :m]
        y = F.scaled_dot_product_attention(
            split(q(x), heads), split(k(past), shared), split(w(past), shared),
            attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped,
        )  # fmt: skip
        return y.transpose(1, 2).flatten(2)

    return Part(f, n, heads * v, q, k, w)


def eager(r: random.Random, n: int, d: int) -> Part:
    qkv, causal = nn.Linear(d, 9), r.random() < 0.6

    def f(x: Tensor) -> Tensor:
        q, k, v = qkv(x).chunk(3, -1)
        scores = q @ k.mT
        if causal:
            scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
        return scores.softmax(-1) @ v

    return Part(f, n, 3, qkv)


def encoder_layer(r: random.Random, n: int, d: int) -> Part:
    layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, norm_first=r.random() < 0.5)
    into, causal = nn.Linear(d, 4), r.random() < 0.6
    mask = nn.Transformer.generate_square_subsequent_mask(n, dtype=F64) if causal else None
    return Part(lambda x: layer(into(x), src_mask=mask, is_causal=causal), n, 4, layer, into)


def conv(depthwise: bool = False) -> Maker:
    def make(r: random.Random, n: int, d: int) -> Part:
        size, dilation = r.choice((1, 2, 3)), r.choice((1, 1, 2))
        padding, stride = r.choice((0, 1, 2)), r.choice((1, 1, 2))
        d_out = d if depthwise else r.choice((2, 3, 5))
        causal = r.random() < 0.4
        left = (size - 1) * dilation if causal else 0
        padding = 0 if causal else padding
        length = (n + left + 2 * padding - dilation * (size - 1) - 1) // stride + 1
        if n + left + 2 * padding < dilation * (size - 1) + 1 or length < 3:
            stride, padding, dilation, left = 1, 0, 1, size - 1
            length = n
        layer = nn.Conv1d(
            d, d_out, size, stride, padding, dilation, groups=d if depthwise else 1, bias=r.random() < 0.5
        )
        return Part(
            lambda x: layer(F.pad(x.transpose(1, 2), (left, 0))).transpose(1, 2), length, d_out, layer
        )

    return make


def linear(r: random.Random, n: int, d: int) -> Part:
    layer = nn.Linear(d, r.choice((2, 3, 4, 5)), bias=r.random() < 0.7)
    return Part(layer, n, layer.out_features, layer)


def norm(kind: type[nn.Module]) -> Maker:
    def make(r: random.Random, n: int, d: int) -> Part:
        layer = kind(d)
        return Part(layer, n, d, layer)

    return make


def same(f: Callable[[Tensor], Tensor]) -> Maker:
    """A function that keeps the shape."""
    return lambda r, n, d: Part(f, n, d)


def over_time(r: random.Random, n: int, d: int) -> Part:
    layer, causal = nn.Linear(n, n), r.random() < 0.5
    return Part(lambda x: (layer.weight.tril() if causal else layer.weight) @ x, n, d, layer)


def gathered(r: random.Random, n: int, d: int) -> Part:
    order = torch.tensor(r.sample(range(n), n))
    if r.random() < 0.5:
        return Part(lambda x: x[:, order], n, d)
    return Part(lambda x: x.gather(1, order[None, :, None].expand(len(x), n, d)), n, d)


def moving_average(r: random.Random, n: int, d: int) -> Part:
    width = min(3, n)
    return Part(lambda x: F.pad(x, (0, 0, width - 1, 0)).unfold(1, width, 1).mean(-1), n, d)


def shifted(r: random.Random, n: int, d: int) -> Part:
    def f(x: Tensor) -> Tensor:
        return torch.cat([x, torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)], -1)

    return Part(f, n, 2 * d)


def sliced(start: int | None, step: int = 1) -> Maker:
    def make(r: random.Random, n: int, d: int) -> Part:
        first = start if n > 1 else None
        return Part(lambda x: x[:, first::step], len(range(n)[first::step]), d)

    return make


def constant_first(r: random.Random, n: int, d: int) -> Part:
    """A learned position in front, and another added to all."""
    token, place = nn.Linear(d, 1), nn.Embedding(n, d)

    def f(x: Tensor) -> Tensor:
        return torch.cat([token.weight[None].expand(len(x), 1, d), x + place.weight], 1)

    return Part(f, n + 1, d, token, place)


def written_in_place(r: random.Random, n: int, d: int) -> Part:
    half = d // 2 + 1

    def f(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 1:] += 0.5 * x[:, :-1]
        y[..., :half].mul_(1.5)
        return y

    return Part(f, n, d)


def buffer_filled(r: random.Random, n: int, d: int) -> Part:
    def f(x: Tensor) -> Tensor:
        out = x.new_zeros(x.shape)
        for t in range(n):
            out[:, t] = x[:, t].tanh() + (0.3 * out[:, t - 1].clone() if t else 0)
        return out

    return Part(f, n, d)


def by_layout(r: random.Random, n: int, d: int) -> Part:
    layer, order = nn.Linear(d, d), r.choice(((1, 0, 2), (0, 2, 1)))
    if order == (1, 0, 2):
        return Part(lambda x: layer(x.permute(order).contiguous()).permute(order), n, d, layer)
    return Part(lambda x: (layer.weight @ x.permute(order)).sin().permute(order), n, d, layer)


def folded(r: random.Random, n: int, d: int) -> Part:
    """The batch and time in one axis."""
    layer = nn.Linear(d, 3)
    return Part(lambda x: F.gelu(layer(x.reshape(-1, d))).view(len(x), n, 3), n, 3, layer)


def faded(r: random.Random, n: int, d: int) -> Part:
    """Factors that lie far apart, by position or one for all."""
    factor = r.choice((1e-4, 1e-12, 1e-25)) ** torch.arange(n, dtype=F64)[:, None]
    factor = r.choice((factor, factor.flip(0), factor[-1]))
    return Part(lambda x: x * factor, n, d)


def einsummed(r: random.Random, n: int, d: int) -> Part:
    return Part(lambda x: torch.tanh(torch.einsum("btd,bsd,bse->bte", x, x, x) / n), n, d)


PARTS: dict[str, Maker] = {
    "LSTM": recurrent(nn.LSTM),
    "GRU": recurrent(nn.GRU),
    "RNN": recurrent(nn.RNN),
    "relu RNN": recurrent(nn.RNN, nonlinearity="relu"),
    "LSTM handed on": handed_on(nn.LSTM),
    "GRU handed on": handed_on(nn.GRU),
    "last of LSTM": last_state(nn.LSTM),
    "last of GRU": last_state(nn.GRU),
    "LSTMCell": cell_loop(nn.LSTMCell),
    "GRUCell": cell_loop(nn.GRUCell),
    "RNNCell": cell_loop(nn.RNNCell),
    "multihead": multihead(used=False),
    "attention weights": multihead(used=True),
    "sdpa": fused,
    "eager attention": eager,
    "encoder layer": encoder_layer,
    "conv": conv(),
    "depthwise conv": conv(depthwise=True),
    "linear": linear,
    "layer norm": norm(nn.LayerNorm),
    "rms norm": norm(nn.RMSNorm),
    "gelu": same(F.gelu),
    "relu": same(torch.relu),
    "tanh": same(torch.tanh),
    "softmax over features": same(lambda x: x.softmax(-1)),
    "dropout": norm(lambda d: nn.Dropout(0.3)),
    "cumsum": same(lambda x: x.cumsum(1) / x.shape[1]),
    "centred": same(lambda x: x - x.mean(1, keepdim=True)),
    "softmax over time": same(lambda x: x.softmax(1)),
    "max over time": same(lambda x: x + x.amax(1, keepdim=True)),
    "cummax": same(lambda x: x.cummax(1).values),
    "sort": same(lambda x: x.sort(1).values),
    "flip": same(lambda x: x.flip(1)),
    "roll": same(lambda x: x.roll(2, 1)),
    "matmul": over_time,
    "gather": gathered,
    "moving average": moving_average,
    "shifted copies": shifted,
    "every other": sliced(None, 2),
    "all but first": sliced(1),
    "last": sliced(-1),
    "constants": constant_first,
    "in place": written_in_place,
    "buffer": buffer_filled,
    "layouts": by_layout,
    "folded": folded,
    "einsum": einsummed,
    "faded": faded,
    "clone": same(lambda x: x.clone()),
}

#: parts whose Jacobian has no negative entry where weights and x have none, so that nothing cancels
POSITIVE = (
    "linear", "relu RNN", "conv", "depthwise conv", "relu", "dropout", "cumsum", "cummax", "flip", "roll",
    "matmul", "gather", "moving average", "shifted copies", "every other", "all but first", "constants",
    "in place", "faded", "clone",
)  # fmt: skip

#: parts and joints with zeros that cannot be told: other values of x would fill them, y reads x_k by a way
#: that carries no gradient, or an underflow would look the same
UNTOLD = {
    "max over time", "cummax", "sort", "relu", "relu RNN", "encoder layer", "detach", "no_grad", "faded",
}  # fmt: skip
