"""Costs of layers on this machine, measured once and kept, and the models fitted to them.

    a training step   forward and backward of one sequence: seconds, and peak bytes of tensors
    per-token latency seconds, at one thread

float32, batch 1, all processors unless told otherwise. Seconds are lower quartiles: what else a machine does
only adds to them. Where a pass takes several times as long as with one thread, threads waited for processors
that others had: its time is then that with one thread, it is named, and it is not kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from depprobe.advice.cost_model import CostModel, byte_terms, fit, refusal, time_terms, token_terms
from depprobe.costs.machine import machine
from depprobe.costs.memory import tensor_bytes
from depprobe.costs.passes import BACKWARD, one_pass
from depprobe.costs.streaming import NoStream, prepared_step, stream
from depprobe.costs.timing import all_threads, seconds
from depprobe.curves.scaling import SLOWER, slowed
from depprobe.errors import BadInput
from depprobe.runs.cases import Case, cases_of_specs
from depprobe.store.finished import Finished
from depprobe.user_cache import cache_folder

#: a pass that takes longer is not measured with one thread too
_CHEAP = 1.0

Progress = Callable[[float, int, str], None]


@dataclass(frozen=True)
class Grid:
    """What is measured.

    Attributes
    ----------
    lengths, widths : every length is measured at every width.
    besides : further (n, d): two widths cannot tell n d^2, n d and n apart, which a recurrence has all three.
    seconds : for each time.
    threads : 0 for all processors.
    sizes : whether bytes are measured too.
    """

    lengths: tuple[int, ...] = (64, 512, 2048)
    widths: tuple[int, ...] = (64, 256)
    besides: tuple[tuple[int, int], ...] = ()
    seconds: float = 0.05
    threads: int = 0
    sizes: bool = True


DEFAULT_GRID = Grid(besides=((512, 512),))


@dataclass(frozen=True)
class Costs:
    """Fitted models by spec; a layer that takes no stream has no time of a token.

    Attributes
    ----------
    stream : whether ``times`` are per-token latencies.
    times, sizes : models of seconds and, unless streamed, of bytes.
    no_stream : spec -> why it takes no stream.
    disturbed : spec -> the points (n, d) whose times something else disturbed.
    """

    stream: bool
    times: dict[str, CostModel] = field(default_factory=dict)
    sizes: dict[str, CostModel] = field(default_factory=dict)
    no_stream: dict[str, str] = field(default_factory=dict)
    disturbed: dict[str, list[tuple[int, int]]] = field(default_factory=dict)


def kept_in(folder: Path | None) -> Finished:
    """The measurements kept in a folder, made where it is missing.

    Raises
    ------
    BadInput : it cannot be written.
    """
    where = folder or cache_folder()
    try:
        where.mkdir(parents=True, exist_ok=True)
        writable = os.access(where, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise BadInput(f"measurements cannot be kept in {str(where)!r}; name a folder with --cache")
    return Finished(where)


def fitted(
    specs: Sequence[str],
    streamed: bool,
    kept: Finished,
    progress: Progress | None = None,
    grid: Grid = DEFAULT_GRID,
) -> Costs:
    """Models of layers, from measurements made where they are not kept.

    Parameters
    ----------
    specs : of the layers.
    streamed : whether per-token latency is the cost, instead of a training step.
    kept : where measured points are kept, and taken up from.
    progress : called with (layers done, in all, what is under way).
    grid : what is measured; of a window or block only the lengths that hold one.

    Raises
    ------
    BadInput : a layer can be measured at less than two points of the grid.
    """
    found = Costs(streamed)
    places = {spec: _places(spec, grid) for spec in specs}
    for done, (spec, at) in enumerate(places.items()):
        points = {}
        for index, (n, d) in enumerate(at):
            if progress:
                progress(done + index / len(at), len(specs), f"{spec} at n = {n}, d = {d}")
            points[n, d] = _point(spec, n, d, streamed, grid, kept)
        reasons = {str(point["no_stream"]) for point in points.values()} - {""}
        if reasons:
            found.no_stream[spec] = reasons.pop()
            continue
        if shaken := [place for place, point in points.items() if point.get("disturbed")]:
            found.disturbed[spec] = shaken
        times = {place: float(point["time"]) for place, point in points.items()}
        found.times[spec] = fit(spec, times, token_terms if streamed else time_terms)
        if grid.sizes and not streamed:
            sizes = {place: float(point["bytes"]) for place, point in points.items()}
            found.sizes[spec] = fit(spec, sizes, byte_terms)
    return found


def _places(spec: str, grid: Grid) -> list[tuple[int, int]]:
    at = [*product(grid.lengths, grid.widths), *grid.besides]
    reasons = {place: refusal(spec, *place) for place in at}
    found = [place for place in at if not reasons[place]]
    if len(found) < 2:
        widths, longest = ", ".join(map(str, sorted({d for _, d in at}))), max(n for n, _ in at)
        reason = next(filter(None, reasons.values()), "one point tells no growth")
        raise BadInput(f"{spec} cannot be measured at lengths to {longest} and widths {widths}: {reason}")
    return found


def _point(spec: str, n: int, d: int, streamed: bool, grid: Grid, kept: Finished) -> dict[str, float | str]:
    facts = {"cost of": spec, "n": n, "d": d, "streamed": streamed, "seconds": grid.seconds}
    facts |= {"threads": grid.threads, "bytes": grid.sizes, "slower": SLOWER, "machine": machine()}
    known = kept.get(facts)
    if known is None:
        (case,) = cases_of_specs([spec], None, n, d, 1, [0], "float32", "cpu")
        known = _token(case, grid) if streamed else _training_step(case, grid)
        if not known.get("disturbed"):
            kept.put(facts, known)
    return known


def _training_step(case: Case, grid: Grid) -> dict[str, float | str]:
    module = case.build()
    size = tensor_bytes(module, case.x, BACKWARD).peak if grid.sizes else math.nan
    run = one_pass(module, case.x, BACKWARD)
    threads = grid.threads or all_threads()
    time = seconds(run, threads, grid.seconds).low
    disturbed = False
    if threads > 1 and time < _CHEAP:
        alone = seconds(run, 1, grid.seconds).low
        disturbed = slowed(time, alone)
        time = alone if disturbed else time
    return {"time": time, "bytes": float(size), "no_stream": "", "disturbed": float(disturbed)}


def _token(case: Case, grid: Grid) -> dict[str, float | str]:
    try:
        flow = stream(case.build(), len(case.x))
    except NoStream as reason:
        return {"no_stream": str(reason)}
    step, _ = prepared_step(flow, case.x)
    return {"time": seconds(step, 1, grid.seconds).low, "no_stream": ""}
