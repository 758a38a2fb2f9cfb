r"""The temporal Jacobian as a linear operator.

    J[t,k] = d y_t / d x_k        a (d_out, d_in) block

Shapes: y (n_out, d_out), x (n_in, d_in). Blocks may lie far outside the range of floats (an LSTM's
block at lag 999 is about 1e-215), so a block is a ``Scaled`` pair and a norm is a natural log.

Rows whose support is known are written by source or by lag:

    lag = p_t - k,    p_t = floor(position_t + 1/2)        (half a position rounds up)

An output of an even kernel, or one under strides, may sit between two inputs; ``position`` keeps the
fraction, and lags are counted from the nearest input so that they stay whole.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.options import check_calls
from depprobe.core.scaled import Scaled, added, singular_values

#: nats between exponents that are pulled together in plain floats
_TOGETHER = {torch.float32: 40.0, torch.float64: 300.0}

#: the banded form is used where it is at least so many times smaller
_WORTH = 4


@dataclass(frozen=True)
class LogNorms:
    """Natural logs of the norms of blocks.

    Attributes
    ----------
    values : (targets, columns) float64; -inf for an exact zero, NaN where a zero cannot be told
        from an underflow.
    error : the same shape or None; what compression and rounding can have changed in ``values``.
    stderr : the same shape or None; standard error of ``values`` from random probes.
    low, high : the same shape or None; ends of the 95 % interval of ``values``.
    rank : the same shape or None; effective rank of the blocks, (sum s^2)^2 / sum s^4 over singular values s.
    loading : the same shape or None; how far the error from probes is common to the sources of a target: at
        two of them squared norms have errors with the product of their loadings as correlation.
    lags : None where columns are the sources asked for; else the lag of each column, all blocks
        at other lags being zero.
    digits : the same shape or None; decimal digits that the state at t keeps of a rounding error made at k or
        later.
    status : the same shape or None; see ``vocabulary.STATUS``. None: finite values are finite, -inf is
        zero and NaN undecided.
    """

    values: NDArray[np.float64]
    error: NDArray[np.float64] | None = None
    stderr: NDArray[np.float64] | None = None
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    rank: NDArray[np.float64] | None = None
    loading: NDArray[np.float64] | None = None
    lags: NDArray[np.int64] | None = None
    status: NDArray[np.int8] | None = None
    digits: NDArray[np.float64] | None = None


class TemporalJacobian(abc.ABC):
    """The temporal Jacobian of one module at one input.

    Laws, tested for every subclass: ``log_norms`` equals the log of the norm of ``block``; ``row(t)``
    holds the blocks of ``block(t, k)``; ``vjp`` and ``jvp`` are adjoint and agree with ``row``.

    Arguments are checked before a subclass's method sees them: positions are whole numbers in range, negative
    ones counted from the end, and arrive as numbers from 0 on. Anything else raises ``BadInput``.
    """

    #: which operator this is, as written into datasets
    method: str
    #: (n_out, d_out, n_in, d_in)
    shape: tuple[int, int, int, int]
    #: what stands in the denominator: x, h or c
    wrt: str = "x"
    #: relative tolerance of compression; 0 where the operator is exact
    tolerance: float = 0.0
    #: whether ``LogNorms.error`` is a ``bound`` or an ``estimate``
    error_kind: str = "bound"
    #: norms that it gives
    norms: tuple[str, ...] = ("fro", "spectral")
    #: what proved the zeros, in words; "" where it is not said
    zero_proof: str = "structure"
    #: random rows a target that norms are estimated from; 0 where they are not
    probes: int = 0
    #: how many of them are directions taken exactly
    deflated: int = 0
    #: ln of the norm below which none is told from zero; NaN for the smallest normal number of x's dtype
    log_floor: float = math.nan

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        check_calls(cls)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, wrt={self.wrt!r}, method={self.method!r})"

    @property
    def position(self) -> NDArray[np.float64] | None:
        """Input position that each output sits at, (n_out,); None where it cannot be known."""
        n_out, _, n_in, _ = self.shape
        return np.arange(n_out, dtype=np.float64) if n_out == n_in else None

    def lags_at(self, t: int) -> NDArray[np.int64]:
        """Lag of every input (n_in,) from output t; of outputs that spread evenly, if not known."""
        n_out, _, n_in, _ = self.shape
        position = np.linspace(0, n_in - 1, n_out) if self.position is None else self.position
        return anchors(position)[t] - np.arange(n_in)

    def at_depths(self, names: Sequence[str]) -> list[TemporalJacobian] | None:
        """Operators like this one in the outputs of several submodules, which share backward passes.

        None where they would share nothing.
        """
        return None

    def state(self) -> dict[str, NDArray[Any]] | None:
        """What it learned from targets so far that bears on those to come; None where that cannot be told."""
        return None

    def resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on as one that has learned the same."""
        assert not state, "only what is told can be taken up"

    @property
    def targets_at_once(self) -> int:
        """How many targets of ``log_norms`` share work; more at a time gain nothing."""
        return 1

    @abc.abstractmethod
    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        """Natural logs of the norms of J[t,k] for the targets and sources given (None: every source)."""

    @abc.abstractmethod
    def row(self, t: int) -> Scaled:
        """Row t: values (d_out, n_in, d_in), log_scale broadcasting against it."""

    def block(self, t: int, k: int) -> Scaled:
        """Block J[t,k]: values (d_out, d_in)."""
        values, log_scale = self.row(t)
        return Scaled(values[:, k], log_scale.expand(values.shape[0], values.shape[1], 1)[:, k])

    def singular_values(self, t: int, k: int) -> Scaled:
        """Singular values of J[t,k], largest first: values (min(d_out, d_in),)."""
        return singular_values(self.block(t, k))

    def support(self, t: int) -> NDArray[np.bool_]:
        """Which inputs output t reads, (n_in,): False only where a block is proved to be zero."""
        found = self.log_norms([t])
        if found.lags is None:
            return ~np.isneginf(found.values[0])
        out = np.zeros(self.shape[2], dtype=bool)
        position = self.position
        assert position is not None, "blocks given by lag have positions"
        source = int(np.floor(position[t] + 0.5)) - found.lags
        out[source[(source >= 0) & (source < len(out)) & ~np.isneginf(found.values[0])]] = True
        return out

    def pull(self, rows: Scaled) -> Scaled:
        """Rows through the Jacobian: (r, n_out, d_out) to (r, n_in, d_in), exponents (r, n, 1) or fewer.

        Rows whose exponents lie far apart are taken apart and pulled group by group, so that none is lost.
        """
        values, scale = rows.rescaled((2,))
        scale = scale.expand(*values.shape[:2], 1)
        together = _TOGETHER.get(values.dtype, 40.0)
        peak = scale.amax(1, keepdim=True)
        depth = ((peak - scale) / together).floor()
        zeros = values.new_zeros(len(values), *self.shape[2:])
        total = Scaled(zeros, scale.new_full((*zeros.shape[:2], 1), -torch.inf))
        for group in depth[scale.isfinite()].unique().tolist():
            base = peak - group * together
            part = torch.where(depth == group, Scaled(values, scale).relative_to(base), 0)
            found = Scaled(self._vjps(part), base.expand(*zeros.shape[:2], 1)).rescaled((2,))
            total = added(total, found)
        return total

    def _vjps(self, cotangents: Tensor) -> Tensor:
        """``vjp`` of each of some cotangents: (r, n_out, d_out) to (r, n_in, d_in)."""
        return torch.stack([self.vjp(cotangent) for cotangent in cotangents])

    @abc.abstractmethod
    def vjp(self, cotangent: Tensor) -> Tensor:
        """Sum over t of cotangent_t^T J[t,:]: (n_out, d_out) to (n_in, d_in)."""

    @abc.abstractmethod
    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n_in, d_in) to (n_out, d_out)."""


check_calls(TemporalJacobian)


def anchors(position: NDArray[np.float64]) -> NDArray[np.int64]:
    """The input position that lags of each output are counted from, (n_out,)."""
    return np.floor(position + 0.5).astype(np.int64)


def is_banded(lags: NDArray[np.int64] | None, targets: int, n_in: int) -> bool:
    """Whether rows of several targets are better stored by lag than by source."""
    return lags is not None and targets > 1 and _WORTH * len(lags) <= n_in


def placed(
    target: NDArray[np.int64],
    source: NDArray[np.int64],
    values: NDArray[np.float64],
    anchor: NDArray[np.int64],
    n_in: int,
    lags: NDArray[np.int64] | None,
) -> LogNorms:
    """Norms of single blocks as rows: everything not listed is an exact zero.

    Parameters
    ----------
    target : (m,) row that each value belongs to, as an index into ``anchor``.
    source : (m,) input position of each.
    values : (m,) natural logs.
    anchor : (T,) input position that each row's lags are counted from.
    n_in : number of input positions.
    lags : columns of the banded form, ascending and holding every lag that occurs; None for the dense form.

    Returns
    -------
    (T, n_in), or (T, len(lags)) with NaN where a lag leads outside the sequence.
    """
    if lags is None:
        out = np.full((len(anchor), n_in), -np.inf)
        out[target, source] = values
        return LogNorms(out)
    at = anchor[:, None] - lags[None, :]
    out = np.where((at >= 0) & (at < n_in), -np.inf, np.nan)
    out[target, np.searchsorted(lags, anchor[target] - source)] = values
    return LogNorms(out, lags=lags)


def repeat(
    out: NDArray[np.float64],
    rows: NDArray[np.bool_],
    row: NDArray[np.float64],
    anchor: NDArray[np.int64],
    n_in: int,
    lags: NDArray[np.int64],
) -> None:
    """Write the same norms by lag (lags,) into some rows of ``out`` (T, lags), NaN where a lag leads outside.

    ``anchor`` (T,) is where the targets sit.
    """
    out[slice(None) if rows.all() else rows] = np.where(np.isnan(row), -np.inf, row)
    # only rows near an end lead outside: the others are many, and need no look at each entry
    edge = np.flatnonzero(rows & ((anchor < lags.max()) | (anchor - lags.min() >= n_in)))
    at = anchor[edge, None] - lags
    out[edge] = np.where((at >= 0) & (at < n_in), out[edge], np.nan)
