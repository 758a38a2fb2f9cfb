r"""The quantities of multi-head attention at one input, from which every block of its Jacobian is made.

    q_t = W_Q x_t + b_Q,  k_j = W_K x_j + b_K,  v_j = W_V x_j + b_V         per head, e = d / heads
    ln a_tj = log_softmax_j(q_t . k_j / sqrt(e) + mask_tj),  o_t = sum_j a_tj v_j,  y_t = sum_heads W_O o_t

A head that sees no key at t has o_t = 0.
Shapes: x (n, d); H heads; q (n, H, e); k and v (n + extra, H, e), the extra keys having weight but no
source; W_Q, W_K, W_V (H, e, d); W_O (H, d, e). Tiles: T groups of c targets that share m keys.
Source: Vaswani et al. 2017, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tile(NamedTuple):
    """Targets (T, c) and the keys (T, m) they see; ``bias`` is added to scores, -inf where masked.

    ``bias`` broadcasts to (T, H, c, m), or is None where every key is seen.
    """

    targets: Tensor
    keys: Tensor
    bias: Tensor | None

    def seen(self) -> Tensor:
        """Whether any head of a target sees a key: bool (T, c, m)."""
        shape = (*self.targets.shape, self.keys.shape[1])
        if self.bias is None:
            return torch.ones(shape, dtype=torch.bool, device=self.keys.device)
        return (~self.bias.isneginf()).any(1).expand(shape)

    def own(self) -> Tensor:
        """Which of a target's keys is the target itself: (T, c)."""
        same = self.keys[:, None] == self.targets[:, :, None]
        # a key that pads a tile may equal the target too, but is never seen
        return (same.byte() + (same & self.seen()).byte()).argmax(-1)

    def fresh(self) -> Tensor:
        """False for the repetitions that fill the last tile: bool (T, c)."""
        before = self.targets.new_full((1,), -1)
        return (self.targets.flatten().diff(prepend=before) != 0).view_as(self.targets)

    def only(self, i: int, r: int) -> Tile:
        """The tile of the single target (i, r)."""
        bias = self.bias
        if bias is not None:
            bias = bias.expand(len(self.keys), -1, -1, -1)[i : i + 1, :, r : r + 1]
        return Tile(self.targets[i : i + 1, r : r + 1], self.keys[i : i + 1], bias)


class Support(Protocol):
    """Which keys each target sees."""

    def tiles(self, targets: Sequence[int], pairs: int) -> Iterator[Tile]:
        """Tiles that hold the targets asked for (and perhaps others), of about ``pairs`` pairs each."""
        ...

    def lags(self) -> list[int] | None:
        """The lags of all pairs, ascending, where they are few; else None."""
        ...

    def check(self, targets: Sequence[int]) -> None:
        """Refuse targets at which the output is NaN."""
        ...


@dataclass(frozen=True)
class Heads:
    """Projections and weights at one input; shapes as in the header of this file."""

    q: Tensor
    k: Tensor
    v: Tensor
    W_Q: Tensor
    W_K: Tensor
    W_V: Tensor
    W_O: Tensor

    @classmethod
    def of(cls, module: nn.MultiheadAttention, x: Tensor) -> Heads:
        """Those of a ``MultiheadAttention`` with x (n, d) as query, key and value."""
        with torch.no_grad():
            shape = (module.num_heads, module.head_dim)
            packed = F.linear(x, module.in_proj_weight, module.in_proj_bias)
            q, k, v = packed.unflatten(-1, (3, *shape)).unbind(1)
            if module.bias_k is not None and module.bias_v is not None:
                k = torch.cat([k, module.bias_k.view(1, *shape)])
                v = torch.cat([v, module.bias_v.view(1, *shape)])
            if module.add_zero_attn:
                k, v = (torch.cat([z, z.new_zeros(1, *shape)]) for z in (k, v))
            W_Q, W_K, W_V = module.in_proj_weight.detach().unflatten(0, (3, *shape)).unbind(0)
            out = module.out_proj.weight.detach().unflatten(1, shape).transpose(0, 1)
            return cls(q, k, v, W_Q, W_K, W_V, out)

    @property
    def scale(self) -> float:
        """1 / sqrt(e)."""
        return 1 / math.sqrt(self.q.shape[-1])

    def double(self) -> Heads:
        """The same in float64."""
        return Heads(**{field.name: getattr(self, field.name).double() for field in fields(self)})

    def log_weights(self, tile: Tile) -> Tensor:
        """ln a_tj: (T, H, c, m); -inf only where masked."""
        q = self.q[tile.targets].transpose(1, 2) * self.scale
        k = self.k[tile.keys].permute(0, 2, 3, 1)
        scores = q @ k
        if tile.bias is not None:
            scores += tile.bias.to(scores.dtype)
        log_a = scores.log_softmax(-1)
        if tile.bias is not None and bool(log_a[..., 0].isnan().any()):
            # a head that sees no key weighs none, as torch's fused attention has it
            log_a.masked_fill_(tile.bias.isneginf().all(-1, keepdim=True), -math.inf)
        return log_a
