r"""The rows of one target on their way: their rank compression, and what was discarded.

A row block R (r, S) has eigenvectors U of its Gram matrix R R^T. Keeping the leading ones,

    ||R X||_F^2 = ||U_k^T R X||_F^2 + ||U_d^T R X||_F^2      for every X, exactly,

so ln norm errs by half the square of the discarded share (for any orthonormal columns). A threshold bounds
the share only at the step where it is applied; later steps may contract the kept part faster than the rest.
So q random combinations of everything discarded, G U_d^T R with G ~ N(0, 1/q), ride along: E ||sketch X||_F^2
is the discarded ||.||_F^2 at every later lag, and q times their ratio is at worst chi-squared with q degrees
of freedom (when one direction dominates), which gives the upper bound.

For the same reason directions L = U_l^T R of low share need fewer digits. Carried in float32, as L + E, they
err ln norm by at most ||L X|| ||E X|| / ||R X||^2. A few combinations G L are carried in float64 beside them,
and G L X - G (L + E) X measures ||E X||_F as a sketch does.

Source: Halko, Martinsson and Tropp 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.scaled import Scaled, added, log_hypot, log_norms
from depprobe.operators.chain.cells import SweptChain

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
    scale : (r, 1) float64; -inf for a row that was zero when it was last rescaled.
    of : slice of each group, by name; sketches of the last part come last, with no row where there is none.
    """

    def __init__(self, dtype: torch.dtype, **groups: Scaled) -> None:
        self.rows = torch.cat([group.values for group in groups.values()])
        self.scale = torch.cat([group.log_scale for group in groups.values()])
        ends = np.cumsum([len(group.values) for group in groups.values()]).tolist()
        self.of = {name: slice(*ends) for name, ends in zip(groups, pairwise([0, *ends]), strict=True)}
        self.rescale()
        self.rows = self.rows.to(dtype)

    def rescale(self) -> None:
        """Bring the largest entry of every row to 1 before it leaves the range of floats."""
        self.rows, self.scale = Scaled(self.rows, self.scale).rescaled((1,))

    def read(self, name: str, taps: Tensor) -> Scaled:
        """Taps (steps, r, width) of a group of the rows, with the rows' exponents."""
        return Scaled(taps[:, self.of[name]], self.scale[self.of[name]])

    def group(self, name: str) -> Scaled:
        """Rows of a group, in float64."""
        return Scaled(self.rows[self.of[name]].double(), self.scale[self.of[name]])

    def top(self, name: str = "kept") -> Tensor:
        """Largest exponent of a row of the group that is not zero; -inf where there is none."""
        return self.scale[self.of[name]].amax()


def first_rows(stack: Sequence[SweptChain], of: str) -> Tensor:
    """Unit rows on the top layer's h or c, over the states of all layers."""
    top, width = stack[-1], sum(cell.width for cell in stack)
    height, left = (top.d_c, width - top.width) if of == "c" else (top.d_h, width - top.d_h)
    first = top.size.new_zeros(height, width)
    first[:, left : left + height].fill_diagonal_(1)
    return first


