r"""The temporal Jacobian of a user's forward: cut at the calls that are known, autograd between the cuts.

    row t = I_{d_out} J[t,:], pulled backwards through the traced graph with exponents

A norm is finite where nothing of note was lost on the way. Where no path leads, a block is zero by structure;
where the rescaled gradient is exactly 0 although there is a path, it is zero if the output at t stays equal
to the bit under five unrelated replacements of x_k; all else is an underflow, or undecided. A model whose
outputs ignore what follows them is traced up to the largest target only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.calling.arguments import HALF
from depprobe.core.function import SequenceFunction, unknown_at
from depprobe.core.options import Options, require
from depprobe.core.scaled import Scaled
from depprobe.core.shared_work import SharedWork
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian
from depprobe.errors import BadInput
from depprobe.operators.autograd import fisher
from depprobe.operators.autograd.operator import AutogradJacobian
from depprobe.operators.autograd.readout import ExactRows
from depprobe.operators.autograd.rounding import Rounding, Row, resume_each, states_of
from depprobe.operators.autograd.saturation import Saturation
from depprobe.operators.chain.rounding import digits_kept
from depprobe.operators.composed.graph import Graph
from depprobe.operators.composed.repeats import GraphProducts
from depprobe.operators.composed.traces import Traces
from depprobe.operators.known_lags import LOST
from depprobe.vocabulary import STATUS

#: share of a norm that may have been lost before the norm counts as unknown
_LOST = 1e-3

Floats = NDArray[np.float64]


class GraphJacobian(TemporalJacobian):
    """Temporal Jacobian of any module at one input, by its traced graph.

    Parameters
    ----------
    function : the module at one input.
    options : ``memory`` is what rows may take.
    traces : its traces.
    at : number of the denominator, where they have several.

    Raises
    ------
    OverBudget : a single row would not fit.
    """

    method = "composed"
    norms: tuple[str, ...] = ("fro", "spectral", "fisher")
    error_kind = "estimate"

    def __init__(
        self,
        function: SequenceFunction,
        options: Options,
        traces: Traces,
        at: int = 0,
        shared_rows: SharedWork[Scaled] | None = None,
    ) -> None:
        self._function, self._options, self._traces, self._at = function, options, traces, at
        self.shape, self.wrt = function.shape, function.wrt
        self._saturation = Saturation(function, options.memory)
        self._shared_rows = SharedWork[Scaled](1) if shared_rows is None else shared_rows
        assert traces.rows_at_once > 0, "which looks whether a row fits"

    def at_depths(self, names: Sequence[str]) -> list[TemporalJacobian] | None:
        """Operators whose rows are kept as they pass each of the denominators."""
        functions = self._function.at_depths(names)
        traces, shared = Traces(functions[0], self._options), SharedWork[Scaled](len(functions))
        return [GraphJacobian(one, self._options, traces, at, shared) for at, one in enumerate(functions)]

    @property
    def _graph(self) -> Graph:
        return self._traces.whole

    def __repr__(self) -> str:
        cuts, joins = len(self._graph.cuts), self._graph.partition.joins
        return f"{type(self).__name__}({type(self._function.module).__name__}, {cuts} cuts, {joins} joins)"

    @property
    def position(self) -> Floats | None:
        """Input position that each output sits at, (n_out,), or None where it cannot be known."""
        return self._function.position

    @property
    def knows_a_call(self) -> bool:
        """Whether anything in the forward is pulled through by structure."""
        return bool(self._graph.cuts)

    @property
    def runs_python(self) -> bool:
        """Whether code of the user's runs on the way back."""
        return self._graph.partition.runs_python

    @property
    def targets_at_once(self) -> int:
        """How many targets fit one pull."""
        return max(1, self._traces.rows_at_once // self._traces.exact.count)

    def state(self) -> dict[str, NDArray[Any]] | None:
        return states_of(self._rounding) | {"proof": np.array(self.zero_proof)}

    def resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.zero_proof = str(state["proof"])
        resume_each(self._rounding, state)

    # -- norms ---------------------------------------------------------------------------------------

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        """Natural logs of the norms of J[t,k]; ``error`` is the share lost, and rounding as estimated."""
        columns = np.arange(self.shape[2]) if sources is None else np.asarray(sources, dtype=np.int64)
        wanted = [int(t) % self.shape[0] for t in targets]
        order = sorted(set(wanted))
        found, rounding = {}, self._rounding[norm if norm in self._rounding else "fro"]
        with self._function.held():
            for first in range(0, len(order), self.targets_at_once):
                group = order[first : first + self.targets_at_once]
                mix = rounding.begin(group)
                graph = self._traces.up_to(group)
                *measured, mixed = self._traces.norms(graph, group, norm, self._at, mix)
                rows = zip(group, *measured, strict=True)
                for t, total, lost, live in rows:
                    found[t] = self._judged(t, total, lost, live, norm)
                self._repeat(rounding, {t: found[t][0] for t in mix}, mix, mixed)
            self._repeat_rest(rounding, {t: values for t, (values, *_) in found.items()})
        for t, (values, error, _) in found.items():
            known = np.isfinite(values)
            error += np.where(known, rounding.stated(t, self.lags_at(t), known), 0.0)
        values, error, status = (np.stack(parts) for parts in zip(*(found[t] for t in wanted), strict=True))
        fine = norm == "fro" and self._function.y.dtype not in HALF
        digits = self._digits(wanted, values)[:, columns] if fine else None
        unclear = (status == STATUS["finite"]) & (error >= LOST)
        values[unclear], error[unclear], status[unclear] = math.nan, 0, STATUS["undecided"]
        return LogNorms(values[:, columns], error[:, columns], status=status[:, columns], digits=digits)

    def _digits(self, targets: Sequence[int], values: Floats) -> Floats:
        """Of roundings of the x_k alone: at most what the states within keep.

        An output near zero by chance is not chaotic, so it is taken for as large as half of all are.
        """
        x, y = (
            part.detach().double().norm(dim=1).cpu().numpy() for part in (self._function.x, self._function.y)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.log(np.maximum(y[targets], np.median(y)) * math.sqrt(self.shape[3]))
            moved = values + np.log(x) - size[:, None]
        return digits_kept(np.where(np.isnan(moved), -np.inf, moved), self._function.y.dtype)

    def _repeat_rest(self, rounding: Rounding, rows: Mapping[int, Floats]) -> None:
        """Repeat rows that no others stand for, where those before told nothing, or rows lose digits."""
        rows = {t: values for t, values in rows.items() if np.isfinite(values).any()}
        for t in rows:
            if rounding.known:
                break
            self._repeat(rounding, rows, rounding.begin([t]))
        self._repeat(
            rounding, rows, rounding.rest({t: (self.lags_at(t), values) for t, values in rows.items()})
        )

    def _repeat(
        self,
        rounding: Rounding,
        rows: Mapping[int, Floats],
        mix: Mapping[int, Tensor],
        firsts: Mapping[int, Scaled] = MappingProxyType({}),
    ) -> None:
        """Repeat rows of ln norms (n_in,), of which sums by the weights in ``mix`` may be known."""
        if 2 * self._graph.partition.total > self._options.memory:
            return
        if self._traces.finest is not self._graph:
            firsts = {}  # zero where norms are not
        # code of the user's may take no changed numbers
        with suppress(BadInput, RuntimeError, ValueError):
            rounding.note(
                [
                    Row(
                        t,
                        self.lags_at(t),
                        np.where(np.isfinite(rows[t]), rows[t], np.nan),
                        one,
                        firsts.get(t),
                    )
                    for t, one in mix.items()
                ]
            )

    @cached_property
    def _rounding(self) -> dict[str, Rounding]:
        products = GraphProducts(self._traces, self._at, self._shared_rows)
        return {norm: Rounding(self._function, products, norm) for norm in ("fro", fisher.NORM)}

    def _judged(
        self, t: int, total: Tensor, lost: Tensor, live: Tensor, norm: str
    ) -> tuple[Floats, Floats, NDArray[np.int8]]:
        """Values, errors and status of one row."""
        share = (lost - total).exp().nan_to_num(nan=0.0)  # NaN: both zero, and nothing was lost
        doubtful = live & (total.isneginf() | (share > _LOST))
        proved = torch.zeros_like(live)
        nothing = self._may_be_zero(t, doubtful & total.isneginf(), total, lost, live)
        if len(nothing):
            proved[nothing] = self._saturation.ignores(t, nothing)
            self.zero_proof = "structure, replacement"
        doubtful &= ~proved
        if bool(doubtful.any()):
            total, share, doubtful = self._taken_again(t, total, share, doubtful, norm)
        status = torch.full(total.shape, STATUS["finite"], dtype=torch.int8, device=total.device)
        status[total.isnan() | total.isposinf()] = STATUS["overflow"]
        nothing_known = unknown_at(self._function.y[t])
        unknown = torch.where(total.isneginf(), nothing_known, STATUS["underflow"])
        status[doubtful] = unknown[doubtful].to(torch.int8)
        if nothing_known == STATUS["not_a_number"]:
            status[:] = nothing_known
        status[~live | proved] = STATUS["zero"]
        values = torch.where(status == STATUS["finite"], total, math.nan)
        values[status == STATUS["zero"]] = -math.inf
        share[status != STATUS["finite"]] = 0
        return values.cpu().numpy(), share.cpu().numpy(), status.cpu().numpy()

    def _may_be_zero(self, t: int, nothing: Tensor, total: Tensor, lost: Tensor, live: Tensor) -> Tensor:
        """Sources whose gradient is exactly 0, not as what is left of norms that fade."""
        if not bool(nothing.any()):
            return nothing.nonzero()[:, 0]
        limits = torch.finfo(self._graph.partition.narrowest)
        half = 0.5 * math.log(limits.tiny)
        # the bottom of the range, which norms beside it must be far above, is where something was lost
        gone = torch.where(nothing, lost, -math.inf)
        bottom = torch.nn.functional.pad(gone, (1, 1), value=-math.inf).unfold(0, 3, 1).amax(1)
        least = torch.maximum(total.max(), bottom - math.log(limits.tiny / limits.eps))
        large = total > least + half
        at = t if self.position is None else int(self.position[t])
        zero = (nothing | ~live).cpu().numpy()
        found = self._saturation.may_be_masked(t, zero, large.cpu().numpy(), np.arange(len(total)), at)
        return (nothing & torch.from_numpy(found).to(nothing.device)).nonzero()[:, 0]

    def _taken_again(
        self, t: int, total: Tensor, share: Tensor, doubtful: Tensor, norm: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The row with rows rescaled more often, where that may tell what is doubtful."""
        graph = self._traces.fine
        if graph.partition.joins == self._graph.partition.joins:
            return total, share, doubtful
        (fine,), (lost,), *_ = self._traces.norms(graph, [t], norm, self._at, {})
        found = (lost - fine).exp().nan_to_num(nan=0.0)
        total, share = torch.where(doubtful, fine, total), torch.where(doubtful, found, share)
        return total, share, doubtful & (total.isneginf() | (share > _LOST))

    # -- blocks and products -------------------------------------------------------------------------

    def row(self, t: int) -> Scaled:
        """Row t: values (d_out, n_in, d_in), log_scale (d_out, n_in, 1)."""
        size = math.prod(self.shape[1:]) * self._function.x.element_size()
        require(3 * size, self._options.memory, f"the row of {self.shape[2]} blocks", "ask for norms")
        with self._function.held():
            units = ExactRows(self._function.y, None)
            found = self._traces.pulled(self._graph, [int(t) % self.shape[0]], units)
            parts = [pulled[self._at].rows for pulled, _ in found]
        scale = torch.cat([part.log_scale for part in parts])
        return Scaled(torch.cat([part.values for part in parts]), scale.nan_to_num(neginf=0.0))

    def support(self, t: int) -> NDArray[np.bool_]:
        """Positions that a path leads to from output t: (n_in,) bool."""
        return self._traces.live([int(t) % self.shape[0]])[self._at][0].cpu().numpy()

    def pull(self, rows: Scaled) -> Scaled:
        """Rows (r, n_out, d_out) through the Jacobian: (r, n_in, d_in)."""
        standing = (rows.values != 0).any(2).any(0)[None]
        owner = torch.zeros(len(rows.values), dtype=torch.long, device=rows.values.device)
        return self._traces.pull(self._graph, rows, standing, owner)[self._at].rows

    @cached_property
    def _autograd(self) -> AutogradJacobian:
        return AutogradJacobian(self._function, self._options)

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Sum over t of cotangent_t^T J[t,:]: (n_out, d_out) to (n_in, d_in)."""
        return self.pull(Scaled.plain(cotangent[None].to(self._function.y))).dense()[0]

    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n_in, d_in) to (n_out, d_out)."""
        return self._autograd.jvp(tangent)
