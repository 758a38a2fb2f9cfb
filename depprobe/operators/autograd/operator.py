r"""The temporal Jacobian of any function, by batched vector-Jacobian products.

    row t = I_{d_out} J[t,:],    one vector-Jacobian product for each output unit

It is the reference for every other operator, and like every autodiff it underflows. So each norm has a
status. A gradient of 0 is a zero where a cotangent of NaN does not arrive: as 0 NaN = NaN, no path leads
there. It is one too where the gradients end abruptly, from the middle of the range of floats to 0, as behind
a mask, and the output ignores the input (``SequenceFunction.ignores``). Where norms come near the floor of
the narrowest dtype on the way, the row is taken again from a cotangent scaled up: a norm that does not scale
with it has lost digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.calling.arguments import HALF
from depprobe.core.calling.passes import DoesNotRun
from depprobe.core.function import SequenceFunction, unknown_at
from depprobe.core.options import Options, require
from depprobe.core.scaled import Scaled, log_norms
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian
from depprobe.operators.autograd import fisher
from depprobe.operators.autograd.forward_products import forward_products
from depprobe.operators.autograd.products import Products
from depprobe.operators.autograd.readout import ExactRows
from depprobe.operators.autograd.recording import Recording
from depprobe.operators.autograd.rounding import EVERY, Rounding, Row, resume_each, states_of
from depprobe.operators.autograd.saturation import Saturation
from depprobe.operators.known_lags import LOST
from depprobe.units import counted
from depprobe.vocabulary import STATUS

#: share of the logarithmic range of a dtype above its smallest number in which norms are checked
_NEAR = 0.5
#: largest difference in ln norm of a row and the same row scaled up, for a norm to count as known
_AGREE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.2}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class AutogradJacobian(TemporalJacobian):
    """Temporal Jacobian of a function by automatic differentiation.

    Parameters
    ----------
    function : the module at one input.
    options : ``memory`` counts.
    products : of the function; by default recorded here.

    Raises
    ------
    OverBudget : not even one product at a time would fit.
    """

    method = "autograd"
    zero_proof = "structure, replacement"
    error_kind = "estimate"
    norms: tuple[str, ...] = ("fro", "spectral", "fisher")
    #: whether rows are repeated once they are measured
    _repeats = True

    def __init__(
        self, function: SequenceFunction, options: Options, products: Products | None = None
    ) -> None:
        self._function, self._options, self._memory = function, options, options.memory
        self._products = products or Products(
            Recording(function, options.memory, self._beside(function, options))
        )
        self._rounding = {norm: Rounding(function, self._products, norm) for norm in ("fro", fisher.NORM)}
        self._saturation = Saturation(function, self._memory, self._products.make_room)
        self.shape = function.shape
        self.wrt = function.wrt
        dtype = self._products.narrowest
        self.log_floor = math.log(torch.finfo(dtype).smallest_normal)
        self._agree = _AGREE[dtype]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._function.module).__name__}, shape={self.shape})"

    def at_depths(self, names: Sequence[str]) -> list[TemporalJacobian] | None:
        """Operators whose products come from one backward pass."""
        functions = self._function.at_depths(names)
        recording = Recording(functions[0], self._memory, self._beside(functions[0], self._options))
        return [type(self)(one, self._options, Products(recording, at)) for at, one in enumerate(functions)]

    @classmethod
    def _beside(cls, function: SequenceFunction, options: Options) -> int:
        """Bytes of rows that are kept at least."""
        return 0

    @property
    def position(self) -> Floats | None:
        return self._function.position

    @property
    def targets_at_once(self) -> int:
        """How many targets one repeat stands for; one, where others wait for what it shares with them."""
        return EVERY if self._products.alone else 1

    def state(self) -> dict[str, NDArray[Any]]:
        return states_of(self._rounding)

    def resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        resume_each(self._rounding, state)

    # -- norms ---------------------------------------------------------------------------------------

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        columns = np.arange(self.shape[2]) if sources is None else np.asarray(sources, dtype=np.int64)
        order, rounding = sorted(set(targets)), self._rounding[norm if norm in self._rounding else "fro"]
        rows: dict[int, tuple[Floats, Floats, NDArray[np.int8]]] = {}
        #: lags and ln norms of all sources
        whole: dict[int, tuple[Ints, Floats]] = {}
        with self._function.held():
            for first in range(0, len(order), self.targets_at_once):
                group = order[first : first + self.targets_at_once]
                with self._prepared(group, columns, norm):
                    # the last and the first stand for the others
                    for t in dict.fromkeys([group[-1], *group]):
                        rows[t] = self._norm_row(t, columns, norm)
                        logs = np.full(self.shape[2], np.nan)
                        logs[columns] = rows[t][0]
                        whole[t] = self.lags_at(t), logs
                        if self._repeats and np.isfinite(logs).any():
                            self._repeat(rounding, whole, rounding.begin([t]))
            # all together, so that a pass of each kind serves them; of those that are unlike it may show that
            # digits are lost
            for _ in range(2):
                late = rounding.rest(whole, self._repeats)
                with self._products.up_to([*late]):
                    self._repeat(rounding, whole, late)
        by_lag = [(t, whole[t][0], np.isfinite(whole[t][1])) for t in targets]
        stated = np.stack([rounding.stated(*one)[columns] for one in by_lag])
        values, apart, status = (np.stack(parts) for parts in zip(*(rows[t] for t in targets), strict=True))
        error = np.where(apart > 0, np.fmax(stated, apart), stated)
        # of 16 bits no digit more is asked for
        unclear = error >= (1.0 if self._products.narrowest in HALF else LOST)
        status[(status == STATUS["finite"]) & unclear] = STATUS["undecided"]
        values[(status != STATUS["finite"]) & (status != STATUS["zero"])] = np.nan
        return LogNorms(values, np.where(status == STATUS["finite"], error, 0.0), status=status)

    def _prepared(self, group: list[int], columns: Ints, norm: str) -> AbstractContextManager[None]:
        """Around the measurement of some rows, for what they share."""
        return self._products.up_to(group)

    def _norm_row(self, t: int, columns: Ints, norm: str) -> tuple[Floats, Floats, NDArray[np.int8]]:
        """ln norms (columns,), by how much they differ from those of a scaled row, and status."""
        value = self._measured(t, columns, norm, 1.0)
        error = np.zeros(len(value))
        finite, zero = np.isfinite(value), np.isneginf(value)
        nothing_known = unknown_at(self._function.y[t])
        nan = nothing_known == STATUS["not_a_number"]
        known = np.zeros_like(finite) if nan else finite
        status = np.where(known, STATUS["finite"], nothing_known if nan else STATUS["overflow"])
        status = status.astype(np.int8)
        proved = zero & ~self._reaches(t)[columns] if zero.any() else zero
        middle = (1 - _NEAR) * self.log_floor
        scaled = value
        if (zero & ~proved).any() or bool((value[finite] < middle).any()):
            # a power of two, so that nothing is rounded otherwise
            raised = 2.0 ** round(-_NEAR * self.log_floor / math.log(2))
            scaled = self._measured(t, columns, norm, raised)
            with np.errstate(invalid="ignore"):
                apart = np.abs(scaled - value)
            # far from the floor it was rounded otherwise, as where logarithms of gradients are taken
            rounded = (apart > self._agree) & np.isfinite(apart) & (value > middle)
            error = np.where(rounded, apart, 0.0)
            agrees = (apart <= self._agree) | rounded
            # what leaves the range once scaled up was not near the floor
            agrees |= ~np.isfinite(scaled) & (value > middle)
            status[known & ~(agrees & (value >= self.log_floor))] = STATUS["underflow"]
        if (zero & ~proved).any():
            tried = zero & ~proved & np.isneginf(scaled)
            tried &= self._saturation.may_be_masked(t, tried | proved, value > middle, columns, t)
            sources = torch.tensor(columns[tried], device=self._function.x.device)
            proved[tried] = self._saturation.ignores(t, sources).cpu().numpy()
            status[zero] = nothing_known
        status[proved] = STATUS["zero"]
        value[(status != STATUS["finite"]) & ~proved] = np.nan
        return value, error, status

    def _repeat(
        self, rounding: Rounding, rows: Mapping[int, tuple[Ints, Floats]], mixes: Mapping[int, Tensor]
    ) -> None:
        with suppress(DoesNotRun):  # code of the user's that takes no changed numbers
            rounding.note([Row(t, *rows[t], mix) for t, mix in mixes.items()])

    def _reaches(self, t: int) -> NDArray[np.bool_]:
        """Inputs (n_in,) that a path leads to from output t."""
        return self._products.reaches(t)

    def _measured(self, t: int, columns: Ints, norm: str, scale: float) -> Floats:
        """ln norms (columns,), from cotangents times a scale."""
        most = self._exact.count if norm == "spectral" else 0
        count = self._exact.count
        require(
            2 * count * self.shape[1] * self._function.y.element_size(),
            self._memory,
            f"an exact row of {counted(self.shape[1], 'output')}",
            "use method='probes' (--method probes), or a larger memory",
        )
        rows = self._exact.cotangents(t, norm, torch.arange(count, device=self._function.y.device))
        (found,) = self._products.gathered([t], scale * rows[None], columns, most)
        logs = found.log_norm
        if norm == "spectral":
            logs = log_norms(Scaled.plain(torch.cat(found.rows).transpose(0, 1)), norm)
        return logs.cpu().numpy() - math.log(scale)

    @cached_property
    def _exact(self) -> ExactRows:
        return ExactRows(self._function.y, self._products.weight)

    # -- blocks and products -------------------------------------------------------------------------

    def row(self, t: int) -> Scaled:
        size = math.prod(self.shape[1:]) * self._function.x.element_size()
        require(
            2 * size,
            self._memory,
            f"the row of {self.shape[2]} blocks",
            "ask for norms, or use method='probes'",
        )
        y = self._function.y
        units = torch.eye(self.shape[1], dtype=y.dtype, device=y.device)
        rows = torch.cat(list(self._products.row(int(t), units)))
        return Scaled(rows, torch.zeros(1, 1, 1, dtype=torch.float64, device=rows.device))

    def vjp(self, cotangent: Tensor) -> Tensor:
        return self._products.single(cotangent.to(self._function.y))

    def jvp(self, tangent: Tensor) -> Tensor:
        """The adjoint of the adjoint."""
        tangent = tangent.to(self._function.x)
        try:
            return forward_products(self._function, tangent[None], self._memory)[0]
        except RuntimeError:
            # something in between has no second derivative: row by row
            rows = [self.row(t).values.flatten(1) @ tangent.flatten() for t in range(self.shape[0])]
            return torch.stack(rows)
