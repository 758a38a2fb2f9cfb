r"""Rows through a piece of glue: vector-Jacobian products by autograd, exponents put aside and taken up
again.

    one exponent      R exp(b), b one number a row, while all of a row lies within half of the float range
    by position       R_t exp(b_t), where the piece provably acts on each position by itself
    buckets           R = sum_i exp(b_i) R_i, each R_i within half of the float range

That a piece acts by position is shown with cotangents of NaN on the positions whose number has bit i set, and
on the others: a vector-Jacobian product is linear, and 0 * NaN = NaN, so that NaN arrives wherever there is a
path. With every pull travels such a row for each target, on the entries that are live: where no NaN arrives
there is no path, and zeros are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from depprobe.core.scaled import Scaled
from depprobe.operators.composed.cotangents import Rows
from depprobe.operators.composed.cut import Edge, flat, unflat
from depprobe.operators.composed.partition import Partition, Segment, shape_of

#: exponents this far apart pass glue separately: half of the float range is left for the glue's own factors
_BUCKET = {torch.float32: 40.0, torch.float64: 300.0}


class Glue:
    """The glue of one traced forward.

    Parameters
    ----------
    partition : its segments.
    """

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        #: whether products can be batched, until torch says that they cannot
        self._batched = True

    def pull(self, segment: Segment, arrived: dict[Edge, Rows]) -> dict[Edge, Rows]:
        """Rows on some edges of a segment to rows on its targets."""
        found: dict[Edge, Rows] = {}
        through = {edge: rows for edge, rows in arrived.items() if edge not in segment.targets}
        for edge, rows in arrived.items():
            if edge in segment.targets:  # no glue in between
                found[edge] = rows
        if through and segment.targets:
            for edge, rows in self._through(segment, list(through), list(through.values())).items():
                found[edge] = found[edge] + rows if edge in found else rows
        return found

    def _through(self, segment: Segment, edges: list[Edge], rows: list[Rows]) -> dict[Edge, Rows]:
        found: dict[Edge, Rows] = {}
        owner, m = rows[0].owner, rows[0].targets
        limits = torch.finfo(self._partition.narrowest)
        least = limits.tiny / limits.eps
        parts = list(self._parts(segment, edges, rows))
        for grads, base, marks in parts:
            products = self._products(segment, edges, _marked(grads, marks, segment.opaque))
            for edge, product in zip(segment.targets, products, strict=True):
                if product is not None:
                    axis = self._partition.axis[edge]
                    scale = _shaped(base, product, axis)
                    # code that may swallow NaN proves nothing: all that it leads to is live
                    alive = (
                        torch.ones_like(product[-m:], dtype=torch.bool)
                        if segment.opaque
                        else product[-m:].isnan()
                    )
                    part = Rows(Scaled(product[:-m], scale), alive, owner).settled(axis, least)
                    found[edge] = found[edge] + part if edge in found else part
        if len(parts) > 1 and not segment.opaque:
            # what is dead in every part, and yet has a path, stays live
            nothing = [r.scaled.values[:0] for r in rows]
            products = self._products(segment, edges, _marked(nothing, [r.live for r in rows], False))
            for edge, product in zip(segment.targets, products, strict=True):
                if product is not None:
                    found[edge] = found[edge]._replace(live=found[edge].live | product.isnan())
        return found

    def _parts(
        self, segment: Segment, edges: list[Edge], rows: list[Rows]
    ) -> Iterator[tuple[list[Tensor], Tensor, list[Tensor]]]:
        """Plain cotangents on the edges, their exponents (r,) or (r, n), and the entries that are live."""
        limit = _BUCKET.get(self._partition.narrowest, 4.0)
        scaled, live = [r.scaled for r in rows], [r.live for r in rows]
        owner, m = rows[0].owner, rows[0].targets
        tops = torch.stack([s.log_scale.flatten(1).amax(1).expand(len(owner)) for s in scaled]).amax(0)
        gaps = [_like(tops, s) - s.log_scale.masked_fill(s.log_scale.isneginf(), -math.inf) for s in scaled]
        gaps = [gap.nan_to_num(nan=math.inf) for gap in gaps]
        if all(bool((gap.isposinf() | (gap <= limit)).all()) for gap in gaps):
            yield [s.relative_to(_like(tops, s)) for s in scaled], tops, live
            return
        axes = [self._partition.axis[edge] for edge in edges]
        if self._acts_by_position(segment):
            wide = [
                flat(s.log_scale.expand(len(owner), *s.log_scale.shape[1:]), axis or 0).amax(2)
                for s, axis in zip(scaled, axes, strict=True)
            ]
            n = max(w.shape[1] for w in wide)
            base = torch.stack([w.expand(-1, n) for w in wide]).amax(0)
            yield (
                [s.relative_to(_shaped(base, s.values, a)) for s, a in zip(scaled, axes, strict=True)],
                base,
                live,
            )
            return
        depths = [torch.where(gap.isposinf(), -1, gap / limit).floor() for gap in gaps]
        for bucket in torch.cat([depth[depth >= 0] for depth in depths]).unique().tolist():
            here = [(depth == bucket).expand(len(owner), *depth.shape[1:]) for depth in depths]
            held = torch.stack([h.flatten(1).any(1) for h in here]).any(0)
            base = torch.where(held, tops - bucket * limit, -math.inf)
            grads = [
                torch.where(h, s.relative_to(_like(base, s)), 0) for s, h in zip(scaled, here, strict=True)
            ]
            yield grads, base, [mask & _per_target(h, owner, m) for mask, h in zip(live, here, strict=True)]

    def _acts_by_position(self, segment: Segment) -> bool:
        """Whether position t of the targets hears of position t alone: two rows of NaN for each bit of t."""
        if segment.by_position is None:
            segment.by_position = not segment.opaque and self._tried(segment, segment.edges)
        return segment.by_position

    def _tried(self, segment: Segment, edges: list[Edge]) -> bool:
        axes = [self._partition.axis[edge] for edge in edges]
        onto = [self._partition.axis[edge] for edge in segment.targets]
        places = list(zip([*edges, *segment.targets], [*axes, *onto], strict=True))
        if any(axis is None for _, axis in places):
            return False
        sizes = {shape_of(edge)[axis] for edge, axis in places if axis is not None}
        if len(sizes) != 1:
            return False
        n = sizes.pop()
        bits = (torch.arange(n) >> torch.arange(max(1, (n - 1).bit_length()))[:, None]) & 1
        chosen = torch.cat([bits, 1 - bits]).bool()
        marks = []
        for edge, axis in zip(edges, axes, strict=True):
            shape, (dtype, device) = shape_of(edge), kind_of(edge)
            mark = unflat(chosen[..., None].to(device), shape, axis or 0)
            marks.append(torch.where(mark, math.nan, 0).to(dtype).expand(-1, *shape))
        for found, axis in zip(self._products(segment, edges, marks), onto, strict=True):
            if found is not None:
                heard = flat(found, axis or 0).isnan().any(2)
                if bool((heard & ~chosen.to(heard.device)).any()):
                    return False
        return True

    def _products(self, segment: Segment, edges: list[Edge], grads: list[Tensor]) -> Sequence[Tensor | None]:
        """Vector-Jacobian products, (r, *shape) for each target; batched where torch can."""
        gate = self._partition.gate
        outs, ins = ([GradientEdge(*edge) for edge in side] for side in (edges, segment.targets))
        gate.open = segment.start
        try:
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
        finally:
            gate.open = None
        return [None if parts[0] is None else torch.stack(parts) for parts in zip(*singles, strict=True)]


def _marked(grads: list[Tensor], live: list[Tensor], opaque: bool) -> list[Tensor]:
    """Cotangents, and below them for each target a row of NaN on the entries that are live; 0 if opaque."""
    mark_of = 0.0 if opaque else math.nan
    return [
        torch.cat([g, torch.where(mark, mark_of, torch.zeros((), dtype=g.dtype, device=g.device))])
        for g, mark in zip(grads, live, strict=True)
    ]


def _per_target(held: Tensor, owner: Tensor, m: int) -> Tensor:
    """Which entries any row of a target holds, (m, *shape), from those that each row holds."""
    found = held.new_zeros(m, *held.shape[1:])
    for target in range(m):
        found[target] = held[owner == target].any(0)
    return found


def _like(x: Tensor, rows: Scaled) -> Tensor:
    """(r,) shaped to broadcast against rows (r, *shape)."""
    return x.view(-1, *[1] * (rows.values.ndim - 1))


def _shaped(base: Tensor, values: Tensor, axis: int | None) -> Tensor:
    """Exponents (r,) or (r, n) shaped to broadcast against values (r, *shape)."""
    if base.ndim == 1:
        return base.view(-1, *[1] * (values.ndim - 1))
    assert axis is not None
    return unflat(base[..., None], values.shape[1:], axis)


def kind_of(edge: Edge) -> tuple[torch.dtype, torch.device]:
    """dtype and device of the tensor at a place in the graph."""
    node, number = edge
    if hasattr(node, "variable"):
        return node.variable.dtype, node.variable.device
    piece = node._input_metadata[number]
    return piece.dtype, piece.device
