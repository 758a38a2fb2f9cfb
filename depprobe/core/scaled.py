r"""A number with its exponent: tensors whose values may lie far outside the range of floats, and their norms.

    x = values * exp(log_scale)
    ln ||x||_F = ln p + 1/2 ln sum (|values| / p)^2 exp(2 log_scale),     p = max |values|
    ln ||x||_2 = 1/2 ln (largest eigenvalue of x x^T),  each row of x scaled to a largest entry of 1

A block of an LSTM at lag 999 is about 1e-215, of a longer chain 1e-5000. ``log_scale`` (float64) broadcasts
against ``values`` and is -inf only where values are 0. The largest entry is taken out before numbers are
squared wherever the squares might leave the range of floats, so that a norm of entries of 1e-160 keeps its
digits. A norm of entries that overflowed is inf or NaN, of exact zeros -inf.
Source: Blue 1978 (norms free of overflow and underflow).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.device import may, waits

#: float64 norms between these lost nothing to the squares of their entries
_LEAST, _MOST = 1e-140, 1e150
#: numbers turned into float64 at once, and numbers in the Gram matrices that are taken apart at once
_AT_ONCE, _GRAMS = 1 << 20, 1 << 22
#: change of exponent that one factor holds, as a share of the dtype's range, and factors enough to leave it
_SHARE, _PARTS = 0.8, 4


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
        if shift.numel() == 0 or not (most := float(shift.abs().max())):
            return self.values
        # a factor that left the range itself would turn zeros into NaN and small numbers into zeros
        most_in_one = -_SHARE * math.log(torch.finfo(self.values.dtype).tiny)
        parts = 1 + int(min(_PARTS - 1, most // most_in_one))
        factor = (shift / parts).clamp(-most_in_one, most_in_one).exp().to(self.values.dtype)
        values = self.values
        for _ in range(parts):
            values = values * factor
        return values

    def times(self, matrix: Tensor) -> Scaled:
        """The product with a plain matrix from the right; the last axis has one exponent."""
        return Scaled(self.values @ matrix, self.log_scale)

    def log_norm(self, dim: int | tuple[int, ...] | None = None) -> Tensor:
        """Natural log of the Frobenius norm over ``dim`` (None: all), float64; -inf for an exact zero."""
        values, ndim = self.values, self.values.ndim
        dims = range(ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
        over = {axis % ndim for axis in dims}
        scale = _aligned(self.log_scale, ndim)
        # along axes with one exponent, lengths of plain numbers; along the others, sums of logs
        shared = tuple(axis for axis in over if scale.shape[axis] == 1)
        logs = _log_lengths(values, shared) + scale
        logs = log_norm_of_logs(logs, tuple(over.difference(shared)))
        return logs.squeeze(tuple(over)) if over else logs

    def rescaled(self, dim: tuple[int, ...]) -> Scaled:
        """The same with the largest modulus over ``dim`` at 1, and an exponent of -inf where all are 0."""
        return self.over(peaks(self.values, dim))

    def settled(self, dim: tuple[int, ...]) -> Scaled:
        """The same over powers of two if a largest modulus over ``dim`` left the middle of the range."""
        peak = peaks(self.values, dim)
        if not within(peak, *middle(self.values.dtype)):
            return self.over(power_of_two(peak))
        return Scaled(self.values, torch.where(peak != 0, self.log_scale, -math.inf))

    def over(self, peak: Tensor) -> Scaled:
        """The same over given moduli, with an exponent of -inf where they are 0."""
        alive = peak != 0
        # what overflowed stays infinite or NaN: it has no exponent
        safe = torch.where(alive & peak.isfinite(), peak, 1)
        scale = torch.where(alive, self.log_scale + safe.double().log(), -math.inf)
        return Scaled(self.values / safe, scale)


def peaks(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Largest modulus over ``dim``, dimensions kept; NaN where there is one."""
    if not dim:
        return values.abs()
    if any(values.shape[axis] == 0 for axis in dim):
        over = {axis % values.ndim for axis in dim}
        return values.new_zeros([1 if axis in over else n for axis, n in enumerate(values.shape)])
    if waits(values.device) or values.is_complex():
        return torch.linalg.vector_norm(values, math.inf, dim, keepdim=True)
    # a third of the time of the modulus of every entry, a fifth of aminmax
    return torch.maximum(values.amax(dim, keepdim=True), -values.amin(dim, keepdim=True))


def power_of_two(peak: Tensor) -> Tensor:
    """The largest power of two that a modulus reaches, by which division rounds nothing; 0, inf, NaN stay."""
    return peak.double().log2().floor().exp2().to(peak.dtype)


