r"""Rows of the temporal Jacobian of any forward, taken backwards through its traced graph.

    y  --glue-->  joins and calls, each once all that leads to it has arrived  --glue-->  x

Rows are kept as they pass each of several points, so that one pull serves them all. Known calls are pulled by
structure, glue by autograd; between them rows carry exponents and are rescaled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from depprobe.core.function import Record
from depprobe.core.scaled import Scaled
from depprobe.operators.autograd.readout import readout_of
from depprobe.operators.composed.cotangents import Rows, by_position
from depprobe.operators.composed.cut import Cut, Edge, at_positions, edge_of, either, unflat
from depprobe.operators.composed.glue import Glue, Heard
from depprobe.operators.composed.partition import DEPTH, Opened, Partition
from depprobe.operators.composed.tracing.registered import Make
from depprobe.operators.composed.tracing.trace import Tracer


class Pulled(NamedTuple):
    """Rows on a point: those of output units, what was lost of each target, and which positions are live.

    Shapes: rows (u, n_in, d_in); lost (m, n_in, d_in); live (m, n_in).
    """

    rows: Scaled
    lost: Scaled
    live: Tensor


class Left(Exception):
    """An output that a call cannot be pulled from carries something: the call has to be left to autograd."""

    def __init__(self, cut: Cut) -> None:
        super().__init__(f"call {cut.ordinal} has an output in use that cannot be pulled from")
        self.cut = cut


class Graph:
    """One traced forward.

    Parameters
    ----------
    record : runs the forward.
    depth : nodes of glue after which rows are rescaled.
    modules, make : modules with an operator of their own, and what makes it at x (n, d).
    mode : on while rows pass glue.
    """

    def __init__(
        self,
        record: Record,
        depth: int = DEPTH,
        modules: Sequence[nn.Module] = (),
        make: Make = lambda module, x: None,
        mode: Opened = nullcontext,
    ) -> None:
        self._record, self._depth, self._modules, self._make = record, depth, modules, make
        self._mode = mode
        self._left: frozenset[int] = frozenset()
        self._trace()

    def _trace(self) -> None:
        self.tracer = Tracer(self._left, self._modules, self._make)
        self.points, self.y = self._record(self.tracer)
        # hooks may stand on it
        self.readout = None if self.tracer.hooked else readout_of(self.y, self.points)
        self._parts: tuple[Partition, Glue] | None = None

    @property
    def cuts(self) -> list[Cut]:
        """The calls that were cut out, in order."""
        return self.tracer.cuts

    @property
    def width(self) -> int:
        """Numbers at a position where rows begin: those of y, or of what its read-out reads."""
        return self.y.shape[1] if self.weight is None else self.weight.shape[1]

    @property
    def weight(self) -> Tensor | None:
        """Of the linear map behind the output, where that is wider than what it reads."""
        return None if self.readout is None else self.readout.weight

    @property
    def _top(self) -> Edge:
        edge = edge_of(self.y) if self.readout is None else self.readout.edge[:2]
        assert edge is not None
        return edge

    @property
    def held(self) -> int:
        """Bytes of what its calls are linearised to."""
        return sum(cut.held for cut in self.cuts)

    def begun(self, rows: Tensor) -> Tensor:
        """Rows (..., d_out) on outputs as rows (..., width) where they begin."""
        return rows if self.weight is None else rows @ self.weight

    @property
    def partition(self) -> Partition:
        """Its glue in pieces, with hooks where they end: made when first asked for."""
        return self._divided[0]

    @property
    def _glue(self) -> Glue:
        return self._divided[1]

    @property
    def _divided(self) -> tuple[Partition, Glue]:
        if self._parts is None:
            lengths = {len(self.y), *map(len, self.points)}
            hooked = self.tracer.hooked
            partition = Partition(self._top, self.points, self.cuts, lengths, self._depth, hooked)
            self.tracer.notes.clear()
            hooked.clear()
            self._parts = partition, Glue(partition, self._mode)
        return self._parts

    def pull(
        self,
        start: Scaled,
        live: Tensor,
        owner: Tensor,
        heard: Heard | None = None,
        between: Callable[[], None] | None = None,
    ) -> list[Pulled]:
        """Rows as rows on each point.

        Parameters
        ----------
        start : rows (u, n_out, width), as they are begun.
        live : (m, n_out) for each target, the positions that its rows stand on.
        owner : (u,) the target of each row.
        heard : kept from one call to the next where more rows of the same targets are to come.
        between : called before each piece of glue and each call.
        """
        while True:
            try:
                return self._pull(start, live, owner, heard, between)
            except Left as left:
                if heard is not None:
                    heard.clear()  # it holds parts of the graph that is given up
                self._left |= {left.cut.ordinal}
                self._trace()

    def live(self, start: Tensor) -> list[Tensor]:
        """Which positions of each point (m, n_in) a path leads to from positions (m, n_out) of y."""
        while True:
            try:
                return self._live(start)
            except Left as left:
                self._left |= {left.cut.ordinal}
                self._trace()

    def _live(self, start: Tensor) -> list[Tensor]:
        arrived: dict[Edge, Tensor] = {}
        kept: dict[Edge, Tensor] = {}
        given: dict[Edge, Tensor] | None = None
        for step in self.partition.steps:
            if isinstance(step, Cut):
                segment, given = self._live_below(step, arrived)
            else:
                segment = step
                given = {edge: arrived.pop(edge) for edge in step.edges if edge in arrived}
                if step is self.partition.steps[0]:
                    given = {step.edges[0]: start[:, :, None].expand(-1, -1, self.width)}
                kept |= {edge: given[edge] for edge in self.partition.points if edge in given}
            if not given:
                continue
            for edge, mask in self._glue.live(segment, given).items():
                cut = self.partition.unserved.get(edge)
                if cut is None:
                    arrived[edge] = either(arrived[edge], mask) if edge in arrived else mask
                elif bool(mask.any()):
                    raise Left(cut)
        kept |= arrived
        nothing = start.new_zeros(len(start), 1)
        return [
            at_positions(kept[edge], 0) if edge in kept else nothing.expand(-1, len(point))
            for edge, point in zip(self.partition.points, self.points, strict=True)
        ]

    def _live_below(self, cut: Cut, arrived: dict[Edge, Tensor]) -> tuple[Any, dict[Edge, Tensor]]:
        """The segment below a call, and live entries on its edges."""
        given = [arrived.pop(port.edge, None) for port in cut.outputs]  # type: ignore[arg-type]
        like = next((mask for mask in given if mask is not None), None)
        if like is None or cut not in self.partition.port_segments:
            return None, {}
        live = [
            like.new_zeros(len(like), port.shape[port.axis])
            if mask is None
            else at_positions(mask, port.axis)
            for port, mask in zip(cut.outputs, given, strict=True)
        ]
        reach = cut.linearised.reach(live)
        segment, wanted = self.partition.port_segments[cut]
        below: dict[Edge, Tensor] = {}
        for port, alive in ((cut.inputs[i], reach[i]) for i in wanted):
            assert port.edge is not None
            mask = unflat(alive[..., None], port.shape, port.axis).expand(-1, *port.shape)
            below[port.edge] = either(below[port.edge], mask) if port.edge in below else mask
        return segment, below

    def _pull(
        self, start: Scaled, live: Tensor, owner: Tensor, heard: Heard | None, between: Any
    ) -> list[Pulled]:
        m, (values, log_scale) = len(live), start
        every = torch.cat([owner, torch.arange(m, device=owner.device)])
        nothing = values.new_zeros(m, *values.shape[1:])
        scale = log_scale.expand(len(values), *log_scale.shape[1:])
        scale = torch.cat([scale, scale.new_full((m, *scale.shape[1:]), -torch.inf)])
        on = live[:, :, None].expand(m, *values.shape[1:])
        first = Rows(Scaled(torch.cat([values, nothing]), scale), on, every)
        arrived: dict[Edge, Rows] = {}
        kept: dict[Edge, Rows] = {}
        steps = iter(self.partition.steps)
        segment = next(steps)
        assert not isinstance(segment, Cut)
        self._deliver(arrived, self._glue.pull(segment, {segment.edges[0]: first}, heard))
        for step in steps:
            if between is not None:
                between()
            if isinstance(step, Cut):
                self._deliver(arrived, self._through_call(step, arrived, heard))
            else:
                here = {edge: arrived.pop(edge) for edge in step.edges if edge in arrived}
                kept |= {edge: here[edge] for edge in self.partition.points if edge in here}
                if here:
                    self._deliver(arrived, self._glue.pull(step, here, heard))
        kept |= arrived
        ends = zip(self.partition.points, self.points, strict=True)
        return [_pulled(kept.get(edge), point, m, every) for edge, point in ends]

    def _deliver(self, arrived: dict[Edge, Rows], found: dict[Edge, Rows]) -> None:
        for edge, rows in found.items():
            cut = self.partition.unserved.get(edge)
            if cut is not None:
                if bool(rows.live.any()):
                    raise Left(cut)
                continue
            arrived[edge] = arrived[edge] + rows if edge in arrived else rows

    def _through_call(self, cut: Cut, arrived: dict[Edge, Rows], heard: Heard | None) -> dict[Edge, Rows]:
        """Rows on the outputs of a call as rows below the glue under its inputs."""
        given = {port: arrived.pop(port.edge) for port in cut.outputs if port.edge in arrived}
        live_at_all = any(bool(rows.live.any()) for rows in given.values())
        if not live_at_all or cut not in self.partition.port_segments:
            return {}  # a step behind the target, of a loop, say
        like = next(iter(given.values()))
        rows, live = [], []
        for port in cut.outputs:
            n = port.shape[port.axis]
            if port in given:
                (values, log_scale), alive, _ = given[port]
                wide = log_scale.expand(len(values), *log_scale.shape[1:])
                rows.append(by_position(values, wide, port.axis))
                live.append(at_positions(alive, port.axis))
            else:
                values = like.scaled.values.new_zeros(len(like.owner), n, port.shape.numel() // n)
                scale = like.scaled.log_scale.new_full((len(values), 1, 1), -torch.inf)
                rows.append(Scaled(values, scale))
                live.append(like.live.new_zeros(like.targets, n))
        pulled = cut.linearised.pull(rows, live)
        segment, wanted = self.partition.port_segments[cut]
        below: dict[Edge, Rows] = {}
        for i in wanted:
            port, (found, reach) = cut.inputs[i], pulled[i]
            settled = found.settled((2,))
            shaped = Scaled(*(unflat(part, port.shape, port.axis) for part in settled))
            mask = unflat(reach[..., None], port.shape, port.axis).expand(-1, *port.shape)
            part = Rows(shaped, mask, like.owner)
            assert port.edge is not None
            below[port.edge] = below[port.edge] + part if port.edge in below else part
        return self._glue.pull(segment, below, heard)


def _pulled(found: Rows | None, point: Tensor, m: int, owner: Tensor) -> Pulled:
    """What arrived at a point (n, d) for m targets; zeros where nothing did."""
    if found is None:
        zeros = point.new_zeros(len(owner), *point.shape)
        scale = torch.full((len(owner), 1, 1), -torch.inf, dtype=torch.float64, device=zeros.device)
        found = Rows(Scaled(zeros, scale), zeros[:m] > 0, owner)
    (values, log_scale), alive, _ = found
    log_scale = log_scale.expand(len(values), len(point), log_scale.shape[2])
    return Pulled(Scaled(values[:-m], log_scale[:-m]), Scaled(values[-m:], log_scale[-m:]), alive.any(2))
