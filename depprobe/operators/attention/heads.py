r"""The quantities of multi-head attention at one input, from which every block of its Jacobian is made.

    q_t = W_Q x_t + b_Q,  k_j = W_K x_j + b_K,  v_j = W_V x_j + b_V         per head, e = d / heads
    ln a_tj = log_softmax_j(q_t . k_j / sqrt(e) + mask_tj),  o_t = sum_j a_tj v_j,  y_t = sum_heads W_O o_t

A head that sees no key at t has o_t = 0.
Shapes: x (n, d); H heads; q (n, H, e); k and v (n + extra, H, e), the extra keys having weight but no
source; W_Q, W_K, W_V (H, e, d); W_O (H, d, e). Tiles: T groups of c targets that share m keys.
Source: Vaswani et al. 2017, section 3.2.

Any mask that ``nn.MultiheadAttention`` takes:  mask_tj + padding_j, boolean ones -inf where true;
attn_mask (n, n) or (H, n, n), key_padding_mask (n,); extra keys (bias_k, a zero) are seen by all.
With ``is_causal``, no padding and no weights asked for, torch drops the mask for j <= t, extra keys included.
A head that sees no key gives 0, or NaN where weights are asked for.
Sources of the masks: torch.nn.functional.multi_head_attention_forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depprobe.errors import BadInput, unknown
from depprobe.operators.masks import masked


class Tile(NamedTuple):
    """Targets (T, c) and the keys (T, m) they see; ``bias`` is added to scores, -inf where masked.

    ``bias`` broadcasts to (T, H, c, m), or is None where every key is seen. The targets asked for that the
    tile holds are ``asked`` of them, next in order. ``whole``: the keys are 0, 1, ..., m - 1. ``bare``: some
    head may see no key.
    """

    targets: Tensor
    keys: Tensor
    bias: Tensor | None
    asked: int = 1
    whole: bool = False
    bare: bool = False

    def at_keys(self, z: Tensor) -> Tensor:
        """Rows of z at the keys: (T, m, ...)."""
        return z[None, : self.keys.shape[1]] if self.whole else z[self.keys]

    def seen(self) -> Tensor:
        """Whether any head of a target sees a key: bool (T, c, m)."""
        shape = (*self.targets.shape, self.keys.shape[1])
        if self.bias is None:
            return torch.ones(1, dtype=torch.bool, device=self.keys.device).expand(shape)
        return (~self.bias.isneginf()).any(1).expand(shape)

    def own(self) -> Tensor:
        """Which of a target's keys is the target itself: (T, c)."""
        if self.whole:
            return self.targets
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
        here = slice(i, i + 1)
        return Tile(self.targets[here, r : r + 1], self.keys[here], bias, 1, self.whole, self.bare)


class Support(Protocol):
    """Which keys each target sees."""

    def tiles(self, targets: Sequence[int], pairs: int, most: int) -> Iterator[Tile]:
        """Tiles that hold the targets asked for, ascending, and perhaps others.

        Each has about ``pairs`` pairs and ``most`` targets at most, or those of one tile of the pattern.
        """
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
    #: norms of the rounding errors of q, k and v in units of the last place, (3, n + extra, H)
    errors: Tensor

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
            size = x.norm(dim=1)[:, None] * torch.stack([W_Q, W_K, W_V]).norm(dim=(2, 3))[:, None]
            if module.in_proj_bias is not None:
                size = size + module.in_proj_bias.unflatten(0, (3, *shape)).norm(dim=2)[:, None]
            return cls(q, k, v, W_Q, W_K, W_V, out, F.pad(2 * size, (0, 0, 0, len(k) - len(x))))

    @property
    def scale(self) -> float:
        """1 / sqrt(e)."""
        return 1 / math.sqrt(self.q.shape[-1])

    def double(self) -> Heads:
        """The same in float64."""
        return Heads(**{field.name: getattr(self, field.name).double() for field in fields(self)})

    def weight_errors(self, targets: Tensor) -> Tensor:
        """Relative errors of the weights of some targets, in units of the last place: (..., H)."""
        of_k, most = self._largest
        q = self.q[targets].norm(dim=-1)
        return 2 * self.scale * (self.errors[0, targets] * most + q * (of_k + 3 * most))

    @cached_property
    def _largest(self) -> tuple[Tensor, Tensor]:
        """Largest error and norm of a key: (H,) each."""
        return self.errors[1].amax(0), self.k.norm(dim=-1).amax(0)

    def log_weights(self, tile: Tile) -> Tensor:
        """ln a_tj: (T, H, c, m); -inf only where masked."""
        q = self.q[tile.targets].transpose(1, 2) * self.scale
        scores = q @ tile.at_keys(self.k).permute(0, 2, 3, 1)
        if tile.bias is not None:
            scores += tile.bias.to(scores.dtype)
        log_a = scores.log_softmax(-1)
        if tile.bias is not None and tile.bare:
            # a head that sees no key weighs none, as torch's fused attention has it
            log_a.masked_fill_(tile.bias.isneginf().all(-1, keepdim=True), -math.inf)
        return log_a


