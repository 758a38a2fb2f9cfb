"""Norms of matrices whose rows carry exponents, as logs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def log_norm_of(taps: Tensor, scale: Tensor, norm: str) -> NDArray[np.float64]:
    """ln norm of each (rows, width) slice of taps, rows standing for rows * exp(scale).

    Shapes: taps (steps, rows, width), scale (rows,) or (steps, rows).
    """
    scale = scale.expand(taps.shape[:2])
    if taps.shape[1] == 0:
        return np.full(taps.shape[0], -np.inf)
    if norm == "fro":
        logs = torch.linalg.vector_norm(taps, dim=2, dtype=torch.float64).log() + scale
        return (0.5 * torch.logsumexp(2 * logs, 1)).cpu().numpy()
    out = np.full(taps.shape[0], -np.inf)
    for j, tap in enumerate(taps):
        logs = tap.abs().amax(1).double().log() + scale[j]
        peak = logs.max()
        if bool(peak.isfinite()):
            inner = tap.abs().amax(1).double().clamp_min(torch.finfo(torch.float64).tiny)
            unit = tap.double() / inner[:, None] * (logs - peak).exp()[:, None]
            gram = unit @ unit.T if unit.shape[0] <= unit.shape[1] else unit.T @ unit
            out[j] = float(0.5 * torch.linalg.eigvalsh(gram)[-1].log() + peak)
    return out


def log_length(rows: Tensor) -> Tensor:
    """ln of the Euclidean norm over the last axis, rescaled so that squares stay in range; -inf for 0."""
    peak = rows.abs().amax(-1, keepdim=True).double()
    unit = rows.double() / torch.where(peak > 0, peak, 1)
    return torch.linalg.vector_norm(unit, dim=-1).log() + peak[..., 0].log()
