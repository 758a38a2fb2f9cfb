r"""Layers ranked for a length, a width and a lag: those that fit and let the gradient arrive, fastest first.

A layer is in the first group where it fits the memory budget, can be streamed if asked, reaches the lag in
``MOST_LAYERS`` applications, and the gradient from there is at least float32's epsilon times the largest one
in the row: what is less is lost when gradients are added up. In the second group the gradient drowns; in the
third the layer does not fit. Within a group the predicted time decides.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import xarray as xr

import depprobe
from depprobe import store
from depprobe.advise.arrival import MOST_LAYERS, arrival, deep_enough, layers_needed
from depprobe.advise.model import CostModel, byte_terms, fit, formulas, time_terms, token_terms
from depprobe.advise.tree import family_of, rule_of_thumb, tree
from depprobe.cases import cases_of_specs
from depprobe.costs.machine import machine
from depprobe.costs.passes import BACKWARD, FORWARD
from depprobe.errors import BadInput
from depprobe.operators.budget import DEFAULT_MEMORY, parse_bytes
from depprobe.probes.cost import cost
from depprobe.registry import layers
from depprobe.resume import FinishedPoints
from depprobe.vocabulary import SCHEMA_VERSION, describe

Progress = Callable[[float, int, str], None]

#: what is measured to fit the model
LENGTHS, WIDTHS, SECONDS = (256, 1024, 4096), (64, 256), 0.05
#: ln of what drowns in a float32 sum
DROWNED = math.log(np.finfo(np.float32).eps)
#: bytes of a number in training
_SIZE = 4
USABLE, DROWNS, UNFIT = 0, 1, 2


def cache_folder() -> Path:
    """Where measurements of this machine are kept: ``$XDG_CACHE_HOME/depprobe``, or ``~/.cache/depprobe``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "depprobe"


def candidates(stream: bool) -> list[str]:
    """The named layers; where a stream is asked for, in their causal form."""
    causal = ["causal" in layers[name].options for name in layers]
    return [
        f"{name}:causal=true" if stream and has else name for name, has in zip(layers, causal, strict=True)
    ]


def measured(spec: str, n: int, d: int, phase: str, kept: FinishedPoints) -> dict[str, float]:
    """Seconds of a pass and of one more token, and bytes of a pass, on this machine, all its processors."""
    facts = {"advise": spec, "n": n, "d": d, "phase": phase, "seconds": SECONDS, "machine": machine()}
    known = kept.get(facts)
    if known is None:
        (case,) = cases_of_specs([spec], None, n, d, 1, [0], "float32", "cpu")
        threads = int(machine()["cores"])
        ds = cost(case.build(), case.x, phases=phase, threads=threads, seconds=SECONDS)
        known = {name: float(ds[name].squeeze()) for name in ("time", "step_time", "peak_bytes")}
        kept.put(facts, known)
    return known


def models(
    specs: Sequence[str], stream: bool, kept: FinishedPoints, progress: Progress | None = None
) -> tuple[dict[str, CostModel], dict[str, CostModel]]:
    """Fitted times and bytes of layers, from measurements of this machine, made where they are not kept."""
    quantity, terms = ("step_time", token_terms) if stream else ("time", time_terms)
    phase = FORWARD if stream else BACKWARD
    times, sizes = {}, {}
    for done, spec in enumerate(specs):
        points = {}
        for index, (n, d) in enumerate(product(LENGTHS, WIDTHS)):
            if progress:
                share = index / (len(LENGTHS) * len(WIDTHS))
                progress(done + share, len(specs), f"{spec} at n = {n}, d = {d}")
            points[n, d] = measured(spec, n, d, phase, kept)
        found = fit(spec, {at: numbers[quantity] for at, numbers in points.items()}, terms)
        if found is not None:
            times[spec] = found
        size = fit(spec, {at: numbers["peak_bytes"] for at, numbers in points.items()}, byte_terms)
        assert size is not None
        sizes[spec] = size
    return times, sizes