class RowBlock:
    """The rows of one target, swept through a chain.

    Attributes
    ----------
    parts : rows in the precision of the chain and, once there are any, those of low share in float32. With
        the last ride sketches of what was discarded and of what was rounded so far, with the first
        combinations of the second.
    """

    def __init__(self, rows: Tensor) -> None:
        zeros = torch.zeros(rows.shape[0], 1, dtype=torch.float64, device=rows.device)
        whole, nothing = Scaled(rows, zeros), Scaled(rows[:0], zeros[:0])
        self.parts = [Carried(rows.dtype, kept=whole, sketch=nothing, rounded=nothing)]
        self._dtype = rows.dtype
        self._mix = rows[:0]
        self._generator = torch.Generator(device=rows.device).manual_seed(0)

    def read(self, logs: Sequence[Tensor], taps: Sequence[Tensor], norm: str) -> Tensor:
        """What ``norms_of`` makes norms of, on the device: (steps, 3), or (steps, 6).

        Parameters
        ----------
        logs : ln norms of what each group of each of the parts reads, (steps, groups).
        taps : (steps, r, width) for each of the parts; none for Frobenius norms of one part.
        norm : ``fro`` or ``spectral``, the latter of one part only.
        """
        if norm != "fro":
            kept = log_norms(self.parts[0].read("kept", taps[0]), norm)[:, None]
            return torch.cat([kept, torch.full_like(kept, -math.inf).expand(-1, 2)], 1)
        if not taps or (len(self.parts) == 1 and taps[0].dtype == self._dtype):
            return logs[0]
        found = [log[:, 0] for log in logs]
        unsafe = torch.zeros_like(found[0], dtype=torch.bool)
        for part, tap, log in zip(self.parts, taps, found, strict=True):
            if tap.dtype != self._dtype:
                unsafe |= ~((log - part.top()).abs() < _SAFE)
        nothing = torch.full_like(found[0], -math.inf)
        low, apart = (found[1], self._log_rounded(*taps)) if len(self.parts) > 1 else (nothing, nothing)
        return torch.stack([found[0], *logs[-1][:, -2:].unbind(1), low, apart, unsafe.double()], 1)

    def _log_rounded(self, high_taps: Tensor, low_taps: Tensor) -> Tensor:
        """ln norm of the difference between combinations of the low rows and the same of rows in float64."""
        high, low = self.parts
        unit = high.top("mixed")
        mix = Scaled(self._mix, low.scale[low.of["kept"]].T).relative_to(unit).to(low_taps.dtype)
        sure, scale = high.read("mixed", high_taps)
        apart = Scaled(sure.double(), scale).relative_to(unit) - mix @ low_taps[:, low.of["kept"]]
        return Scaled(apart, unit).log_norm((1, 2))

    def compress(self, threshold: float, split: bool = False, halve: bool = False) -> None:
        """Discard directions whose joint share of the Frobenius norm is at most ``threshold``.

        With ``split``, those of low share are carried in float32 from here on. With ``halve`` (not both), a
        quarter of the directions is kept, or half, found at random, or all: less work where that takes long.
        """
        unit = torch.stack([part.top() for part in self.parts]).max()
        if not bool(unit.isfinite()):
            return
        common = torch.cat([part.group("kept").relative_to(unit) for part in self.parts])
        if not bool(common.isfinite().all()):
            return
        found = self._half(common, threshold) if halve else self._leading(common, threshold, split)
        if found is None:
            return
        rows, discarded, low = found
        last = self.parts[-1]
        riding = {"sketch": discarded}
        if len(self.parts) > 1:
            mixed, kept = self.parts[0].group("mixed"), last.group("kept")
            riding["rounded"] = mixed.relative_to(unit) - self._mix @ kept.relative_to(unit)
        # sketches of different things are independent: their sum is one of both
        nothing = _over(common[:0], unit)
        sketches: dict[str, Scaled] = {}
        for name in ("sketch", "rounded"):
            before, more = last.group(name), _over(riding[name], unit) if name in riding else nothing
            both = len(before.values) and len(more.values)
            sketches[name] = added(before, more) if both else more if len(more.values) else before
        if low < _FEWEST_LOW:
            self.parts = [Carried(self._dtype, kept=_over(rows, unit), **sketches)]
            return
        self._mix = self._normal(ROUNDED_ROWS, low, rows)
        self.parts = [
            Carried(self._dtype, kept=_over(rows[low:], unit), mixed=_over(self._mix @ rows[:low], unit)),
            Carried(torch.float32, kept=_over(rows[:low], unit), **sketches),
        ]

    def _leading(self, rows: Tensor, threshold: float, split: bool) -> tuple[Tensor, Tensor, int] | None:
        """Leading directions of rows (r, S), low ones first; a sketch of the rest; how many are low."""
        # in float64 also for float32 rows: a Gram matrix resolves shares only down to the root of epsilon
        power, U = torch.linalg.eigh(rows @ rows.T)
        power = power.clamp_min(0)
        noise = torch.finfo(power.dtype).eps * power[-1]
        tail, whole = torch.cumsum(power + noise, 0), power.sum()
        cut = int((tail <= threshold**2 * whole).sum())
        if cut == 0 or not bool(power[-1] > 0):
            return None
        sketch = self._normal(SKETCH_ROWS, cut, power) @ U[:, :cut].T @ rows
        low = int((tail <= _LOW_SHARE**2 * whole).sum()) - cut if split else 0
        return U[:, cut:].T @ rows, sketch, low

    def _half(self, rows: Tensor, threshold: float) -> tuple[Tensor, Tensor, int] | None:
        """Q^T R, Q (r, r / 4 or r / 2) the range of (R R^T)^2 times a random matrix; and as ``_leading``."""
        gram = rows @ rows.T
        gram /= gram.diagonal().amax()
        for count in (len(rows) // 4, len(rows) // 2):
            Q = torch.linalg.qr(gram @ (gram @ self._normal(len(rows), count, rows)))[0]
            kept = Q.T @ rows
            left = rows - Q @ kept
            if bool(left.square().sum() <= threshold**2 * rows.square().sum()):
                return kept, self._normal(SKETCH_ROWS, len(rows), rows) @ left, 0
        return None

    def _normal(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """G (rows, columns) with entries N(0, 1/rows)."""
        drawn = torch.randn(rows, columns, generator=self._generator, dtype=like.dtype, device=like.device)
        return drawn / math.sqrt(rows)


class Step(NamedTuple):
    """What one run of the sweep hands over of the row of one target, from source ``start`` down."""

    start: int
    block: RowBlock
    #: what runs told of all targets (``Told``), on the device, and which of it is of this run; the first
    #: group of this target, and its place among ``targets``
    told: Tensor
    here: slice
    group: int
    place: int
    targets: int
    #: what norms are made of (``RowBlock.read``) where that is not what these groups tell
    read: Tensor | None
    #: of each of the block's parts, if asked for, rows on the quantity over exp(scale): (steps, r, width)
    taps: list[Tensor]

    def norms(
        self, told: NDArray[np.float64], read: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], ...]:
        """ln norms and bounds on their errors, (steps,) each, and (3, steps): ln norms of rounding errors of
        the taps, whole and along the rows, and of rows on the state; from ``told`` and ``read`` on the host.
        """
        told = told[self.here]
        rounding = told[:, -3 * self.targets - 1 : -1].reshape(len(told), 3, -1)[:, :, self.place]
        own = told[:, self.group : self.group + 3] if read is None else read
        return *norms_of(own), rounding.T


@np.errstate(invalid="ignore")  # of infinite norms not a number, which is taken again
def norms_of(read: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Natural logs of norms and bounds on their errors (99.9 % a lag), of what ``RowBlock.read`` returns.

    Columns are ln norms of what is kept, discarded and rounded so far, and with rows in float32, of these
    rows, of the errors among them, and whether they left the range of float32.
    """
    value, sketch, rounded = read[:, :3].T
    error = np.zeros_like(value)
    if read.shape[1] > 3:
        high, (low, apart, unsafe) = value, read[:, 3:].T
        value = log_hypot(high, low)
        # the low rows err but among themselves
        rounded = np.where(np.isneginf(low), rounded, np.logaddexp(rounded, low - value + apart))
        error[unsafe > 0] = np.inf
    error += 0.5 * np.log1p(_share(sketch, value) ** 2 / SKETCH_QUANTILE)
    error += _share(rounded, value) / math.sqrt(ROUNDED_QUANTILE)
    return value, error


def _over(rows: Tensor, unit: Tensor) -> Scaled:
    """Rows (r, S) that share one exponent, each with its own."""
    return Scaled(rows, unit.expand(len(rows), 1))


def _share(log_part: NDArray[np.float64], log_whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part over the whole; of nothing 0, whatever the whole."""
    return np.where(np.isneginf(log_part), 0.0, np.exp(log_part - log_whole))


def middle(dtype: torch.dtype) -> tuple[float, float]:
    """Largest entries of rows whose squares float64 holds, and whose other entries keep their digits."""
    if dtype == torch.float64:
        return math.sqrt(torch.finfo(dtype).tiny) * 1e3, math.sqrt(torch.finfo(dtype).max) * 1e-3
    return torch.finfo(dtype).tiny * 1e12, torch.finfo(dtype).max * 1e-12
