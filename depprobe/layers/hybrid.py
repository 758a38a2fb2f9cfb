r"""Convolution for what is near, attention for what is far.

    c = conv(x),  h_t = W_O sum_j softmax_j(q_t . k_j / sqrt(d_head)) v_j        q, k, v from c

Shapes: x (n, d_in) or (batch, n, d_in), c and h (ceil(n / stride), d). Same padding, no residual: every path
from x_k to h_t goes through both. A stride shortens the sequence that attention sees.
Source: Gulati et al. 2020 (convolution beside attention); Vaswani et al. 2017 (attention).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from depprobe.errors import BadInput
from depprobe.registry import layers


@layers.register(
    "conv-attention",
    equation="h = attention(conv(x))",
    citation="Gulati et al. 2020; Vaswani et al. 2017",
    causal=lambda causal=False, **options: causal,
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
