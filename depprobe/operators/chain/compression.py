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

Rounding errors of each product, R' = R M + dR with |dR_ic| ~ u (sum_l (a_l R_il M_lc)^2)^(1/2), are measured
likewise, since a bound by norms explodes where steps are far from normal. s = G R tells how large the rows
are in each column, and each step adds errors of the size that it makes, in every direction, to e:

    e' = e M + v * ((w * s) M),     w_l = +- a_l,  v_c = +- 1  at random,  e in units u of the last place

a_l^2 = 2 + S/8 + (relative error of row l of M)^2, of the product's S terms and of ``cells.py``.
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

from depprobe.core.scaled import Scaled, added, log_hypot, log_norms, with_rounding
from depprobe.operators.chain.cells import CellChain

#: rows of the sketches of what is discarded and of what is rounded, and the 0.1 % quantiles of chi-squared
#: with as many degrees of freedom over their number
SKETCH_ROWS, ROUNDED_ROWS = 8, 4
SKETCH_QUANTILE, ROUNDED_QUANTILE = 0.8571 / SKETCH_ROWS, 0.0908 / ROUNDED_ROWS
#: joint share of the norm of the directions that are carried in float32, and the fewest that are worth it
_LOW_SHARE, _FEWEST_LOW = 0.03, 16
#: norms of products of rows with entries up to 1 that float32 holds without loss, as ln
_SAFE = math.log(1e25)

#: rows of rounding errors, and how many times the norm that they read bounds an error (99.5 % of cases)
ROWS, FACTOR = 4, 5.0
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

    @property
    def alive(self) -> Tensor:
        """Whether a row was other than zero when it was last rescaled: (r,)."""
        return ~self.scale[:, 0].isneginf()

    def read(self, name: str, taps: Tensor) -> Scaled:
        """Taps (steps, r, width) of a group of the rows, with the rows' exponents."""
        return Scaled(taps[:, self.of[name]], self.scale[self.of[name]])

    def group(self, name: str) -> Scaled:
        """Rows of a group, in float64."""
        return Scaled(self.rows[self.of[name]].double(), self.scale[self.of[name]])

    def top(self, name: str = "kept") -> Tensor:
        """Largest exponent of a row of the group that is not zero; -inf where there is none."""
        return self.scale[self.of[name]].amax()


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
    """What each step of a stack of layers adds to the errors that ride along."""

    def __init__(self, stack: Sequence[CellChain]) -> None:
        self._sizes = [(2 + cell.width / 8 + cell.row_errors().square()).sqrt() for cell in stack]
        like = self._sizes[0]
        self.generator = torch.Generator(device=like.device).manual_seed(0)
        widest = max(cell.width + cell.d_in for cell in stack)
        self._period = _STEPS * ROWS * widest
        drawn = torch.rand(2 * self._period, generator=self.generator, dtype=like.dtype, device=like.device)
        self._signs = torch.where(drawn < 0.5, -1, 1).to(like.dtype)

    def signs(self, *shape: int) -> Tensor:
        """Random signs, of at most as many steps as one run has."""
        first = int(torch.randint(self._period, (), generator=self.generator, device=self._signs.device))
        return self._signs[first : first + math.prod(shape)].view(shape)

    def factors(self, level: int, k: int, steps: int) -> Tensor:
        """w for the steps from k down: (steps, ROWS, S)."""
        sizes = self._sizes[level][k - steps + 1 : k + 1].flip(0)
        return self.signs(steps, ROWS, sizes.shape[1]) * sizes[:, None]


class Injection:
    """What the steps of one run add to the errors, in the buffer (steps + 1, rows, S + d_in) of one layer.

    The last rows of the buffer are, ``extra`` of each, s, e and w * s.
    """

    def __init__(self, noise: Noise, level: int, buffer: Tensor, k: int, extra: int) -> None:
        steps, width = len(buffer) - 1, buffer.shape[2]
        w = noise.factors(level, k, steps)
        self._w, self._v = w.unbind(0), noise.signs(steps, ROWS, width).unbind(0)
        s, e, flipped = buffer[:, -3 * extra :].unflatten(1, (3, -1, ROWS)).unbind(1)
        self._s, self._flipped = (part[..., : w.shape[2]].unbind(0) for part in (s, flipped))
        self._moved, self._e = flipped.unbind(0), e.unbind(0)

    def before(self, j: int) -> None:
        """Write w * s, which step j takes on with the other rows."""
        torch.mul(self._s[j], self._w[j], out=self._flipped[j])

    def after(self, j: int) -> None:
        """Add to the errors what step j made."""
        self._e[j + 1].addcmul_(self._moved[j + 1], self._v[j])


class Riding:
    """Combinations of the rows of one target, and of their errors in units of the last place.

    Attributes
    ----------
    rows : (2 ROWS, S), s above e; row i of each stands for ``rows[i] * exp(scale[i])``.
    scale : (ROWS, 1) float64.
    """

    def __init__(self, rows: Tensor, noise: Noise) -> None:
        shape = ROWS, len(rows)
        mix = torch.randn(shape, generator=noise.generator, dtype=rows.dtype, device=rows.device)
        mixed = mix @ rows / math.sqrt(ROWS)
        self.rows = torch.cat([mixed, torch.zeros_like(mixed)])
        self.scale = torch.zeros(ROWS, 1, dtype=torch.float64, device=rows.device)

    def rescale(self, noise: Noise) -> None:
        """Bring the largest entry of s and e together to 1."""
        pairs = self.rows.unflatten(0, (2, ROWS))
        found = Scaled(pairs, self.scale[None]).rescaled((0, 2))
        self.rows, self.scale = found.values.flatten(0, 1), found.log_scale[0]
        # entries of rows and errors below the range of floats are lost
        errors = self.rows[ROWS:]
        errors += 2 * torch.finfo(errors.dtype).tiny * noise.signs(*errors.shape)

    def rotated(self, noise: Noise) -> None:
        """Add the rounding errors of a rotation of all rows."""
        s, e = self.rows.split(ROWS)
        e += 4 * s * noise.signs(*s.shape)


def rounded(
    values: NDArray[np.float64], error: NDArray[np.float64], rounding: NDArray[np.float64], dtype: torch.dtype
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log norms, NaN where rounding errors may be as large, and bounds on their errors from all causes.

    Given are the errors from compression, and ln norms of rounding errors in units of the last place.
    """
    with np.errstate(invalid="ignore"):
        logs = rounding + math.log(torch.finfo(dtype).eps / 2) - values
    share = FACTOR * np.exp(np.minimum(np.where(np.isfinite(values), logs, -np.inf), 0))
    return with_rounding(values, share, error)
