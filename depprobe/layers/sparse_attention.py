r"""Softmax attention in which position t sees only a set S(t) of positions.

    a_tj = softmax_{j in S(t)}(q_t . k_j / sqrt(e)),   h_t = sum_heads W_O sum_j a_tj v_j

    sliding-window     the w nearest positions: t - w/2 <= j <= t + (w-1)/2, or t - w < j <= t if causal,
                       as far as they exist
    dilated-attention  j = t - o and t + o for o = 0, 1, 2, 4, 8, ...; t - o only if causal
    block-attention    the own block of b = ceil(sqrt n) positions, and the last position of every other
                       block; the own block up to t and the earlier blocks if causal

Shapes: x (n, d) or (batch, n, d), e = d / heads. S is held as tiles, in each of which c targets look at
the same m gathered keys, so that nothing of n x n is ever made: n w, n log n and n sqrt n pairs.
Source: Child et al. 2019 (block summaries), Li et al. 2019 (powers of two), Beltagy et al. 2020 (windows).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depprobe.complexity import Complexity, applications, checked, complexity, of_attention
from depprobe.errors import BadInput
from depprobe.registry import layers


class Tiles(NamedTuple):
    """Which targets see which keys: in tile i, target (i, r) sees key (i, j) where ``open[i, r, j]``.

    Shapes: targets (T, c), keys (T, m), open (T, c, m). The targets are 0, 1, ..., n - 1 in order, then
    repetitions of n - 1 that fill the last tile.
    """

    targets: Tensor
    keys: Tensor
    open: Tensor


class Pattern(Protocol):
    """A set S(t) for every t, for any n."""

    def tiles(self, n: int, device: torch.device | None = None) -> Tiles:
        """The pattern for a sequence of length n."""
        ...

    def lags(self, n: int) -> list[int] | None:
        """Lags t - j of all pairs, ascending; None where S(t) is not a set of lags."""
        ...

    def cached(self, n: int) -> int | None:
        """Earlier positions that some later one may see, n behind it; None where the future is seen."""
        ...


def _grid(tiles: int, size: int, n: int, device: torch.device | None) -> Tensor:
    return torch.arange(tiles * size, device=device).clamp(max=n - 1).view(tiles, size)


@dataclass(frozen=True)
class Window:
    """The ``width`` nearest positions, past ones if causal; 64, or n where that is less, if None."""

    width: int | None = None
    causal: bool = False

    def _reach(self, n: int) -> tuple[int, int]:
        width = min(64, n) if self.width is None else self.width
        if width > n:
            raise BadInput(f"window = {width} is larger than n = {n}; use a window of 1 to {n}")
        return (width - 1, 0) if self.causal else (width // 2, (width - 1) // 2)

    def lags(self, n: int) -> list[int] | None:
        """Lags -(w-1)/2 to w/2, or 0 to w-1."""
        past, future = self._reach(n)
        return list(range(-future, past + 1))

    def cached(self, n: int) -> int | None:
        """The window."""
        return self._reach(n)[0] + 1 if self.causal else None

    def tiles(self, n: int, device: torch.device | None = None) -> Tiles:
        """Tiles of w targets that share the 2w - 1 keys any of them sees."""
        past, future = self._reach(n)
        size = past + future + 1
        targets = _grid(-(-n // size), size, n, device)
        keys = targets[:, :1] + torch.arange(-past, size + future, device=device)
        lag = targets[:, :, None] - keys[:, None]
        inside = ((keys >= 0) & (keys < n))[:, None]
        return Tiles(targets, keys.clamp(0, n - 1), (lag <= past) & (lag >= -future) & inside)


@dataclass(frozen=True)
class PowersOfTwo:
    """Distances 0, 1, 2, 4, 8, ... below n, into the past only if causal."""

    causal: bool = False

    def lags(self, n: int) -> list[int] | None:
        """0, 1, 2, 4, 8, ..., and their negatives unless causal."""
        past = [0] + [1 << i for i in range((n - 1).bit_length())]
        return past if self.causal else [-lag for lag in past[:0:-1]] + past

    def cached(self, n: int) -> int | None:
        """All: each is some power of two behind a later one."""
        return n if self.causal else None

    def tiles(self, n: int, device: torch.device | None = None) -> Tiles:
        """One tile a target: neighbours share few keys."""
        targets = _grid(n, 1, n, device)
        keys = targets - torch.tensor(self.lags(n), device=device)
        return Tiles(targets, keys.clamp(0, n - 1), ((keys >= 0) & (keys < n))[:, None])


@dataclass(frozen=True)
class Blocks:
    """The own block of ``size`` positions (ceil(sqrt n) if None) and the last one of every other block."""

    size: int | None = None
    causal: bool = False

    def _width(self, n: int) -> int:
        size = math.isqrt(n - 1) + 1 if self.size is None else self.size
        if size > n:
            raise BadInput(f"block = {size} is larger than n = {n}; use a block of 1 to {n}")
        return size

    def lags(self, n: int) -> list[int] | None:
        """None: what a target sees depends on where it stands in its block."""
        return None

    def cached(self, n: int) -> int | None:
        """The own block and the last position of every earlier one."""
        size = self._width(n)
        return min(n, size) + -(-n // size) - 1 if self.causal else None

    def tiles(self, n: int, device: torch.device | None = None) -> Tiles:
        """One tile a block: its own positions, then one summary for each block."""
        size = self._width(n)
        count = -(-n // size)
        targets = _grid(count, size, n, device)
        block = torch.arange(count, device=device)
        summaries = targets[:, -1].expand(count, count)
        own = (block[:, None] * size + torch.arange(size, device=device))[:, None]
        here, there = block[:, None, None], block[None, None]
        open_own = (own < n) & ((own <= targets[:, :, None]) if self.causal else True)
        open_summary = (there < here) if self.causal else (there != here)
        open_all = [open_own.expand(count, size, size), open_summary.expand(count, size, count)]
        return Tiles(targets, torch.cat([own[:, 0].clamp(max=n - 1), summaries], 1), torch.cat(open_all, 2))


class SparseAttention(nn.Module):
    """Self-attention over a pattern; maps (n, d) or (batch, n, d) to the same shape.

    Parameters
    ----------
    d : width.
    pattern : which positions each position sees.
    heads : number of heads; it must divide d.
    bias : whether the projections add a bias.

    Raises
    ------
    BadInput : heads does not divide d; in the forward pass, a window or block larger than n.

    Examples
    --------
    >>> import torch
    >>> SparseAttention(16, Window(3, causal=True), heads=2)(torch.randn(7, 16)).shape
    torch.Size([7, 16])
    """

    def __init__(self, d: int, pattern: Pattern, heads: int = 8, *, bias: bool = True) -> None:
        super().__init__()
        if heads < 1 or d % heads:
            valid = [h for h in range(1, min(d, 64) + 1) if d % h == 0]
            raise BadInput(f"heads must divide d = {d}, and {heads} does not; use one of {valid}")
        self.pattern = pattern
        self.weights = nn.MultiheadAttention(d, heads, bias=bias, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Output at every position."""
        inner, n = self.weights, x.shape[-2]
        tiles = self.pattern.tiles(n, x.device)
        packed = F.linear(x, inner.in_proj_weight, inner.in_proj_bias)
        q, k, v = packed.unflatten(-1, (3, inner.num_heads, inner.head_dim)).unbind(-3)
        # gathered keys and scores of a chunk stay within twice x; in many smaller chunks the gradients, each
        # as long as x, would come to take more than the pairs
        width = max(inner.embed_dim, inner.num_heads * tiles.targets.shape[1])
        chunk = max(1, 2 * n * inner.embed_dim // (tiles.keys.shape[1] * width))
        chunks = zip(*(part.split(chunk) for part in tiles), strict=True)
        parts = [_attend(q, k, v, Tiles(*part)) for part in chunks]
        return inner.out_proj(torch.cat(parts, -3)[..., :n, :, :].flatten(-2))


def _attend(q: Tensor, k: Tensor, v: Tensor, tiles: Tiles) -> Tensor:
    """Mixed values of some tiles: q, k, v (..., n, H, e) to (..., T c, H, e)."""
    queries, keys, values = _rows(q, tiles.targets), _rows(k, tiles.keys), _rows(v, tiles.keys)
    scores = queries.transpose(-3, -2) @ keys.movedim(-3, -1) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~tiles.open[:, None], -math.inf).softmax(-1)
    return (weights @ values.transpose(-3, -2)).transpose(-3, -2).flatten(-4, -3)


