"""Parts of forwards that users combine: the modules and calls that have an operator of their own.

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
