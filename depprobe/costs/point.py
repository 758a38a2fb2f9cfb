"""The costs of one module at one input: bytes, seconds, formulas, per-token latency, and counted FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.complexity import complexity
from depprobe.costs.flops import count_flops
from depprobe.costs.memory import parameter_bytes, process_peak, tensor_bytes
from depprobe.costs.passes import BACKWARD, FORWARD, one_pass
from depprobe.costs.streaming import NoStream, prepared_step, state_bytes, stream
from depprobe.costs.timing import seconds

Numbers = dict[str, Any]


def costs(
    module: nn.Module,
    x: Tensor,
    phases: Sequence[str],
    threads: Sequence[int],
    least: float,
    *,
    layout: str | None = None,
    alone: bool = False,
) -> Numbers:
    """Everything that is measured of a module at one input, but for its FLOPs.

    Parameters
    ----------
    module : in eval mode.
    x : (n, d_in).
    phases, threads : which passes, and how many threads each is timed with.
    least : seconds to time each of them for.
    layout : as ``one_pass`` takes it.
    alone : whether the process does nothing else, so that its resident memory means something.

    Returns
    -------
    Numbers, lists and strings that JSON can hold: one number a name, a list over ``phases`` for
    ``flops_formula``, ``peak_bytes`` and ``process_bytes``, lists over phases and threads for ``time``,
    ``time_low`` and ``time_high``; ``no_stream`` says why there is no stream, and is empty where there is.
    """
    found: Numbers = {name: [] for name in ("process_bytes", "peak_bytes", "flops_formula")}
    runs = {phase: one_pass(module, x, phase, layout) for phase in phases}
    if alone:
        _load_libraries()
    for phase in phases:
        # before anything else has run, or memory that libraries keep for the next run would hide
        found["process_bytes"].append(process_peak(runs[phase]) if alone else math.nan)
    kept = math.nan
    for phase in phases:
        bytes_ = tensor_bytes(module, x, phase, layout)
        found["peak_bytes"].append(bytes_.peak)
        kept = float(bytes_.kept) if phase == BACKWARD else kept
    found |= {"kept_bytes": kept, "parameter_bytes": parameter_bytes(module)}
    found |= _formulas(module, len(x))
    for phase in phases:
        found["flops_formula"].append(found["formulas"][phase])
    times = [[seconds(runs[phase], count, least) for count in threads] for phase in phases]
    for i, name in enumerate(("time", "time_low", "time_high")):
        found[name] = [[one[i] for one in row] for row in times]
    return found | _one_more_token(module, x, least)


def counted(module: nn.Module, x: Tensor, phases: Sequence[str], layout: str | None = None) -> Numbers:
    """``flops`` of each phase; apart from ``costs``, since torch takes seconds to load what counts them."""
    return {"flops": [count_flops(module, x, backward=phase == BACKWARD, layout=layout) for phase in phases]}


def _formulas(module: nn.Module, n: int) -> Numbers:
    formula = complexity(module, n)
    if formula is None:
        names = ("flops_chain", "parallelism", "sequential_steps", "path_length", "pairs")
        return dict.fromkeys(names, math.nan) | {"formulas": dict.fromkeys((FORWARD, BACKWARD), math.nan)}
    return {
        "formulas": {FORWARD: formula.total, BACKWARD: formula.with_backward},
        "flops_chain": formula.chain,
        "parallelism": formula.parallelism,
        "sequential_steps": formula.sequential_steps,
        "path_length": math.nan if formula.path_length is None else formula.path_length,
        "pairs": math.nan if formula.pairs is None else formula.pairs,
    }


def _one_more_token(module: nn.Module, x: Tensor, least: float) -> Numbers:
    names = ("step_time", "step_time_low", "step_time_high")
    try:
        flow = stream(module, len(x))
    except NoStream as reason:
        return dict.fromkeys((*names, "state_bytes"), math.nan) | {"no_stream": str(reason)}
    step, state = prepared_step(flow, x)
    measured = dict(zip(names, seconds(step, 1, least), strict=True))
    return measured | {"state_bytes": state_bytes(state), "no_stream": ""}


def _load_libraries() -> None:
    """Run small products of every kind once, so that code and thread pools are in memory before measuring."""
    x = torch.randn(1, 16, 16, requires_grad=True)
    for module in (nn.Linear(16, 16), nn.Conv1d(16, 16, 3, padding=1), nn.LSTM(16, 16)):
        y = module(x)
        (y[0] if isinstance(y, tuple) else y).softmax(-1).sum().backward()