def _rows(z: Tensor, index: Tensor) -> Tensor:
    """z[..., index, :, :], row by row as an embedding reads; indexing would go number by number."""
    *batch, n, heads, e = z.shape
    first = n * torch.arange(math.prod(batch), device=z.device).view(*batch, 1, 1)
    return F.embedding(index + first, z.reshape(-1, heads * e)).unflatten(-1, (heads, e))


def _causal(causal: bool = False, **options: object) -> bool:
    return causal


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise BadInput(f"{name} must be at least 1, not {value}")


@layers.register(
    "sliding-window",
    equation="h_t = W_O sum_{j near t} softmax_j(q_t . k_j / sqrt(d_head)) v_j",
    citation="Beltagy et al. 2020",
    causal=_causal,
    examples=("sliding-window:window=4,heads=2", "sliding-window:window=3,causal=true"),
)
def sliding_window(
    d: int, *, window: int | None = None, heads: int = 8, causal: bool = False, bias: bool = True
) -> nn.Module:
    """Softmax attention over the nearest positions (64 unless n is less), the past ones if causal."""
    _at_least_one("window", window)
    return SparseAttention(d, Window(window, causal), heads, bias=bias)


@layers.register(
    "dilated-attention",
    equation="h_t = W_O sum_{|t-j| in {0, 1, 2, 4, ...}} softmax_j(q_t . k_j / sqrt(d_head)) v_j",
    citation="Li et al. 2019",
    causal=_causal,
    examples=("dilated-attention:heads=2", "dilated-attention:causal=true"),
)
def dilated_attention(d: int, *, heads: int = 8, causal: bool = False, bias: bool = True) -> nn.Module:
    """Softmax attention at distances 0, 1, 2, 4, 8, ..., into the past only if causal."""
    return SparseAttention(d, PowersOfTwo(causal), heads, bias=bias)


