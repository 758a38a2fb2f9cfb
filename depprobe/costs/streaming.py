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
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depprobe.costs.caches import Ring, Slots, slots
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


class Stream(ABC):
    """A module that is given one token after another, up to n of them.

    Law: with ``state = empty()`` and ``y_t, state = step(x_t, t, state)`` for t = 0, ..., n - 1, the rows y_t
    are those of the module's output at x (n, d_in).
    """

    @abstractmethod
    def empty(self) -> State:
        """What is kept before the first token."""

    @abstractmethod
    def step(self, x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        """Output (d,) at position t for input (d_in,), and what is kept for position t + 1.

        Buffers in ``state`` are written in place.
        """


@singledispatch
def stream(module: nn.Module, n: int) -> Stream:
    """A module as a stream of n tokens; ``stream.register(MyModule)`` teaches it another type.

    Parameters
    ----------
    module : a causal layer, or a stack of them with layers that act on each position by itself.
    n : tokens in all, which patterns that scale with the length depend on.

    Raises
    ------
    NoStream : a position sees later ones, or the type is not in the table.

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
    return state.nbytes if isinstance(state, Tensor) else sum(state_bytes(part) for part in state)


def prepared_step(flow: Stream, x: Tensor) -> tuple[Callable[[], object], State]:
    """A function that takes the last token of x (n, d_in), as often as it is called, and the state before it.

    The state has the shapes that n - 1 tokens leave, filled with noise.
    """
    state, token = flow.empty(), x[-1].detach()
    _fill(state)

    def step() -> object:
        with torch.no_grad():
            return flow.step(token, len(x) - 1, state)

    return step, state


def _fill(state: State) -> None:
    if isinstance(state, Tensor):
        state.normal_(generator=torch.Generator(state.device).manual_seed(0))
    else:
        for part in state:
            _fill(part)


class _Recurrence(Stream):
    def __init__(self, module: nn.RNNBase) -> None:
        self._module = module

    def empty(self) -> State:
        module = self._module
        width = module.proj_size or module.hidden_size
        widths = [width, module.hidden_size] if isinstance(module, nn.LSTM) else [width]
        weight = module.get_parameter("weight_hh_l0")
        return [weight.new_zeros(module.num_layers, size) for size in widths]

    def step(self, x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        carried = tuple(state) if isinstance(self._module, nn.LSTM) else state[0]
        y, after = self._module(x[None], carried)
        return y[0], list(after) if isinstance(after, tuple) else [after]


@stream.register
def _(module: nn.RNNBase, n: int) -> Stream:
    if module.bidirectional:
        raise NoStream("the backward direction starts at the last token")
    return _Recurrence(module)


class _Convolution(Stream):
    def __init__(self, module: Convolution) -> None:
        self._conv, self._mode = module.conv, module.padding_mode
        self._reach = module.pad[0]
        lags = torch.arange(self._reach, 0, -module.conv.dilation[0], device=module.conv.weight.device)
        self._lags = lags if self._reach else lags[:0]

    def empty(self) -> State:
        return self._conv.weight.new_zeros(self._reach, self._conv.in_channels)

    def step(self, x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        if t == 0 and self._mode == "replicate":
            state[:] = x
        taps = torch.cat([state[(t - self._lags) % max(1, self._reach)], x[None]])
        if self._reach:
            state[t % self._reach] = x  # the slot of the oldest, which has just been read
        conv = self._conv
        return F.conv1d(taps.T[None], conv.weight, conv.bias, groups=conv.groups)[0, :, 0], state


@stream.register
def _(module: Convolution, n: int) -> Stream:
    if not module.causal:
        raise NoStream("same padding sees later positions; use causal=true")
    if module.conv.stride[0] > 1:
        raise NoStream("a stride gives no output at most tokens")
    return _Convolution(module)


class _Block(Stream):
    def __init__(self, module: ConvolutionBlock, n: int) -> None:
        self._module, self._convolution = module, stream(module.convolution, n)

    def empty(self) -> State:
        return self._convolution.empty()

    def step(self, x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        z, state = self._convolution.step(x, t, state)
        y = self._module.nonlinearity(z)
        return (y if self._module.shortcut is None else y + self._module.shortcut(x)), state


@stream.register
def _(module: ConvolutionBlock, n: int) -> Stream:
    return _Block(module, n)


class _Positionwise(Stream):
    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def empty(self) -> State:
        return []

    def step(self, x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        return self._module(x[None])[0], state


_ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU)
for _kind in (nn.Linear, nn.Identity, nn.Dropout, nn.LayerNorm, *_ACTIVATIONS):
    stream.register(_kind, lambda module, n: _Positionwise(module))


class _Stack(Stream):
    def __init__(self, parts: list[Stream]) -> None:
        self._parts = parts

    def empty(self) -> State:
        return [part.empty() for part in self._parts]

    def step(self, x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        after = []
        for part, kept in zip(self._parts, state, strict=True):
            x, kept = part.step(x, t, kept)
            after.append(kept)
        return x, after


@stream.register
def _(module: nn.Sequential, n: int) -> Stream:
    return _Stack([stream(child, n) for child in module])


class _Transformer(Stream):
    def __init__(self, block: TransformerBlock, attention: Stream) -> None:
        self._block, self._attention = block, attention

    def empty(self) -> State:
        return self._attention.empty()

    def step(self, x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        block = self._block
        mixed, state = self._attention.step(block.before_attention(x), t, state)
        u = x + mixed if block.residual else mixed
        changed = block.mlp(block.before_mlp(u))
        return u + changed if block.residual else changed, state


@stream.register
def _(module: TransformerBlock, n: int) -> Stream:
    return _Transformer(module, stream(module.attention, n))


class _Attention(Stream):
    def __init__(self, weights: nn.MultiheadAttention, cache: Slots, fused: bool) -> None:
        self._weights, self._cache, self._fused = weights, cache, fused

    def empty(self) -> State:
        inner = self._weights
        shape = (inner.num_heads, self._cache.size, inner.head_dim)
        return [inner.out_proj.weight.new_zeros(shape) for _ in range(2)]

    def step(self, x: Tensor, t: int, state: State) -> tuple[Tensor, State]:
        inner = self._weights
        packed = F.linear(x, inner.in_proj_weight, inner.in_proj_bias)
        q, *new = packed.view(3, inner.num_heads, inner.head_dim).unbind(0)
        for kept, one in zip(state, new, strict=True):
            for slot in self._cache.written(t):
                kept[:, slot] = one
        read = self._cache.read(t)
        keys, values = (kept[:, read] for kept in state)
        if self._fused:
            mixed = F.scaled_dot_product_attention(q[None, :, None], keys[None], values[None])[0]
        else:
            scores = q[:, None] / math.sqrt(inner.head_dim) @ keys.transpose(-1, -2)
            mixed = scores.softmax(-1) @ values
        return inner.out_proj(mixed.flatten()), state


@stream.register
def _(module: Attention, n: int) -> Stream:
    _require_causal(module.causal)
    return _Attention(module.weights, Ring(n), module.fused)


@stream.register
def _(module: SparseAttention, n: int) -> Stream:
    _require_causal(getattr(module.pattern, "causal", False))
    cache = slots(module.pattern, n, module.weights.out_proj.weight.device)
    if cache is None:
        raise NoStream(f"no cache is known for the pattern {type(module.pattern).__name__}")
    return _Attention(module.weights, cache, fused=False)


def _require_causal(causal: bool) -> None:
    if not causal:
        raise NoStream("a position sees later ones; use causal=true")
