r"""Orthonormalising tangent columns: A = Q R, with what rounding leaves of each column said beside it.

    CholeskyQR2   R_1^T R_1 = A^T A, Q_1 = A R_1^{-1}; the same again on Q_1; R = R_2 R_1
    fall-back     Householder reflections, where the Gram matrix is too ill-conditioned

Shapes: A, Q (S, m), S >= m. Columns are scaled to 1 first, so that what they lose is measured free of scale.
Source: Yamamoto et al. 2015 (CholeskyQR2); two passes are accurate where Q_1 is near orthonormal, which is
measured on the second Gram matrix and not assumed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled

#: how far from the identity the second Gram matrix may lie
_NEAR = 0.1


class Orthonormal(NamedTuple):
    """An orthonormal frame (S, m), ln |r_ii| (m,) float64 and r_ii / ||a_i|| (m,), the share kept."""

    frame: Tensor
    log_r: Tensor
    kept: Tensor


def orthonormalise(columns: Tensor) -> Orthonormal:
    """Orthonormal frame of the columns, and how long each was beyond the span of those before it.

    Parameters
    ----------
    columns : (S, m), finite, S >= m.

    Returns
    -------
    Frame (S, m); ``log_r`` (m,) float64, -inf for a column that is exactly zero; ``kept`` (m,): r_ii over
    the length of column i. Rounding errs r_ii by about the dtype's epsilon over ``kept``.

    Examples
    --------
    >>> frame, log_r, kept = orthonormalise(torch.tensor([[2.0, 1.0], [0.0, 3.0]], dtype=torch.float64))
    >>> log_r.exp().round(decimals=12).tolist(), round(kept[1].item(), 6)
    ([2.0, 3.0], 0.948683)
    """
    peak = columns.abs().amax(0)
    safe = torch.where(peak > 0, peak, torch.ones_like(peak))
    # powers of two, so that scaling rounds nothing
    safe = torch.exp2(safe.log2().floor())
    scaled = columns / safe
    log_length = Scaled.plain(scaled).log_norm(0)
    length = log_length.exp().to(scaled.dtype)
    scaled = scaled / torch.where(length > 0, length, torch.ones_like(length))
    frame, kept = _cholesky_twice(scaled) or _householder(scaled)
    kept = torch.where(length > 0, kept, torch.zeros_like(kept))
    log_r = kept.double().log() + log_length + safe.double().log()
    return Orthonormal(frame, log_r, kept)


def _cholesky_twice(unit: Tensor) -> tuple[Tensor, Tensor] | None:
    """Frame and diagonal of R by two Cholesky passes, or None where the first leaves too little."""
    first, failed = torch.linalg.cholesky_ex(unit.T @ unit)
    if failed:
        return None
    near = torch.linalg.solve_triangular(first.T, unit, upper=True, left=False)
    gram = near.T @ near
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    if not float((gram - identity).abs().sum(1).max()) < _NEAR:
        return None
    second, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        return None
    frame = torch.linalg.solve_triangular(second.T, near, upper=True, left=False)
    return frame, first.diagonal() * second.diagonal()


def _householder(unit: Tensor) -> tuple[Tensor, Tensor]:
    frame, upper = torch.linalg.qr(unit)
    return frame, upper.diagonal().abs()
