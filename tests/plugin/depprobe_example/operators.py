"""J[t,k] = (1 - a) a^(t-k) I for k <= t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import depprobe
from depprobe.core.temporal_jacobian import LogNorms, Scaled
from depprobe_example.layers import MovingAverage


class MovingAverageJacobian(depprobe.TemporalJacobian):
    """The Jacobian of a moving average, whose blocks are numbers."""

    method = "geometric"

    def __init__(self, module: MovingAverage, x: Tensor) -> None:
        n, d = x.shape
        self.shape = (n, d, n, d)
        self._decay, self._module, self._x = module.decay, module, x

    def _log_weights(self, t: int, sources: Any) -> np.ndarray:
        lag = t - np.asarray(sources, dtype=float)
        return np.where(lag >= 0, math.log(1 - self._decay) + lag * math.log(self._decay), -np.inf)

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        """Of (d, d) diagonal blocks."""
        k = np.arange(self.shape[2]) if sources is None else np.asarray(sources)
        size = 0.5 * math.log(self.shape[1]) if norm == "fro" else 0.0
        return LogNorms(np.stack([self._log_weights(t, k) + size for t in targets]))

    def row(self, t: int) -> Scaled:
        """Blocks (d, n, d)."""
        n, d = self._x.shape
        logs = torch.as_tensor(self._log_weights(t, np.arange(n)))
        blocks = torch.eye(d, dtype=self._x.dtype)[:, None, :].expand(d, n, d).clone()
        blocks[:, logs.isinf()] = 0
        return Scaled(blocks, logs.where(~logs.isinf(), 0)[None, :, None])

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Shape (n, d)."""
        return torch.func.vjp(self._module, self._x)[1](cotangent)[0]

    def jvp(self, tangent: Tensor) -> Tensor:
        """Shape (n, d)."""
        return self._module(tangent)


@depprobe.register_jacobian(MovingAverage)
def _moving_average(module: nn.Module, x: Tensor, options: Any) -> MovingAverageJacobian | None:
    return None if options.wrt != "x" or options.forward else MovingAverageJacobian(module, x)
