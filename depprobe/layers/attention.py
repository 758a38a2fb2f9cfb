r"""Softmax attention of a sequence on itself, several heads (Vaswani et al. 2017).

    q_t, k_t, v_t = W_Q x_t, W_K x_t, W_V x_t           per head, plus biases
    a_tj = softmax_j(q_t . k_j / sqrt(e))               over j <= t if causal
    h_t = sum_heads W_O sum_j a_tj v_j

Shapes: x (n, d) or (batch, n, d), h the same, e = d / heads. The weights are those of
``torch.nn.MultiheadAttention``, with its initial values.
Source: Vaswani et al. 2017, Attention is all you need.

On a convolution (for what is near; attention for what is far): c = conv(x), q, k, v from c, no residual, so
that every path from x_k to h_t goes through both; x (n, d_in), c and h (ceil(n / stride), d). A stride makes
the sequence that attention sees shorter. Source: Gulati et al. 2020 (convolution beside attention).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depprobe.complexity import Complexity, checked, complexity, of_attention
from depprobe.errors import BadInput
from depprobe.registry import layers


class Attention(nn.Module):
    """Self-attention that maps (n, d) or (batch, n, d) to the same shape.

    Parameters
    ----------
    d : width.
    heads : number of heads; it must divide d.
    causal : whether a position sees itself and earlier positions only.
    bias : whether the projections add a bias.
    fused : whether torch's kernel takes scores, softmax and mixing in one, block by block; else the weights
        a (heads, n, n) are written out, as in the equations.

    Raises
    ------
    BadInput : heads does not divide d.

    Examples
    --------
    >>> import torch
    >>> Attention(16, heads=2, causal=True)(torch.randn(7, 16)).shape
    torch.Size([7, 16])
    """

    def __init__(
        self, d: int, heads: int = 8, *, causal: bool = False, bias: bool = True, fused: bool = True
    ) -> None:
        super().__init__()
        if heads < 1 or d % heads:
            valid = [h for h in range(1, min(d, 64) + 1) if d % h == 0]
            raise BadInput(f"heads must divide d = {d}, and {heads} does not; use one of {valid}")
        self.causal, self.fused = causal, fused
        self.weights = nn.MultiheadAttention(d, heads, bias=bias, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Output at every position."""
        inner = self.weights
        packed = F.linear(x, inner.in_proj_weight, inner.in_proj_bias)
        q, k, v = packed.unflatten(-1, (3, inner.num_heads, inner.head_dim)).movedim(-4, -2).unbind(-4)
        if self.fused:
            # torch's fused kernel takes a batch only; without one it would write the weights out
            one = q.ndim == 3
            q, k, v = (part[None] if one else part for part in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            mixed = mixed[0] if one else mixed
        else:
            scores = q / math.sqrt(inner.head_dim) @ k.transpose(-1, -2)
            if self.causal:
                later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
                scores = scores.masked_fill(later, -math.inf)
            mixed = scores.softmax(-1) @ v
        return inner.out_proj(mixed.movedim(-3, -2).flatten(-2))


def _causal(causal: bool = False, **options: object) -> bool:
    return causal


@layers.register(
    "attention",
    equation="h_t = W_O sum_j softmax_j(q_t . k_j / sqrt(d_head)) v_j",
    citation="Vaswani et al. 2017",
    causal=_causal,
    examples=(
        "attention:heads=2",
        "attention:causal=true",
        "attention:heads=1,bias=false",
        "attention:heads=2,causal=true,fused=false",
    ),
)
def attention(
    d: int, *, heads: int = 8, causal: bool = False, bias: bool = True, fused: bool = True
) -> nn.Module:
    """Softmax attention over all positions, or the past ones if causal."""
    return Attention(d, heads, causal=causal, bias=bias, fused=fused)


@layers.register(
    "conv-attention",
    equation="h = attention(conv(x))",
    citation="Gulati et al. 2020; Vaswani et al. 2017",
    causal=_causal,
    examples=(
        "conv-attention:heads=2,kernel=5",
        "conv-attention:heads=2,stride=2",
        "conv-attention:heads=2,causal=true",
        "conv-attention:attention=sliding-window,window=3,heads=2",
    ),
)
def conv_attention(
    d: int,
    *,
    d_in: int | None = None,
    kernel: int = 3,
    stride: int = 1,
    heads: int = 8,
    attention: Literal["attention", "sliding-window"] = "attention",
    window: int | None = None,
    causal: bool = False,
    bias: bool = True,
) -> nn.Module:
    """Convolution, then softmax attention on its output, without a residual path."""
    options: dict[str, Any] = {"heads": heads, "causal": causal, "bias": bias}
    if window is not None:
        if attention != "sliding-window":
            raise BadInput(f"window={window} needs attention=sliding-window, not attention={attention}")
        options["window"] = window
    # the table joins the two families: their files do not know each other
    first = layers["conv"].build(d, d_in=d_in, kernel=kernel, stride=stride, causal=causal, bias=bias)
    return nn.Sequential(first, layers[attention].build(d, **options))


@complexity.register
def _(module: Attention, n: int) -> Complexity:
    pairs = checked(n) * (n + 1) // 2 if module.causal else n * n
    inner, cached = module.weights, n if module.causal else None
    return of_attention(
        n,
        inner.embed_dim,
        inner.num_heads,
        pairs=pairs,
        widest=n,
        path_length=1,
        reach=None,
        cached=cached,
    )


@complexity.register
def _(module: nn.MultiheadAttention, n: int) -> Complexity | None:
    if not module._qkv_same_embed_dim:
        return None
    keys = checked(n) + (module.bias_k is not None) + module.add_zero_attn
    # a mask is given with the call: without one every position sees all keys
    return of_attention(
        n,
        module.embed_dim,
        module.num_heads,
        pairs=n * keys,
        widest=keys,
        path_length=1,
        reach=None,
        cached=None,
    )
