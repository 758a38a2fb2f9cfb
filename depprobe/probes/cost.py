r"""What a layer costs: FLOPs, bytes, seconds, steps that must follow one another, one more token of a stream.

    parallelism = FLOPs / FLOPs on the longest chain of dependent operations

Each named layer at each length is measured in a process of its own, at batch 1. What counts and measures:
``costs.flops`` (fused kernels off), ``complexity`` (formulas), ``costs.memory``, ``costs.timing``,
``costs.streaming``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from depprobe.core.options import DEFAULT_MEMORY, parse_bytes, plain_modes, require
from depprobe.costs.machine import machine
from depprobe.costs.memory import predicted_bytes
from depprobe.costs.of_models import costs_of, width_of
from depprobe.costs.passes import PHASES
from depprobe.costs.point import counted
from depprobe.costs.timing import all_threads
from depprobe.errors import BadInput, require_known
from depprobe.runs.cache import Place, holding
from depprobe.runs.cases import (
    Case,
    Progress,
    Report,
    cases_of,
    cases_of_specs,
    collect,
    require_room,
    subjects_of,
)
from depprobe.runs.identity import identity_of
from depprobe.runs.inputs import Source
from depprobe.runs.labelling import described, numbers_of, origin
from depprobe.runs.subject import DTYPES, NamedLayer, Request, asks, check_dtype, refuse
from depprobe.runs.subprocess_executor import measured_alone
from depprobe.vocabulary import SCHEMA_VERSION

#: lengths, widths and dtype of named layers where a call gives none; what is trained in is float32
LENGTHS, WIDTH, DTYPE = (256, 512, 1024), 512, "float32"

#: the layers that are compared by default; explicit and fused attention compute the same
COMPARED = (
    *("attention", "attention:fused=false", "sliding-window", "dilated-attention"),
    *("block-attention", "conv", "dilated-conv", "conv-attention"),
    *("rnn", "gru", "lstm"),
)

#: what bears on what is measured of a model
_MEASURED = ("phases", "threads", "least")
_PASS, _TIMED = ("layer", "n", "d", "phase"), ("layer", "n", "d", "phase", "threads")
#: variable -> the dimensions it depends on
DEPENDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("flops", "flops_formula", "peak_bytes", "process_bytes"), _PASS),
    **dict.fromkeys(("time", "time_low", "time_high"), _TIMED),
    **dict.fromkeys(("flops_chain", "parallelism", "kept_bytes"), _PASS[:3]),
    **dict.fromkeys(("step_time", "step_time_low", "step_time_high", "state_bytes"), _PASS[:3]),
    **dict.fromkeys(("sequential_steps", "path_length", "pairs"), _PASS[:2]),
    "parameter_bytes": ("layer", "d"),
}


@plain_modes(full=False)  # times are those of the user's precision
@asks(
    phases="a list",
    seconds="a number",
    seed="a whole number",
    dtype="text",
    command="text",
    progress="a function",
)
def cost(
    target: Any = COMPARED,
    x: Any = None,
    *,
    n: int | Sequence[int] | None = None,
    d: int | Sequence[int] | None = None,
    phases: str | Sequence[str] = PHASES,
    threads: int | Sequence[int] | None = None,
    seconds: float = 0.2,
    seed: int = 0,
    dtype: str | None = None,
    memory: int | str = DEFAULT_MEMORY,
    command: str | None = None,
    progress: Progress | None = None,
    finished: Place | None = None,
) -> xr.Dataset:
    """What layers cost at several lengths and widths, forward and with the backward pass, at batch 1.

    Parameters
    ----------
    target : spec strings of named layers (``"attention:causal=true"``), by default those of ``COMPARED``;
        your ``nn.Module`` or factory, which is measured in this process, in eval mode; or a mapping from
        labels to any of these.
    x : of a model, floats (n, d_in) or ids (n,), measured at that length; or a ``depprobe.read_input``,
        measured at the first n positions for every n, beside named layers too, which take noise.
    n, d : lengths (256, 512, 1024), and widths of named layers (512); beside a model one width.
    phases : ``forward``, ``forward+backward``, or both.
    threads : numbers of threads to time with; by default one, and as many as there are processors.
    seconds : how long to time each pass at each number of threads, at least.
    seed, memory, command, progress, finished : as for ``depprobe.jacobian``; the budget is for one pass.
    dtype : of named layers, float32 unless told otherwise: what is trained in. A model keeps its own.

    Returns
    -------
    Dataset over (layer, n, d, phase, threads), every variable over those it depends on; NaN where unknown.

    - ``flops`` counted in matrix products, ``flops_formula``, ``flops_chain``, ``parallelism``;
    - ``time`` with quartiles ``time_low``, ``time_high``, in s;
    - ``peak_bytes`` and ``kept_bytes`` of tensors, ``parameter_bytes``, ``process_bytes``;
    - ``step_time`` with quartiles, at one thread, and ``state_bytes``, for one more token after n - 1; the
      attribute ``no_stream`` says which layers take none, and why;
    - ``sequential_steps``, ``path_length``, ``pairs``, by formula.

    Attributes state the machine. Times differ from run to run; all else is the same.

    Raises
    ------
    BadInput : anything in the call is not as above; the message names it.
    OverBudget : a pass would need more memory than the budget; the message names lengths that would fit.
    DepprobeError : the process that measured a point died; the message names the point.

    Examples
    --------
    >>> import torch
    >>> ds = cost(torch.nn.Linear(4, 3), torch.ones(10, 4), threads=1, seconds=0.001)
    >>> ds.flops.dims, ds.flops.values.ravel().tolist()
    (('layer', 'n', 'd', 'phase'), [240.0, 720.0])
    """
    budget = parse_bytes(memory) if isinstance(memory, str) else memory
    wanted = [phases] if isinstance(phases, str) else list(phases)
    if not wanted:
        raise BadInput(f"no phase was given; there are {' and '.join(PHASES)}")
    for phase in wanted:
        require_known("phase", phase, PHASES)
    counts = sorted({1, all_threads()}) if threads is None else _sizes("threads", threads, 1)
    if counts[-1] > all_threads():
        raise BadInput(f"threads must be at most {all_threads()}, the processors here, not {counts[-1]}")
    if not 0 < seconds < math.inf:
        raise BadInput(f"seconds must be above 0 and finite, not {seconds}")
    options = dict(zip(_MEASURED, (wanted, counts, seconds), strict=True))
    attributes: dict[str, Any] = {"batch": 1, "seconds": seconds} | machine()
    subjects = subjects_of(target)
    layers = [one for one in subjects if isinstance(one, NamedLayer)]
    models = {
        one.label: target[one.label] if isinstance(target, Mapping) else target
        for one in subjects
        if one not in layers
    }
    given_whole = x is not None and not isinstance(x, Source)
    read_file = isinstance(x, Source) and x.length is not None
    meaningless = [("x", "named layers take noise")] if layers and (given_whole or not models) else []
    meaningless += [("n", "x is given and brings its own")] if given_whole else []
    meaningless += [("d", f"{', '.join(models)} has its own width")] if not layers else []
    refuse({"n": n, "d": d, "x": x if given_whole or read_file else None}, meaningless)
    if models and x is None and not layers:
        raise BadInput("a module needs its input: pass x of shape (n, d), or a depprobe.read_input")
    lengths = _sizes("n", LENGTHS if n is None else n, 2)
    widths = _sizes("d", WIDTH if d is None else d, 1)
    own = _cases_at(models, Source("noise") if x is None else x, lengths, seed, dtype)
    if own:
        lengths = sorted({length for _, length in own})
        case = next(iter(own.values()))
        widths = widths if layers else [width_of(case.build(), case.given)]
        if len(widths) > 1:
            raise BadInput(f"models are measured beside layers of one width d, not of {len(widths)}")
        attributes["process_bytes_unknown"] = f"{', '.join(models)}: measured in a process that does more"
    dtypes = {case.dtype for case in own.values()}
    if layers:
        dtype = dtype or DTYPE
        check_dtype(dtype)
        dtypes.add(dtype)
    for layer, width in product(layers, widths):
        _require_room(layer, lengths, width, wanted, dtype or DTYPE, budget)
    coords: dict[str, list[Any]] = {"layer": [one.label for one in subjects], "n": lengths, "d": widths}
    known = {one.label: str(one.spec) for one in layers}
    found = _of_points(coords, known, own, options | {"seed": seed, "dtype": dtype}, progress, finished)
    inputs = numbers_of(list(own.values())) if own else None
    reasons: dict[str, dict[str, None]] = {}
    for (label, _, _), point in found.items():
        if point["no_stream"]:
            reasons.setdefault(point["no_stream"], {})[label] = None
    ds = _labelled(found, {**coords, "phase": wanted, "threads": counts})
    ds.attrs = origin(
        "Cost",
        coords["layer"],
        command or f"depprobe.cost({', '.join(coords['layer'])})",
        inputs,
        n=coords["n"],
        d=coords["d"],
        seed=seed,
        dtype=", ".join(sorted(dtypes)),
        **attributes,
        no_stream="; ".join(f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items()),
    )
    return ds


def _cases_at(
    models: Mapping[str, Any], x: Any, lengths: Sequence[int], seed: int, dtype: str | None
) -> dict[tuple[str, int], Case]:
    """Models by label at the first n positions of a ``Source`` for each length, or at x as it is."""
    found = {}
    for (label, target), n in product(models.items(), lengths if isinstance(x, Source) else [None]):
        case, *more = cases_of({label: target}, x, Request(n=n, seed=seed, dtype=dtype)).cases
        if more:
            raise BadInput(f"costs are taken at one input (n, d), not at {1 + len(more)} samples")
        if not isinstance(case.given, Tensor):
            raise BadInput("costs are taken at x of floats (n, d) or ids (n,), not at a mapping")
        found[label, len(case.given)] = case
    return found


def _sizes(name: str, given: Any, least: int) -> list[int]:
    sizes = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    for i, size in enumerate(sizes):
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < least:
            raise BadInput(f"{name} must be integers of at least {least}, not {size!r}")
        if size in sizes[:i]:
            raise BadInput(f"{name} {size} is given twice")
    if not sizes:
        raise BadInput(f"no {name} was given")
    return sorted(int(size) for size in sizes)


def _require_room(
    layer: NamedLayer, lengths: Sequence[int], d: int, phases: Sequence[str], dtype: str, budget: int
) -> None:
    """Refuse a layer whose largest pass would not fit the budget, naming a length that would."""
    n = lengths[-1]
    require_room([layer], Source("noise"), Request(n=n, d=d, dtype=dtype, budget=budget))
    build = partial(layer.entry.build, d, **layer.options)
    # the later phase holds all that the earlier one does
    phase = max(phases, key=PHASES.index)

    def needed(length: int) -> float:
        return predicted_bytes(build, length, d, DTYPES[dtype], phase) or 0.0

    most = needed(n)
    if most > budget:
        fits = next((n >> i for i in range(1, n.bit_length() - 1) if needed(n >> i) <= budget), 1)
        remedy = f"n = {fits} would fit" if fits > 1 else "no n would fit: use a smaller d"
        require(most, budget, f"{layer.label} at n = {n}, d = {d}", f"{remedy}, or use a larger --memory")


def _of_points(
    coords: dict[str, list[Any]],
    specs: Mapping[str, str],
    own: Mapping[tuple[str, int], Case],
    options: dict[str, Any],
    progress: Progress | None,
    finished: Place | None,
) -> dict[tuple[str, int, int], Any]:
    points = list(product(coords["layer"], coords["n"], coords["d"]))
    # times of one machine are never taken for those of another
    taken_on = {"machine": machine(), "schema": SCHEMA_VERSION}

    def request(point: tuple[str, int, int]) -> dict[str, Any]:
        label, n, d = point
        return {"layer": specs.get(label, label), "n": n, "d": d, **options}

    def measure(point: tuple[str, int, int], report: Report) -> dict[str, Any]:
        label, n, d = point
        if (label, n) in own:
            case = own[label, n]
            assert isinstance(case.given, Tensor), "which _cases_at looks after"
            return costs_of(case.build(), case.given, options["phases"], options["threads"], options["least"])
        (case,) = cases_of_specs([specs[label]], None, n, d, 1, [options["seed"]], options["dtype"], "cpu")
        return measured_alone(request(point)) | counted(case.build(), case.x, options["phases"])

    found = collect(
        points,
        measure,
        name=lambda point: f"{point[0]} n={point[1]}" + f" d={point[2]}" * (len(coords["d"]) > 1),
        progress=progress,
        kept=holding(finished),
        facts=lambda point: request(point) | taken_on | identity_of(own.get(point[:2])),
    )
    return dict(zip(points, found, strict=True))


def _labelled(found: dict[tuple[str, int, int], Any], coords: dict[str, list[Any]]) -> xr.Dataset:
    variables: dict[str, Any] = {}
    for name, dims in DEPENDS.items():
        values = np.full([len(coords[dim]) for dim in dims], math.nan)
        for (label, n, d), point in found.items():
            at = {"layer": label, "n": n, "d": d}
            values[tuple(coords[dim].index(at[dim]) for dim in dims if dim in at)] = point[name]
        variables[name] = (dims, values)
    return described(xr.Dataset(variables, coords=coords))
