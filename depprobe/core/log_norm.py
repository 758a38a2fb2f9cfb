"""Norms of plain rows, as logs."""

from __future__ import annotations

from torch import Tensor

from depprobe.core.scaled import Scaled


def log_length(rows: Tensor) -> Tensor:
    """ln of the Euclidean norm over the last axis, rescaled so that squares stay in range; -inf for 0."""
    return Scaled.plain(rows).log_norm(-1)
