r"""Which position below a piece of glue hears of which position above it, where it is of one at most.

    NaN on the positions above whose number has bit i set, and on the others: 2 log2(n) rows

A vector-Jacobian product is linear, and 0 * NaN = NaN, so that NaN arrives wherever there is a path. A
position that hears of both halves hears of several; else the bits give the number of the one it hears of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from depprobe.operators.composed.cut import Edge, flat, unflat
from depprobe.operators.composed.partition import Routes, Segment, facts_of

#: takes products with plain rows on some edges of a segment: (r, *shape) for each target
Products = Callable[[Segment, list[Edge], list[Tensor]], Sequence[Tensor | None]]
#: numbers that marks of positions may take on all edges together, or on one target, at a time
_MARKED = 1 << 18


def routes_below(segment: Segment, axis: Mapping[Edge, int | None], products: Products) -> Routes | None:
    """The routes of a segment, by the time axis at each edge; None where a position hears of several, or
    where an axis cannot be told.
    """
    axes = {edge: axis[edge] for edge in (*segment.edges, *segment.targets)}
    if any(one is None for one in axes.values()):
        return None
    along = {edge: one or 0 for edge, one in axes.items()}
    facts = facts_of(segment.edges)
    sizes = [shape[along[edge]] for (shape, *_), edge in zip(facts, segment.edges, strict=True)]
    # wherever tensors are made by default: the user's default device may be another
    digits = torch.arange(max(1, (sum(sizes) - 1).bit_length()), device="cpu")
    bits = (torch.arange(sum(sizes), device="cpu") >> digits[:, None]) & 1
    sources: dict[Edge, Tensor] = {}
    width = sum(math.prod(shape) for shape, *_ in facts)
    width = max(width, *(math.prod(shape) for shape, *_ in facts_of(segment.targets)))
    for few in digits.split(max(1, _MARKED // (2 * width))):
        chosen = torch.cat([bits[few], 1 - bits[few]]).bool()
        marks = []
        for edge, (shape, dtype, device), here in zip(
            segment.edges, facts, chosen.split(sizes, 1), strict=True
        ):
            mark = unflat(here[..., None].to(device), shape, along[edge])
            marks.append(torch.where(mark, math.nan, 0).to(dtype).expand(-1, *shape))
        for edge, found in zip(segment.targets, products(segment, segment.edges, marks), strict=True):
            if found is not None:
                heard, other = flat(found, along[edge]).isnan().any(2).cpu().chunk(2)
                if bool((heard & other).any()):
                    return None
                place = (heard.long() << few[:, None]).sum(0).to(found.device)
                sources[edge] = sources[edge] + place if edge in sources else place
    # what hears of nothing may stand anywhere: it is zero
    return Routes(sizes, {edge: place.clamp(max=sum(sizes) - 1) for edge, place in sources.items()})
