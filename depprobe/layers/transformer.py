r"""A Transformer: attention and a network for each position, in turn, on a residual stream.

    u = x + attention(LN(x)),  y = u + W_2 gelu(W_1 LN(u) + b_1) + b_2        one block, LN first
    h = LN(y of the last block)

LN(z) = g * (z - mean z) / sqrt(var z + eps) + b at each position. Without the stream: u = attention(LN(x)),
y = W_2 gelu(W_1 LN(u) + b_1) + b_2, so that every path goes through every layer.
Shapes: x, u, y, h (n, d) or (batch, n, d), W_1 (m, d), W_2 (d, m).
Source: Vaswani et al. 2017, with the normalisation where Xiong et al. 2020 put it (pre-LN); GPT-2 is one.
"""

from __future__ import annotations

from torch import Tensor, nn

from depprobe.complexity import Complexity, complexity
from depprobe.errors import BadInput
from depprobe.registry import layers


class TransformerBlock(nn.Module):
    """One block of a pre-LN Transformer.

    Parameters
    ----------
    d : width.
    attention : maps (n, d) to (n, d).
    mlp : width of the hidden layer of the network for each position.
    residual : whether what a part puts out is added to what it read.
    bias : whether the linear layers of the network add one.

    Examples
    --------
    >>> import torch
    >>> TransformerBlock(4, nn.Identity(), 16)(torch.randn(7, 4)).shape
    torch.Size([7, 4])
    """

    def __init__(
        self, d: int, attention: nn.Module, mlp: int, *, residual: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        self.residual = residual
        self.before_attention, self.attention = nn.LayerNorm(d), attention
        self.before_mlp = nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, mlp, bias=bias), nn.GELU(), nn.Linear(mlp, d, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, d) or (batch, n, d) to the same shape."""
        mixed = self.attention(self.before_attention(x))
        u = x + mixed if self.residual else mixed
        changed: Tensor = self.mlp(self.before_mlp(u))
        return u + changed if self.residual else changed


@layers.register(
    "transformer",
    equation="u = x + attention(LN(x)),  y = u + W_2 gelu(W_1 LN(u))",
    citation="Vaswani et al. 2017; Xiong et al. 2020 (LN first)",
    causal=lambda causal=False, **options: causal,
    examples=(
        "transformer:depth=1,heads=2,causal=true",
        "transformer:depth=2,heads=2,mlp=12,residual=false",
    ),
)
def transformer(
    d: int,
    *,
    depth: int = 2,
    heads: int = 8,
    mlp: int | None = None,
    causal: bool = False,
    residual: bool = True,
    bias: bool = True,
) -> nn.Module:
    """Stack of attention and a network for each position on a residual stream (pre-LN Transformer)."""
    for name, value in (("depth", depth), ("mlp", 4 * d if mlp is None else mlp)):
        if value < 1:
            raise BadInput(f"{name} must be at least 1, not {value}")
    blocks = [
        TransformerBlock(
            d,
            # the table joins the two files: they do not know each other
            layers["attention"].build(d, heads=heads, causal=causal, bias=bias),
            4 * d if mlp is None else mlp,
            residual=residual,
            bias=bias,
        )
        for _ in range(depth)
    ]
    return nn.Sequential(*blocks, nn.LayerNorm(d))


@complexity.register
def _(module: TransformerBlock, n: int) -> Complexity | None:
    parts = (module.before_attention, module.attention, module.before_mlp, *module.mlp)
    return complexity(nn.Sequential(*parts), n)


@complexity.register
def _(module: nn.TransformerEncoderLayer, n: int) -> Complexity | None:
    parts = (module.norm1, module.self_attn, module.norm2, module.linear1, module.linear2)
    return complexity(nn.Sequential(*parts), n)


@complexity.register
def _(module: nn.TransformerEncoder, n: int) -> Complexity | None:
    parts = (*module.layers, *([] if module.norm is None else [module.norm]))
    return complexity(nn.Sequential(*parts), n)
