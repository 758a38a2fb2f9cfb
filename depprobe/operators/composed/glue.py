r"""Rows through a piece of glue: vector-Jacobian products by autograd, exponents put aside and taken up
again.

    R = sum_i exp(b_i) R_i,   R_i plain numbers (``plain_parts``),   R_i J by autograd

A piece that makes rows much smaller may have lost digits within, where numbers were smaller still than what
arrives. So its products are taken again of rows made larger by a power of two.

A vector-Jacobian product is linear, and 0 * NaN = NaN, so that NaN arrives wherever there is a path. With the
first pull of some targets travels such a row for each, on the entries that are live: where no
NaN arrives there is no path, and zeros are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from depprobe.core.by_position import axes_below, shape_of
from depprobe.core.scaled import Scaled
from depprobe.operators.composed.cotangents import Rows, like, marked
from depprobe.operators.composed.cut import Edge, at_positions, either, unflat
from depprobe.operators.composed.partition import Opened, Partition, Routes, Segment, facts_of
from depprobe.operators.composed.pieces.views import axis_below, below_parts, below_view, moved
from depprobe.operators.composed.pieces.walk import past, walk_of
from depprobe.operators.composed.plain_parts import Plain, plain_parts
from depprobe.operators.composed.routes import routes_below

#: shares of the range below 1 from which products are taken again, and by which rows are made larger for that
_SUNK, _RAISED = 0.6, 0.5
#: relative difference that this makes where all digits were lost
_GONE = 0.05

#: of a segment and edges above it: live entries there, and below on each target
Heard = dict[tuple[Any, ...], tuple[list[Tensor], list[Tensor | None]]]


class Glue:
    """The glue of one traced forward.

    Parameters
    ----------
    partition : its segments.
    mode : on while rows pass them.
    """

    def __init__(self, partition: Partition, mode: Opened = nullcontext) -> None:
        self._partition, self._mode = partition, mode
        #: whether products can be batched, until torch says that they cannot
        self._batched = True

    def pull(
        self, segment: Segment, arrived: dict[Edge, Rows], heard: Heard | None = None
    ) -> dict[Edge, Rows]:
        """Rows on some edges of a segment to rows on its targets; ``heard`` is kept for more of them."""
        through = {edge: rows for edge, rows in arrived.items() if edge not in segment.targets}
        # with no glue in between
        found = {edge: rows for edge, rows in arrived.items() if edge in segment.targets}
        if through and segment.targets:
            for edge, rows in self._through(segment, through, heard).items():
                found[edge] = found[edge] + rows if edge in found else rows
        return found

    def _through(self, segment: Segment, arrived: dict[Edge, Rows], heard: Heard | None) -> dict[Edge, Rows]:
        found: dict[Edge, Rows] = {}
        edges, rows = list(arrived), list(arrived.values())
        if (straight := self._straight(segment)) is not None:
            return {segment.targets[0]: moved(rows[0], self._axis(edges[0]), *straight)}
        count = 0
        dtype, axis = self._partition.narrowest, self._partition.axis
        for plain in plain_parts(segment, edges, rows, axis, dtype, lambda: self._routes(segment)):
            count += 1
            for edge, part in self._passed(segment, plain, rows[0].owner, heard).items():
                found[edge] = found[edge] + part if edge in found else part
        if count > 1 and not segment.opaque:
            # what is dead in every part, and yet has a path, stays live
            nothing = [r.scaled.values[:0] for r in rows]
            products = self._products(segment, edges, marked(nothing, [r.live for r in rows]))
            for edge, mark in zip(segment.targets, products, strict=True):
                if mark is not None:
                    found[edge] = found[edge]._replace(live=found[edge].live | mark.isnan())
        return found

    def _passed(self, segment: Segment, plain: Plain, owner: Tensor, heard: Heard | None) -> dict[Edge, Rows]:
        """Rows on each target."""
        edges, grads, base, marks = plain
        pushed = self._pushed(segment, edges, grads, marks, heard)
        found, lowest = self._settled(segment, pushed, base, owner)
        limits = torch.finfo(self._partition.narrowest)
        if lowest > _SUNK * math.log(limits.tiny):
            return found
        raised = 2.0 ** int(_RAISED * math.log2(limits.max))
        again = self._pushed(segment, edges, [raised * grad for grad in grads], marks, heard)
        finite = [high.isfinite().reshape(len(high), -1).all(1) for high, _ in again.values()]
        fits = torch.stack(finite).all(0)
        mixed = {
            edge: (torch.where(like(fits, high), high, pushed[edge][0]), alive)
            for edge, (high, alive) in again.items()
        }
        found, _ = self._settled(segment, mixed, base - like(math.log(raised) * fits.double(), base), owner)
        for edge, (high, _) in again.items():
            # if nothing is right of what is smaller, what is larger may not be
            gone = like(fits, high) & ((high - raised * pushed[edge][0]).abs() > _GONE * high.abs())
            if bool(gone.any()):
                found[edge] = found[edge].doubted(gone)
        return found

    def _settled(
        self, segment: Segment, pushed: Mapping[Edge, tuple[Tensor, Tensor]], base: Tensor, owner: Tensor
    ) -> tuple[dict[Edge, Rows], float]:
        """Rows over exponents ``base``, rescaled, and how far (ln) the smallest lie below 1 over these."""
        limits = torch.finfo(self._partition.narrowest)
        found: dict[Edge, Rows] = {}
        lowest = 0.0
        for edge, (product, alive) in pushed.items():
            if base.ndim == 1:
                scale = like(base, product)
            else:
                assert segment.routes is not None
                assert segment.routes[0] is not None
                onto = base[:, segment.routes[0].sources[edge]]
                scale = unflat(onto[..., None], product.shape[1:], self._axis(edge))
            rows = Rows(Scaled(product, scale), alive, owner)
            found[edge] = rows.settled(self._partition.axis[edge], limits.tiny / limits.eps)
            lowest = min(lowest, found[edge].lowest(scale))
        return found, lowest

    def _pushed(
        self,
        segment: Segment,
        edges: list[Edge],
        grads: list[Tensor],
        marks: list[Tensor],
        heard: Heard | None,
    ) -> dict[Edge, tuple[Tensor, Tensor]]:
        """Rows, the last of them what was lost, and live entries, (m, *shape), as both are on each target."""
        m, key = len(marks[0]), (segment, *edges)
        before, alive = (heard or {}).get(key, ([], []))
        known = segment.opaque or (bool(before) and all(map(torch.equal, before, marks)))
        # mostly nothing was lost, and nothing comes of it
        lost = any(bool(g[-m:].any()) for g in grads)
        given = grads if lost else [g[:-m] for g in grads]
        products = self._products(segment, edges, given if known else marked(given, marks))
        if segment.opaque:
            # code that may swallow NaN proves nothing: all that it leads to is live
            alive = [None if p is None else torch.ones_like(p[:1], dtype=torch.bool) for p in products]
            alive = [None if one is None else one.expand(m, *one.shape[1:]) for one in alive]
        elif not known:
            alive = [None if p is None else p[-m:].isnan() for p in products]
            products = [None if p is None else p[:-m] for p in products]
            if heard is not None:
                heard[key] = marks, alive
        found: dict[Edge, tuple[Tensor, Tensor]] = {}
        for edge, product, live in zip(segment.targets, products, alive, strict=True):
            if product is not None and live is not None:
                nothing = product.new_zeros(m, *product.shape[1:])
                found[edge] = (product if lost else torch.cat([product, nothing])), live
        return found

    def live(self, segment: Segment, arrived: dict[Edge, Tensor]) -> dict[Edge, Tensor]:
        """Live entries (m, *shape) on some edges of a segment to those on its targets."""
        found: dict[Edge, Tensor] = {}
        rest: dict[Edge, Tensor] = {}
        for edge, mask in arrived.items():
            if edge in segment.targets:
                _either(found, edge, mask)
                continue
            below = self._axes_below(segment, edge)
            if below is None:
                rest[edge] = mask
                continue
            here = at_positions(mask, self._axis(edge))[..., None]
            for target, axis in below.items():
                shape = shape_of(target)
                _either(found, target, unflat(here, shape, axis).expand(-1, *shape))
        if rest and segment.targets:
            marks = [
                torch.where(mask, 0.0 if segment.opaque else math.nan, 0.0).to(dtype)
                for mask, (_, dtype, _) in zip(rest.values(), facts_of([*rest]), strict=True)
            ]
            for edge, product in zip(
                segment.targets, self._products(segment, list(rest), marks), strict=True
            ):
                if product is not None:
                    alive = torch.ones_like(product, dtype=torch.bool) if segment.opaque else product.isnan()
                    _either(found, edge, alive)
        return found

    def _axes_below(self, segment: Segment, edge: Edge) -> dict[Edge, int] | None:
        if edge not in segment.axes:
            axis = self._partition.axis[edge]
            below = None if axis is None or segment.opaque else axes_below(edge, axis, segment.targets)
            # where a guess was another, it is left to the numbers
            if any(self._partition.axis[end] not in (None, other) for end, other in (below or {}).items()):
                below = None
            segment.axes[edge] = below
        return segment.axes[edge]

    def _straight(self, segment: Segment) -> tuple[torch.Size, int] | None:
        """Shape and time axis below a segment that only arranges entries anew."""
        if segment.straight is None:
            found, here = None, segment.edges[0]
            alone = len(segment.edges) == len(segment.targets) == 1 and not segment.opaque
            if alone and self._partition.axis[here] is not None:
                below: Edge | None = here
                while below is not None and below != segment.targets[0]:
                    below = below_view(below)
                if below is not None:
                    with self._partition.gate.opened(segment.start):
                        found = axis_below(here, shape_of(here), self._axis(here), below)
                known = self._partition.axis[segment.targets[0]]
                found = found if found is None or known in (None, found[1]) else None
            segment.straight = (found,)
        return segment.straight[0]

    def _axis(self, edge: Edge) -> int:
        return self._partition.axis[edge] or 0

    def _routes(self, segment: Segment) -> Routes | None:
        """Which position each position of the targets hears of, if it is of no more than one; else None."""
        if segment.routes is None:
            known = None if segment.opaque else routes_below(segment, self._partition.axis, self._products)
            segment.routes = (known,)
        return segment.routes[0]

    def _products(self, segment: Segment, edges: list[Edge], grads: list[Tensor]) -> Sequence[Tensor | None]:
        """Vector-Jacobian products, (r, *shape) for each target; batched where torch can."""
        if not segment.opaque:  # what stands on the parts would be passed by
            edges, grads = below_parts(edges, grads)
        if segment.caught:
            edges, grads = past(edges, grads, segment.targets)
        walk = walk_of(segment, self._partition)
        outs, ins = ([GradientEdge(*edge) for edge in side] for side in (edges, segment.targets))
        with self._partition.gate.opened(segment.start), self._mode():
            if self._batched:
                try:
                    if walk is not None:
                        return walk.products(edges, grads)
                    return torch.autograd.grad(
                        outs, ins, grads, retain_graph=True, allow_unused=True, is_grads_batched=True
                    )
                except RuntimeError:
                    self._batched = False
            singles = [
                torch.autograd.grad(outs, ins, [g[i] for g in grads], retain_graph=True, allow_unused=True)
                for i in range(len(grads[0]))
            ]
        return [None if parts[0] is None else torch.stack(parts) for parts in zip(*singles, strict=True)]


def _either(found: dict[Edge, Tensor], edge: Edge, mask: Tensor) -> None:
    found[edge] = either(found[edge], mask) if edge in found else mask
