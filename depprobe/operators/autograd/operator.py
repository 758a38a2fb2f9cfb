r"""The temporal Jacobian of any module, by batched vector-Jacobian products.

    exact     row t = I_{d_out} J[t,:], one vector-Jacobian product for each output unit
    probes    E |v^T J[t,k]|^2 = ||J[t,k]||_F^2 for v ~ N(0, I) (Hutchinson 1990), the mean over m draws,
              with the standard error of that mean taken through the logarithm

Products are taken in chunks that fit the memory budget. It is the reference for every other operator, and
like every autodiff it underflows: a zero it returns is reported as zero only where the output provably
ignores the input (see ``support``), and as NaN elsewhere; so is a norm below the normal numbers, where a
product may stick at a subnormal instead of vanishing.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from depprobe.core.budget import DEFAULT_MEMORY, readable, require
from depprobe.core.memory import predicted_peak
from depprobe.core.scaled import Scaled, log_norms
from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian
from depprobe.errors import BadInput
from depprobe.operators.autograd.support import independent


class AutogradJacobian(TemporalJacobian):
    """Temporal Jacobian of a function by automatic differentiation.

    Parameters
    ----------
    function : maps (n_in, d_in) to (n_out, d_out).
    x : (n_in, d_in).
    probes : None for exact rows, else the number of random cotangents a row.
    memory : bytes that the job may take.
    seed : seed of the random cotangents.

    Raises
    ------
    OverBudget : not even one product at a time would fit.
    BadInput : the output does not depend on the input through differentiable operations.
    """

    method = "autograd"

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        *,
        probes: int | None = None,
        memory: int = DEFAULT_MEMORY,
        seed: int = 0,
    ) -> None:
        if probes is not None and probes < 2:
            raise BadInput(f"probes must be at least 2, so that their spread can be seen, not {probes}")
        self._function, self._x, self._probes, self._memory, self._seed = (
            function,
            x.detach(),
            probes,
            memory,
            seed,
        )
        if probes is not None:
            self.method = "probes"
        # at least one product at a time has to fit; the slope tells how many do
        one, two = (predicted_peak(function, self._x, count) for count in (1, 2))
        self._chunk = 16
        if one is not None and two is not None:
            require(
                one,
                memory,
                "one vector-Jacobian product",
                f"use a smaller n or d, --dtype float32, or --memory {readable(1.1 * one).replace(' ', '')}",
            )
            self._chunk = int(1 + (memory - one) // max(1, two - one))
        with torch.enable_grad():
            self._leaf = self._x.clone().requires_grad_()
            self._y = _forward(function, self._leaf)
        if not self._y.requires_grad:
            raise BadInput("the output does not depend on the input through differentiable operations")
        self.shape = (*self._y.shape, *x.shape)

    def _products(self, t: int, cotangents: Tensor) -> Iterator[Tensor]:
        """v^T J[t,:] for rows v of (m, d_out), in chunks: (chunk, n_in, d_in)."""
        for part in cotangents.split(min(self._chunk, cotangents.shape[0])):
            full = torch.zeros(part.shape[0], *self._y.shape, dtype=part.dtype, device=part.device)
            full[:, t] = part
            (grad,) = torch.autograd.grad(
                self._y, self._leaf, full, retain_graph=True, is_grads_batched=True, materialize_grads=True
            )
            yield grad

    def _identity(self) -> Tensor:
        return torch.eye(self.shape[1], dtype=self._x.dtype, device=self._x.device)

    def log_norms(
        self, targets: Sequence[int], sources: Sequence[int] | None = None, norm: str = "fro"
    ) -> LogNorms:
        """Natural logs of the norms of J[t,k]; ``stderr`` is given where they come from random probes."""
        columns = list(range(self.shape[2]) if sources is None else sources)
        if norm != "fro" and self._probes is not None:
            raise BadInput(
                "random probes estimate the Frobenius norm only; use norm='fro' or method='autograd'"
            )
        values, errors = [], []
        floor = np.log(torch.finfo(self._x.dtype).smallest_normal)
        for t in targets:
            value, error = self._norm_row(t, columns, norm)
            zeros = np.flatnonzero(np.isneginf(value))
            if len(zeros):
                known = independent(self._function, self._x, t, torch.tensor([columns[k] for k in zeros]))
                value[zeros[~known.cpu().numpy()]] = np.nan
            value[np.isfinite(value) & (value < floor)] = np.nan
            values.append(value)
            errors.append(error)
        return LogNorms(np.stack(values), stderr=np.stack(errors) if self._probes else None)

    def _norm_row(self, t: int, columns: list[int], norm: str) -> tuple[np.ndarray, np.ndarray]:
        if norm == "spectral":
            logs = log_norms(Scaled.plain(self.row(t).values[:, columns]), norm, (0, 2))
            return logs.cpu().numpy(), np.zeros(len(columns))
        if self._probes is None:
            cotangents = self._identity()
        else:
            generator = torch.Generator(device=self._x.device).manual_seed(self._seed * 1_000_003 + t)
            cotangents = torch.randn(
                self._probes, self.shape[1], generator=generator, dtype=self._x.dtype, device=self._x.device
            )
        # logs of the squared norm of each product: sums of squares would underflow before the values do
        logs = 2 * torch.cat(
            [Scaled.plain(grad).log_norm(2)[:, columns] for grad in self._products(t, cotangents)]
        )
        total = torch.logsumexp(logs, 0)
        if self._probes is None:
            return (0.5 * total).cpu().numpy(), np.zeros(len(columns))
        m = self._probes
        mean = total - np.log(m)
        spread = (logs - mean).nan_to_num(nan=0.0, neginf=-torch.inf).exp().var(0) / m
        # d ln norm = d (norm^2) / (2 norm^2)
        return (0.5 * mean).cpu().numpy(), (0.5 * spread.sqrt()).cpu().numpy()

    def row(self, t: int) -> Scaled:
        """Row t: values (d_out, n_in, d_in); log_scale 0."""
        size = int(np.prod(self.shape[1:])) * self._x.element_size()
        require(
            2 * size,
            self._memory,
            f"the row of {self.shape[2]} blocks",
            "ask for norms, or use method='probes'",
        )
        rows = torch.cat(list(self._products(t, self._identity())))
        return Scaled(rows, torch.zeros(1, 1, 1, dtype=torch.float64, device=rows.device))

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Sum over t of cotangent_t^T J[t,:]: (n_out, d_out) to (n_in, d_in)."""
        (grad,) = torch.autograd.grad(
            self._y, self._leaf, cotangent, retain_graph=True, materialize_grads=True
        )
        return grad

    def jvp(self, tangent: Tensor) -> Tensor:
        """Sum over k of J[:,k] tangent_k: (n_in, d_in) to (n_out, d_out), as the adjoint of the adjoint."""
        with torch.enable_grad(), _twice_differentiable():
            leaf = self._x.clone().requires_grad_()
            y = self._function(leaf)
            v = torch.zeros_like(y, requires_grad=True)
            (pulled,) = torch.autograd.grad(y, leaf, v, create_graph=True, materialize_grads=True)
            (out,) = torch.autograd.grad(pulled, v, tangent, materialize_grads=True)
        return out


@contextlib.contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Plain kernels only: the fused LSTM and attention kernels have no second derivative."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an Intel GPU flag whenever this one is touched
        with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield


def _forward(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The output at x; a module that cannot take such an input is the caller's to mend."""
    try:
        return function(x)
    except (torch.OutOfMemoryError, MemoryError, BadInput):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if "allocate memory" in str(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"the module fails on x of shape {tuple(x.shape)}: {first}"
            "; one that takes batches only is to be given x as (samples, n, d), or batched=True"
        ) from error
