r"""The temporal Jacobian of a user's forward: cut at the calls that are known, autograd between the cuts.

    row t = I_{d_out} J[t,:], pulled backwards through the traced graph with exponents

A norm is finite where nothing of note was lost on the way. Where no path leads, a block is zero by structure;
where the rescaled gradient is exactly 0 although there is a path, it is zero if the output at t stays equal
to the bit under three unrelated replacements of x_k; all else is an underflow, or undecided. A model whose
outputs ignore what follows them is traced up to the largest target only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.budget import readable, require
from depprobe.core.function import Record, SequenceFunction
from depprobe.core.options import Options
from depprobe.core.scaled import Scaled, log_norms
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian
from depprobe.errors import unknown
from depprobe.operators.autograd.operator import AutogradJacobian
from depprobe.operators.composed.graph import Graph, Pulled
from depprobe.operators.composed.partition import DEPTH
from depprobe.operators.dispatch import maker_of, register_general
from depprobe.vocabulary import NORMS, STATUS

#: rows pulled at once at most, and the fewest for which products are worth their calls
_MOST_ROWS, _ROW_COPIES = 48, 8
#: share of a norm that may have been lost before the norm counts as unknown
_LOST = 1e-3
#: nodes of glue between two rescalings where more would leave something undecided
_FINE = 4
#: share of the sequence above which shortening it gains nothing, and agreement of outputs, in epsilons
_WORTH_CUTTING, _ROUNDING = 0.85, 1e4

Floats = NDArray[np.float64]


class GraphJacobian(TemporalJacobian):
    """Temporal Jacobian of any module at one input, by its traced graph.

    Parameters
    ----------
    function : the module at one input.
    options : ``memory`` is what rows may take.

    Raises
    ------
    OverBudget : a single row would not fit.
    """

    method = "composed"

    def __init__(self, function: SequenceFunction, options: Options) -> None:
        self._function, self._options = function, options
        self.shape, self.wrt = function.shape, function.wrt
        # torch's own modules are cut at the functions they call
        inside = [m for m in function.module.modules() if not type(m).__module__.startswith("torch.")]
        self._makers = {m: maker for m in inside if (maker := maker_of(m)) is not None}
        with function.held():
            self._graph = self._traced(function.record)
        self._fine: Graph | None = None
        self._short: dict[int, Graph | None] = {}
        each = _ROW_COPIES * self._graph.partition.largest
        require(
            each + self._graph.partition.total,
            options.memory,
            "a single row",
            f"use a smaller n or d, --dtype float32, or --memory {readable(1.1 * each).replace(' ', '')}",
        )
        room = options.memory - self._graph.partition.total
        self._chunk = int(max(1, min(_MOST_ROWS, room // max(1, each))))

    def _traced(self, record: Record, depth: int = DEPTH) -> Graph:
        options = replace(self._options, tolerance=0.0, wrt="x", forward={})
        return Graph(record, depth, [*self._makers], lambda m, x: self._makers[m](m, x, options))

    def __repr__(self) -> str:
        cuts, joins = len(self._graph.cuts), self._graph.partition.joins
        return f"{type(self).__name__}({type(self._function.module).__name__}, {cuts} cuts, {joins} joins)"

    @property
    def position(self) -> Floats | None:
        """Input position that each output sits at, (n_out,), or None where it cannot be known."""
        return self._function.position

    @property
    def targets_at_once(self) -> int:
        """How many targets fit one pull."""
        return max(1, self._chunk // self.shape[1])

    # -- norms ---------------------------------------------------------------------------------------

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        """Natural logs of the norms of J[t,k]; ``error`` is the share that was lost on the way."""
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        columns = np.arange(self.shape[2]) if sources is None else np.asarray(sources, dtype=np.int64)
        wanted = [int(t) % self.shape[0] for t in targets]
        order = sorted(set(wanted))
        found: dict[int, tuple[Floats, Floats, NDArray[np.int8]]] = {}
        with self._function.held():
            for first in range(0, len(order), self.targets_at_once):
                group = order[first : first + self.targets_at_once]
                for t, total, lost, live in self._measured(self._graph_for(group), group, norm):
                    found[t] = self._judged(t, total, lost, live, norm)
        values, error, status = (
            np.stack(parts)[:, columns] for parts in zip(*(found[t] for t in wanted), strict=True)
        )
        return LogNorms(values, error, status=status)

    def _measured(
        self, graph: Graph, group: list[int], norm: str
    ) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """For each target: ln norms, ln of what was lost, and live positions, all (n_in,)."""
        n, d_out = self.shape[2], self.shape[1]
        m, device = len(group), graph.y.device
        total = torch.full((m, n), -math.inf, dtype=torch.float64, device=device)
        lost, live = total.clone(), torch.zeros(m, n, dtype=torch.bool, device=device)
        blocks: list[Scaled] = []
        for pulled, owner in self._pulled(graph, group):
            here = pulled.live.shape[1]
            live[:, :here] = pulled.live
            squares = 2 * pulled.rows.log_norm(2)
            for i in range(m):
                mine = owner == i
                if bool(mine.any()):
                    total[i, :here] = torch.logaddexp(total[i, :here], squares[mine].logsumexp(0))
            lost[:, :here] = torch.logaddexp(lost[:, :here], 2 * pulled.lost.log_norm(2))
            if norm == "spectral":
                blocks.append(pulled.rows)
        total, lost = 0.5 * total, 0.5 * lost
        if norm == "spectral":
            rows = Scaled(torch.cat([b.values for b in blocks]), torch.cat([b.log_scale for b in blocks]))
            owner = torch.arange(m, device=device).repeat_interleave(d_out)
            for i in range(m):
                mine = owner == i
                here = rows.values.shape[1]
                block = Scaled(rows.values[mine].transpose(0, 1), rows.log_scale[mine].transpose(0, 1))
                total[i, :here] = log_norms(block, "spectral")
        for i, t in enumerate(group):
            yield t, total[i], lost[i], live[i]

    def _pulled(self, graph: Graph, group: list[int]) -> Iterator[tuple[Pulled, Tensor]]:
        """The rows of some targets, a chunk at a time, and the place in the group of the target of each."""
        n_out, d_out = graph.y.shape
        m, device = len(group), graph.y.device
        at = torch.tensor(group, device=device)
        live = torch.zeros(m, n_out, dtype=torch.bool, device=device)
        live[torch.arange(m, device=device), at] = True
        unit = torch.arange(m * d_out, device=device)
        for part in unit.split(self._chunk):
            owner = part // d_out
            values = graph.y.new_zeros(len(part), n_out, d_out)
            values[torch.arange(len(part), device=device), at[owner], part % d_out] = 1
            scale = torch.full((len(part), n_out, 1), -math.inf, dtype=torch.float64, device=device)
            scale[torch.arange(len(part), device=device), at[owner]] = 0
            yield graph.pull(Scaled(values, scale), live, owner), owner

    def _judged(
        self, t: int, total: Tensor, lost: Tensor, live: Tensor, norm: str
    ) -> tuple[Floats, Floats, NDArray[np.int8]]:
        """Values, errors and status of one row."""
        share = (lost - total).exp().nan_to_num(nan=0.0)  # NaN: both zero, and nothing was lost
        doubtful = live & (total.isneginf() | (share > _LOST))
        nothing = (doubtful & total.isneginf()).nonzero()[:, 0]
        proved = torch.zeros_like(live)
        if len(nothing):
            proved[nothing] = self._function.ignores(t, nothing)
        doubtful &= ~proved
        if bool(doubtful.any()):
            total, share, doubtful = self._taken_again(t, total, share, doubtful, norm)
        status = torch.full(total.shape, STATUS["finite"], dtype=torch.int8, device=total.device)
        status[total.isnan() | total.isposinf()] = STATUS["overflow"]
        status[doubtful] = torch.where(total.isneginf(), STATUS["undecided"], STATUS["underflow"])[
            doubtful
        ].to(torch.int8)
        status[~live | proved] = STATUS["zero"]
        values = torch.where(status == STATUS["finite"], total, math.nan)
        values[status == STATUS["zero"]] = -math.inf
        share[status != STATUS["finite"]] = 0
        return values.cpu().numpy(), share.cpu().numpy(), status.cpu().numpy()

    def _taken_again(
        self, t: int, total: Tensor, share: Tensor, doubtful: Tensor, norm: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The row with rows rescaled more often, where that may tell what is doubtful."""
        if self._fine is None:
            self._fine = self._traced(self._function.record, _FINE)
        if self._fine.partition.joins == self._graph.partition.joins:
            return total, share, doubtful
        ((_, fine, lost, _),) = self._measured(self._fine, [t], norm)
        found = (lost - fine).exp().nan_to_num(nan=0.0)
        total, share = torch.where(doubtful, fine, total), torch.where(doubtful, found, share)
        return total, share, doubtful & (total.isneginf() | (share > _LOST))

    # -- a shorter trace -----------------------------------------------------------------------------

    def _graph_for(self, group: list[int]) -> Graph:
        """A graph that ends at the largest target, where outputs ignore what follows; else the whole."""
        last = max(group)
        if self.shape[0] != self.shape[2] or last + 1 > _WORTH_CUTTING * self.shape[0]:
            return self._graph
        if last not in self._short:
            self._short = {last: self._shortened(group, last)}
        return self._short[last] or self._graph

    def _shortened(self, group: list[int], last: int) -> Graph | None:
        """The trace of the first positions, if a structure proves that the group ignores what follows."""
        if bool(self._live(group)[:, last + 1 :].any()):
            return None
        short = self._function.prefix(last + 1)
        if short is None:
            return None
        graph = self._traced(short)
        y, whole = graph.y.detach(), self._function.y[: last + 1]
        if y.shape != whole.shape or len(graph.cuts) != len(self._graph.cuts):
            return None
        size = float(whole.abs().nan_to_num(0, 0, 0).max())
        same = torch.allclose(y, whole, 0, _ROUNDING * torch.finfo(y.dtype).eps * size)
        return graph if same else None

    def _live(self, group: list[int]) -> Tensor:
        """Positions that a path leads to from each of some outputs: (m, n_in) bool."""
        y, m = self._graph.y, len(group)
        live = torch.zeros(m, len(y), dtype=torch.bool, device=y.device)
        live[torch.arange(m, device=y.device), torch.tensor(group, device=y.device)] = True
        nothing = Scaled.plain(y.new_zeros(0, *y.shape))
        with self._function.held():
            return self._graph.pull(nothing, live, live.new_zeros(0, dtype=torch.long)).live

    # -- blocks and products -------------------------------------------------------------------------

    def row(self, t: int) -> Scaled:
        """Row t: values (d_out, n_in, d_in), log_scale (d_out, n_in, 1)."""
        size = math.prod(self.shape[1:]) * self._function.x.element_size()
        require(3 * size, self._options.memory, f"the row of {self.shape[2]} blocks", "ask for norms")
        with self._function.held():
            parts = [pulled.rows for pulled, _ in self._pulled(self._graph, [int(t) % self.shape[0]])]
        scale = torch.cat([part.log_scale for part in parts])
        return Scaled(torch.cat([part.values for part in parts]), scale.nan_to_num(neginf=0.0))

    def support(self, t: int) -> NDArray[np.bool_]:
        """Positions that a path leads to from output t: (n_in,) bool."""
        return self._live([int(t) % self.shape[0]])[0].cpu().numpy()

    def pull(self, rows: Scaled) -> Scaled:
        """Rows (r, n_out, d_out) through the Jacobian: (r, n_in, d_in)."""
        standing = (rows.values != 0).any(2).any(0)[None]
        owner = torch.zeros(len(rows.values), dtype=torch.long, device=rows.values.device)
        with self._function.held():
            return self._graph.pull(rows, standing, owner).rows

    @cached_property
    def _autograd(self) -> AutogradJacobian:
        return AutogradJacobian(self._function, self._options)

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Sum over t of cotangent_t^T J[t,:]: (n_out, d_out) to (n_in, d_in)."""
        return self.pull(Scaled.plain(cotangent[None])).dense()[0]

    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n_in, d_in) to (n_out, d_out)."""
        return self._autograd.jvp(tangent)


@register_general
def _(function: SequenceFunction, options: Options) -> TemporalJacobian | None:
    if options.wrt in ("h", "c"):
        return None
    try:
        found = GraphJacobian(function, options)
        found.support(function.shape[0] - 1)  # what cannot be pulled through shows at once
    except NotImplementedError:
        raise
    except RuntimeError:
        return None
    return found
