r"""Rows with exponents as plain numbers, in parts that each pass a piece of glue at once.

one exponent      R exp(b), b one number a row, while all of a row lies within half of the float range
by position       R_t exp(b_t), where each position below provably hears of one position above at most
buckets           R = sum_i exp(b_i) R_i, each R_i within half of the float range
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from depprobe.operators.composed.cotangents import Rows, like, per_target
from depprobe.operators.composed.cut import Edge, flat, unflat
from depprobe.operators.composed.partition import Routes, Segment

#: exponents this far apart pass glue separately: half of the float range is left for the glue's own factors
_BUCKET = {torch.float32: 40.0, torch.float64: 300.0}


class Plain(NamedTuple):
    """Plain rows on some edges, their exponents (r,) or (r, positions), and live entries on each edge."""

    edges: list[Edge]
    grads: list[Tensor]
    base: Tensor
    live: list[Tensor]


def plain_parts(
    segment: Segment,
    edges: list[Edge],
    rows: list[Rows],
    axis: Mapping[Edge, int | None],
    narrowest: torch.dtype,
    routes: Callable[[], Routes | None],
) -> Iterator[Plain]:
    """Parts of rows on some edges of a segment.

    Parameters
    ----------
    axis : time axis at each edge, None where it cannot be told.
    narrowest : the dtype whose range counts.
    routes : which position hears of which, worked out where it is asked for.
    """
    limit = _BUCKET.get(narrowest, 4.0)
    scaled, live = [r.scaled for r in rows], [r.live for r in rows]
    owner, m = rows[0].owner, rows[0].targets
    tops = torch.stack(
        [s.log_scale.reshape(len(s.log_scale), -1).amax(1).expand(len(owner)) for s in scaled]
    ).amax(0)
    gaps = [like(tops, s.values) - s.log_scale.masked_fill(s.log_scale.isneginf(), -math.inf) for s in scaled]
    gaps = [torch.where(gap.isnan(), math.inf, gap) for gap in gaps]
    if all(bool((gap.isposinf() | (gap <= limit)).all()) for gap in gaps):
        yield Plain(edges, [s.relative_to(like(tops, s.values)) for s in scaled], tops, live)
        return
    known = routes()
    if known is not None:
        along = [axis[edge] or 0 for edge in edges]
        wide = [
            flat(s.log_scale.expand(len(owner), *s.log_scale.shape[1:]), one).amax(2)
            for s, one in zip(scaled, along, strict=True)
        ]
        base = wide[0].new_full((len(owner), sum(known.sizes)), -math.inf)
        places = dict(zip(segment.edges, base.split(known.sizes, 1), strict=True))
        for edge, w in zip(edges, wide, strict=True):
            places[edge].copy_(w.expand_as(places[edge]))
        grads = [
            s.relative_to(unflat(places[edge][..., None], s.values.shape[1:], one))
            for s, edge, one in zip(scaled, edges, along, strict=True)
        ]
        yield Plain(edges, grads, base, live)
        return
    depths = [torch.where(gap.isposinf(), -1, gap / limit).floor() for gap in gaps]
    for bucket in torch.cat([depth[depth >= 0] for depth in depths]).unique().tolist():
        # edges that hold nothing of it are left out: of the steps of a loop all but a few
        used = [i for i, depth in enumerate(depths) if bool((depth == bucket).any())]
        here = [(depths[i] == bucket).expand(len(owner), *depths[i].shape[1:]) for i in used]
        held = torch.stack([h.reshape(len(h), -1).any(1) for h in here]).any(0)
        base = torch.where(held, tops - bucket * limit, -math.inf)
        within = [scaled[i].relative_to(like(base, scaled[i].values)) for i in used]
        grads = [torch.where(h, grad, 0) for h, grad in zip(here, within, strict=True)]
        marks = [live[i] & per_target(h, owner, m) for i, h in zip(used, here, strict=True)]
        yield Plain([edges[i] for i in used], grads, base, marks)
