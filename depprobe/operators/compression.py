r"""Rank compression of a row block, with a sketch that measures what was discarded.

A row block R (r, S) has eigenvectors U of its Gram matrix R R^T. Keeping the leading ones,

    ||R X||_F^2 = ||U_k^T R X||_F^2 + ||U_d^T R X||_F^2      for every X, exactly,

so ln norm errs by half the square of the discarded share. A threshold bounds the share only at the
step where it is applied; later steps may contract the kept part faster than the rest. So q random
combinations of everything discarded, G U_d^T R with G ~ N(0, 1/q), ride along: E ||sketch X||_F^2 is
the discarded ||.||_F^2 at every later lag, and q times their ratio is at worst chi-squared with q degrees
of freedom (when one direction dominates), which gives the upper bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: rows of the sketch, and the 0.1 % quantile of chi-squared with as many degrees of freedom over their number
SKETCH_ROWS = 8
SKETCH_QUANTILE = 0.8571 / SKETCH_ROWS


class RowBlock:
    """Rows to be swept through a chain: kept rows first, sketch rows after, each with its exponent.

    Attributes
    ----------
    rows : (r + q, S); row i stands for ``rows[i] * exp(scale[i])``.
    scale : (r + q,) float64.
    kept : r, the number of kept rows.
    alive : (r + q,) whether a row was other than zero when it was last rescaled.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.scale = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
        self.kept = rows.shape[0]
        self.alive = peaks(rows) != 0
        self._generator = torch.Generator(device=rows.device).manual_seed(0)

    def rescale(self) -> None:
        """Bring the largest entry of every row to 1 before it leaves the range of floats."""
        peak = peaks(self.rows)
        self.alive = peak != 0
        peak = torch.where((peak > 0) & peak.isfinite(), peak, torch.ones_like(peak))
        self.rows = self.rows / peak[:, None]
        self.scale = self.scale + peak.double().log()

    def compress(self, threshold: float) -> None:
        """Discard directions whose joint share of the Frobenius norm is at most ``threshold``."""
        kept, scale = self.rows[: self.kept], self.scale[: self.kept]
        top = scale.max()
        if not bool(top.isfinite()):
            return
        common = kept * (scale - top).exp().to(kept.dtype)[:, None]
        # in float64 also for float32 rows: a Gram matrix resolves shares only down to the root of epsilon
        wide = common.double()
        power, U = torch.linalg.eigh(wide @ wide.T)
        power, U = power.clamp_min(0), U.to(kept.dtype)
        noise = torch.finfo(power.dtype).eps * power[-1]
        tail = torch.cumsum(power + noise, 0)
        cut = int((tail <= threshold**2 * power.sum()).sum())
        if cut == 0 or not bool(power[-1] > 0):
            return
        discarded = U[:, :cut]
        mix = torch.randn(SKETCH_ROWS, cut, generator=self._generator, dtype=kept.dtype, device=kept.device)
        sketch = (mix @ discarded.T / math.sqrt(SKETCH_ROWS)) @ common
        sketch_scale = top.expand(SKETCH_ROWS)
        if self.rows.shape[0] > self.kept:
            old, old_scale = self.rows[self.kept :], self.scale[self.kept :]
            peak = torch.maximum(old_scale, sketch_scale)
            sketch = (
                old * (old_scale - peak).exp().to(old.dtype)[:, None]
                + sketch * (sketch_scale - peak).exp().to(old.dtype)[:, None]
            )
            sketch_scale = peak
        self.rows = torch.cat([U[:, cut:].T @ common, sketch])
        self.kept = kept.shape[0] - cut
        self.scale = torch.cat([top.expand(self.kept), sketch_scale])
        self.rescale()


def peaks(rows: Tensor) -> Tensor:
    """Largest modulus in each row (r, S): (r,); NaN where a row holds one."""
    low, high = rows.aminmax(dim=1)
    return torch.maximum(-low, high)


def compression_error(log_kept: Tensor, log_sketch: Tensor) -> Tensor:
    """Upper bound (99.9 % a lag) on the error of ln norm: half of ln(1 + discarded / kept), in squares."""
    share = (2 * (log_sketch - log_kept)).exp() / SKETCH_QUANTILE
    return 0.5 * torch.log1p(share)
