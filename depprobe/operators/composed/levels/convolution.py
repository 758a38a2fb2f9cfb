r"""A level that is a convolution: each tap carries rows to the position it reads.

    J[t,k] = sum of the taps W_i that read k,    (R J)_k = sum_{t,i: t reads k through i} R_t W_i

Shapes: rows R (P, r, d_out), W_i (d_out, d_in), kept as (K, groups, d_out / groups, d_in / groups).
Which position a tap reads: ``taps.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.rows import Rows, gathered
from depprobe.operators.composed.levels.level import Level, Positions
from depprobe.operators.convolution.taps import Taps


class Conv(Level):
    """A convolution: each tap carries rows to the position it reads."""

    def __init__(self, conv: nn.Conv1d, taps: Taps) -> None:
        self.taps, self.width, self.groups = taps, conv.in_channels, conv.groups
        self.placing = (taps.origin, float(taps.stride))
        weight = conv.weight.detach()
        self.work = float(weight.numel())
        # (K, groups, d_out / groups, d_in / groups)
        self._weight = weight.permute(2, 0, 1).unflatten(1, (conv.groups, -1)).contiguous()
        self._grams: dict[tuple[int, int], Tensor] = {}

    def support(self, where: Positions) -> Positions:
        """What the taps read."""
        source = self.taps.sources(where)
        return np.unique(source[source >= 0])

    def window(self) -> tuple[int, int] | None:
        """From the first tap to the last."""
        return (-self.taps.pad[0], self.taps.span - self.taps.pad[0])

    def matrix(self, tap: int) -> Tensor:
        """W_i: (d_out, d_in)."""
        return self._weight[tap, 0] if self.groups == 1 else torch.block_diag(*self._weight[tap])

    def gram(self, tap: int, other: int) -> Tensor:
        """W_i W_j^T: (d_out, d_out), kept once made."""
        if (tap, other) not in self._grams:
            self._grams[tap, other] = self.matrix(tap) @ self.matrix(other).T
        return self._grams[tap, other]

    def keeps_band(self) -> bool:
        """Unless padding shows positions from elsewhere."""
        taps = self.taps
        centred = 2 * taps.pad[0] == 2 * taps.pad[1] == taps.span
        return taps.mode == "zeros" or (centred and taps.mode != "circular")

    def is_shift_invariant(self) -> bool:
        """One kernel for all positions."""
        return True

    def is_inner(self, low: Positions, high: Positions) -> NDArray[np.bool_]:
        """Whether no padding is read."""
        return self.taps.is_inner(low) & self.taps.is_inner(high)

    def is_closed(self) -> bool:
        """Zeros on the left, as a causal convolution has them."""
        return self.taps.is_causal

    def pull(self, rows: Rows) -> Rows:
        """Rows times each tap's matrix, added up where taps meet."""
        source = torch.from_numpy(self.taps.sources(rows.where.cpu().numpy())).to(rows.where.device)
        parts = []
        for tap, weight in enumerate(self._weight):
            read = source[:, tap] >= 0
            values = rows.values if bool(read.all()) else rows.values[read]
            scale = rows.log_scale if rows.log_scale.shape[0] == 1 else rows.log_scale[read]
            if len(weight) == 1:
                values = values @ weight[0]
            else:
                values = torch.einsum(
                    "prgo,goi->prgi", values.unflatten(2, (len(weight), -1)), weight
                ).flatten(2)
            parts.append(Rows(values, scale, source[read, tap]))
        return gathered(parts).settled()