def advise(
    n: int,
    d: int,
    lag: int | str = "global",
    *,
    stream: bool = False,
    memory: int | str = DEFAULT_MEMORY,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Rank the named layers for sequences of length n and width d with dependencies over a lag.

    Parameters
    ----------
    n, d : length in positions, and width.
    lag : positions, or ``local`` (16) or ``global`` (n - 1).
    stream : whether tokens come one by one; costs are then those of one more token, else of a training step
        (forward and backward) of one sequence.
    memory : budget for activations, or for the state of a stream, in bytes or as ``"4GiB"``.
    folder : where measurements are kept; ``cache_folder()`` by default.
    progress : called with (done, in all, what is under way).

    Returns
    -------
    Dataset over ``layer``, best first: ``predicted_time`` (s), ``predicted_error`` (relative),
    ``predicted_bytes``, ``layers_needed``, ``log_arrival`` with ``log_arrival_stderr``, ``extrapolated``
    (0 or 1) and ``group`` (0 usable, 1 the gradient drowns, 2 unfit). Attributes: ``reasons`` (JSON),
    ``tree``, ``rule_of_thumb``, ``agrees``, and the machine.

    Raises
    ------
    BadInput : n, d or lag out of range.
    """
    reach = _lag(lag, n)
    if d < 1:
        raise BadInput(f"d must be at least 1, not {d}")
    budget = parse_bytes(memory) if isinstance(memory, str) else memory
    kept = FinishedPoints(folder or cache_folder())
    specs = candidates(stream)
    times, sizes = models(specs, stream, kept, progress)
    rows = {}
    for done, spec in enumerate(specs):
        if progress:
            progress(done, len(specs), f"gradient through {spec}")
        rows[deep_enough(spec, reach)] = _row(spec, n, d, reach, stream, budget, times, sizes, kept)
    order = sorted(rows, key=lambda spec: (rows[spec]["group"], rows[spec]["predicted_time"]))
    names = [name for name in rows[order[0]] if name != "reason"]
    ds = xr.Dataset(
        {name: ("layer", np.array([rows[spec][name] for spec in order], dtype=np.float64)) for name in names},
        coords={"layer": order},
    )
    for name in ds.variables:
        ds[name].attrs = describe(str(name))
    best, leaf, thumb = order[0], tree(n, reach), rule_of_thumb(n, reach, stream)
    call = f"depprobe.advise({n}, {d}, {reach})"
    ds.attrs = {
        "title": f"Layers for n = {n}, d = {d}, lag {reach}" + ", streamed" * stream,
        "layer": ", ".join(order),
        "n": n,
        "d": d,
        "lag": reach,
        "seed": 0,
        "dtype": "float32",
        "stream": int(stream),
        "memory": budget,
        "reasons": json.dumps({spec: rows[spec]["reason"] for spec in order}),
        "tree": leaf,
        "rule_of_thumb": thumb or "",
        "agrees": int(family_of(best) == leaf),
        **machine(),
        "depprobe_version": depprobe.__version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": store.provenance(call),
    }
    return ds


def _lag(lag: int | str, n: int) -> int:
    if n < 2:
        raise BadInput(f"n must be at least 2, not {n}")
    if lag == "global":
        return n - 1
    if lag == "local":
        return min(16, n - 1)
    if isinstance(lag, str) or not 1 <= lag < n:
        raise BadInput(f"the dependency must be local, global or a lag of 1 to n - 1 = {n - 1}, not {lag}")
    return int(lag)


def _row(
    spec: str,
    n: int,
    d: int,
    lag: int,
    stream: bool,
    budget: int,
    times: dict[str, CostModel],
    sizes: dict[str, CostModel],
    kept: FinishedPoints,
) -> dict[str, float | str]:
    base, spec = spec, deep_enough(spec, lag)
    needed = layers_needed(spec, lag)
    count = needed if needed <= MOST_LAYERS else math.inf
    state = formulas(spec, n, d).state
    kept_state = math.nan if state is None else float(_SIZE * state)
    size = kept_state if stream else sizes[base].at(n, d, spec)
    found = arrival(spec, n, lag, kept) if count < math.inf else None
    known = base in times
    row: dict[str, float | str] = {
        "predicted_time": times[base].at(n, d, spec) * count if known else math.inf,
        "predicted_error": times[base].error if known else math.nan,
        "predicted_bytes": size * count,
        "layers_needed": needed,
        "log_arrival": found.log if found else -math.inf,
        "log_arrival_stderr": found.stderr if found else math.nan,
        "extrapolated": float(found.extrapolated) if found else 0.0,
    }
    if stream and (state is None or not known):
        group, reason = UNFIT, "needs the whole sequence"
    elif count == math.inf:
        group, reason = UNFIT, "does not reach" if needed == math.inf else f"needs {math.ceil(needed)} layers"
    elif size * count > budget:
        group, reason = UNFIT, "over the memory budget"
    elif found is not None and not found.log > DROWNED:
        group, reason = DROWNS, "the gradient drowns"
    else:
        group, reason = USABLE, "the gradient arrives"
    return row | {"group": float(group), "reason": reason}
