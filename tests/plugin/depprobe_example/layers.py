"""h_t = (1 - a) (x_t + a x_{t-1} + a^2 x_{t-2} + ...)."""

from __future__ import annotations

import torch
from torch import nn

from depprobe.registry import layers


class MovingAverage(nn.Module):
    """Exponential moving average of x (b, n, d) over time."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (b, n, d), as x."""
        step = torch.arange(x.shape[-2], dtype=x.dtype)
        lag = step[:, None] - step
        return (1 - self.decay) * torch.where(lag >= 0, self.decay ** lag.clamp_min(0), 0) @ x


@layers.register(
    "moving-average",
    equation="h_t = (1 - a) x_t + a h_{t-1}",
    citation="Roberts 1959",
    examples=("decay=0.5",),
)
def moving_average(d: int, d_in: int | None = None, decay: float = 0.9) -> nn.Module:
    """Exponential moving average."""
    return MovingAverage(decay)
