r"""Rows of a Jacobian on their way down through layers: only the positions that carry anything.

    R (P, r, d) at positions where_0 < ... < where_{P-1},  each row standing for R * exp(log_scale)

Exponents are written down only once rows leave the middle of the float range, so that short stacks cost
nothing for them and long ones never underflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from depprobe.core import scaled
from depprobe.core.scaled import Scaled


class Rows(NamedTuple):
    """r rows on a sequence of which P positions carry something.

    Shapes: values (P, r, d); log_scale (P, r, 1), or (1, 1, 1) where all share it; where (P,) ascending.
    """

    values: Tensor
    log_scale: Tensor
    where: Tensor

    @classmethod
    def unit(cls, t: int, rows: Tensor) -> Rows:
        """Rows (r, d) on position t alone."""
        return cls(*Scaled.plain(rows[None]), torch.tensor([t], device=rows.device))

    @property
    def scaled(self) -> Scaled:
        """The rows without their positions."""
        return Scaled(self.values, self.log_scale)

    def settled(self) -> Rows:
        """The same, rescaled to a largest entry of 1 if any row left the middle of the float range."""
        found = self.scaled.settled((2,))
        if found.values is self.values and self.log_scale.numel() == 1:
            return self
        return Rows(*found, self.where)

    def dense(self, n: int) -> Scaled:
        """Values (r, n, d) with exponents (r, n, 1) over all n positions; -inf where nothing is carried."""
        P, r, d = self.values.shape
        values = self.values.new_zeros(r, n, d)
        values[:, self.where] = self.values.transpose(0, 1)
        log_scale = torch.full((r, n, 1), -torch.inf, dtype=torch.float64, device=values.device)
        log_scale[:, self.where] = self.log_scale.expand(P, r, 1).transpose(0, 1)
        return Scaled(values, log_scale)


def gathered(parts: Sequence[Rows]) -> Rows:
    """Sum of contributions whose positions may repeat, within one of them too."""
    total, where = scaled.gathered([(part.scaled, part.where) for part in parts])
    return Rows(*total, where)
