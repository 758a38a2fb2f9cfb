r"""The kernel of ``head_pairs``, in Triton: a program adds up BLOCK pairs of one target.

Source of the language: Tillet et al. 2019.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["first", "G"])  # each would be compiled anew
def head_pairs(  # type: ignore[no-untyped-def]
    value, X, b, first, c, m, G, H: tl.constexpr, BLOCK: tl.constexpr
):
    """value (T, c, m) += sum_gh b_g b_h X_gh, X (T, G, H, c, m), b (T, H, c, m), contiguous, g from first."""
    row = tl.program_id(0).to(tl.int64)
    t, r = row // c, row % c
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = k < m
    b += (t * H * c + r) * m
    X += (t * G * H * c + r) * m
    total = tl.load(value + row * m + k, mask=inside, other=0.0)
    for g in range(G):
        inner = tl.zeros((BLOCK,), value.dtype.element_ty)
        for h in tl.static_range(H):
            x = tl.load(X + h * c * m + k, mask=inside, other=0.0)
            inner += x * tl.load(b + h * c * m + k, mask=inside, other=0.0)
        total += inner * tl.load(b + (first + g) * c * m + k, mask=inside, other=0.0)
        X += H * c * m
    tl.store(value + row * m + k, total, mask=inside)
