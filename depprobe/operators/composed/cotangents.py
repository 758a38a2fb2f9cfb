r"""Rows on a tensor anywhere in a forward pass, with what they may carry and what was lost of them.

    R (r, *shape) * exp(log_scale)      u output units of m targets, then one row for each target of what was
    lost live (m, *shape)                    entries that may carry anything of a target's rows

Exponents stand for each row and position where the time axis is known, for each row and entry where it is
not, or for each row as a whole while all of it is in the middle of the float range.

What falls to the bottom of the range has lost its digits; so that its share can be told in the end, a bound
on what is missing there is carried on with random signs, as a row of its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled, added, peaks, power_of_two
from depprobe.operators.composed.cut import flat

#: rows whose largest entries lie between these are left as they are
_LOW, _HIGH = 1e-6, 1e6


class Rows(NamedTuple):
    """Rows of m targets; ``owner`` (r,) is the target of each, the last m rows are what was lost."""

    scaled: Scaled
    live: Tensor
    owner: Tensor

    @property
    def targets(self) -> int:
        """The number m of targets."""
        return len(self.live)

    def __add__(self, other: Rows) -> Rows:  # type: ignore[override]
        return Rows(added(self.scaled, other.scaled), self.live | other.live, self.owner)

    def settled(self, axis: int | None, least: float) -> Rows:
        """Rescaled where any row left the middle of the range; what fell below ``least`` is noted."""
        (values, log_scale), live, owner = self
        others = () if axis is None else tuple(i for i in range(1, values.ndim) if i != axis + 1)
        peak = peaks(values, others)
        standing = peak != 0
        low, high = torch.where(standing, peak, 1).aminmax()
        may = live.any(tuple(i for i in others), keepdim=True) if others else live
        if bool(low > _LOW) and bool(high < _HIGH):
            # a zero must not set the exponent of what it is added to
            kept = Rows(Scaled(values, torch.where(standing, log_scale, -math.inf)), live, owner)
            return kept._noting(log_scale, ~standing & may[owner], least)
        fallen = peak < least  # NaN and infinity stay, and are seen in the end
        # what fell keeps too few digits to be told, but is not nothing
        safe = torch.where(standing & peak.isfinite(), power_of_two(peak), 1)
        scale = torch.where(standing, log_scale + safe.double().log(), -math.inf)
        kept = Rows(Scaled(values / safe, scale), live, owner)
        return kept._noting(log_scale, fallen & may[owner], least)

    def lowest(self, base: Tensor) -> float:
        """ln of the smallest largest entry over exp(base), what was lost left out; 0 if none is below 1."""
        fell = (self.scaled.log_scale - base)[: -self.targets]
        return float(torch.where(fell.isfinite(), fell, 0).clamp_max(0).min()) if fell.numel() else 0.0

    def doubted(self, entries: Tensor) -> Rows:
        """The same with some entries (r, *shape) noted as lost, as large as they are."""
        values, log_scale = self.scaled
        shared = tuple(i for i in range(1, values.ndim) if log_scale.shape[i] < values.shape[i])
        size = log_scale + peaks(torch.where(entries, values, 0), shared).double().log()
        return self._noting(size, size > -math.inf, 1.0)

    def _noting(self, base: Tensor, lost: Tensor, least: float) -> Rows:
        """The same with what fell added to the rows of what was lost; ``base`` is its exponent."""
        m = self.targets
        lost = lost[:-m]
        if not bool(lost.any()):
            return self
        (values, log_scale), live, owner = self
        over = torch.where(lost, base[:-m].expand_as(lost), -math.inf)
        size = over.new_full((m, *over.shape[1:]), -math.inf)
        size.scatter_reduce_(0, owner[:-m].view(-1, *[1] * (over.ndim - 1)).expand_as(over), over, "amax")
        generator = torch.Generator(device=values.device).manual_seed(0)
        signs = torch.randint(0, 2, live.shape, generator=generator, device=values.device) * 2 - 1
        noted = torch.where(live & size.isfinite(), signs, 0).to(values.dtype)
        fresh = Scaled(noted, size + math.log(least))
        before = Scaled(values[-m:], log_scale[-m:].expand(m, *log_scale.shape[1:]))
        rows = added(before, fresh)
        shape = (len(values), *torch.broadcast_shapes(log_scale.shape[1:], rows.log_scale.shape[1:]))
        scale = log_scale.expand(len(values), *log_scale.shape[1:]).expand(shape).clone()
        scale[-m:] = rows.log_scale.expand(m, *shape[1:])
        return Rows(Scaled(torch.cat([values[:-m], rows.values]), scale), live, owner)


class Norms(NamedTuple):
    """For each of some targets: ln norms, ln of what was lost, and live positions, all (m, n_in); of some the
    sum of their rows by weights, (n_in, d_in).
    """

    total: Tensor
    lost: Tensor
    live: Tensor
    mixed: dict[int, Scaled]


def marked(grads: list[Tensor], live: list[Tensor]) -> list[Tensor]:
    """Cotangents, and below them for each target a row of NaN on the entries that are live."""
    return [
        torch.cat([g, torch.where(mark, math.nan, torch.zeros((), dtype=g.dtype, device=g.device))])
        for g, mark in zip(grads, live, strict=True)
    ]


def per_target(held: Tensor, owner: Tensor, m: int) -> Tensor:
    """Which entries any row of a target holds, (m, *shape), from those that each row holds."""
    found = held.new_zeros(m, *held.shape[1:])
    for target in range(m):
        found[target] = held[owner == target].any(0)
    return found


def like(x: Tensor, rows: Tensor) -> Tensor:
    """(r,) shaped to broadcast against rows (r, *shape)."""
    return x.view(-1, *[1] * (rows.ndim - 1))


def summed(rows: Scaled, mine: Tensor, weights: Tensor, n: int) -> Scaled:
    """Sum of some rows (u, n', d) by weights, as (n, d), n >= n'."""
    own = Scaled(rows.values[mine], rows.log_scale[mine].expand(-1, rows.values.shape[1], 1))
    top = own.log_scale.amax(0, keepdim=True)
    base = torch.where(top.isneginf(), 0, top)
    found = torch.tensordot(weights.to(own.values), own.relative_to(base), 1)
    short = n - len(found)
    scale = torch.nn.functional.pad(top[0], (0, 0, 0, short), value=-torch.inf)
    return Scaled(torch.nn.functional.pad(found, (0, 0, 0, short)), scale)


def by_position(values: Tensor, log_scale: Tensor, axis: int) -> Scaled:
    """Rows (r, *shape) as rows (r, n, width) with one exponent a position, -inf where all is 0."""
    rows, scale = flat(values, axis), flat(log_scale, axis) if values.ndim > 2 else log_scale[..., None]
    top = torch.where((rows != 0).any(2, keepdim=True), scale.amax(2, keepdim=True), -torch.inf)
    if scale.shape[2] == 1:
        return Scaled(rows, top)
    return Scaled(Scaled(rows, scale).relative_to(torch.where(top.isneginf(), 0, top)), top)