@layers.register(
    "block-attention",
    equation="h_t = W_O sum_{j in own block or last of another} softmax_j(q_t . k_j / sqrt(d_head)) v_j",
    citation="Child et al. 2019",
    causal=_causal,
    examples=("block-attention:block=3,heads=2", "block-attention:causal=true"),
)
def block_attention(
    d: int, *, block: int | None = None, heads: int = 8, causal: bool = False, bias: bool = True
) -> nn.Module:
    """Softmax attention over the own block (ceil(sqrt n)) and the last position of every other block."""
    _at_least_one("block", block)
    return SparseAttention(d, Blocks(block, causal), heads, bias=bias)


@complexity.register
def _(module: SparseAttention, n: int) -> Complexity:
    tiles = module.pattern.tiles(checked(n))
    seen = tiles.open.sum(-1).flatten()[:n]
    lags = module.pattern.lags(n)
    # a window carries as far at every step; of the other patterns the way is searched
    banded = lags is not None and lags == list(range(lags[0], lags[-1] + 1))
    return of_attention(
        n,
        module.weights.embed_dim,
        module.weights.num_heads,
        pairs=int(seen.sum()),
        widest=int(seen.max()),
        path_length=applications(n, lags[-1]) if banded and lags else _path_length(tiles, n),
        reach=lags[-1] if banded and lags else None,
        cached=module.pattern.cached(n),
    )


def _path_length(tiles: Tiles, n: int) -> int | None:
    """Fewest applications from position 0 to n - 1, breadth first from the end."""
    reached = torch.zeros(n, dtype=torch.bool)
    reached[-1] = True
    for length in range(n):
        if reached[0]:
            return length
        before = int(reached.sum())
        asking = reached[tiles.targets]
        read = tiles.keys[(tiles.open & asking[:, :, None]).any(1)]
        reached[read] = True
        if int(reached.sum()) == before:
            return None
    return None
