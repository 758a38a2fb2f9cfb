"""Rows of a traced forward and of one whose numbers are changed, as estimates of rounding take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled
from depprobe.core.shared_work import SharedWork
from depprobe.operators.composed.graph import Graph
from depprobe.operators.composed.traces import Traces
from depprobe.operators.last_bits import Repeat

#: rows that are compared with their repeats are pulled in parts, one over this of those pulled otherwise
_BOTH = 2


class GraphProducts:
    """Products of the Jacobian with one cotangent, for the points of a graph, each of which asks for all.

    ``narrowest`` is the narrowest dtype on the way.
    """

    def __init__(self, traces: Traces, at: int, shared: SharedWork[Scaled]) -> None:
        self._traces, self._at, self._shared = traces, at, shared
        self.narrowest = traces.whole.partition.narrowest

    def rows(self, at: Sequence[int], vectors: Tensor, repeat: Repeat | None = None) -> Iterator[Scaled]:
        """Products with vectors (m, d_out) on positions ``at`` (m,), in turn; through a trace whose
        numbers ``repeat`` changes, if it is given.
        """
        alone = len(self._traces.whole.points) == 1
        few = max(1, self._traces.rows_at_once // _BOTH) if alone else 1
        for first in range(0, len(vectors), few):
            some, here = at[first : first + few], vectors[first : first + few]
            if repeat is None:
                found = self._rows(self._traces.finest, some, here)[self._at]
            else:
                work = partial(self._under, repeat, some, here)
                found = self._shared.of((repeat, *some), self._at, work)
            scale = found.log_scale.expand(len(here), *found.log_scale.shape[1:])
            yield from map(Scaled, found.values, scale)

    def _under(self, repeat: Repeat, at: Sequence[int], vectors: Tensor) -> list[Scaled]:
        return self._rows(self._traces.again(repeat), at, vectors)

    def _rows(self, graph: Graph, at: Sequence[int], vectors: Tensor) -> list[Scaled]:
        """Products (m, n_in, d_in) in each point."""
        m, n_out = len(at), len(self._traces.whole.y)
        values = vectors.new_zeros(m, n_out, vectors.shape[1])
        values[range(m), at] = vectors
        scale = values.new_full((m, n_out, 1), -torch.inf, dtype=torch.float64)
        scale[range(m), at] = 0
        standing = scale[..., 0].eq(0).any(0)[None]
        owner = torch.zeros(m, dtype=torch.long, device=values.device)
        return [part.rows for part in self._traces.pull(graph, Scaled(values, scale), standing, owner)]
