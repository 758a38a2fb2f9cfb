r"""Rows through a piece of glue: vector-Jacobian products by autograd, exponents put aside and taken up
again.

    one exponent      R exp(b), b one number a row, while all of a row lies within half of the float range
    by position       R_t exp(b_t), where each position below provably hears of one position above at most
    buckets           R = sum_i exp(b_i) R_i, each R_i within half of the float range

That a piece acts by position is shown with cotangents of NaN on the positions whose number has bit i set, and
on the others: a vector-Jacobian product is linear, and 0 * NaN = NaN, so that NaN arrives wherever there is a
path. With the first pull of some targets travels such a row for each, on the entries that are live: where no
NaN arrives there is no path, and zeros are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from depprobe.core.by_position import axes_below, shape_of
from depprobe.core.scaled import Scaled
from depprobe.operators.composed.cotangents import Rows, like, marked, per_target
from depprobe.operators.composed.cut import Edge, at_positions, either, flat, unflat
from depprobe.operators.composed.partition import Opened, Partition, Routes, Segment, facts_of
from depprobe.operators.composed.views import axis_below, below_parts, below_view, moved

#: numbers that marks of positions may take on all edges together, or on one target, at a time
_MARKED = 1 << 18
#: exponents this far apart pass glue separately: half of the float range is left for the glue's own factors
_BUCKET = {torch.float32: 40.0, torch.float64: 300.0}


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
        straight = self._straight(segment)
        if straight is not None:
            return {segment.targets[0]: moved(rows[0], self._axis(edges[0]), *straight)}
        owner = rows[0].owner
        limits = torch.finfo(self._partition.narrowest)
        least = limits.tiny / limits.eps
        count = 0
        for above, grads, base, marks in self._parts(segment, edges, rows):
            count += 1
            pushed = self._pushed(segment, above, grads, marks, heard)
            for edge, (product, alive) in pushed.items():
                axis = self._partition.axis[edge]
                if base.ndim == 1:
                    scale = base.view(-1, *[1] * (product.ndim - 1))
                else:
                    assert segment.routes is not None
                    assert segment.routes[0] is not None
                    onto = base[:, segment.routes[0].sources[edge]]
                    scale = unflat(onto[..., None], product.shape[1:], self._axis(edge))
                part = Rows(Scaled(product, scale), alive, owner).settled(axis, least)
                found[edge] = found[edge] + part if edge in found else part
        if count > 1 and not segment.opaque:
            # what is dead in every part, and yet has a path, stays live
            nothing = [r.scaled.values[:0] for r in rows]
            products = self._products(segment, edges, marked(nothing, [r.live for r in rows]))
            for edge, mark in zip(segment.targets, products, strict=True):
                if mark is not None:
                    found[edge] = found[edge]._replace(live=found[edge].live | mark.isnan())
        return found

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
            known = self._partition.axis
            # where a guess was another, it is left to the numbers
            if below is not None and any(known[end] not in (None, axis) for end, axis in below.items()):
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

    def _parts(
        self, segment: Segment, edges: list[Edge], rows: list[Rows]
    ) -> Iterator[tuple[list[Edge], list[Tensor], Tensor, list[Tensor]]]:
        """Some edges, plain cotangents on them, their exponents (r,) or (r, positions), and live entries."""
        limit = _BUCKET.get(self._partition.narrowest, 4.0)
        scaled, live = [r.scaled for r in rows], [r.live for r in rows]
        owner, m = rows[0].owner, rows[0].targets
        tops = torch.stack(
            [s.log_scale.reshape(len(s.log_scale), -1).amax(1).expand(len(owner)) for s in scaled]
        ).amax(0)
        gaps = [like(tops, s) - s.log_scale.masked_fill(s.log_scale.isneginf(), -math.inf) for s in scaled]
        gaps = [torch.where(gap.isnan(), math.inf, gap) for gap in gaps]
        if all(bool((gap.isposinf() | (gap <= limit)).all()) for gap in gaps):
            yield edges, [s.relative_to(like(tops, s)) for s in scaled], tops, live
            return
        routes = self._routes(segment)
        if routes is not None:
            wide = [
                flat(s.log_scale.expand(len(owner), *s.log_scale.shape[1:]), self._axis(edge)).amax(2)
                for s, edge in zip(scaled, edges, strict=True)
            ]
            base = wide[0].new_full((len(owner), sum(routes.sizes)), -math.inf)
            places = dict(zip(segment.edges, base.split(routes.sizes, 1), strict=True))
            for edge, w in zip(edges, wide, strict=True):
                places[edge].copy_(w.expand_as(places[edge]))
            yield (
                edges,
                [
                    s.relative_to(unflat(places[edge][..., None], s.values.shape[1:], self._axis(edge)))
                    for s, edge in zip(scaled, edges, strict=True)
                ],
                base,
                live,
            )
            return
        depths = [torch.where(gap.isposinf(), -1, gap / limit).floor() for gap in gaps]
        for bucket in torch.cat([depth[depth >= 0] for depth in depths]).unique().tolist():
            # edges that hold nothing of it are left out: of the steps of a loop all but a few
            used = [i for i, depth in enumerate(depths) if bool((depth == bucket).any())]
            here = [(depths[i] == bucket).expand(len(owner), *depths[i].shape[1:]) for i in used]
            held = torch.stack([h.reshape(len(h), -1).any(1) for h in here]).any(0)
            base = torch.where(held, tops - bucket * limit, -math.inf)
            within = [scaled[i].relative_to(like(base, scaled[i])) for i in used]
            grads = [torch.where(h, grad, 0) for h, grad in zip(here, within, strict=True)]
            marks = [live[i] & per_target(h, owner, m) for i, h in zip(used, here, strict=True)]
            yield [edges[i] for i in used], grads, base, marks

    def _axis(self, edge: Edge) -> int:
        return self._partition.axis[edge] or 0

    def _routes(self, segment: Segment) -> Routes | None:
        """Which position each position of the targets hears of, if it is of no more than one; else None."""
        if segment.routes is None:
            segment.routes = (None if segment.opaque else self._traced(segment),)
        return segment.routes[0]

    def _traced(self, segment: Segment) -> Routes | None:
        axis = self._partition.axis
        if any(axis[edge] is None for edge in (*segment.edges, *segment.targets)):
            return None
        facts = facts_of(segment.edges)
        sizes = [shape[self._axis(edge)] for (shape, *_), edge in zip(facts, segment.edges, strict=True)]
        # wherever tensors are made by default: the user's default device may be another
        digits = torch.arange(max(1, (sum(sizes) - 1).bit_length()), device="cpu")
        bits = (torch.arange(sum(sizes), device="cpu") >> digits[:, None]) & 1
        sources: dict[Edge, Tensor] = {}
        width = sum(math.prod(shape) for shape, *_ in facts)
        width = max(width, *(math.prod(shape) for shape, *_ in facts_of(segment.targets)))
        for few in digits.split(max(1, _MARKED // (2 * width))):
            chosen = torch.cat([bits[few], 1 - bits[few]]).bool()
            marks = []
            places = zip(segment.edges, facts, chosen.split(sizes, 1), strict=True)
            for edge, (shape, dtype, device), here in places:
                mark = unflat(here[..., None].to(device), shape, self._axis(edge))
                marks.append(torch.where(mark, math.nan, 0).to(dtype).expand(-1, *shape))
            products = self._products(segment, segment.edges, marks)
            for edge, found in zip(segment.targets, products, strict=True):
                if found is not None:
                    heard, other = flat(found, self._axis(edge)).isnan().any(2).cpu().chunk(2)
                    if bool((heard & other).any()):
                        return None
                    place = (heard.long() << few[:, None]).sum(0).to(found.device)
                    sources[edge] = sources[edge] + place if edge in sources else place
        # what hears of nothing may stand anywhere: it is zero
        ends = {edge: place.clamp(max=sum(sizes) - 1) for edge, place in sources.items()}
        return Routes(sizes, ends)

    def _products(self, segment: Segment, edges: list[Edge], grads: list[Tensor]) -> Sequence[Tensor | None]:
        """Vector-Jacobian products, (r, *shape) for each target; batched where torch can."""
        if not segment.opaque:  # what stands on the parts would be passed by
            edges, grads = below_parts(edges, grads)
        outs, ins = ([GradientEdge(*edge) for edge in side] for side in (edges, segment.targets))
        with self._partition.gate.opened(segment.start), self._mode():
            if self._batched:
                try:
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
