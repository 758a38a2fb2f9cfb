r"""What rides along with a row block: its rank compression, and what was discarded and rounded on the way.

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

Rounding errors are measured likewise, since a bound by norms explodes where steps are far from normal.
s = G R tells how large the rows are in each column, and each step R' = R M adds to e, in units u of the last
place, errors of the size that it makes:

    e' = (e + b * s) M + v * ((w * s) M),  b_l = +- error of row l of M, w_l = +- (2 + S/8)^(1/2), v_c = +- 1

with random signs: errors of M (``cells.py``) keep rows within its range, those of products do not.
Sources: Halko, Martinsson and Tropp 2011; Higham and Mary 2019 (rounding errors as random ones).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.scaled import Scaled, added, log_hypot, log_norms, peaks
from depprobe.operators.chain.cells import CellChain

#: rows of the sketches of what is discarded and of what is rounded, and the 0.1 % quantiles of chi-squared
#: with as many degrees of freedom over their number
SKETCH_ROWS, ROUNDED_ROWS = 8, 4
SKETCH_QUANTILE, ROUNDED_QUANTILE = 0.8571 / SKETCH_ROWS, 0.0908 / ROUNDED_ROWS
#: joint share of the norm of the directions that are carried in float32, and the fewest that are worth it
_LOW_SHARE, _FEWEST_LOW = 0.03, 16
#: norms of products of rows with entries up to 1 that float32 holds without loss, as ln
_SAFE = math.log(1e25)

#: rows of rounding errors
ROWS = 4
#: most steps whose signs are drawn apart
_STEPS = 32


class Carried:
    """Groups of rows of one precision on their way, each row with an exponent.

    Attributes
    ----------
    rows : (r, S), all groups; row i stands for ``rows[i] * exp(scale[i])``.
    scale : (r, 1) float64; -inf for a row that was zero when it was last rescaled.
    of : slice of each group, by name.
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

    def lost(self, limits: tuple[float, float], *moved: Tensor) -> bool:
        """Whether rows left these limits since they were last rescaled, as some (r, width) show."""
        low, high = limits
        alive = ~self.scale[:, 0].isneginf()
        found = torch.cat([peaks(rows, (1,))[alive] for rows in moved if rows.shape[1]])
        return found.numel() > 0 and not (float(found.min()) >= low and float(found.max()) <= high)

    def read(self, name: str, taps: Tensor) -> Scaled:
        """Taps (steps, r, width) of a group of the rows, with the rows' exponents."""
        return Scaled(taps[:, self.of[name]], self.scale[self.of[name]])

    def group(self, name: str) -> Scaled:
        """Rows of a group, in float64."""
        return Scaled(self.rows[self.of[name]].double(), self.scale[self.of[name]])

    def top(self, name: str = "kept") -> Tensor:
        """Largest exponent of a row of the group that is not zero; -inf where there is none."""
        return self.scale[self.of[name]].amax()


