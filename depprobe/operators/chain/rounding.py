r"""Rounding errors of a sweep, measured by random combinations of them that ride along.

    R' = fl(R M) = R M + E M + dR,      |dR_ic| ~ u (sum_l (a_l R_il M_lc)^2)^(1/2)

A scalar bound on norms explodes where steps are far from normal, so the errors are carried themselves: q rows
s = P R, P ~ N(0, 1/q), tell how large the rows are in each column, and of q rows e each step makes

    e' = e M + v * ((w * s) M)      w_l = +- a_l,  v_c = +- 1  at random,  e in units u of the last place,

which has the size of the errors that the step made, in every direction, and goes the way that they go from
there on: E ||e X||^2 is that of the errors. a_l^2 = 2 + S/8 + (relative error of row l of M)^2, the first two
from the product's S terms (``step_errors.py`` has the third).
Sources: Higham and Mary 2019 (rounding errors as random ones); Halko, Martinsson and Tropp 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.scaled import Scaled
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.step_errors import row_errors

#: rows of errors, and how many times the norm that they read bounds an error, in at least 99.5 % of cases
ROWS, FACTOR = 4, 5.0
#: most steps whose signs are drawn apart
_STEPS = 32


class Noise:
    """What each step of a stack of layers adds to the errors that ride along."""

    def __init__(self, stack: Sequence[CellChain]) -> None:
        self._sizes = [(2 + cell.width / 8 + row_errors(cell).square()).sqrt() for cell in stack]
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
        """Write w * s at step j, which the step takes on with the other rows."""
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
        mix = torch.randn(
            ROWS, len(rows), generator=noise.generator, dtype=rows.dtype, device=rows.device
        ) / math.sqrt(ROWS)
        mixed = mix @ rows
        self.rows = torch.cat([mixed, torch.zeros_like(mixed)])
        self.scale = torch.zeros(ROWS, 1, dtype=torch.float64, device=rows.device)

    def rescale(self, noise: Noise) -> None:
        """Bring the largest entry of s and e together to 1."""
        pairs = self.rows.unflatten(0, (2, ROWS))
        found = Scaled(pairs, self.scale[None]).rescaled((0, 2))
        self.rows, self.scale = found.values.flatten(0, 1), found.log_scale[0]
        # entries of rows and errors below the range of floats are lost
        s, e = self.rows.split(ROWS)
        e += 2 * torch.finfo(e.dtype).tiny * noise.signs(*e.shape)

    def rotated(self, noise: Noise) -> None:
        """Add the rounding errors of a rotation of all rows."""
        s, e = self.rows.split(ROWS)
        e += 4 * s * noise.signs(*s.shape)


def rounded(
    values: NDArray[np.float64], error: NDArray[np.float64], rounding: NDArray[np.float64], dtype: torch.dtype
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log norms, NaN where rounding errors may be as large, and bounds on their errors from all causes.

    Parameters
    ----------
    values, error : ln norms, and their errors from compression.
    rounding : ln norms of rounding errors, in units of the last place of ``dtype``.
    """
    last = math.log(torch.finfo(dtype).eps / 2)
    known = np.isfinite(values)
    share = np.zeros_like(values)
    share[known] = FACTOR * np.exp(np.minimum(rounding[known] + last - values[known], 0))
    lost = known & ~(share < 1)
    places = np.finfo(np.float64).eps * (4 + 4 * np.abs(np.where(known, values, 0)))
    bound = error - np.log1p(-np.where(known & ~lost, share, 0)) + np.where(known, places, 0)
    return np.where(lost, np.nan, values), np.where(lost, 0, bound)