def middle(dtype: torch.dtype) -> tuple[float, float]:
    """Moduli in the middle of a dtype's range: products of a few, and sums of many of those, are in range."""
    return torch.finfo(dtype).tiny ** 0.2, torch.finfo(dtype).max ** 0.2


def within(peak: Tensor, low: float, high: float) -> bool:
    """Whether all moduli given that are not 0 lie between ``low`` and ``high``."""
    if peak.numel() == 0:
        return True
    least, most = torch.where(peak != 0, peak, 1).aminmax()
    return bool(least > low) and bool(most < high)


def added(a: Scaled, b: Scaled) -> Scaled:
    """Their sum, over the larger exponent."""
    if a.log_scale.shape == b.log_scale.shape and torch.equal(a.log_scale, b.log_scale):
        return Scaled(a.values + b.values, a.log_scale)
    a, b = (_by_exponent(part) for part in (a, b))
    peak = torch.maximum(a.log_scale, b.log_scale)
    base = torch.where(peak.isneginf(), 0, peak)
    return Scaled(a.relative_to(base) + b.relative_to(base), peak)


def gathered(parts: Sequence[tuple[Scaled, Tensor]]) -> tuple[Scaled, Tensor]:
    """Sum of contributions at positions, and the positions (P,), ascending.

    Parameters
    ----------
    parts : values (p, r, d), exponents (p, r, 1) or (1, 1, 1), and their positions (p,), which may repeat.

    Returns
    -------
    Values (P, r, d), with exponents (P, r, 1), or (1, 1, 1) where all contributions share one.
    """
    where, inverse = torch.cat([position for _, position in parts]).unique(return_inverse=True)
    places = inverse.split([len(position) for _, position in parts])
    first = parts[0][0]
    dtype = max((part.values.dtype for part, _ in parts), key=lambda kind: torch.finfo(kind).bits)
    shape = len(where), first.values.shape[1], max(part.values.shape[2] for part, _ in parts)
    out = torch.zeros(shape, dtype=dtype, device=where.device)
    one = [float(part.log_scale) for part, _ in parts if part.log_scale.numel() == 1]
    if len(one) == len(parts) and len(set(one)) == 1:
        for (part, _), place in zip(parts, places, strict=True):
            _add(out, place, part.values)
        return Scaled(out, first.log_scale), where
    # a zero must not set the exponent of what it is added to
    scaled = [Scaled(p.values, p.log_scale.expand(*p.values.shape[:2], 1)).settled((2,)) for p, _ in parts]
    peak = torch.full((*shape[:2], 1), -math.inf, dtype=torch.float64, device=where.device)
    for part, place in zip(scaled, places, strict=True):
        peak.scatter_reduce_(0, place[:, None, None].expand_as(part.log_scale), part.log_scale, "amax")
    base = torch.where(peak.isneginf(), 0, peak)
    for part, place in zip(scaled, places, strict=True):
        _add(out, place, part.relative_to(base[place]).to(dtype))
    return Scaled(out, peak), where