#: pairs of positions whose masks are looked at together
_PAIRS = 1 << 22
#: arguments of the forward pass that leave x as query, key and value
ARGUMENTS = ("attn_mask", "key_padding_mask", "is_causal", "need_weights", "average_attn_weights")


class Dense:
    """Every key, but for a mask.

    Parameters
    ----------
    n : length.
    extra : keys that are no source.
    causal : whether only keys j <= t are seen, and no other mask is there.
    mask : (n, n) or (H, n, n), boolean (true: not seen) or additive.
    padding : (n,), likewise.
    like : a tensor of the dtype and device that tiles are to have.
    nan : whether the output is NaN at a target of which some head sees no key.
    """

    def __init__(
        self,
        n: int,
        *,
        extra: int = 0,
        causal: bool = False,
        mask: Tensor | None = None,
        padding: Tensor | None = None,
        like: Tensor,
        nan: bool = False,
    ) -> None:
        self._n, self._extra, self._causal = n, extra, causal
        self._mask = mask if mask is None or mask.ndim == 3 else mask[None]
        self._padding, self._like, self._nan = padding, like, nan

    def check(self, targets: Sequence[int]) -> None:
        """Refuse targets at which the output is NaN."""
        for tile in self.tiles(targets, _PAIRS, self._n) if self._nan else ():
            if tile.bias is None:
                continue
            lost = tile.targets[0, tile.bias.isneginf().all(-1).any(1)[0]]
            if len(lost):
                raise BadInput(
                    f"the masks leave target {int(lost[0])} no key, and with need_weights=True torch's "
                    "attention gives NaN there; leave need_weights out, or ask for other targets"
                )

    def lags(self) -> list[int] | None:
        """None: the pairs are not few."""
        return None

    def tiles(self, targets: Sequence[int], pairs: int, most: int) -> Iterator[Tile]:
        """One tile a chunk of targets, with every key."""
        m = self._n + self._extra
        keys = torch.arange(m, device=self._like.device)[None]
        chosen = torch.as_tensor(np.asarray(targets), device=self._like.device)
        bare = not self._causal and (self._mask is not None or self._padding is not None)
        done = 0
        for chunk in chosen.split(max(1, min(pairs // m, most))):
            until = targets[done + len(chunk) - 1] + 1 if self._causal else m
            bias = self._bias(chunk, keys[0, :until])
            yield Tile(chunk[None], keys[:, :until], bias, len(chunk), True, bare)
            done += len(chunk)

    def _bias(self, targets: Tensor, keys: Tensor) -> Tensor | None:
        if not self._causal and self._mask is None and self._padding is None:
            return None
        if self._causal:
            return self._like.new_zeros(len(targets), len(keys)).masked_fill_(
                keys > targets[:, None], -torch.inf
            )[None, None]
        heads = 1 if self._mask is None else len(self._mask)
        bias = self._like.new_zeros(heads, len(targets), len(keys))
        inner = bias[..., : self._n]
        if self._mask is not None:
            _add(inner, self._mask[:, targets])
        if self._padding is not None:
            _add(inner, self._padding)
        return masked(bias)[None]


def _add(bias: Tensor, mask: Tensor) -> None:
    if mask.dtype == torch.bool:
        bias.masked_fill_(mask, -torch.inf)
    else:
        bias += mask


def masks_of(module: nn.MultiheadAttention, x: Tensor, forward: Mapping[str, Any]) -> Dense:
    """What the targets see in ``module(x, x, x, **forward)``.

    Raises
    ------
    BadInput : an argument that would replace x; a mask of the wrong shape or dtype, or with NaN or +inf;
        is_causal without a mask.
    """
    for name in forward:
        if name not in ARGUMENTS:
            raise unknown("argument of attention's forward", name, ARGUMENTS)
    n, heads = x.shape[0], module.num_heads
    mask, padding = forward.get("attn_mask"), forward.get("key_padding_mask")
    causal = bool(forward.get("is_causal", False))
    if mask is not None:
        _check(mask, "attn_mask", ((n, n), (heads, n, n)), x)
    if padding is not None:
        _check(padding, "key_padding_mask", ((n,),), x)
    if causal and mask is None:
        raise BadInput("is_causal is a hint about attn_mask, and torch wants the mask too: give attn_mask")
    causal = causal and padding is None and not forward.get("need_weights", False)
    return Dense(
        n,
        extra=(module.bias_k is not None) + module.add_zero_attn,
        causal=causal,
        mask=None if causal else mask,
        padding=padding,
        like=x,
        nan=bool(forward.get("need_weights", False)),
    )


def _check(mask: Any, name: str, shapes: tuple[tuple[int, ...], ...], x: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.dtype not in (torch.bool, x.dtype):
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise BadInput(f"{name} must be a tensor of torch.bool or of x's {x.dtype}, not {kind}")
    if tuple(mask.shape) not in shapes:
        valid = " or ".join(str(shape) for shape in shapes)
        raise BadInput(f"{name} must have shape {valid}, not {tuple(mask.shape)}")
    if mask.device != x.device:
        raise BadInput(f"{name} is on {mask.device} but x is on {x.device}; bring them together")
    if mask.is_floating_point() and bool((mask.isnan() | mask.isposinf()).any()):
        raise BadInput(f"{name} holds NaN or +inf; its entries must be finite or -inf")
