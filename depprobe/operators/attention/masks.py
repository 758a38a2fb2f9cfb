r"""Which keys a target of dense attention sees, under any mask that ``nn.MultiheadAttention`` takes.

    score_tj = q_t . k_j / sqrt(e) + mask_tj + padding_j       boolean masks: -inf where true

Shapes: attn_mask (n, n) or (H, n, n), key_padding_mask (n,); extra keys (bias_k, a zero) are seen by all.
With ``is_causal``, no padding and no weights asked for, torch drops the mask for j <= t, extra keys included.
A head that sees no key gives 0, or NaN where weights are asked for.
Source: torch.nn.functional.multi_head_attention_forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.errors import BadInput, unknown
from depprobe.operators.attention.heads import Tile

#: pairs of positions looked at together
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
        for tile in self.tiles(targets, _PAIRS) if self._nan else ():
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

    def tiles(self, targets: Sequence[int], pairs: int) -> Iterator[Tile]:
        """One tile a chunk of targets, with every key."""
        m = self._n + self._extra
        keys = torch.arange(m, device=self._like.device)[None]
        chosen = torch.as_tensor(targets, device=self._like.device)
        for chunk in chosen.split(max(1, pairs // m)):
            until = int(chunk.max()) + 1 if self._causal else m
            yield Tile(chunk[None], keys[:, :until], self._bias(chunk, keys[0, :until]))

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
        return bias[None]


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
