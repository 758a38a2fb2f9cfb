r"""Rank compression of a row block, with sketches that measure what was discarded and what was rounded.

A row block R (r, S) has eigenvectors U of its Gram matrix R R^T. Keeping the leading ones,

    ||R X||_F^2 = ||U_k^T R X||_F^2 + ||U_d^T R X||_F^2      for every X, exactly,

so ln norm errs by half the square of the discarded share. A threshold bounds the share only at the
step where it is applied; later steps may contract the kept part faster than the rest. So q random
combinations of everything discarded, G U_d^T R with G ~ N(0, 1/q), ride along: E ||sketch X||_F^2 is
the discarded ||.||_F^2 at every later lag, and q times their ratio is at worst chi-squared with q degrees
of freedom (when one direction dominates), which gives the upper bound.

For the same reason directions L = U_l^T R of low share need fewer digits. Carried in float32, as L + E, they
err ln norm by at most ||L X|| ||E X|| / ||R X||^2. A few combinations G L are carried in float64 beside them,
and G L X - G (L + E) X measures ||E X||_F as a sketch does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.log_norm import log_norm_of

#: rows of the sketches of what is discarded and of what is rounded, and the 0.1 % quantiles of chi-squared
#: with as many degrees of freedom over their number
SKETCH_ROWS, ROUNDED_ROWS = 8, 4
SKETCH_QUANTILE, ROUNDED_QUANTILE = 0.8571 / SKETCH_ROWS, 0.0908 / ROUNDED_ROWS
#: joint share of the norm of the directions that are carried in float32, and the fewest that are worth it
_LOW_SHARE, _FEWEST_LOW = 0.03, 16
#: norms of products of rows with entries up to 1 that float32 holds without loss, as ln
_SAFE = math.log(1e25)


class Carried:
    """Groups of rows of one precision on their way, each row with an exponent.

    Attributes
    ----------
    rows : (r, S), all groups; row i stands for ``rows[i] * exp(scale[i])``.
    scale : (r,) float64.
    alive : (r,) whether a row was other than zero when it was last rescaled.
    of : slice of each group, by name.
    """

    def __init__(self, **groups: tuple[Tensor, Tensor]) -> None:
        self.rows = torch.cat([rows for rows, _ in groups.values()])
        self.scale = torch.cat([scale for _, scale in groups.values()])
        ends = np.cumsum([len(rows) for rows, _ in groups.values()]).tolist()
        self.of = {name: slice(*ends) for name, ends in zip(groups, pairwise([0, *ends]), strict=True)}
        self.alive = peaks(self.rows) != 0

    def rescale(self) -> None:
        """Bring the largest entry of every row to 1 before it leaves the range of floats."""
        peak = peaks(self.rows)
        self.alive = peak != 0
        peak = torch.where((peak > 0) & peak.isfinite(), peak, torch.ones_like(peak))
        self.rows = self.rows / peak[:, None]
        self.scale = self.scale + peak.double().log()

    def to(self, dtype: torch.dtype) -> Carried:
        """The same in another precision, scaled before it is rounded."""
        self.rescale()
        self.rows = self.rows.to(dtype)
        return self

    def group(self, name: str, unit: Tensor) -> Tensor:
        """Rows of a group over exp(unit), in float64."""
        return self.rows[self.of[name]].double() * (self.scale[self.of[name]] - unit).exp()[:, None]

    def top(self, name: str = "kept") -> Tensor:
        """Largest exponent of a row of the group that is not zero; -inf where there is none."""
        return self.scale[self.of[name]].masked_fill(~self.alive[self.of[name]], -math.inf).amax()


class RowBlock:
    """The rows of one target, swept through a chain.

    Attributes
    ----------
    parts : rows in the precision of the chain and, once there are any, those of low share in float32. With
        the last ride sketches of what was discarded and of what was rounded so far, with the first
        combinations of the second.
    """

    def __init__(self, rows: Tensor) -> None:
        zeros = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
        self.parts = [Carried(kept=(rows, zeros))]
        self._dtype = rows.dtype
        self._mix = rows[:0]
        self._generator = torch.Generator(device=rows.device).manual_seed(0)

    @np.errstate(invalid="ignore")  # of infinite norms not a number, which is taken again
    def read(self, taps: Sequence[Tensor], norm: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Natural logs of norms of what is read and bounds on their errors (99.9 % a lag): (steps,) each.

        Parameters
        ----------
        taps : (steps, r, width) for each of the parts.
        norm : ``fro`` or ``spectral``, the latter of one part only.
        """
        value, error = (np.full(len(taps[0]), fill) for fill in (-np.inf, 0.0))
        for part, tap in zip(self.parts, taps, strict=True):
            found = log_norm_of(tap[:, part.of["kept"]], part.scale[part.of["kept"]], norm)
            value = 0.5 * np.logaddexp(2 * value, 2 * found)
            if tap.dtype != self._dtype:
                error[~(np.abs(found - float(part.top())) < _SAFE)] = np.inf
        last = self.parts[-1]
        sketch, rounded = (
            log_norm_of(taps[-1][:, last.of[name]], last.scale[last.of[name]], "fro")
            if name in last.of
            else np.full(len(value), -np.inf)
            for name in ("sketch", "rounded")
        )
        if len(self.parts) > 1:
            # the low rows, whose norm is ``found``, err but among themselves
            rounded = np.logaddexp(rounded, found - value + self._log_rounded(*taps))
        error += 0.5 * np.log1p(_share(sketch, value) ** 2 / SKETCH_QUANTILE)
        error += _share(rounded, value) / math.sqrt(ROUNDED_QUANTILE)
        return value, error

    def _log_rounded(self, high_taps: Tensor, low_taps: Tensor) -> NDArray[np.float64]:
        """ln norm of the difference between combinations of the low rows and the same of rows in float64."""
        high, low = self.parts
        mixed, kept, unit = high.of["mixed"], low.of["kept"], high.top("mixed")
        mix = (self._mix * (low.scale[kept] - unit).exp()).to(low_taps.dtype)
        sure = high_taps[:, mixed].double() * (high.scale[mixed] - unit).exp()[:, None]
        apart = torch.linalg.vector_norm(sure - mix @ low_taps[:, kept], dim=(1, 2))
        return (apart.log() + unit).cpu().numpy()

    def compress(self, threshold: float, split: bool = False) -> None:
        """Discard directions whose joint share of the Frobenius norm is at most ``threshold``.

        With ``split``, those of low share are carried in float32 from here on.
        """
        unit = torch.stack([part.top() for part in self.parts]).max()
        if not bool(unit.isfinite()):
            return
        # in float64 also for float32 rows: a Gram matrix resolves shares only down to the root of epsilon
        common = torch.cat([part.group("kept", unit) for part in self.parts])
        power, U = torch.linalg.eigh(common @ common.T)
        power = power.clamp_min(0)
        noise = torch.finfo(power.dtype).eps * power[-1]
        tail, whole = torch.cumsum(power + noise, 0), power.sum()
        cut = int((tail <= threshold**2 * whole).sum())
        if cut == 0 or not bool(power[-1] > 0):
            return
        last = self.parts[-1]
        riding = {"sketch": self._normal(SKETCH_ROWS, cut, power) @ U[:, :cut].T @ common}
        if len(self.parts) > 1:
            riding["rounded"] = self.parts[0].group("mixed", unit) - self._mix @ last.group("kept", unit)
        # sketches of different things are independent: their sum is one of both
        sketches = {name: _sum(rows, unit, last, name) for name, rows in riding.items()}
        if "rounded" in last.of and "rounded" not in riding:
            sketches["rounded"] = last.rows[last.of["rounded"]].double(), last.scale[last.of["rounded"]]
        rows, scale = U[:, cut:].T @ common, unit.expand(len(power) - cut)
        low = int((tail <= _LOW_SHARE**2 * whole).sum()) - cut if split else 0
        if low < _FEWEST_LOW:
            self.parts = [Carried(kept=(rows, scale), **sketches).to(self._dtype)]
            return
        self._mix = self._normal(ROUNDED_ROWS, low, power)
        mixed = self._mix @ rows[:low], unit.expand(ROUNDED_ROWS)
        self.parts = [
            Carried(kept=(rows[low:], scale[low:]), mixed=mixed).to(self._dtype),
            Carried(kept=(rows[:low], scale[:low]), **sketches).to(torch.float32),
        ]

    def _normal(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """G (rows, columns) with entries N(0, 1/rows)."""
        drawn = torch.randn(rows, columns, generator=self._generator, dtype=like.dtype, device=like.device)
        return drawn / math.sqrt(rows)


def _sum(rows: Tensor, unit: Tensor, part: Carried, name: str) -> tuple[Tensor, Tensor]:
    """Rows over exp(unit) added to a group where the part has it, and the exponents of the sum."""
    if name not in part.of:
        return rows, unit.expand(len(rows))
    peak = torch.maximum(part.scale[part.of[name]], unit)[:, None]
    return part.group(name, peak[:, 0]) + rows * (unit - peak).exp(), peak[:, 0]


def peaks(rows: Tensor) -> Tensor:
    """Largest modulus in each row (r, S): (r,); NaN where a row holds one."""
    low, high = rows.aminmax(dim=1)
    return torch.maximum(-low, high)


def _share(log_part: NDArray[np.float64], log_whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part over the whole; of nothing 0, whatever the whole."""
    return np.where(np.isneginf(log_part), 0.0, np.exp(log_part - log_whole))
