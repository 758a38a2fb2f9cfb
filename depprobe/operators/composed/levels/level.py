r"""One layer of a stack, linearised at its input: what its outputs depend on, and rows pulled through it.

    pull: R on the layer's output  ->  R J on its input,  J[t,k] = d y_t / d x_k

Shapes: rows (P, r, d) at P positions. The kinds are one file each, by what is known of J: nothing but J[t,t]
(``level_per_position``), taps (``level_conv``), an operator of the layer's own (``level_operator``).
"""

from __future__ import annotations

import abc

import numpy as np
from numpy.typing import NDArray

from depprobe.core.rows import Rows

Positions = NDArray[np.int64]


class Level(abc.ABC):
    """One layer at one input.

    Attributes
    ----------
    width : d_in of the layer.
    placing : (origin, step): output t sits at ``origin + step * t`` among the layer's inputs.
    work : multiply-adds of a pull, for each row and position.
    """

    width: int
    placing: tuple[float, float] = (0.0, 1.0)
    work: float = 0.0

    @abc.abstractmethod
    def support(self, where: Positions) -> Positions:
        """Input positions that the outputs given may depend on, ascending."""

    @abc.abstractmethod
    def pull(self, rows: Rows) -> Rows:
        """Rows on the output as rows on the input."""

    def window(self) -> tuple[int, int] | None:
        """Away from the edges, t reads inputs ``step * t + low`` to ``step * t + high``; None: anywhere."""
        return None

    def zeros_are_exact(self) -> bool:
        """Whether a zero that this level makes is a zero, not an underflow."""
        return True

    def row_log_norms(self, t: int) -> tuple[Positions, NDArray[np.float64]] | None:
        """Sources of output t and ln Frobenius norms of its blocks, if a shorter way than rows is known."""
        return None

    def keeps_band(self) -> bool:
        """Whether at the edges, too, outputs read nothing outside the window."""
        return True

    def is_shift_invariant(self) -> bool:
        """Whether away from the edges a block depends on ``step * t - k`` only."""
        return False

    def is_inner(self, low: Positions, high: Positions) -> NDArray[np.bool_]:
        """Whether outputs ``low`` to ``high`` are away from the edges, for several such ranges."""
        return np.ones(len(low), dtype=bool)

    def is_closed(self) -> bool:
        """Whether what falls off the left edge cannot come back, and nothing falls off the right."""
        return False
