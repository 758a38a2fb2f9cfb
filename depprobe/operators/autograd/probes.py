r"""Frobenius norms from a few random rows a target, how well they are known, and which rows tell that.

The estimate, its law and what ``effective_rank`` is: ``probe_statistics``.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from depprobe.core.calling.passes import DoesNotRun
from depprobe.core.function import SequenceFunction
from depprobe.core.options import Options
from depprobe.core.scaled import Scaled
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian
from depprobe.operators.autograd import fisher
from depprobe.operators.autograd.deflation import Deflation, Estimated
from depprobe.operators.autograd.operator import AutogradJacobian
from depprobe.operators.autograd.probe_statistics import (
    Traces,
    orthonormal_rows,
    pooled,
    rows_for,
    told_by,
    uncertainty,
)
from depprobe.operators.autograd.products import Gathered, Products
from depprobe.operators.autograd.rounding import Row
from depprobe.operators.known_lags import beyond, telling

#: orthonormal rows from which effective ranks are estimated, at least (where there are so many) and at most
LEAST_ROWS, MOST_ROWS = 16, 64
#: rows of a pilot, which tells ranks, and targets of those that settle how many probes there are
PILOT_ROWS, PILOT_TARGETS = 8, 3
#: pilots that are taken where blocks seem known exactly; shortfall of a rank that counts as none
MANY_PILOTS, _EXACT = 6, 1e-6
#: share of the memory, one over this, that kept rows may take, which are copied once
_ROOM, _COPIES = 16, 2
#: neighbouring targets for which a causal forward is recorded up to the last of them
TOGETHER = 8

Floats = NDArray[np.float64]


class ProbedJacobian(AutogradJacobian):
    """Norms from ``options.probes`` orthonormal random rows a target, drawn anew for each from a seed.

    Zeros are proved by the structure of the calls in the forward where it can be traced: a single probe costs
    less than cotangents of NaN and replaced inputs would.

    ``probes`` of the form ``"10%"`` stands for as many as keep the relative standard error of a squared norm,
    at the effective rank that a pilot finds, within it. Blocks and products are exact. ``deflate`` of them
    are directions in which the blocks are large; see ``deflation``.
    """

    method = "probes"
    norms = ("fro", "fisher")
    _repeats = False

    def __init__(
        self, function: SequenceFunction, options: Options, products: Products | None = None
    ) -> None:
        super().__init__(function, options, products)
        # every denominator of one input has the same probes, so that they can share backward passes
        self._seed = [options.seed, zlib.crc32(function.given)]
        d, asked = self.shape[1], options.probes
        #: lags and traces of the pilots of each norm
        self._pilots: dict[str, list[tuple[NDArray[np.int64], Traces]]] = {}
        #: what ``told_by`` tells of sources (3, sources), and shares of random rows (sources,)
        self._ranks: dict[int, Floats] = {}
        self._shares: dict[int, Floats] = {}
        self._ready: dict[int, Estimated] = {}
        self._deflation: Deflation | None = None
        #: rows a target
        self.probes = (
            rows_for(float(asked[:-1]) / 100, d, self._typical_rank(options.norm))
            if isinstance(asked, str)
            else min(int(asked), d)
        )
        # with as many as outputs all norms are exact
        if options.deflate and self.probes < d:
            self.deflated = options.deflate
            self._deflation = Deflation(function, self.deflated, self._seed, self._memory)

    def at_depths(self, names: Sequence[str]) -> list[TemporalJacobian] | None:
        """None with deflation: each denominator has directions of its own, and so passes of its own."""
        return None if self.deflated else super().at_depths(names)

    def state(self) -> dict[str, NDArray[Any]]:
        found = super().state()
        for norm, pilots in self._pilots.items():
            for i, (lags, traced) in enumerate(pilots):
                found[f"pilots/{norm}/{i}"] = np.stack([lags, *traced])
        return found

    def resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        super().resume(state)
        self._pilots = {}
        for name in (name for name in state if name.startswith("pilots/")):
            lags, *traced = state[name]
            pilot = lags.astype(np.int64), Traces(*traced)
            self._pilots.setdefault(name.split("/")[1], []).append(pilot)

    @classmethod
    def _beside(cls, function: SequenceFunction, options: Options) -> int:
        return _COPIES * (PILOT_ROWS + options.deflate) * _row_bytes(function)

    @property
    def _rows_kept(self) -> int:
        """How many rows of a target are kept."""
        fit = self._memory // (_ROOM * _row_bytes(self._function)) - self.deflated
        return int(min(self.probes - self.deflated, MOST_ROWS, max(fit, PILOT_ROWS)))

    @property
    def targets_at_once(self) -> int:
        """How many targets share a pass that ends at the last of them, as many as their rows leave room."""
        kept = self._rows_kept + self.deflated if self._ranks_itself else 1
        each = kept * _row_bytes(self._function)
        return int(min(TOGETHER, max(1, self._memory // (_ROOM * each))))

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        found = super().log_norms(targets, sources, norm)
        columns = np.arange(self.shape[2]) if sources is None else np.asarray(sources, dtype=np.int64)
        rank, loading, of_rest = np.stack([self._rank(t, columns, norm) for t in targets], axis=1)
        share = np.stack([self._shares[t] for t in targets])
        self._ranks.clear()
        self._shares.clear()
        unknown = ~np.isfinite(found.values)
        rank[unknown] = loading[unknown] = of_rest[unknown] = np.nan
        # an exact zero is known
        m, d = (size - self.deflated for size in (self.probes, self.shape[1]))
        stderr, low, high = np.where(np.isneginf(found.values), 0.0, uncertainty(m, d, of_rest, share))
        ends = {"low": found.values + low, "high": found.values + high}
        return replace(found, stderr=stderr, rank=rank, loading=loading, **ends)

    @property
    def _ranks_itself(self) -> bool:
        """Whether the probes tell the effective rank."""
        return self._rows_kept >= min(LEAST_ROWS, self.shape[1])

    @contextlib.contextmanager
    def _prepared(self, group: list[int], columns: NDArray[np.int64], norm: str) -> Iterator[None]:
        """Rows of all targets at once; those at the ends are repeated where none yet reached as far."""
        rounding = self._rounding[norm]
        with self._products.up_to(group):
            ends = {t: self._heard(t) for t in (group[-1], group[0])}
            due = rounding.due(ends, len(group), self.probes, self._reach)
            due = group if rounding.is_spoiled else due
            most = self._rows_kept if self._ranks_itself else 0
            found = self._estimates(group, self.probes, columns, norm, most, bool(due))
            self._ready = dict(zip(group, found, strict=True))
            with contextlib.suppress(DoesNotRun):  # code of the user's that takes no changed numbers
                rounding.note([self._row(t, columns) for t in due])
            if not self._ranks_itself:
                told = telling(ends, [lags for lags, _ in self._pilots.get(norm, [])], self._reach)
                for t in told:
                    self._pilot(t, norm)
                for t in (t for t in group if t not in told):
                    if len(self._pilots[norm]) >= MANY_PILOTS or not self._seems_exact(norm):
                        break
                    self._pilot(t, norm)
            yield
            self._ready = {}

    def _row(self, t: int, columns: NDArray[np.int64]) -> Row:
        logs, one = np.full(self.shape[2], np.nan), self._ready[t]
        logs[columns] = one.log_norm
        assert one.total is not None
        return Row(t, self.lags_at(t), logs, one.mix, Scaled.plain(one.total))

    @property
    def _reach(self) -> tuple[int, int]:
        """The largest and the smallest lag of any row."""
        return int(self.lags_at(self.shape[0] - 1).max()), int(self.lags_at(0).min())

    def _heard(self, t: int) -> NDArray[np.int64]:
        """Lags at which structure leaves a path."""
        lags, known = self.lags_at(t), self._products.structure(t)
        return lags if known is None or not known.any() else lags[known]

    def _estimates(
        self,
        group: list[int],
        m: int,
        columns: NDArray[np.int64],
        norm: str,
        most: int = 0,
        summed: bool = False,
        scale: float = 1.0,
    ) -> list[Estimated]:
        """From m rows of each of some targets; at most so many random ones are kept, or their sum."""
        y, q, d = self._function.y, self.deflated, self.shape[1]

        def rows(drawn: list[Floats], most: int) -> list[Gathered]:
            probes = [torch.from_numpy(one).to(y.device) for one in drawn]
            if norm == fisher.NORM:
                probes = [fisher.weighed(one, y[t]) for t, one in zip(group, probes, strict=True)]
            return self._products.gathered(group, scale * torch.stack(probes).to(y), columns, most, summed)

        known = [self._deflation.directions(t, norm) for t in group] if self._deflation else []
        seeds = [[*self._seed, t, m] for t in group]
        if not known:
            drawn = [orthonormal_rows(seed, m, d) for seed in seeds]
            return [Estimated(*each) for each in zip(rows(drawn, most), drawn, strict=True)]
        drawn = [orthonormal_rows(seed, m - q, d, apart) for seed, apart in zip(seeds, known, strict=True)]
        exact = rows(known, q if most else 0)
        parts = zip(rows(drawn, most), drawn, exact, known, strict=True)
        return [Estimated(*each) for each in parts]

    def _measured(self, t: int, columns: NDArray[np.int64], norm: str, scale: float) -> Floats:
        if scale != 1:
            (found,) = self._estimates([t], self.probes, columns, norm, scale=scale)
            return found.log_norm - math.log(scale)
        found = self._ready[t]
        self._shares[t] = found.share
        if self._ranks_itself:
            self._ranks[t] = told_by(found.traces(), self.shape[1], self.deflated)
        return found.log_norm

    def _reaches(self, t: int) -> NDArray[np.bool_]:
        known = self._products.structure(t)
        return super()._reaches(t) if known is None else known

    # -- effective ranks -----------------------------------------------------------------------------

    def _rank(self, t: int, columns: NDArray[np.int64], norm: str) -> Floats:
        """Effective ranks and loadings of a row; beyond the lags of all pilots ranks are taken to fall."""
        if t in self._ranks:
            return self._ranks[t]
        lags, (ranks, loadings, of_rest) = pooled(self._pilots[norm], self.shape[1], self.deflated)
        here = self.lags_at(t)[columns]
        falling = [
            np.maximum(1.0, np.interp(here, lags, one) / beyond(here, lags)) for one in (ranks, of_rest)
        ]
        return np.stack([falling[0], np.interp(here, lags, loadings), falling[1]])

    def _seems_exact(self, norm: str) -> bool:
        """Whether pilots show blocks at some lag as proportional to orthogonal ones; others need not be."""
        rest = self.shape[1] - self.deflated
        ranks = pooled(self._pilots[norm], self.shape[1], self.deflated)[1][2]
        return rest > 1 and bool((ranks > (1 - _EXACT) * rest).any())

    def _pilot(self, t: int, norm: str) -> None:
        """A few rows of one target more."""
        rows, every = min(PILOT_ROWS + self.deflated, self.shape[1]), np.arange(self.shape[2])
        with self._products.up_to([t]):
            (found,) = self._estimates([t], rows, every, norm, rows)
        self._pilots.setdefault(norm, []).append((self.lags_at(t), found.traces()))

    def _typical_rank(self, norm: str) -> float:
        """From pilots of a few targets."""
        n_out, d = self.shape[:2]
        chosen = np.unique(np.linspace(0, n_out - 1, PILOT_TARGETS + 1).round().astype(int)[1:]).tolist()
        for t in chosen:
            self._pilot(t, norm)
        return float(np.nanmedian(pooled(self._pilots[norm], d)[1][0]))


def _row_bytes(function: SequenceFunction) -> int:
    """Of one row at all sources."""
    return math.prod(function.shape[2:]) * function.y.element_size()
