r"""Sums over pairs of heads, each weighted with the weights of both.

    value_tk += b^g_tk sum_h b^h_tk X^h_tk                            one g at a time

On CUDA one kernel reads X and b once; elsewhere, and where Triton is missing, its reference does the same.

Shapes: value (T, c, m), X and b (T, H, c, m): T groups of c targets with m keys, H heads.
"""

from __future__ import annotations

import importlib.util

from torch import Tensor

#: pairs of one target that a program of the kernel takes
_BLOCK = 1024


def add_pairs(value: Tensor, X: Tensor, b: Tensor, g: int) -> None:
    """Add the sums of one g to ``value``; X is used up."""
    fused = value.is_cuda and importlib.util.find_spec("triton") is not None
    (add_pairs_fused if fused else add_pairs_plain)(value, X, b, g)


def add_pairs_plain(value: Tensor, X: Tensor, b: Tensor, g: int) -> None:
    """The reference."""
    value.addcmul_(X.mul_(b).sum(1), b[:, g])


def add_pairs_fused(value: Tensor, X: Tensor, b: Tensor, g: int) -> None:
    """The kernel."""
    from depprobe.operators.attention.kernel import head_pairs  # triton is there on CUDA only

    T, H, c, m = X.shape
    head_pairs[(T * c, -(-m // _BLOCK))](value, X, b, g, c, m, H, _BLOCK)
