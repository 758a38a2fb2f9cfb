r"""Sums over pairs of heads, each weighted with the weights of both.

    value_tk += sum_g b^g_tk sum_h b^h_tk X^gh_tk                     over all h and some g

On CUDA one kernel reads X once; elsewhere, and where Triton is missing, its reference does the same.

Shapes: value (T, c, m), X (T, G, H, c, m), b (T, H, c, m): T groups of c targets with m keys, H heads, of
which G from ``first`` on are the g.
"""

from __future__ import annotations

import importlib.util

from torch import Tensor

#: pairs of one target that a program of the kernel takes
_BLOCK = 1024


def add_pairs(value: Tensor, X: Tensor, b: Tensor, first: int) -> None:
    """Add the sums to ``value``; X is used up."""
    fused = value.is_cuda and importlib.util.find_spec("triton") is not None
    (add_pairs_fused if fused else add_pairs_plain)(value, X, b, first)


def add_pairs_plain(value: Tensor, X: Tensor, b: Tensor, first: int) -> None:
    """The reference."""
    for g in range(X.shape[1]):
        value.addcmul_(X[:, g].mul_(b).sum(1), b[:, first + g])


def add_pairs_fused(value: Tensor, X: Tensor, b: Tensor, first: int) -> None:
    """The kernel."""
    from depprobe.operators.attention.kernel import head_pairs  # triton is there on CUDA only

    T, G, H, c, m = X.shape
    head_pairs[(T * c, -(-m // _BLOCK))](value, X, b, first, c, m, G, H, _BLOCK)
