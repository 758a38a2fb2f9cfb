r"""Growth of a frame of tangent columns under a chain of step Jacobians.

    J_t ... J_{t-L+1} Q = Q' R,    lambda_i = mean over t of ln |r_ii| / L

Columns are taken L steps at a time; L follows from how nearly dependent they were found to become, so that
what rounding takes from ln |r_ii| stays below the fourth root of epsilon cubed. A stretch that fell further
is taken again in shorter ones. Where a step has fewer rows that are not exactly zero than there are columns,
the last columns have r_ii = 0 exactly: their exponent is -inf and they are dropped. A column that one single
step brings within round-off of the span of those before it is of unknown length: its exponent, and those
after it, cannot be told.

Where the host has to wait to see a number, a whole stretch is taken ahead at one L and looked at once; where
that shows it to be wrong, it is taken again as above.
Source: Benettin et al. 1980, Shimada and Nagashima 1979; von Bremen et al. 1997 (intervals).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.device import waits
from depprobe.dynamics.orthonormal import orthonormalise
from depprobe.errors import DepprobeError

LONGEST = 32


class Stretch(Protocol):
    """Some successive steps of a trajectory."""

    steps: int

    def push(self, k: int, columns: Tensor, steps: int = 1) -> Tensor:
        """Tangent columns (S, m) before step k of the stretch to those after so many steps."""
        ...

    def log_abs_det(self) -> Tensor:
        """ln |det J| of every step: (steps,) float64."""
        ...


class Growth(NamedTuple):
    """What a frame grew by.

    Attributes
    ----------
    increments : (stops, m) sums of ln |r_ii| between successive stops; -inf an exact zero, NaN unknown.
    log_det : (stops,) sums of ln |det J_t| between successive stops, or None where not asked for.
    interval : mean number of steps between two orthonormalisations after the warm-up.
    """

    increments: NDArray[np.float64]
    log_det: NDArray[np.float64] | None
    interval: float


def growth(
    stretches: Iterable[Stretch],
    frame: Tensor,
    warmup: int,
    stops: Sequence[int],
    determinants: bool = False,
    ahead: bool | None = None,
) -> Growth:
    """Take a frame through a trajectory and add up what each of its directions grew by.

    Parameters
    ----------
    stretches : the trajectory, ``warmup + stops[-1]`` steps in all.
    frame : (S, m) orthonormal, to start from.
    warmup : steps during which the frame turns towards the leading directions, and nothing is counted.
    stops : numbers of steps after the warm-up at which sums are handed over, increasing.
    determinants : whether ln |det J_t| is summed as well.
    ahead : whether stretches are taken ahead; by default where the host has to wait for the device.

    Raises
    ------
    DepprobeError : the step Jacobians reached Inf or NaN.
    """
    walk = _Walk(frame, warmup, stops, waits(frame.device) if ahead is None else ahead)
    dets: list[Tensor] = []
    for stretch in stretches:
        walk.through(stretch)
        if determinants:
            dets.append(stretch.log_abs_det())
    log_det = None
    if determinants:
        ends = np.array([0, *stops[:-1]])
        log_det = np.add.reduceat(torch.cat(dets).cpu().numpy()[warmup:], ends)
    walk.increments[:, walk.unknown_from :] = np.nan
    walk.increments[:, walk.zero_from :] = -np.inf
    return Growth(walk.increments, log_det, stops[-1] / max(1, walk.times))


class _Walk:
    def __init__(self, frame: Tensor, warmup: int, stops: Sequence[int], ahead: bool) -> None:
        self.whole, self.frame, self.warmup, self.ahead = frame, frame, warmup, ahead
        self.cuts = ([warmup] if warmup else []) + [warmup + stop for stop in stops]
        self.t, self.passed, self.interval, self.times = 0, 0, 1, 0
        self.increments = np.zeros((len(stops), frame.shape[1]))
        self.unknown_from = self.zero_from = frame.shape[1]
        limits = torch.finfo(frame.dtype)
        self.wanted, self.lowest = limits.eps**0.25, limits.eps**0.375
        self.round_off = limits.eps * frame.shape[0]
        self.small, self.large = math.sqrt(limits.tiny), math.sqrt(limits.max)

    def through(self, stretch: Stretch) -> None:
        if self.ahead and self.interval > 1 and self._taken_ahead(stretch):
            return
        k = 0
        while k < stretch.steps:
            steps = min(self.interval, stretch.steps - k, self.cuts[self.passed] - self.t)
            if self._take(stretch, k, steps):
                k += steps
                self.t += steps
                if self.t == self.cuts[self.passed]:
                    self.passed += 1
                    if self.t == self.warmup:
                        self._refill()

    def _take(self, stretch: Stretch, k: int, steps: int) -> bool:
        """Take some steps and orthonormalise; False where they must be taken in shorter runs."""
        columns = stretch.push(k, self.frame, steps)
        peak = columns.abs().amax(0) if columns.shape[1] else columns.new_ones(1)
        low, high = float(peak.min()), float(peak.max())
        if not math.isfinite(high):
            if steps == 1:
                raise DepprobeError(f"the step Jacobian is not finite at step {self.t}")
            return self._shorter(steps)
        if steps > 1 and not (low > self.small and high < self.large):
            return self._shorter(steps)
        if steps == 1:
            alive = int((columns != 0).any(1).sum())
            if alive < columns.shape[1]:
                columns = columns[:, :alive]
                if self.t >= self.warmup:
                    self.zero_from = min(self.zero_from, alive)
        if not columns.shape[1]:
            self.frame = columns
            return True
        frame, log_r, kept, _ = orthonormalise(columns)
        least = float(kept.min())
        if steps > 1 and not least > self.lowest:
            return self._shorter(steps)
        self.frame = frame
        self._count(log_r.cpu().numpy(), kept.cpu().numpy())
        self.interval = self._next(steps, least)
        return True

    def _next(self, steps: int, least: float) -> int:
        """How many steps to take at once, where ``steps`` left ``least`` of some column."""
        reach = steps * math.log(self.wanted) / math.log(min(max(least, 1e-300), 0.999))
        return max(1, min(LONGEST, 2 * steps, int(reach)))

    def _taken_ahead(self, stretch: Stretch) -> bool:
        """Take a stretch without a look; False where it must be taken again."""
        m, frame, parts = self.frame.shape[1], self.frame, []
        if m < self.whole.shape[1]:
            return False
        ends = range(self.t, self.t + stretch.steps + 1)
        cuts = [end - self.t for end in self.cuts[self.passed :] if end in ends]
        runs = list(_runs(stretch.steps, cuts, self.interval))
        for k, steps in runs:
            columns = stretch.push(k, frame, steps)
            peak = columns.abs().amax(0)
            frame, log_r, kept, sound = orthonormalise(columns, unseen=True)
            parts.append(torch.cat([peak, log_r, kept, sound[None]]))
        found = torch.stack(parts).cpu().numpy()
        peaks, logs, kepts = found[:, :m], found[:, m : 2 * m], found[:, 2 * m : 3 * m]
        # NaN compares as False
        if not ((peaks > self.small) & (peaks < self.large) & (kepts > self.lowest)).all():
            return self._shorter(self.interval)
        if not found[:, -1].all():
            return self._shorter(self.interval)
        for (_, steps), log_r, kept in zip(runs, logs, kepts, strict=True):
            self._count(log_r, kept)
            self.t += steps
            self.passed += self.t == self.cuts[self.passed]
        self.frame = frame
        longest = max(steps for _, steps in runs)
        full = [float(kept.min()) for (_, steps), kept in zip(runs, kepts, strict=True) if steps == longest]
        self.interval = self._next(longest, min(full))
        return True

    def _shorter(self, steps: int) -> bool:
        self.interval = max(1, steps // 4)
        return False

    def _count(self, log_r: NDArray[np.float64], kept: NDArray[np.floating]) -> None:
        if self.t < self.warmup:
            return
        self.times += 1
        stop = self.passed - bool(self.warmup)
        self.increments[stop, : len(log_r)] += log_r
        lost = np.flatnonzero((kept < self.round_off) & (log_r > -math.inf))
        if len(lost):
            self.unknown_from = min(self.unknown_from, int(lost[0]))

    def _refill(self) -> None:
        """Directions that a step of the warm-up took to zero start anew: they may live from here on."""
        missing = self.whole.shape[1] - self.frame.shape[1]
        if missing:
            fresh = torch.cat([self.frame, self.whole[:, :missing]], 1)
            self.frame = torch.linalg.qr(fresh)[0]


def _runs(steps: int, cuts: Sequence[int], interval: int) -> Iterator[tuple[int, int]]:
    """First steps and lengths of runs of at most ``interval`` steps, which end at the cuts."""
    k = 0
    for end in sorted({*cuts, steps}):
        while k < end:
            yield k, min(interval, end - k)
            k = min(k + interval, end)
