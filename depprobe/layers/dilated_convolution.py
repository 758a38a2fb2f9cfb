r"""Stacks of dilated convolutions (temporal convolutional networks).

    h^l = phi(conv_l h^{l-1}) [+ S_l h^{l-1}],   dilation r_l = base^l,   level l = 0 .. L-1
    receptive field 1 + (K-1) (base^L - 1) / (base - 1)

Shapes: h^0 = x (n, d_in) or (batch, n, d_in), h^l (n, d); S_l the identity, or (d, d_in) where widths differ.
Kernel K; every convolution has stride 1 and same or causal padding.
Source: Bai, Kolter and Koltun 2018.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from depprobe.complexity import Complexity, complexity
from depprobe.errors import BadInput
from depprobe.registry import layers

Nonlinearity = Literal["relu", "tanh", "gelu", "silu", "none"]

_NONLINEARITIES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "none": nn.Identity,
}


class ConvolutionBlock(nn.Module):
    """A convolution and its nonlinearity, added to its input by way of ``shortcut`` where there is one.

    Examples
    --------
    >>> import torch
    >>> ConvolutionBlock(nn.Linear(3, 3), nn.ReLU(), shortcut=nn.Identity())(torch.zeros(9, 3)).shape
    torch.Size([9, 3])
    """

    def __init__(
        self, convolution: nn.Module, nonlinearity: nn.Module, shortcut: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.convolution, self.nonlinearity, self.shortcut = convolution, nonlinearity, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, d_in) to (n, d), or the same with a batch in front."""
        y: Tensor = self.nonlinearity(self.convolution(x))
        return y if self.shortcut is None else y + self.shortcut(x)


@layers.register(
    "dilated-conv",
    equation="h^l = phi(conv_l h^{l-1}) [+ h^{l-1}], dilation base^l",
    citation="Bai, Kolter and Koltun 2018",
    causal=lambda causal=True, **options: causal,
    examples=(
        "dilated-conv:depth=3,residual=true",
        "dilated-conv:depth=2,kernel=2,nonlinearity=none",
        "dilated-conv:depth=3,causal=false,nonlinearity=tanh",
    ),
)
def dilated_conv(
    d: int,
    *,
    d_in: int | None = None,
    depth: int = 6,
    kernel: int = 3,
    base: int = 2,
    nonlinearity: Nonlinearity = "relu",
    residual: bool = False,
    causal: bool = True,
    groups: int = 1,
    bias: bool = True,
) -> nn.Module:
    """Stack of convolutions with dilations 1, base, base^2, ... (temporal convolutional network)."""
    if depth < 1:
        raise BadInput(f"depth must be at least 1, not {depth}")
    if base < 1:
        raise BadInput(f"base must be at least 1, not {base}")
    blocks = []
    for level in range(depth):
        width = (d_in or d) if level == 0 else d
        # the table joins the two files: they do not know each other
        convolution = layers["conv"].build(
            d, d_in=width, kernel=kernel, dilation=base**level, causal=causal, groups=groups, bias=bias
        )
        phi = _NONLINEARITIES[nonlinearity]()
        blocks.append(ConvolutionBlock(convolution, phi, _shortcut(width, d) if residual else None))
    return nn.Sequential(*blocks)


def _shortcut(d_in: int, d: int) -> nn.Module:
    """The input as it is, or a learned projection where widths differ (Bai et al. 2018, section 3.4)."""
    return nn.Identity() if d_in == d else nn.Linear(d_in, d, bias=False)


@complexity.register
def _(module: ConvolutionBlock, n: int) -> Complexity | None:
    found = complexity(module.convolution, n)
    if found is None or not isinstance(module.shortcut, nn.Linear):
        return found
    shortcut = 2 * n * module.shortcut.weight.numel()
    return replace(found, flops={**found.flops, "shortcut": shortcut})
