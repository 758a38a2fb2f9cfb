r"""The kernel of ``head_pairs``, in Triton: a program adds up _BLOCK pairs of one target.

Source of the language: Tillet et al. 2019.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def head_pairs(value, X, b, g, c, m, H: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """value (T, c, m) += b_g sum_h b_h X_h, with X and b (T, H, c, m), all contiguous."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = k < m
    first = (row // c * H * c + row % c) * m  # where head 0 of this target begins
    inner = tl.zeros((BLOCK,), value.dtype.element_ty)
    for h in tl.static_range(H):
        x = tl.load(X + first + h * c * m + k, mask=inside, other=0.0)
        inner += x * tl.load(b + first + h * c * m + k, mask=inside, other=0.0)
    weight = tl.load(b + first + g * c * m + k, mask=inside, other=0.0)
    total = tl.load(value + row * m + k, mask=inside, other=0.0) + inner * weight
    tl.store(value + row * m + k, total, mask=inside)
