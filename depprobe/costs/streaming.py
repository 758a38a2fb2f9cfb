r"""One more token of a stream: h_t from x_t and what was kept of earlier ones; row t of a whole pass.

    recurrence     (h_{t-1}, c_{t-1}) of every layer
    convolution    the last r (K - 1) inputs of every level
    attention      keys and values of positions that t or a later one may see (``caches``)

A layer in which a position sees later ones has no stream. Buffers have their full size from the start and are
written in place, as rings where old entries are no longer read, so that a token costs no copy of the past.
Source: Dai et al. 2019 (cached keys and values); Paine et al. 2016 (cached convolutions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depprobe.costs.caches import Slots, ring, slots
from depprobe.errors import DepprobeError
from depprobe.layers.attention import Attention
from depprobe.layers.convolution import Convolution
from depprobe.layers.dilated_convolution import ConvolutionBlock
from depprobe.layers.sparse_attention import SparseAttention
from depprobe.layers.transformer import TransformerBlock

#: tensors, or lists of states
State = Any


class NoStream(DepprobeError):
    """The module cannot be given one token after another; the message says why."""


@dataclass(frozen=True)
class Stream:
    """A module that is given one token after another, up to n of them.

    ``empty()`` is what is kept before the first token; ``step(x, t, state)`` takes x (d_in,) at position t to
    the output (d,) there and what is kept for position t + 1, whose buffers are written in place.

    Law: with ``state = empty()`` and ``y_t, state = step(x_t, t, state)`` for t = 0, ..., n - 1, the rows y_t
    are those of the module's output at x (n, d_in).
    """

    empty: Callable[[], State]
    step: Callable[[Tensor, int, State], tuple[Tensor, State]]


@singledispatch
def stream(module: nn.Module, n: int) -> Stream:
    """A module as a stream of n tokens in all; ``stream.register(MyModule)`` teaches it another type.

    Raises ``NoStream`` where a position sees later ones, or the type is not in the table.

    Examples
    --------
    >>> layer = nn.GRU(3, 4, batch_first=True)
    >>> flow = stream(layer, 9)
    >>> y, state = flow.step(torch.ones(3), 0, flow.empty())
    >>> torch.allclose(y, layer(torch.ones(1, 1, 3))[0][0, 0])
    True
    """
    raise NoStream(f"no stream is known for {type(module).__name__}")


def state_bytes(state: State) -> int:
    """Bytes kept between two tokens.

    Examples
    --------
    >>> state_bytes([torch.zeros(4), [torch.zeros(2, 2)]])
    32
    """
    return sum(tensor.nbytes for tensor in _tensors(state))


def _tensors(state: State) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [one for part in state for one in _tensors(part)]


def prepared_step(flow: Stream, x: Tensor) -> tuple[Callable[[], object], State]:
    """A function that takes the last token of x (n, d_in), as often as it is called, and the state before it.

    The state has the shapes that n - 1 tokens leave, filled with noise.
    """
    state, token = flow.empty(), x[-1].detach()
    for kept in _tensors(state):
        kept.normal_(generator=torch.Generator(kept.device).manual_seed(0))

    def step() -> object:
        with torch.no_grad():
            return flow.step(token, len(x) - 1, state)

    return step, state


@stream.register
def _(module: nn.RNNBase, n: int) -> Stream:
    if module.bidirectional:
        raise NoStream("the backward direction starts at the last token")
    weight: Tensor = getattr(module, "weight_hh_l0")  # noqa: B009, its type is not known to a checker
    widths = [module.proj_size or module.hidden_size] + [module.hidden_size] * isinstance(module, nn.LSTM)

    def step(x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        y, after = module(x[None], tuple(state) if len(state) > 1 else state[0])
        return y[0], list(after) if isinstance(after, tuple) else [after]

    return Stream(lambda: [weight.new_zeros(module.num_layers, size) for size in widths], step)


@stream.register
def _(module: Convolution, n: int) -> Stream:
    if not module.causal:
        raise NoStream("same padding sees later positions; use causal=true")
    if module.conv.stride[0] > 1:
        raise NoStream("a stride gives no output at most tokens")
    conv, reach = module.conv, module.pad[0]
    lags = torch.arange(reach, 0, -conv.dilation[0], device=conv.weight.device)

    def step(x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        if t == 0 and module.padding_mode == "replicate":
            state[:] = x
        taps = torch.cat([state[(t - lags) % max(1, reach)], x[None]])
        if reach:
            state[t % reach] = x  # the slot of the oldest, which has just been read
        return F.conv1d(taps.T[None], conv.weight, conv.bias, groups=conv.groups)[0, :, 0], state

    return Stream(lambda: conv.weight.new_zeros(reach, conv.in_channels), step)


@stream.register
def _(module: ConvolutionBlock, n: int) -> Stream:
    inner = stream(module.convolution, n)

    def step(x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        z, state = inner.step(x, t, state)
        y = module.nonlinearity(z)
        return (y if module.shortcut is None else y + module.shortcut(x)), state

    return Stream(inner.empty, step)


def _positionwise(module: nn.Module, n: int) -> Stream:
    return Stream(list, lambda x, t, state: (module(x[None])[0], state))


for _kind in (
    *(nn.Linear, nn.Identity, nn.Dropout, nn.LayerNorm),
    *(nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU),
):
    stream.register(_kind, _positionwise)


@stream.register
def _(module: nn.Sequential, n: int) -> Stream:
    parts = [stream(child, n) for child in module]

    def step(x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        after = []
        for part, kept in zip(parts, state, strict=True):
            x, kept = part.step(x, t, kept)
            after.append(kept)
        return x, after

    return Stream(lambda: [part.empty() for part in parts], step)


@stream.register
def _(module: TransformerBlock, n: int) -> Stream:
    attention = stream(module.attention, n)

    def step(x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        mixed, state = attention.step(module.before_attention(x), t, state)
        u = x + mixed if module.residual else mixed
        changed = module.mlp(module.before_mlp(u))
        return u + changed if module.residual else changed, state

    return Stream(attention.empty, step)


@stream.register
def _(module: Attention, n: int) -> Stream:
    return _attention(module.weights, module.causal, ring(n), module.fused)


@stream.register
def _(module: SparseAttention, n: int) -> Stream:
    pattern = module.pattern
    cache = slots(pattern, n, module.weights.out_proj.weight.device)
    if cache is None:
        raise NoStream(f"no cache is known for the pattern {type(pattern).__name__}")
    return _attention(module.weights, getattr(pattern, "causal", False), cache, fused=False)


def _attention(inner: nn.MultiheadAttention, causal: bool, cache: Slots, fused: bool) -> Stream:
    if not causal:
        raise NoStream("a position sees later ones; use causal=true")

    def step(x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        packed = F.linear(x, inner.in_proj_weight, inner.in_proj_bias)
        q, *new = packed.view(3, inner.num_heads, inner.head_dim).unbind(0)
        for kept, one in zip(state, new, strict=True):
            for slot in cache.written(t):
                kept[:, slot] = one
        keys, values = (kept[:, cache.read(t)] for kept in state)
        if fused:
            mixed = F.scaled_dot_product_attention(q[None, :, None], keys[None], values[None])[0]
        else:
            scores = q[:, None] / math.sqrt(inner.head_dim) @ keys.transpose(-1, -2)
            mixed = scores.softmax(-1) @ values
        return inner.out_proj(mixed.flatten()), state

    shape = (inner.num_heads, cache.size, inner.head_dim)
    return Stream(lambda: [inner.out_proj.weight.new_zeros(shape) for _ in range(2)], step)
