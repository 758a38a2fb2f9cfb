r"""Layers ranked for a length, a width and a lag: those that fit and let the gradient arrive, cheapest first.

A layer is usable where a stack of ``MOST_LAYERS`` reaches the lag, it fits the memory budget, it takes one
token after another if asked to, and the gradient from the lag is at least float32's epsilon times the largest
one in the row: what is less is lost when gradients are added up. Next come layers in which the gradient
drowns, last those that do not fit. Within a group the predicted time decides; usable layers whose
times differ from the first's by no more than both errors together are indistinguishable from it within noise:

    ln(time / time of the first) <= error + error of the first
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from depprobe._version import __version__
from depprobe.advice.arriving_gradient import LONGEST, SHORTER, STRETCH, WIDTH, arrival
from depprobe.advice.cost_model import formulas, refusal
from depprobe.advice.machine_costs import Costs, Progress, fitted, kept_in
from depprobe.advice.stack_depth import stack
from depprobe.core.options import DEFAULT_MEMORY, parse_bytes
from depprobe.costs.machine import machine
from depprobe.errors import BadInput
from depprobe.registry import Spec, layers
from depprobe.runs.labelling import provenance
from depprobe.store.finished import Finished
from depprobe.vocabulary import SCHEMA_VERSION, describe

#: ln of what drowns in a float32 sum
DROWNED = math.log(np.finfo(np.float32).eps)
#: groups of the ranking, in its order
USABLE, DROWNS, UNFIT = 0, 1, 2
#: longest sequence and width: beyond, formulas of patterns take minutes
MOST_POSITIONS, MOST_WIDTH = 1 << 18, 1 << 16
#: bytes of a number
_SIZE = 4
#: ln of a factor that is still a float
_LARGEST = 700.0
#: lag up to which a dependency is called local
LOCAL = 16
#: ranked beside the named layers: a convolution, then attention in a window
MIXED = "conv-attention:attention=sliding-window"
#: heads that attention has by default
_HEADS = 8


def candidates(d: int, stream: bool, specs: Sequence[str] = ()) -> list[str]:
    """The layers to rank at width d: those given, or all the named ones and a windowed hybrid.

    Of the named ones, attention has as many heads as divide d, up to 8, and where a stream is asked for each
    is in its causal form.
    """
    if specs:
        named = [str(Spec.parse(spec)) for spec in specs]
        if len(set(named)) < len(named):
            raise BadInput(f"a layer is given twice: {', '.join(named)}")
        return named
    return list(dict.fromkeys(_fitting(spec, d, stream) for spec in chain(layers, [MIXED])))


def _fitting(spec: str, d: int, stream: bool) -> str:
    parsed = Spec.parse(spec)
    options, settings = layers[parsed.name].options, dict(parsed.settings)
    if "heads" in options and d % _HEADS:
        settings["heads"] = str(math.gcd(d, _HEADS))
    if stream and "causal" in options and not options["causal"].default:
        settings["causal"] = "true"
    return str(Spec(parsed.name, settings))


def advise(
    n: int,
    d: int,
    dependency: int | str = "global",
    *,
    stream: bool = False,
    memory: int | str = DEFAULT_MEMORY,
    specs: Sequence[str] = (),
    folder: Path | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Rank layers for sequences of length n and width d with dependencies over a lag.

    Parameters
    ----------
    n, d : length in positions, and width.
    dependency : how far back what matters lies, in positions; or ``local`` (16) or ``global`` (n - 1).
    stream : whether tokens come one by one; costs are then per-token latencies, else those of a training step
        (forward and backward) of one sequence.
    memory : budget for activations, or for the state of a stream, in bytes or as ``"4GiB"``.
    specs : which layers; by default all the named ones.
    folder : where measurements are kept, by default ``depprobe`` in the user's cache folder.
    progress : called with (done, in all, what is under way).

    Returns
    -------
    Dataset over ``layer``, best first: ``predicted_time`` (s), ``predicted_error`` (of its logarithm),
    ``predicted_bytes``, ``layers_needed``, ``log_arrival`` with ``log_arrival_stderr``, ``extrapolated``
    (0 or 1) and ``group`` (0 usable, 1 the gradient drowns, 2 unfit). Attributes: ``reasons`` (JSON),
    ``indistinguishable`` (usable layers as fast as the first within noise, separated by semicolons),
    ``disturbed`` (points whose times something else disturbed), and the machine.

    Raises
    ------
    BadInput : n, d, dependency or memory out of range; an unknown layer, or one that cannot be measured at
        the lengths and widths where costs and gradients are; a folder that cannot be written.
    """
    lag, budget = checked(n, d, dependency, memory)
    wanted = candidates(d, stream, specs)
    require_measurable(wanted, n, d)
    kept = kept_in(folder)
    costs = fitted(wanted, stream, kept, progress)
    return ranked(costs, wanted, n, d, lag, budget, kept, progress)


def checked(n: int, d: int, dependency: int | str, memory: int | str) -> tuple[int, int]:
    """Lag in positions and budget in bytes; raises ``BadInput`` for what is out of range."""
    if not 2 <= n <= MOST_POSITIONS:
        raise BadInput(f"n must be 2 to {MOST_POSITIONS}, not {n}")
    if not 1 <= d <= MOST_WIDTH:
        raise BadInput(f"d must be 1 to {MOST_WIDTH}, not {d}")
    lag = {"local": min(LOCAL, n - 1), "global": n - 1}.get(str(dependency), dependency)
    if isinstance(lag, str) or not 1 <= lag < n:
        raise BadInput(f"the dependency must be local, global or a lag of 1 to n - 1 = {n - 1}, not {lag}")
    budget = parse_bytes(memory) if isinstance(memory, str) else memory
    if budget < 1:
        raise BadInput(f"memory must be at least 1 byte, not {budget}")
    return int(lag), budget


