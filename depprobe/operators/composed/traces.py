r"""The traces of one forward: the whole, one that ends at the largest target, one rescaled more often.

One pull gives the norms at the outputs of several submodules, which are kept until each has been asked for.
Rows of several targets are pulled together; outputs that ignore what follows them are traced no farther.

Shapes: m targets; rows (u, n_out, d_out), u = m d_out, pulled some at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from depprobe.core.calling.one_function import Prefixes, same_output
from depprobe.core.device import pulled_at_once
from depprobe.core.function import Record, SequenceFunction
from depprobe.core.memory import EACH, OWN, Growth, bytes_of, cut_behind, less_or
from depprobe.core.options import Options, require
from depprobe.core.scaled import Scaled, added, log_norms
from depprobe.core.shared_work import SharedWork
from depprobe.core.under_way import pieces
from depprobe.errors import BadInput, DepprobeError
from depprobe.operators.autograd.readout import ExactRows
from depprobe.operators.autograd.recording import WORTH_CUTTING, backward_failure
from depprobe.operators.composed.cotangents import Norms, summed
from depprobe.operators.composed.glue import Heard
from depprobe.operators.composed.graph import Graph, Pulled
from depprobe.operators.composed.partition import DEPTH, Opened
from depprobe.operators.dispatch import maker_of
from depprobe.operators.last_bits import Repeat

#: copies of the largest gradient that one row makes; how often a trace to be kept must fit the memory
_ROW_COPIES, _KEPT = 48, 128
#: largest gradients that a row takes at once beside what the graph holds; budgets over both together below
#: which freed memory is given back within a pull
_AHEAD, _TIGHT = 16, 8
#: nodes of glue between two rescalings where more would leave something undecided
_FINE = 4

Found = TypeVar("Found")


class Traces:
    """Graphs of one function, and rows of targets pulled through them.

    Parameters
    ----------
    function : the module at one input.
    options : ``memory`` is what rows may take.

    Raises
    ------
    OverBudget : once rows are asked for, a single one would not fit.
    """

    def __init__(self, function: SequenceFunction, options: Options) -> None:
        self._function, self._options = function, options
        self._growth = Growth(options.memory)
        # torch's own modules are cut at the functions they call
        _, *inside = function.module.modules()
        inside = [m for m in inside if not type(m).__module__.startswith("torch.")]
        self._makers = {m: maker for m in inside if (maker := maker_of(m)) is not None}
        with function.held():
            self.whole = self._traced(function.record_points)
        self.finest, self._depth = self.whole, DEPTH
        self._prefixes, self._short = Prefixes(), dict[tuple[int, ...], Graph | None]()
        self._again: dict[tuple[Repeat, int], Graph] = {}
        self._shared: SharedWork[Norms] = SharedWork(len(self.whole.points))

    @cached_property
    def exact(self) -> ExactRows:
        """The rows that norms are taken of."""
        return ExactRows(self._function.y, self.whole.weight)

    @cached_property
    def rows_at_once(self) -> int:
        """How many rows fit one pull."""
        parts, memory = self.whole.partition, self._options.memory
        # rows stay at each point until all have arrived at the first
        each = _ROW_COPIES * parts.largest + bytes_of(self.whole.points[1:])
        # what calls are linearised to is held for the whole and for a trace of the first positions
        kept = OWN + EACH * parts.nodes + parts.total + int((1 + WORTH_CUTTING) * self.whole.held)
        require(each + kept, memory, "a single row", less_or(1.1 * (each + kept)))
        # more at once would not be faster, and what is done would be kept more rarely
        most = pulled_at_once(parts.largest, self._function.y.device)
        return int(max(1, min(most, (memory - kept) // max(1, each))))

    def _soon(self, rows: int = 1) -> int:
        """Bytes that the next trace or pull of some rows may take."""
        return (parts := self.whole.partition).total + self.whole.held + rows * _AHEAD * parts.largest

    def _between(self, rows: Sized) -> Callable[[], None] | None:
        """Gives back freed memory within a pull, where the budget is not many times what it takes."""
        soon = self._soon(len(rows))
        return partial(self._growth.settle, soon) if self._options.memory < _TIGHT * soon else None

    def _traced(self, record: Record, depth: int = DEPTH, mode: Opened = nullcontext) -> Graph:
        options = replace(self._options, tolerance=0.0, wrt="x", forward={})
        makers = self._makers  # a graph that knew us would outlive us, and with it every activation
        return Graph(record, depth, [*makers], lambda m, x: makers[m](m, x, options), mode)

    @cached_property
    def fine(self) -> Graph:
        """The whole, rows rescaled every few nodes; from then on the finest that there is."""
        self._depth = _FINE
        self.finest = self._traced(self._function.record_points, _FINE)
        return self.finest

    def again(self, repeat: Repeat) -> Graph:
        """``finest``, traced anew with changed numbers; kept where it is small beside the memory."""
        if found := self._again.get((repeat, self._depth)):
            return found
        with self._function.held(), repeat.forward():
            found = self._traced(self._function.record_points, self._depth, repeat.backward)
        if _KEPT * self._soon() <= self._options.memory:
            self._again[repeat, self._depth] = found
        return found

    def up_to(self, group: list[int]) -> Graph:
        """A graph that ends behind the largest target, where outputs ignore what follows; else the whole."""
        key, (n_out, _, n_in, _) = tuple(group), self._function.shape
        end = cut_behind(max(group), n_out, self._options.memory)
        if n_out != n_in or end > WORTH_CUTTING * n_out:
            return self.whole
        if key not in self._short:
            self._short = {key: self._shortened(group, end)}
        return self._short[key] or self.whole

    def _shortened(self, group: list[int], end: int) -> Graph | None:
        """The trace of the first positions, if a structure proves that the group ignores what follows."""
        whole_live, y = self.live(group), self._function.y
        if any(bool(live[:, max(group) + 1 :].any()) for live in whole_live):
            return None
        graph = self._over_first(end) if self._prefixes.serve(y, end, self._gradient) else None
        if graph is None or len(graph.cuts) != len(self.whole.cuts):
            return None
        if any(len(point) != end for point in graph.points) or not same_output(y[:end], graph.y):
            return None
        # where it detaches may depend on how long the input is
        ends = zip(self.live(group, graph), whole_live, strict=True)
        return graph if all(torch.equal(a, b[:, :end]) for a, b in ends) else None

    def _over_first(self, length: int) -> Graph | None:
        self._growth.settle(self._soon())
        short = self._function.prefix(length)
        try:
            return None if short is None else self._traced(short)
        except BadInput:  # it takes inputs of one length alone
            return None

    def _gradient(self, drawn: Tensor, length: int | None) -> list[Tensor] | None:
        """The product of a cotangent on the first outputs, in the first positions of each point."""
        graph = self.whole if length is None else self._over_first(length)
        if graph is None:
            return None
        rows = torch.nn.functional.pad(drawn, (0, 0, 0, len(graph.y) - len(drawn)))[None]
        found = self.pull(graph, Scaled.plain(rows), rows.ne(0).any(2), rows.new_zeros(1).long())
        return [pulled.rows.dense()[0, : len(drawn)] for pulled in found]

    def live(self, group: list[int], graph: Graph | None = None) -> list[Tensor]:
        """Positions of each point that a path leads to from each of some outputs: (m, n_in) bool."""
        graph = graph or self.whole
        live = torch.zeros(len(group), len(graph.y), dtype=torch.bool, device=graph.y.device)
        live[[*range(len(group))], group] = True
        return self._held(lambda: graph.live(live))

    def pull(self, graph: Graph, rows: Scaled, live: Tensor, owner: Tensor) -> list[Pulled]:
        """Rows on outputs through a graph, the module's own code held in check.

        Raises
        ------
        BadInput : the module was changed since, or its own code fails on the way back.
        """
        start = Scaled(graph.begun(rows.values), rows.log_scale)
        return self._held(lambda: graph.pull(start, live, owner, None, self._between(owner)))

    def _held(self, work: Callable[[], Found]) -> Found:
        self._growth.settle(self._soon())
        with self._function.held():
            try:
                return work()
            except Exception as error:  # of whatever kind code of the user's raises
                ours = isinstance(error, torch.OutOfMemoryError | MemoryError | DepprobeError)
                if ours or "allocate memory" in str(error):
                    raise
                raise BadInput(backward_failure(self._function.module, error)) from error

    def norms(self, graph: Graph, group: list[int], norm: str, at: int, mix: Mapping[int, Tensor]) -> Norms:
        """Norms of the blocks of some targets in one of the points, and of what was lost of them; for targets
        in ``mix`` the sum of their rows by the weights (d_out,) given.
        """
        if norm == "spectral":  # whole blocks of every point would be held at once
            return self._all_norms(graph, group, norm, [at], mix)[0]
        key = len(graph.y), graph.partition.joins, norm, tuple(group)
        every = range(len(graph.points))
        return self._shared.of(key, at, lambda: self._all_norms(graph, group, norm, every, mix))

    def _all_norms(
        self, graph: Graph, group: list[int], norm: str, points: Sequence[int], mix: Mapping[int, Tensor]
    ) -> list[Norms]:
        m, device = len(group), graph.y.device
        lengths = [len(self.whole.points[at]) for at in points]
        totals = [torch.full((m, n), -math.inf, dtype=torch.float64, device=device) for n in lengths]
        losts = [total.clone() for total in totals]
        lives = [torch.zeros(total.shape, dtype=torch.bool, device=device) for total in totals]
        blocks: list[list[Scaled]] = [[] for _ in points]
        sums: list[dict[int, Scaled]] = [{} for _ in points]
        weighed = {t: self.exact.weights(t, norm, units) for t, units in mix.items()}
        every: list[tuple[str, Any]] = [("total", totals), ("lost", losts), ("live", lives)]

        def state() -> dict[str, Any]:
            found = {f"{name} {i}": one.cpu().numpy() for name, each in every for i, one in enumerate(each)}
            for i, mixed in enumerate(sums):
                for t, (values, log_scale) in mixed.items():
                    found |= {f"mix {i} {t}": values.cpu().numpy(), f"scale {i} {t}": log_scale.cpu().numpy()}
            return found

        def resume(kept: Mapping[str, Any]) -> None:
            arrays = {name: torch.from_numpy(value).to(device) for name, value in kept.items()}
            for name, each in every:
                for i, one in enumerate(each):
                    one.copy_(arrays[f"{name} {i}"])
            for name in (name for name in arrays if name.startswith("mix")):
                at, t = map(int, name.split()[1:])
                sums[at][t] = Scaled(arrays[name], arrays[f"scale {at} {t}"])

        # whole blocks are not kept
        ways = (None, None) if norm == "spectral" else (state, resume)
        work_of = f"{len(graph.y)} {graph.partition.joins} {group} {[*points]}"
        which = pieces(work_of, m * self.exact.count, self.rows_at_once, *ways)
        for parts, unit in self.pulled(graph, group, self.exact, norm, which):
            owner = unit // self.exact.count
            for at, total, lost, live, kept, mixed in zip(
                points, totals, losts, lives, blocks, sums, strict=True
            ):
                pulled = parts[at]
                here = pulled.live.shape[1]
                live[:, :here] = pulled.live
                squares = 2 * pulled.rows.log_norm(2)
                for i in owner.unique().tolist():
                    total[i, :here] = torch.logaddexp(total[i, :here], squares[owner == i].logsumexp(0))
                lost[:, :here] = torch.logaddexp(lost[:, :here], 2 * pulled.lost.log_norm(2))
                for t, weights in weighed.items():
                    mine = owner == group.index(t)
                    if bool(mine.any()):
                        found = summed(pulled.rows, mine, weights[unit[mine] % len(weights)], total.shape[1])
                        mixed[t] = added(mixed[t], found) if t in mixed else found
                if norm == "spectral":
                    kept.append(pulled.rows)
        if norm == "spectral":
            owner = torch.arange(m, device=device).repeat_interleave(self.exact.count)
            for total, kept in zip(totals, blocks, strict=True):
                rows = Scaled(torch.cat([b.values for b in kept]), torch.cat([b.log_scale for b in kept]))
                for i in range(m):
                    mine, here = owner == i, rows.values.shape[1]
                    block = Scaled(rows.values[mine].transpose(0, 1), rows.log_scale[mine].transpose(0, 1))
                    total[i, :here] = 2 * log_norms(block, "spectral")
        return [
            Norms(0.5 * total, 0.5 * lost, live, mixed)
            for total, lost, live, mixed in zip(totals, losts, lives, sums, strict=True)
        ]

    def pulled(
        self,
        graph: Graph,
        group: list[int],
        rows: ExactRows,
        norm: str = "fro",
        which: Iterable[int] | None = None,
    ) -> Iterator[tuple[list[Pulled], Tensor]]:
        """The rows of some targets, a chunk at a time, and their numbers (targets in turn).

        ``which`` are the chunks to take, by default all.
        """
        n_out, m, device = len(graph.y), len(group), graph.y.device
        at = torch.tensor(group, device=device)
        live = torch.zeros(m, n_out, dtype=torch.bool, device=device)
        live[torch.arange(m, device=device), at] = True
        unit = torch.arange(m * rows.count, device=device)
        chunks = unit.split(self.rows_at_once)
        # live entries take a byte each, where those of a row take as many as its numbers
        room = m * graph.partition.ends < self._options.memory // 16
        heard: Heard | None = {} if room and len(chunks) > 1 else None
        for part in chunks if which is None else map(chunks.__getitem__, which):
            owner = part // rows.count
            values = graph.y.new_zeros(len(part), n_out, graph.width)
            for t in at[owner].unique().tolist():
                mine = at[owner] == t
                values[mine, t] = graph.begun(rows.cotangents(t, norm, part[mine] % rows.count))
            scale = torch.full((len(part), n_out, 1), -math.inf, dtype=torch.float64, device=device)
            scale[torch.arange(len(part), device=device), at[owner]] = 0
            start = Scaled(values, scale)
            yield self._held(partial(graph.pull, start, live, owner, heard, self._between(owner))), part
