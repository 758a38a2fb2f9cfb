r"""Rounding errors of a row block, measured by errors of the same size that ride along with it.

A bound by norms explodes where steps are far from normal. s = G R, few random combinations of the rows, tell
how large the rows are in each column, and each step R' = R M adds to e, in units u of the last place, errors
of the size that it makes:

    e' = (e + b * s) M + v * ((w * s) M),  b_l = +- error of row l of M, w_l = +- (2 + S/8)^(1/2), v_c = +- 1

with random signs: errors of M (``cells.py``) keep rows within its range, those of products do not.

Shapes: s, e (T, ROWS, S) of T targets, over one exponent a target. Source: Higham and Mary 2019 (rounding
errors as random ones).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.scaled import Scaled, log_norm_of_logs, with_rounding
from depprobe.operators.chain.cells import SweptChain

#: norms of rounding errors to bounds (99.5 % of cases)
FACTOR = 4.0
#: combinations, and as many rows of errors
ROWS = 4
#: most steps whose signs are drawn apart
_STEPS = 64


class Perturbation(NamedTuple):
    """b and w (steps, ROWS, S) and v (steps, ROWS, S + d_in) of the steps of one run, for T targets."""

    matrices: Tensor
    products: Tensor
    signs: Tensor
    #: T ROWS
    rows: int

    @classmethod
    def of(cls, errors: Tensor, odd: Tensor, signs: Tensor, targets: int) -> Perturbation:
        """Made of errors of rows (steps, S) in the order of sources, odd numbers (ROWS, S), and signs."""
        here, width = errors.flip(0)[:, None], errors.shape[1]
        # equal states make equal errors, which add up where states settle: signs hang on the bits of sizes
        bits = here.view(odd.dtype) * odd
        w, v = signs.split([width, signs.shape[2] - width], 2)
        made = torch.where(bits < 0, -here, here), w * math.sqrt(2 + width / 8)
        return cls(*made, v, targets * ROWS)


def numbers_of_noise(widths: Sequence[tuple[int, int]]) -> int:
    """How many random signs are kept for layers of widths (S, d_in)."""
    return 2 * _STEPS * ROWS * max(2 * width + d_in for width, d_in in widths)


class Noise:
    """Random signs of what each step of a stack of layers adds to the errors."""

    def __init__(self, stack: Sequence[SweptChain]) -> None:
        widths = [(cell.width, cell.d_in) for cell in stack]
        self._widths = [(width, 2 * width + d_in) for width, d_in in widths]
        like = stack[0].size
        self._random = random.Random(0)
        self.generator = torch.Generator(device=like.device).manual_seed(0)
        count = numbers_of_noise(widths)
        self._period = count // 2
        drawn = torch.rand(count, generator=self.generator, dtype=like.dtype, device=like.device)
        self._signs = drawn.lt_(0.5).mul_(-2).add_(1)  # in place: there are many
        kind = torch.int32 if like.dtype == torch.float32 else torch.int64
        self._odd = []
        for width, _ in self._widths:
            drawn = torch.randint(1 << 30, (ROWS, width), generator=self.generator, device=like.device)
            self._odd.append((1 + 2 * drawn).to(kind))

    def signs(self, *shape: int) -> Tensor:
        """Random signs, of at most as many steps as one run has."""
        first = self._random.randrange(self._period)
        return self._signs[first : first + math.prod(shape)].view(shape)

    def given(self, level: int, steps: int) -> list[Tensor]:
        """What the errors of one layer take on besides those of rows: odd numbers, and signs for w and v."""
        return [self._odd[level], self.signs(steps, ROWS, self._widths[level][1])]


class Riding:
    """Combinations s (ROWS, S) of the rows of one target, and their errors e in units of the last place.

    Both stand for ``values * exp(scale)``; scale is a float64 number.
    """

    def __init__(self, rows: Tensor, noise: Noise) -> None:
        shape, device = (ROWS, len(rows)), rows.device
        drawn = torch.randn(shape, generator=noise.generator, dtype=torch.float64, device=device)
        self.s = (drawn / drawn.norm(dim=0)).to(rows.dtype) @ rows
        self.e = torch.zeros_like(self.s)
        self.scale = torch.zeros((), dtype=torch.float64, device=device)

    def rotated(self, noise: Noise) -> None:
        """Add the rounding errors of a rotation of all rows."""
        self.e = self.e + 4 * self.s * noise.signs(*self.s.shape)


def log_errors(s: Tensor, e: Tensor, scales: Tensor) -> Tensor:
    """ln norms of errors, whole and along the rows: (2, steps, T), of s and e (steps, T, ROWS, width), whose
    exponents are (steps, T, 1, 1)."""
    whole = Scaled(e, scales).log_norm((2, 3))
    both = s.double() @ e.double().mT
    if s.dtype == torch.float64:
        both = Scaled(both, 2 * scales).log_norm((2, 3))
    else:
        # products of narrower numbers can be squared
        both = both.square().sum((2, 3)).log() / 2 + 2 * scales[..., 0, 0]
    along = both - Scaled(s, scales).log_norm((2, 3))
    along = torch.where(along < whole, along, whole)
    # what lies below the range of floats is lost
    floor = scales[..., 0, 0] + math.log(2 * torch.finfo(s.dtype).tiny)
    return torch.logaddexp(torch.stack([whole, along]), floor)


@dataclass(frozen=True)
class Told:
    """What successive runs of so many steps read, in ln norms, as a function of tensors.

    Returned are, (steps, groups + 3 T + 1) float64: of what each group of rows reads; of rounding errors of
    the taps, whole and along the rows, and of rows on s_k; whether no row of the run left the limits given.
    """

    steps: tuple[int, ...]
    targets: int
    limits: tuple[float, float]

    def __call__(self, given: Sequence[Tensor]) -> list[Tensor]:
        """Of lengths of groups, and what ``Found.read`` holds of each run."""
        lengths, *rest = given
        count = len(rest) // len(self.steps)
        runs = [rest[first : first + count] for first in range(0, len(rest), count)]
        logs, own, scales, peak, log_scale, *states = zip(*runs, strict=True)
        at = torch.cat([part.expand(n, -1) for part, n in zip(scales, self.steps, strict=True)])[
            ..., None, None
        ]
        s_taps, e_taps = (
            torch.cat(own).unflatten(1, (2, self.targets, -1 if self.targets else ROWS)).unbind(1)
        )
        rows = (torch.cat(parts).unflatten(1, (self.targets, ROWS)) for parts in states)
        sizes = torch.stack([Scaled(part, at).log_norm((2, 3)) for part in rows])
        rounding = torch.cat([log_errors(s_taps, e_taps, at), log_norm_of_logs(sizes, (0,))])
        low, high = self.limits
        peaks, before = torch.stack(peak), torch.stack(log_scale)
        inside = (((peaks >= low) & (peaks <= high)) | before.isneginf()).flatten(1).all(1).double()
        sound = [part.expand(n, 1) for part, n in zip(inside, self.steps, strict=True)]
        parts = _grouped(torch.cat(logs), lengths), rounding.movedim(0, 1).flatten(1), torch.cat(sound)
        return [torch.cat(parts, 1)]


def _grouped(logs: Tensor, lengths: Tensor) -> Tensor:
    """ln norms of groups of so many rows one after another: logs (steps, r) to (steps, groups)."""
    logs = logs.T.contiguous()
    peak = torch.segment_reduce(logs, "max", lengths=lengths, axis=0, unsafe=True)
    base = torch.where(peak.isfinite(), peak, 0)
    powers = (2 * (logs - base.repeat_interleave(lengths, 0, output_size=len(logs)))).exp()
    power = torch.segment_reduce(powers, "sum", lengths=lengths, axis=0, unsafe=True)
    return (base + 0.5 * power.log()).T


def rounded(
    values: NDArray[np.float64],
    error: NDArray[np.float64],
    rounding: tuple[NDArray[np.float64], NDArray[np.float64]],
    dtype: torch.dtype,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log norms, NaN where rounding errors may be as large, and bounds on their errors from all causes.

    Given are the errors from compression, and ln norms of rounding errors in units of the last place, whole
    and along the rows: ||R + E|| = ||R|| + <R, E> / ||R|| to first order.
    """
    unit = math.log(FACTOR * torch.finfo(dtype).eps / 2)
    with np.errstate(invalid="ignore"):
        whole, along = (
            np.exp(np.minimum(np.where(np.isfinite(values), logs + unit - values, -np.inf), 0))
            for logs in rounding
        )
    return with_rounding(values, np.minimum(along + whole**2, whole), error)


def digits_kept(moved: NDArray[np.float64], dtype: torch.dtype) -> NDArray[np.float64]:
    """Decimal digits (T, n) that y_t keeps of roundings at k or later.

    ``moved`` is the ln of how far a relative change at k moves y_t, relative to it; there is no number of
    digits where it is -inf.
    """
    most = np.maximum.accumulate(np.nan_to_num(moved, nan=-np.inf)[:, ::-1], 1)[:, ::-1]
    digits = -(math.log(torch.finfo(dtype).eps / 2) + np.maximum(most, 0)) / math.log(10)
    return np.where(np.isneginf(moved), np.nan, digits.clip(0))