def log_norms(x: Scaled, norm: str = "fro", dim: tuple[int, int] = (-2, -1)) -> Tensor:
    """Natural logs of the ``fro`` or ``spectral`` norms of matrices on two axes, float64; -inf for zeros."""
    if norm == "fro":
        return x.log_norm(dim)
    unit, base, sound = _unit(x, dim)
    flat = unit.reshape(math.prod(unit.shape[:-2]), *unit.shape[-2:])
    if flat.shape[1] > flat.shape[2]:
        flat = flat.mT
    step = max(1, _GRAMS // max(1, flat.shape[1] * flat.shape[2]))
    powers = [torch.linalg.eigvalsh(part @ part.mT)[:, -1:].sum(1) for part in flat.split(step)]
    logs = 0.5 * torch.cat(powers).clamp_min(0).log().view(sound.shape) + base
    return torch.where(sound, logs, math.nan)[..., 0, 0]


def singular_values(x: Scaled) -> Scaled:
    """Singular values of matrices on the last two axes, largest first: (..., min(rows, columns)), float64."""
    unit, base, sound = _unit(x, (-2, -1))
    return Scaled(torch.where(sound[..., 0], torch.linalg.svdvals(unit), math.nan), base[..., 0])


def _unit(x: Scaled, dim: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices (..., r, c) in float64, largest entry 1, over exp(base); whether finite, else zeros."""
    values = x.values.movedim(dim, (-2, -1)).double()
    scale = _aligned(x.log_scale, x.values.ndim).movedim(dim, (-2, -1))
    free = tuple(axis for axis in (-2, -1) if scale.shape[axis] == 1)
    x = Scaled(values, scale).rescaled(free)
    base = x.log_scale.amax((-2, -1), keepdim=True) if 0 not in values.shape else scale.new_zeros(1)
    base = torch.where(base.isneginf(), 0, base).expand(*values.shape[:-2], 1, 1)
    unit = x.relative_to(base)
    sound = unit.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(sound, unit, 0), base, sound


def log_norm_of_logs(logs: Tensor, dim: tuple[int, ...]) -> Tensor:
    """ln of the Euclidean norm over ``dim`` (kept) of numbers given as logs of their moduli."""
    return 0.5 * torch.logsumexp(2 * logs, dim, keepdim=True) if dim else logs


def log_hypot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln sqrt(e^{2a} + e^{2b}); NaN (unknown) stays NaN."""
    with np.errstate(invalid="ignore"):
        return 0.5 * np.logaddexp(2 * a, 2 * b)


def with_rounding(values: Any, share: Any, error: Any = 0.0) -> tuple[Any, Any]:
    """ln norms, NaN where rounding may have changed them by 1 or more, and bounds on their errors."""
    if not isinstance(values, Tensor):
        found, bound = with_rounding(*(torch.as_tensor(z, device="cpu") for z in (values, share, error)))
        return found.numpy(), bound.numpy()
    known = values.isfinite()
    lost = known & ~(share < 1 - math.exp(-1))
    places = 4 * np.finfo(np.float64).eps * (1 + torch.where(known, values, 0).abs())
    bound = torch.where(known & ~lost, error - torch.where(lost, 0, -share).log1p() + places, 0.0)
    return torch.where(lost, math.nan, values), bound


def log_norms_of_squares(squares: Tensor, bound: Tensor, accuracy: float) -> tuple[Tensor, Tensor]:
    """ln norms from sums of products that may cancel, and which of them kept their digits.

    ``squares`` are those of norms, of any shape; ``bound`` those of the sums of the norms of all terms, to
    which rounding is relative; ``accuracy`` is the relative error of a norm up to which it is known.
    """
    limits = torch.finfo(squares.dtype)
    known = (squares * (accuracy / (8 * limits.eps)) > bound) & (squares > limits.tiny / limits.eps)
    return squares.double().clamp_min(0).log_().mul_(0.5), known


def _aligned(log_scale: Tensor, ndim: int) -> Tensor:
    """Exponents with as many axes as the values they belong to."""
    return log_scale[(None,) * (ndim - log_scale.ndim)]


def _by_exponent(x: Scaled) -> Scaled:
    """Settled over the axes along which one exponent is shared."""
    return x.settled(tuple(i for i, n in enumerate(_aligned(x.log_scale, x.values.ndim).shape) if n == 1))


def _log_lengths(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """ln of the Euclidean norm of plain numbers over ``dim``, kept, float64."""
    if not dim:
        return values.abs().double().log()
    if 0 in values.shape:
        shape = [1 if axis in dim else size for axis, size in enumerate(values.shape)]
        return torch.full(shape, -math.inf, dtype=torch.float64, device=values.device)
    lengths = _lengths(values, dim)
    if values.dtype != torch.float64:  # squares of narrower numbers are in range
        return lengths.log()
    lost = ~((lengths > _LEAST) & (lengths < _MOST))
    if not may(lost.any()):
        return lengths.log()
    peak = peaks(values, dim)
    lost &= (peak != 0) & peak.isfinite()
    if not may(lost.any()):
        return lengths.log()
    safe = torch.where(lost, peak, 1)
    return _lengths(values / safe, dim).log() + safe.log()


def _lengths(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Plain Euclidean norms over ``dim``, kept, in float64."""
    kept = next((axis for axis in range(values.ndim) if axis not in dim), None)
    few = values.numel() <= _AT_ONCE or waits(values.device)
    if values.dtype == torch.float64 or kept is None or few:
        return torch.linalg.vector_norm(values, dim=dim, keepdim=True, dtype=torch.float64)
    # several times faster than torch's own conversion
    parts = values.split(max(1, _AT_ONCE * values.shape[kept] // values.numel()), kept)
    return torch.cat([torch.linalg.vector_norm(p.double(), dim=dim, keepdim=True) for p in parts], kept)


def _add(out: Tensor, place: Tensor, values: Tensor) -> None:
    """out[place] += values, by a slice where the places are evenly spaced: many times faster."""
    if len(place) == 0:
        return
    gaps = place.diff()
    step = int(gaps[0]) if len(gaps) else 1
    if step > 0 and bool((gaps == step).all()):
        out[int(place[0]) : int(place[-1]) + 1 : step] += values
    else:
        out.index_add_(0, place, values)
