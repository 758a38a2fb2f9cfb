r"""The temporal Jacobian as a linear operator.

    J[t,k] = d y_t / d x_k        a (d_out, d_in) block

Shapes: y (n_out, d_out), x (n_in, d_in). Blocks may lie far outside the range of floats (an LSTM's
block at lag 999 is about 1e-215), so a block is a ``Scaled`` pair and a norm is a natural log.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.scaled import Scaled, singular_values


@dataclass(frozen=True)
class LogNorms:
    """Natural logs of the norms of blocks.

    Attributes
    ----------
    values : (targets, columns) float64; -inf for an exact zero, NaN where a zero cannot be told
        from an underflow.
    error : the same shape or None; bound on the error of ``values`` from compression.
    stderr : the same shape or None; standard error of ``values`` from random probes.
    lags : None where columns are the sources asked for; else the lag of each column, all blocks
        at other lags being zero.
    status : the same shape or None; see ``vocabulary.STATUS``. None: finite values are finite, -inf is
        zero and NaN undecided.
    """

    values: NDArray[np.float64]
    error: NDArray[np.float64] | None = None
    stderr: NDArray[np.float64] | None = None
    lags: NDArray[np.int64] | None = None
    status: NDArray[np.int8] | None = None


class TemporalJacobian(abc.ABC):
    """The temporal Jacobian of one module at one input.

    Laws, tested for every subclass: ``log_norms`` equals the log of the norm of ``block``; ``row(t)``
    holds the blocks of ``block(t, k)``; ``vjp`` and ``jvp`` are adjoint and agree with ``row``.
    """

    #: which operator this is, as written into datasets
    method: str
    #: (n_out, d_out, n_in, d_in)
    shape: tuple[int, int, int, int]
    #: what stands in the denominator: x, h or c
    wrt: str = "x"
    #: relative tolerance of compression; 0 where the operator is exact
    tolerance: float = 0.0

    @property
    def position(self) -> NDArray[np.float64]:
        """Input position that each output sits at, (n_out,); spread evenly where lengths differ."""
        n_out, _, n_in, _ = self.shape
        if n_out == n_in:
            return np.arange(n_out, dtype=np.float64)
        return (np.arange(n_out) + 0.5) * n_in / n_out - 0.5

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

    @abc.abstractmethod
    def vjp(self, cotangent: Tensor) -> Tensor:
        """Sum over t of cotangent_t^T J[t,:]: (n_out, d_out) to (n_in, d_in)."""

    @abc.abstractmethod
    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n_in, d_in) to (n_out, d_out)."""
