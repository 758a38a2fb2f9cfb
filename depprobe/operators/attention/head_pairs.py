r"""Sums over pairs of heads, each weighted with the weights of both.

    value_tk += sum_g b^g_tk sum_h b^h_tk X^gh_tk                     over all h and some g

On CUDA one kernel reads X once; elsewhere, and where nothing compiles it, torch does the same in more passes.

Shapes: value (T, c, m), X (T, G, H, c, m), b (T, H, c, m): T groups of c targets with m keys, H heads, of
which G from ``first`` on are the g.
"""

from __future__ import annotations

from torch import Tensor

from depprobe.core.device import compiled

_KERNELS = "depprobe.operators.attention.kernel"
#: pairs of one target that a program of the kernel takes
_BLOCK = 1024


def add_pairs(value: Tensor, X: Tensor, b: Tensor, first: int) -> None:
    """Add the sums to ``value``; X is used up."""
    kernels, (T, G, H, c, m) = compiled(_KERNELS, value.device), X.shape
    if kernels is not None:
        kernels.head_pairs[(T * c, -(-m // _BLOCK))](value, X, b, first, c, m, G, H, _BLOCK)
        return
    for g in range(G):
        value.addcmul_(X[:, g].mul_(b).sum(1), b[:, first + g])
