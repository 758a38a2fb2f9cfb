r"""What a chain reads at each step, taken from rows on its state in single precision.

    J[t,k] = R_k ds_k/dx_k        R_k (rows, S) in float64, its product with ds_k/dx_k (S, d_in) in float32

This product is half of the work of a sweep and nothing follows from it, so its rounding errors do not pile
up: entries err by some 1e-7 of their size, norms of many rows by a hundredth of that. Every so many steps the
product is taken in both precisions, as Y and Y + E: the norm errs by a share of sum(E * Y) / ||Y||^2. One
such sum can be small by luck, so its standard deviation is estimated, from the sums over each row and each
column, whose entries share a rounding. Few rows stay in float64: their products take no time, and fewer
errors average out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.compression import Carried
from depprobe.operators.chain.runs import MATRIX_BYTES

#: steps from one comparison of the two precisions to the next
_CHECK_EVERY = 16
#: rows from which on single precision is worth it
_FEWEST = 128


class SingleReading:
    """Rows on the state of the lowest layer to rows on what it reads.

    Attributes
    ----------
    deviation : largest standard deviation of the relative error of a norm that was seen.
    """

    def __init__(self, cell: CellChain) -> None:
        self._single = cell.columns("x", torch.float32)
        self._double = cell.columns("x", torch.float64)
        self.deviation = 0.0
        self._next: float = math.inf

    def taps(self, k: int, states: Tensor) -> Tensor:
        """Rows (steps, rows, S) on the states at k, k - 1, ... as rows (steps, rows, d_in) on the inputs."""
        steps = len(states)
        dtype = torch.float32 if states.shape[1] >= _FEWEST else torch.float64
        cell = self._single if dtype == torch.float32 else self._double
        out = states.new_empty(*states.shape[:2], cell.d_in, dtype=dtype)
        batch = max(1, MATRIX_BYTES // (cell.width * cell.d_in * dtype.itemsize))
        for first in range(0, steps, batch):
            some = states[first : first + batch]
            matrices = cell.matrices(k - first - len(some) + 1, k - first + 1).unbind(0)
            for rows, M, tap in zip(some.to(dtype), reversed(matrices), out[first:], strict=False):
                torch.mm(rows, M, out=tap)
        return out

    def compare(self, k: int, states: Tensor, taps: Tensor, blocks: Sequence[Carried]) -> None:
        """Estimate how far norms at k are off, where it is time to: states (rows, S), taps (rows, d_in)."""
        if k > self._next or taps.dtype == states.dtype:
            return
        self._next = k - _CHECK_EVERY
        exact = states @ self._double.matrices(k, k + 1)[0]
        parts = [len(block.rows) for block in blocks]
        for block, close, sure in zip(blocks, taps.split(parts), exact.split(parts), strict=True):
            kept = block.of["kept"]
            weight = (block.scale[kept] - block.top()).exp()
            Y = weight * sure[kept]
            off = (weight * close[kept] - Y) * Y
            power = float(Y.square().sum())
            if power > 0:
                # entries of one row share what was rounded of it, those of one column what was of the matrix
                variance = float(off.sum(0).square().sum() + off.sum(1).square().sum())
                self.deviation = max(self.deviation, math.sqrt(variance) / power)