def require_measurable(specs: Iterable[str], n: int, d: int) -> None:
    """Refuse layers that have no formulas at n and d, or whose gradients cannot be measured.

    Raises
    ------
    BadInput : naming the layer and where it is measured.
    """
    # beyond the longest, gradients are continued from two lengths at least
    length = n if n <= LONGEST else SHORTER[-2]
    for spec in specs:
        formulas(spec, n, d)
        reason = refusal(spec, length, WIDTH)
        if reason:
            raise BadInput(
                f"gradients through {spec} cannot be measured at n = {length}, d = {WIDTH}: {reason}"
            )


def ranked(
    costs: Costs,
    specs: Sequence[str],
    n: int,
    d: int,
    lag: int,
    budget: int,
    kept: Finished,
    progress: Progress | None = None,
) -> xr.Dataset:
    """The ranking, from models of costs; parameters as in ``advise``."""
    rows: dict[str, dict[str, Any]] = {}
    for done, spec in enumerate(specs):
        if progress:
            progress(done, len(specs), f"gradient through {spec}")
        rows |= [_row(spec, n, d, lag, budget, costs, kept)]
    order = sorted(rows, key=lambda spec: (rows[spec]["group"], rows[spec]["predicted_time"]))
    names = [name for name in rows[order[0]] if name != "reason"]
    ds = xr.Dataset(
        {name: ("layer", np.array([rows[spec][name] for spec in order], dtype=np.float64)) for name in names},
        coords={"layer": order},
    )
    for name in ds.variables:
        ds[name].attrs = describe(str(name))
    ds.attrs = {
        "title": f"Layers for n = {n}, d = {d}, lag {lag}" + ", streamed" * costs.stream,
        "layer": ", ".join(order),
        "n": n,
        "d": d,
        "lag": lag,
        "seed": 0,
        "dtype": "float32",
        "stream": int(costs.stream),
        "memory": budget,
        "arrival_width": WIDTH,
        "arrival_longest": LONGEST,
        "arrival_longest_recurrence": STRETCH * LONGEST,
        "indistinguishable": ";".join(indistinguishable(rows, order)),
        "disturbed": "; ".join(
            f"{spec} at (n, d) = {', '.join(map(str, at))}" for spec, at in costs.disturbed.items()
        ),
        "reasons": json.dumps({spec: rows[spec]["reason"] for spec in order}),
        **machine(),
        "depprobe_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(f"depprobe.advise({n}, {d}, {lag})"),
    }
    return ds


def indistinguishable(rows: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> list[str]:
    """The usable layers, in the order of the ranking, whose times are within both errors of the first's.

    Examples
    --------
    >>> def row(time, error):
    ...     return {"predicted_time": time, "predicted_error": error, "group": USABLE}
    >>> indistinguishable({"a": row(1, 0.1), "b": row(2, 0.7), "c": row(3, 0.7)}, ["a", "b", "c"])
    ['b']
    """
    first, *others = [spec for spec in order if rows[spec]["group"] == USABLE] or [""]
    return [
        spec
        for spec in others
        if rows[spec]["predicted_time"]
        <= rows[first]["predicted_time"]
        * math.exp(min(_LARGEST, rows[spec]["predicted_error"] + rows[first]["predicted_error"]))
    ]


def _row(
    spec: str, n: int, d: int, lag: int, budget: int, costs: Costs, kept: Finished
) -> tuple[str, dict[str, Any]]:
    wanted = stack(spec, n, lag, d)
    found = arrival(spec, n, lag, kept)
    time = size = error = math.nan
    if spec in costs.times:
        time = costs.times[spec].at(spec, n, d) * wanted.multiple
        error = costs.times[spec].error
        if costs.stream:
            state = formulas(wanted.spec, n, d).state if wanted.possible else None
            size = math.nan if state is None else _SIZE * state * wanted.applications
        else:
            size = costs.sizes[spec].at(spec, n, d) * wanted.multiple if spec in costs.sizes else math.nan
    if spec in costs.no_stream:
        group, reason = UNFIT, costs.no_stream[spec]
    elif not wanted.possible:
        needs = (
            f"{wanted.levels:,.0f} layer{'s' * (wanted.levels != 1)}"
            if math.isfinite(wanted.levels)
            else "a way there"
        )
        group, reason = UNFIT, f"would need {needs}"
    elif size > budget:
        group, reason = UNFIT, "over the memory budget"
    elif not found.log > DROWNED:
        group, reason = DROWNS, "nothing arrives" if found.log == -math.inf else "drowns"
    else:
        group, reason = USABLE, "arrives"
    return wanted.spec, {
        "predicted_time": time,
        "predicted_error": error,
        "predicted_bytes": size,
        "layers_needed": wanted.levels,
        "log_arrival": found.log,
        "log_arrival_stderr": found.stderr,
        "extrapolated": float(found.extrapolated),
        "group": float(group),
        "reason": reason,
    }