def first_rows(stack: Sequence[CellChain], of: str) -> Tensor:
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
        self.parts = [Carried(rows.dtype, kept=Scaled(rows, zeros))]
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
            found = log_norms(part.read("kept", tap), norm).cpu().numpy()
            value = log_hypot(value, found)
            if tap.dtype != self._dtype:
                error[~(np.abs(found - float(part.top())) < _SAFE)] = np.inf
        last = self.parts[-1]
        sketch, rounded = (
            log_norms(last.read(name, taps[-1])).cpu().numpy()
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
        unit = high.top("mixed")
        mix = Scaled(self._mix, low.scale[low.of["kept"]].T).relative_to(unit).to(low_taps.dtype)
        sure, scale = high.read("mixed", high_taps)
        apart = Scaled(sure.double(), scale).relative_to(unit) - mix @ low_taps[:, low.of["kept"]]
        return Scaled(apart, unit).log_norm((1, 2)).cpu().numpy()

    def compress(self, threshold: float, split: bool = False) -> None:
        """Discard directions whose joint share of the Frobenius norm is at most ``threshold``.

        With ``split``, those of low share are carried in float32 from here on.
        """
        unit = torch.stack([part.top() for part in self.parts]).max()
        if not bool(unit.isfinite()):
            return
        common = torch.cat([part.group("kept").relative_to(unit) for part in self.parts])
        if not bool(common.isfinite().all()):
            return
        # in float64 also for float32 rows: a Gram matrix resolves shares only down to the root of epsilon
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
            mixed, kept = self.parts[0].group("mixed"), last.group("kept")
            riding["rounded"] = mixed.relative_to(unit) - self._mix @ kept.relative_to(unit)
        # sketches of different things are independent: their sum is one of both
        sketches: dict[str, Scaled] = {
            name: last.group(name) for name in ("sketch", "rounded") if name in last.of
        }
        for name, rows in riding.items():
            more = _over(rows, unit)
            sketches[name] = added(sketches[name], more) if name in sketches else more
        rows = U[:, cut:].T @ common
        low = int((tail <= _LOW_SHARE**2 * whole).sum()) - cut if split else 0
        if low < _FEWEST_LOW:
            self.parts = [Carried(self._dtype, kept=_over(rows, unit), **sketches)]
            return
        self._mix = self._normal(ROUNDED_ROWS, low, power)
        self.parts = [
            Carried(self._dtype, kept=_over(rows[low:], unit), mixed=_over(self._mix @ rows[:low], unit)),
            Carried(torch.float32, kept=_over(rows[:low], unit), **sketches),
        ]

    def _normal(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """G (rows, columns) with entries N(0, 1/rows)."""
        drawn = torch.randn(rows, columns, generator=self._generator, dtype=like.dtype, device=like.device)
        return drawn / math.sqrt(rows)


def _over(rows: Tensor, unit: Tensor) -> Scaled:
    """Rows (r, S) that share one exponent, each with its own."""
    return Scaled(rows, unit.expand(len(rows), 1))


def _share(log_part: NDArray[np.float64], log_whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part over the whole; of nothing 0, whatever the whole."""
    return np.where(np.isneginf(log_part), 0.0, np.exp(log_part - log_whole))


class Noise:
    """Random signs, and the sizes of what each step of a stack of layers adds to the errors."""

    def __init__(self, stack: Sequence[CellChain]) -> None:
        self._sizes = [(cell.row_errors(), math.sqrt(2 + cell.width / 8)) for cell in stack]
        like = self._sizes[0][0]
        self.generator = torch.Generator(device=like.device).manual_seed(0)
        self._period = _STEPS * ROWS * max(cell.width + cell.d_in for cell in stack)
        drawn = torch.rand(2 * self._period, generator=self.generator, dtype=like.dtype, device=like.device)
        self._signs = torch.where(drawn < 0.5, -1, 1).to(like.dtype)
        shape = ROWS, max(cell.width for cell in stack)
        odd = 1 + 2 * torch.randint(1 << 30, shape, generator=self.generator, device=like.device)
        self._odd = odd.to(torch.int32 if like.dtype == torch.float32 else torch.int64)

    def signs(self, *shape: int) -> Tensor:
        """Random signs, of at most as many steps as one run has."""
        first = int(torch.randint(self._period, (), generator=self.generator, device=self._signs.device))
        return self._signs[first : first + math.prod(shape)].view(shape)

    def factors(self, level: int, k: int, steps: int) -> Tensor:
        """b above w for the steps from k down: (steps, 2, 1, ROWS, S)."""
        of_rows, of_products = self._sizes[level]
        here = of_rows[k - steps + 1 : k + 1].flip(0)[:, None, None, None]
        # equal states make equal errors, which add up where states settle: signs hang on the bits of sizes
        bits = here.view(self._odd.dtype) * self._odd[:, : here.shape[-1]]
        of_w = self.signs(steps, 1, 1, ROWS, here.shape[-1]) * of_products
        return torch.cat([torch.where(bits < 0, -here, here), of_w], 1)


class Riding:
    """Combinations of the rows of one target, and of their errors in units of the last place.

    ``errors``, e (ROWS, S), stand for ``errors * exp(scale)``; scale is a float64 number, that of s as well.
    """

    def __init__(self, rows: Tensor) -> None:
        self.errors = rows.new_zeros(ROWS, rows.shape[1])
        self.scale = torch.zeros((), dtype=torch.float64, device=rows.device)
        self._mix = self.errors[:, :0]

    def mix(self, block: RowBlock, noise: Noise) -> Tensor:
        """G (ROWS, r) for the next run of the block's first rows; one exponent for s and e from here on."""
        part = block.parts[0]
        scales = part.scale[part.of["kept"]].T
        shape, like = (ROWS, scales.shape[1]), scales.device
        if self._mix.shape[1] != scales.shape[1]:
            drawn = torch.randn(shape, generator=noise.generator, dtype=scales.dtype, device=like)
            self._mix = drawn / drawn.norm(dim=0)
        before, self.scale = self.scale, torch.maximum(self.scale, scales.amax())
        self.errors = self.errors * (before - self.scale).exp().to(self.errors.dtype)
        return (self._mix * (scales - self.scale).exp()).to(part.rows.dtype)

    def take(self, errors: Tensor, noise: Noise) -> None:
        """Take what a run has left, with the largest entry brought to 1."""
        found = Scaled(errors, self.scale.view(1, 1)).rescaled((0, 1))
        scale = found.log_scale.view(())
        self.scale = torch.where(scale.isneginf(), self.scale, scale)
        # entries of rows and errors below the range of floats are lost
        self.errors = found.values + 2 * torch.finfo(errors.dtype).tiny * noise.signs(*errors.shape)

    def rotated(self, block: RowBlock, noise: Noise) -> None:
        """Add the rounding errors of a rotation of all rows."""
        kept = block.parts[0].rows[block.parts[0].of["kept"]]
        s = self.mix(block, noise) @ kept
        self.errors = self.errors + 4 * s * noise.signs(*s.shape)


def log_errors(s: Tensor, e: Tensor, scales: Tensor) -> Tensor:
    """ln norms of errors, whole and along the rows: (2, steps, T), of s and e (steps, T, ROWS, width)."""
    whole = Scaled(e, scales).log_norm((2, 3))
    both = Scaled(s.double() @ e.double().mT, 2 * scales).log_norm((2, 3))
    along = both - Scaled(s, scales).log_norm((2, 3))
    along = torch.where(along < whole, along, whole)
    # what lies below the range of floats is lost
    floor = scales.flatten() + math.log(2 * torch.finfo(s.dtype).tiny)
    return torch.logaddexp(torch.stack([whole, along]), floor)


def middle(dtype: torch.dtype) -> tuple[float, float]:
    """Entries that can be squared, and some way to go still."""
    return math.sqrt(torch.finfo(dtype).tiny) * 1e3, math.sqrt(torch.finfo(dtype).max) * 1e-3
