r"""Orthonormalising tangent columns: A = Q R, with what rounding leaves of each column said beside it.

    CholeskyQR2   R_1^T R_1 = A^T A, Q_1 = A R_1^{-1}; the same again on Q_1; R = R_2 R_1
    fall-back     Householder reflections, where the Gram matrix is too ill-conditioned

Shapes: A, Q (S, m), S >= m. Columns are scaled to 1 first, so that what they lose is measured free of scale.
Source: Yamamoto et al. 2015 (CholeskyQR2); two passes are accurate where Q_1 is near orthonormal, which is
measured on the second Gram matrix and not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from depprobe.core.device import Recorder

#: how far from the identity the second Gram matrix may lie
_NEAR = 0.1
_recorder = Recorder(12)


class Orthonormal(NamedTuple):
    """An orthonormal frame (S, m), ln |r_ii| (m,) float64 and r_ii / ||a_i|| (m,), the share kept.

    ``sound``, a bool tensor: whether all this holds; False where two Cholesky passes were not enough.
    """

    frame: Tensor
    log_r: Tensor
    kept: Tensor
    sound: Tensor


def orthonormalise(columns: Tensor, unseen: bool = False) -> Orthonormal:
    """Orthonormal frame of the columns, and how long each was beyond the span of those before it.

    Parameters
    ----------
    columns : (S, m), finite, S >= m.
    unseen : whether to go without the fall-back, so that the host looks at no number.

    Returns
    -------
    Frame (S, m); ``log_r`` (m,) float64, -inf for a column that is exactly zero; ``kept`` (m,): r_ii over
    the length of column i. Rounding errs r_ii by about the dtype's epsilon over ``kept``.

    Examples
    --------
    >>> frame, log_r, kept, _ = orthonormalise(torch.tensor([[2.0, 1.0], [0.0, 3.0]], dtype=torch.float64))
    >>> log_r.exp().round(decimals=12).tolist(), round(kept[1].item(), 6)
    ([2.0, 3.0], 0.948683)
    """
    # what was recorded is overwritten by what is called next
    unit, gram, *sizes = (part.clone() for part in _recorder("unit", _unit, [columns], at_first=False))
    first, failed = torch.linalg.cholesky_ex(gram)
    near = torch.linalg.solve_triangular(first.T, unit, upper=True, left=False)
    gram, apart = (part.clone() for part in _recorder("again", _again, [near], at_first=False))
    second, failed_again = torch.linalg.cholesky_ex(gram)
    frame = torch.linalg.solve_triangular(second.T, near, upper=True, left=False)
    given = [first.diagonal(), second.diagonal(), failed, failed_again, apart, *sizes]
    log_r, kept, sound = _recorder("told", _told, given, at_first=False)
    if not unseen and not bool(sound):
        frame, diagonal = _householder(unit)
        log_r, kept, sound = _told(
            [diagonal, torch.ones_like(diagonal), *map(torch.zeros_like, given[2:5]), *given[5:]]
        )
    return Orthonormal(frame, log_r, kept, sound)


def _unit(given: Sequence[Tensor]) -> list[Tensor]:
    """Columns of length 1, their Gram matrix, their lengths over a power of two, and that power."""
    (columns,) = given
    peak = columns.abs().amax(0)
    # powers of two, so that scaling rounds nothing
    safe = torch.exp2(torch.where(peak > 0, peak, 1).log2().floor())
    scaled = columns / safe
    # of columns with a largest entry between 1 and 2, so that squares are in range
    length = torch.linalg.vector_norm(scaled, dim=0, dtype=torch.float64)
    unit = scaled / torch.where(length > 0, length, 1).to(scaled.dtype)
    return [unit, unit.T @ unit, length, safe]


def _again(given: Sequence[Tensor]) -> list[Tensor]:
    """The Gram matrix of what the first pass left, and how far it is from the identity."""
    (near,) = given
    gram = near.T @ near
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return [gram, (gram - identity).abs().sum(1).max()]


def _told(given: Sequence[Tensor]) -> list[Tensor]:
    """ln |r_ii|, the shares kept, and whether they are sound."""
    first, second, failed, failed_again, apart, length, safe = given
    kept = torch.where(length > 0, first * second, 0)
    log_r = kept.double().log() + length.log() + safe.double().log()
    return [log_r, kept, (apart < _NEAR) & (failed == 0) & (failed_again == 0)]


def _householder(unit: Tensor) -> tuple[Tensor, Tensor]:
    frame, upper = torch.linalg.qr(unit)
    return frame, upper.diagonal().abs()
