r"""A residual stream: what a layer puts out is added to what it read.

    y = x + inner(x)

Shapes: x and inner(x) (n, d) or (batch, n, d).
Source: He et al. 2016; in sequence models Vaswani et al. 2017.
"""

from __future__ import annotations

from torch import Tensor, nn


class Added(nn.Module):
    """A layer on a residual stream.

    Parameters
    ----------
    inner : a module that keeps the shape of its input.

    Examples
    --------
    >>> import torch
    >>> Added(nn.Identity())(torch.ones(2, 3)).sum().item()
    12.0
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, d) or (batch, n, d) to the same shape."""
        y: Tensor = x + self.inner(x)
        return y
