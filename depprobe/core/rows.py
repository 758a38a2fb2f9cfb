r"""Rows of a Jacobian on their way down through layers: only the positions that carry anything.

    R (P, r, d) at positions where_0 < ... < where_{P-1},  each row standing for R * exp(log_scale)

Exponents are written down only once rows leave the middle of the float range, so that short stacks cost
nothing for them and long ones never underflow.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """r rows on a sequence of which P positions carry something.

    Shapes: values (P, r, d); log_scale (P, r, 1), or (1, 1, 1) where all share it; where (P,) ascending.
    """

    values: Tensor
    log_scale: Tensor
    where: Tensor

    @classmethod
    def unit(cls, t: int, rows: Tensor) -> Rows:
        """Rows (r, d) on position t alone."""
        scale = torch.zeros(1, 1, 1, dtype=torch.float64, device=rows.device)
        return cls(rows[None], scale, torch.tensor([t], device=rows.device))

    def settled(self) -> Rows:
        """The same, rescaled to a largest entry of 1 if any row comes near the ends of the float range."""
        limits = torch.finfo(self.values.dtype)
        low, high = math.sqrt(limits.tiny), math.sqrt(limits.max)
        peak = self.values.abs().amax(-1, keepdim=True)
        alive = peak > 0
        if not alive.any() or (float(peak[alive].min()) > low and float(peak.max()) < high):
            if self.log_scale.numel() == 1:
                return self
            # a zero must not set the exponent of what it is added to
            return self._replace(log_scale=torch.where(alive, self.log_scale, -torch.inf))
        return self.normalised()

    def normalised(self) -> Rows:
        """The same with the largest entry of each row at 1, and an exponent of -inf where a row is zero."""
        peak = self.values.abs().amax(-1, keepdim=True)
        alive = peak > 0
        safe = torch.where(alive, peak, 1)
        log_scale = torch.where(alive, self.log_scale + safe.double().log(), -torch.inf)
        return Rows(self.values / safe, log_scale, self.where)

    def dense(self, n: int) -> tuple[Tensor, Tensor]:
        """Values (r, n, d) and log_scale (r, n, 1) over all n positions; -inf where nothing is carried."""
        P, r, d = self.values.shape
        values = self.values.new_zeros(r, n, d)
        values[:, self.where] = self.values.transpose(0, 1)
        log_scale = torch.full((r, n, 1), -torch.inf, dtype=torch.float64, device=values.device)
        log_scale[:, self.where] = self.log_scale.expand(P, r, 1).transpose(0, 1)
        return values, log_scale


def gathered(parts: list[tuple[Tensor, Tensor, Tensor]]) -> Rows:
    """Sum of contributions (values (p, r, d), log_scale, positions (p,)); positions may repeat."""
    where, inverse = torch.cat([position for _, _, position in parts]).unique(return_inverse=True)
    places = inverse.split([len(position) for _, _, position in parts])
    first = parts[0][0]
    out = first.new_zeros(len(where), first.shape[1], max(values.shape[2] for values, _, _ in parts))
    if all(log_scale.numel() == 1 and float(log_scale) == float(parts[0][1]) for _, log_scale, _ in parts):
        for (values, _, _), place in zip(parts, places, strict=True):
            _add(out, place, values)
        return Rows(out, parts[0][1], where)
    scales = [log_scale.expand(*values.shape[:2], 1) for values, log_scale, _ in parts]
    peak = torch.full((*out.shape[:2], 1), -torch.inf, dtype=torch.float64, device=out.device)
    for scale, place in zip(scales, places, strict=True):
        peak.scatter_reduce_(0, place[:, None, None].expand_as(scale), scale, "amax")
    safe = torch.where(peak.isfinite(), peak, 0)
    for (values, _, _), scale, place in zip(parts, scales, places, strict=True):
        _add(out, place, values * (scale - safe[place]).exp().to(values.dtype))
    return Rows(out, peak, where)


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
