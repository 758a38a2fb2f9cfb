r"""A number with its exponent: tensors whose values may lie far outside the range of floats, and their norms.

    x = values * exp(log_scale),        ||x||^2 = sum exp(2 ln|values| + 2 log_scale)

A block of an LSTM at lag 999 is about 1e-215, of a longer chain 1e-5000. ``log_scale`` (float64) broadcasts
against ``values`` and is -inf only where values are 0. Squares are taken of numbers of size 1, after the
largest entry was taken out, so that a norm of entries of 1e-160 keeps its digits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: rows whose largest entry lies between these need no rescaling: products and sums of many stay in range
_LOW, _HIGH = 1e-6, 1e6


class Scaled(NamedTuple):
    """A tensor carried with its exponent: the value is ``values * exp(log_scale)``.

    Examples
    --------
    >>> import torch
    >>> far = Scaled(torch.ones(2, 2, dtype=torch.float64), torch.tensor(-5000.0, dtype=torch.float64))
    >>> float(far.log_norm())
    -4999.30685281944
    """

    values: Tensor
    log_scale: Tensor

    @classmethod
    def plain(cls, values: Tensor) -> Scaled:
        """A plain tensor, with exponent 0."""
        return cls(values, torch.zeros([1] * values.ndim, dtype=torch.float64, device=values.device))

    def dense(self) -> Tensor:
        """The plain tensor; underflows to 0 where the value is below the dtype's range."""
        return self.relative_to(torch.zeros((), dtype=torch.float64, device=self.values.device))

    def relative_to(self, base: Tensor) -> Tensor:
        """Plain floats: the value over exp(base), which broadcasts like ``log_scale``."""
        shift = torch.where(self.log_scale.isneginf(), 0, self.log_scale - base)
        return self.values if not bool(shift.any()) else self.values * shift.exp().to(self.values.dtype)

    def log_norm(self, dim: int | tuple[int, ...] | None = None) -> Tensor:
        """Natural log of the Frobenius norm over ``dim`` (None: all), float64; -inf for an exact zero."""
        logs = self.values.abs().double().log() + self.log_scale
        dims = tuple(range(logs.ndim)) if dim is None else dim
        # dims () would reduce everything
        return logs if dims == () else 0.5 * torch.logsumexp(2 * logs, dims)

    def rescaled(self, dim: tuple[int, ...]) -> Scaled:
        """The same with the largest modulus over ``dim`` at 1, and an exponent of -inf where all are 0."""
        peak = peaks(self.values, dim)
        alive = peak != 0
        # what overflowed stays infinite or NaN: it has no exponent
        safe = torch.where(alive & peak.isfinite(), peak, 1)
        scale = torch.where(alive, self.log_scale + safe.double().log(), -math.inf)
        return Scaled(self.values / safe, scale)

    def settled(self, dim: tuple[int, ...]) -> Scaled:
        """``rescaled`` if any largest modulus over ``dim`` left the middle of the float range."""
        peak = peaks(self.values, dim)
        alive = peak != 0
        low, high = torch.where(alive, peak, 1).aminmax()
        if bool(low > _LOW) and bool(high < _HIGH):
            return Scaled(self.values, torch.where(alive, self.log_scale, -math.inf))
        return self.rescaled(dim)


def peaks(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Largest modulus over ``dim``, dimensions kept; NaN where there is one."""
    if not dim:
        return values.abs()
    return torch.maximum(values.amax(dim, keepdim=True), -values.amin(dim, keepdim=True))


def added(a: Scaled, b: Scaled) -> Scaled:
    """Their sum, over the larger exponent."""
    peak = torch.maximum(a.log_scale, b.log_scale)
    base = torch.where(peak.isneginf(), 0, peak)
    return Scaled(a.relative_to(base) + b.relative_to(base), peak)
