r"""The Fisher norm of a block: how far an input moves the distribution that logits stand for.

    |J|_F(isher)^2 = tr(J^T F J),    F = diag(p) - p p^T,    p = softmax(y_t)
    F = A^T A,    A = diag(s) - s p^T,    s = sqrt p

so it is the Frobenius norm of A J, and a row z of its left side is the cotangent z^T A = s z - (s.z) p, for z
random or a unit vector. To second order, KL(p(x) || p(x + dx)) = |A J dx|^2 / 2.

Where one class c has nearly all of p, its column of A is a difference of equal numbers. Rows of A sum to 0,
so it is taken as less the sum of the others, and W - 1 w_c stands for W.
Errors dy of the logits change ln |A J| by at most max |dy_i - p.dy| / 2.
Source: Amari 1998 (natural gradient).
"""

from __future__ import annotations

import torch
from torch import Tensor

from depprobe.errors import BadInput

NORM = "fisher"


def weighed(rows: Tensor, logits: Tensor) -> Tensor:
    """Rows z (m, V) as the cotangents z^T A (m, V) at logits (V,), in their dtype."""
    if len(logits) < 2:
        raise BadInput("norm='fisher' needs logits of at least 2 classes, and the output is 1 wide; see of=")
    p, z = logits.double().softmax(0), rows.double()
    s, most = p.sqrt(), p.argmax()
    found = z * s - (z @ s)[:, None] * p
    found[:, most] = 0
    found[:, most] = -found.sum(1)
    return found.to(logits)


def root_times(W: Tensor, logits: Tensor) -> Tensor:
    """A W (V, d) at logits (V,), in float64."""
    p = logits.double().softmax(0)
    W = W.double() - W[p.argmax()].double()
    return p.sqrt()[:, None] * (W - p @ W)


def rounding(logits: Tensor) -> float:
    """What the last bits of logits (V,) can change the ln norm by."""
    return torch.finfo(logits.dtype).eps * float(logits.double().abs().max())
