r"""The temporal Jacobian of a line of convolutions, row by row through the layers from the top.

    y = f_L(... f_1(x)),   J[t,:] = J_L[t,:] J_{L-1} ... J_1

A row starts on one position and spreads only as far as each layer reads, so the support is known before
anything is computed, bands stay bands, and layers that act on each position by itself mix nothing. Lines of
convolutions and matrices alone have rows that repeat: one is computed, and those that meet an edge.

Cost of a row: the sum over layers of d_out (positions) (multiply-adds of one position).
Source: the chain rule; Luo et al. 2016 (receptive fields of stacks).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from depprobe.core.function import SequenceFunction
from depprobe.core.memory import Growth, bytes_of
from depprobe.core.options import Options, require
from depprobe.core.scaled import Scaled, log_hypot, log_norms
from depprobe.core.temporal_jacobian import LogNorms, anchors, is_banded, placed, repeat
from depprobe.operators.autograd.rounding import Rounding
from depprobe.operators.autograd.saturation import Saturation
from depprobe.operators.composed.operator import GraphJacobian
from depprobe.operators.composed.rules import rectified
from depprobe.operators.composed.rules.levels import (
    Level,
    Rows,
    held_by,
    is_inner,
    placing_of,
    pull_through,
    support_of,
    window_of,
)
from depprobe.operators.composed.rules.line_rounding import LineProducts
from depprobe.operators.composed.traces import Traces
from depprobe.units import counted, readable
from depprobe.vocabulary import STATUS

#: copies of its widest part that a row makes on its way
_COPIES = 6
#: size of a row block that stays near the processor, and fewest rows for which products pay
_NEAR_BYTES, _FEWEST_ROWS = 8 << 20, 8
#: bytes that a line takes besides tensors: objects, and what the allocator keeps
_BESIDE = 2 << 20


class LineJacobian(GraphJacobian):
    """Temporal Jacobian of a line at one input.

    Parameters
    ----------
    levels : the layers, bottom first, linearised at their inputs.
    function, options : of the forward that they were read from.
    """

    norms = ("fro", "spectral")

    def __init__(self, levels: list[Level], function: SequenceFunction, options: Options) -> None:
        self._levels, self._function, self._options = levels, function, options
        self._at = 0
        self._saturation, self._growth = Saturation(function, options.memory), Growth(options.memory)
        self.shape, self.wrt, self._memory = function.shape, function.wrt, options.memory
        self._repeats, self._closed = all(x.repeats for x in levels), all(x.is_closed for x in levels)
        self._window = window_of(levels) if all(x.keeps_band for x in levels) else None

    @cached_property
    def _traces(self) -> Traces:  # type: ignore[override]
        """Made anew for products: norms need the levels alone, and a graph holds every activation."""
        return Traces(self._function, self._options)

    def at_depths(self, names: Sequence[str]) -> None:
        """Rows of a line pass each depth in closed form."""
        return

    def state(self) -> None:
        """A line is soon done: nothing is kept of a part of it."""

    def __repr__(self) -> str:
        layers = counted(len(self._levels), "layer")
        return f"{type(self).__name__}({type(self._function.module).__name__}, {layers})"

    @cached_property
    def _placing(self) -> NDArray[np.float64]:
        """Centres of what the outputs read, (n_out,)."""
        origin, step = placing_of(self._levels)
        return origin + step * np.arange(self.shape[0], dtype=np.float64)

    @property
    def position(self) -> NDArray[np.float64] | None:
        """Input position that each output sits at, (n_out,): of known layers the centre of what it reads."""
        return self._placing if self._function.is_known else self._function.position

    @property
    def targets_at_once(self) -> int:
        """Rows are taken one by one."""
        return 1

    @property
    def lags(self) -> NDArray[np.int64] | None:
        """Lags between which every block stands, ascending; None where the line has no band."""
        if self._window is None or not np.array_equal(
            self._placing, [] if self.position is None else self.position
        ):
            return None
        low, high = self._window
        start = int(anchors(self._placing[:1])[0])
        return np.arange(start - high, start - low + 1)

    # -- norms ---------------------------------------------------------------------------------------

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        """Natural logs of the norms of J[t,k], by lag for several targets of a line with a narrow band."""
        t = np.asarray(targets, dtype=np.int64)
        n_in = self.shape[2]
        lags = self.lags
        lags = lags if lags is not None and sources is None and is_banded(lags, len(t), n_in) else None
        columns = n_in if lags is None else len(lags)
        require(
            24.0 * len(t) * columns,
            self._memory,
            f"the norms of {counted(len(t), 'target')}",
            "ask for fewer targets",
        )
        anchor = anchors(self._placing)[t]
        alike = self._alike(t)
        out = np.empty((len(t), columns))
        rows = [self._norm_row(int(target), norm) for target in t[~alike]]
        if rows:
            out[~alike] = _placed(rows, anchor[~alike], n_in, lags)
        known = dict(zip(t[~alike].tolist(), rows, strict=True))
        if alike.any():
            # of a causal line the last row holds all the others, cut off at position 0
            last = int(t[alike].max())
            where, values = known[last] = self._norm_row(last, norm)
            top = anchors(self._placing)[last : last + 1]
            if lags is not None:
                repeat(out, alike, _placed([(where, values)], top, n_in, lags)[0], anchor, n_in, lags)
            else:
                moved = where - (top - anchor[alike][:, None])
                cut = [(source[source >= 0], values[source >= 0]) for source in moved]
                out[alike] = _placed(cut, anchor[alike], n_in, None)
        error = self._errors(t, known, lags)
        # rows of matrices alone are the same at any output
        nan = not self._repeats and self._function.y[t].isnan().any(1).cpu().numpy()[:, None]
        out[nan & ~np.isneginf(out)] = np.nan
        error[~np.isfinite(out)] = 0
        kinds = [np.isfinite(out), np.isneginf(out), np.isposinf(out), np.broadcast_to(nan, out.shape)]
        said = [STATUS[kind] for kind in ("finite", "zero", "overflow", "not_a_number")]
        status = np.select(kinds, said, STATUS["undecided"]).astype(np.int8)
        if lags is not None:
            return LogNorms(out, error, lags=lags, status=status)
        at = slice(None) if sources is None else np.asarray(sources, dtype=np.int64)
        return LogNorms(out[:, at], error[:, at], status=status[:, at])

    def _errors(
        self,
        t: NDArray[np.int64],
        rows: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]],
        lags: NDArray[np.int64] | None,
    ) -> NDArray[np.float64]:
        """Estimates of what rounding did to norms at t (m,), by source or lag, from repeats of some rows."""
        anchor, n_in = anchors(self._placing), self.shape[2]
        for at, (where, values) in rows.items():
            log_norm = np.full(n_in, -np.inf)
            log_norm[where] = values
            self._repeats_of_rows.offer(at, anchor[at] - np.arange(n_in), log_norm)
        by = [anchor[at] - np.arange(n_in) if lags is None else lags for at in t]
        return np.stack([self._repeats_of_rows.stated(*one) for one in zip(t.tolist(), by, strict=True)])

    @cached_property
    def _repeats_of_rows(self) -> Rounding:
        products = LineProducts(self._levels, self.shape[2], self._function.y.dtype)
        return Rounding(self._function, products)

    def _alike(self, t: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which targets have the same row but for a shift."""
        if not self._repeats:
            return np.zeros(len(t), dtype=bool)
        return np.ones(len(t), dtype=bool) if self._closed else is_inner(self._levels, t, t)

    def _norm_row(self, t: int, norm: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        where = support_of(self._levels, np.array([t]))
        if norm == "fro":
            chunk = self._chunk(t)
        else:
            chunk = self.shape[1]
            size = 3 * len(where) * chunk * self.shape[3] * self._function.y.element_size()
            require(size, self._memory, f"a row of {len(where)} blocks", "use a smaller d, or --norm fro")
        if norm == "fro" and self._rectified:
            known = rectified.row_log_norms(self._levels, t, self._memory - self._taken, self._growth)
            if known is not None:
                return known
        total = np.full(len(where), -np.inf)
        for rows in self._row_parts(t, chunk):
            place = np.searchsorted(where, rows.where.cpu().numpy())
            found = log_norms(rows.scaled, norm, (1, 2)).cpu().numpy()
            total[place] = log_hypot(total[place], found)
        zeros = np.flatnonzero(np.isneginf(total))
        if len(zeros) and not self._zeros_are_exact:
            ignored = self._saturation.ignores(t, torch.from_numpy(where[zeros]).to(self._function.y.device))
            self.zero_proof = "structure, replacement"
            total[zeros[~ignored.cpu().numpy()]] = np.nan
        return where, total

    @cached_property
    def _rectified(self) -> bool:
        return rectified.is_worth_it(self._levels)

    @cached_property
    def _taken(self) -> int:
        """Bytes that the forward pass took: as much again as is kept of it, which the process has still."""
        kept = [
            *self._function.module.parameters(),
            self._function.x,
            self._function.y,
            *held_by(self._levels),
        ]
        return _BESIDE + 2 * bytes_of(kept)

    @cached_property
    def _zeros_are_exact(self) -> bool:
        return all(level.zeros_are_exact for level in self._levels)

    def _row_parts(self, t: int, chunk: int) -> Iterator[Rows]:
        y = self._function.y
        at = torch.tensor([t], device=y.device)
        soon = min(chunk, self.shape[1]) * self._each(t)
        for first in range(0, self.shape[1], chunk):
            self._growth.settle(soon)
            part = y.new_zeros(1, min(chunk, self.shape[1] - first), self.shape[1])
            part[0].diagonal(first).fill_(1)
            yield pull_through(self._levels, Rows(*Scaled.plain(part), at))

    def _chunk(self, t: int) -> int:
        """Rows pulled at once, within the budget."""
        each = self._each(t)
        enough = readable(1.1 * (self._taken + each)).replace(" ", "")
        require(
            self._taken + each, self._memory, "a single row", f"use a smaller n or d, or --memory {enough}"
        )
        # no more at once than stays near the processor, but enough for products to be worth their calls
        near = max(_FEWEST_ROWS, _COPIES * _NEAR_BYTES // each)
        return max(1, min(self.shape[1], (self._memory - self._taken) // each, near))

    def _each(self, t: int) -> int:
        """Bytes that a row of a target takes on its way."""
        where, widest = np.array([t]), self.shape[1]
        for level in reversed(self._levels):
            where = level.support(where)
            widest = max(widest, len(where) * level.width)
        return _COPIES * widest * self._function.y.element_size()

    # -- blocks and products -------------------------------------------------------------------------

    def row(self, t: int) -> Scaled:
        """Row t: values (d_out, n_in, d_in), log_scale (d_out, n_in, 1)."""
        t %= self.shape[0]
        size = 3 * int(np.prod(self.shape[1:])) * self._function.y.element_size()
        require(size, self._memory, f"the row of {self.shape[2]} blocks", "ask for norms")
        parts = [rows.dense(self.shape[2]) for rows in self._row_parts(t, self._chunk(t))]
        return Scaled(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def support(self, t: int) -> NDArray[np.bool_]:
        """Positions that output t reads: (n_in,) bool."""
        out = np.zeros(self.shape[2], dtype=bool)
        out[support_of(self._levels, np.array([t]))] = True
        return out


def _placed(
    rows: list[tuple[NDArray[np.int64], NDArray[np.float64]]],
    anchor: NDArray[np.int64],
    n_in: int,
    lags: NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Rows of (sources, log norms) side by side, by source or by lag."""
    which = np.repeat(np.arange(len(rows)), [len(where) for where, _ in rows])
    where, values = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return placed(which, where, values, anchor, n_in, lags).values
