"""Parts of forwards that users combine: glue, across positions or not, and the table of all parts."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from known_parts import (
    F64,
    Maker,
    Part,
    cell_loop,
    conv,
    eager,
    encoder_layer,
    fused,
    handed_on,
    last_state,
    multihead,
    recurrent,
)
from torch import Tensor, nn
from torch.nn import functional as F


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
