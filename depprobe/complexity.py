r"""What a layer costs by its own formula, before anything is run. No torch here.

    FLOPs        of matrix products and convolutions, forward, batch 1; a multiply-add is 2
    chain        FLOPs that must follow one another where every output number is made at once and a dot
                 product of m terms takes 2 m
    parallelism  FLOPs / chain
    steps        that must follow one another along time or depth: n for a recurrence, 1 for attention and
                 convolution, L for a stack
    path length  fewest layer applications plus steps through time from x_1 to h_n

``complexity`` is an open table keyed on the type of a module: the files of ``depprobe.layers`` fill it, and
``complexity.register(MyLayer)`` on a function (module, n) adds another.
Sources: Vaswani et al. 2017, table 1 (path length, sequential steps); Araujo, Norris and Sim 2019 (reach of
convolutions); the counts of single layers stand beside their equations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

from depprobe.errors import BadInput
from depprobe.registry import layers


@dataclass(frozen=True)
class Complexity:
    """The formulas of one layer at one length.

    Attributes
    ----------
    flops : name of a part -> FLOPs.
    chain : FLOPs on the longest chain of dependent operations.
    sequential_steps : steps that must follow one another.
    path_length : fewest applications of the layer plus steps through time from x_1 to h_n; None where no
        number of them leads there.
    n_out : length of the output.
    reach : positions that one application carries the past forward; None for all of them.
    pairs : unmasked pairs of positions, None where the layer has none.
    state : numbers kept between two tokens of a stream, None where the layer cannot be streamed.
    constant : FLOPs of products with a factor that needs no gradient, such as the state before step 0.
    """

    flops: Mapping[str, int] = field(default_factory=dict)
    chain: int = 0
    sequential_steps: int = 0
    path_length: int | None = None
    n_out: int = 0
    reach: int | None = 0
    pairs: int | None = None
    state: int | None = 0
    constant: int = 0

    @property
    def total(self) -> int:
        """FLOPs of all parts."""
        return sum(self.flops.values())

    @property
    def with_backward(self) -> int:
        """FLOPs of the pass and of the gradients in x and the weights: two products for each of its own."""
        return 3 * self.total - self.constant

    @property
    def parallelism(self) -> float:
        """FLOPs over FLOPs on the longest dependent chain; 1 where there are none."""
        return self.total / self.chain if self.chain else 1.0


@singledispatch
def complexity(module: Any, n: int) -> Complexity | None:
    """The formulas of an ``nn.Module`` at length n; None for a type that is not in the table.

    Raises ``BadInput`` where n is less than 1, or too short for the module.

    Examples
    --------
    >>> import torch
    >>> found = complexity(torch.nn.LSTM(300, 512, num_layers=2), 100)
    >>> found.total // 2, found.sequential_steps, found.path_length
    (376012800, 101, 100)
    """
    before = len(complexity.registry)
    len(layers)  # reading the table of layers fills this one
    return complexity(module, n) if len(complexity.registry) > before else None


def checked(n: int) -> int:
    """n, refused where it is less than 1."""
    if n < 1:
        raise BadInput(f"n must be at least 1, not {n}")
    return n


def of_attention(
    n: int,
    d: int,
    heads: int,
    *,
    pairs: int,
    widest: int,
    path_length: int | None,
    reach: int | None,
    cached: int | None,
) -> Complexity:
    """Self-attention of width d over so many unmasked pairs: 8 n d^2 + 4 d pairs FLOPs.

    ``widest`` is the number of keys that the target with most of them sees, ``cached`` that of the positions
    whose keys and values the next token may ask for; None where the future is seen.
    """
    projected = dict.fromkeys(("queries", "keys", "values", "output"), 2 * n * d * d)
    return Complexity(
        projected | dict.fromkeys(("scores", "mixing"), 2 * pairs * d),
        chain=2 * (d + d // heads + widest + d),
        sequential_steps=1,
        path_length=path_length,
        n_out=n,
        reach=reach,
        pairs=pairs,
        state=None if cached is None else 2 * d * cached,
    )


def fft_flops(n: int) -> int:
    """FLOPs of the Fourier transform of n complex numbers: 5 n log2 n; half of them where all are real."""
    return round(5 * n * math.log2(n)) if n else 0


def applications(n: int, reach: int) -> int | None:
    """Layers that carry x_1 to h_n where each carries it ``reach`` positions on: ceil((n - 1) / reach).

    Examples
    --------
    >>> applications(1000, 2), applications(1000, 0)
    (500, None)
    """
    return -(-(n - 1) // reach) if reach else (0 if n == 1 else None)


def overtakes(module: Any, other: Any, most: int = 1 << 40) -> int | None:
    """The first n from which a module takes more FLOPs than another at every longer length.

    By bisection over the formulas, whose difference changes its sign once for layers of the forms
    a n^2 + b n, a n^(3/2), a n log n and a n; None where the module does not take more even at n = ``most``.
    Raises ``BadInput`` for a module that is not in the table.

    Examples
    --------
    >>> import torch
    >>> overtakes(torch.nn.MultiheadAttention(64, 8), torch.nn.LSTM(64, 64))
    129
    """

    def flops(which: Any, n: int) -> int:
        found = complexity(which, n)
        if found is None:
            raise BadInput(f"no formula for {type(which).__name__}; register one with complexity.register")
        return found.total

    def more(n: int) -> bool:
        return flops(module, n) > flops(other, n)

    if not more(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if more(middle) else (middle, high)
    return high
