r"""The Fisher norm of a block: how far an input moves the distribution that logits stand for.

    |J|_F(isher)^2 = tr(J^T F J),    F = diag(p) - p p^T,    p = softmax(y_t)
    F = A^T A,    A = diag(s) - s p^T,    s = sqrt p

so it is the Frobenius norm of A J, and a row z of its left side is the cotangent z^T A = s z - (s.z) p, for z
random or a unit vector. To second order, KL(p(x) || p(x + dx)) = |A J dx|^2 / 2.
Source: Amari 1998 (natural gradient).
"""

from __future__ import annotations

from torch import Tensor

from depprobe.errors import BadInput

NORM = "fisher"


def weighed(rows: Tensor, logits: Tensor) -> Tensor:
    """Rows z (m, V) as the cotangents z^T A (m, V) at logits (V,), in their dtype."""
    if len(logits) < 2:
        raise BadInput("norm='fisher' needs logits of at least 2 classes, and the output is 1 wide; see of=")
    p = logits.double().softmax(0)
    s, z = p.sqrt(), rows.double()
    return (z * s - (z @ s)[:, None] * p).to(logits)


def root_times(W: Tensor, logits: Tensor) -> Tensor:
    """A W (V, d) at logits (V,), in float64."""
    p = logits.double().softmax(0)
    return p.sqrt()[:, None] * (W.double() - p @ W.double())
