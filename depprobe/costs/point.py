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

    The module is in eval mode, x (n, d_in); ``least`` is how many seconds each pass is timed for; ``alone``
    says that the process does nothing else, so that its resident memory means something.

    Returns
    -------
    Numbers, lists and strings that JSON can hold: one number a name, a list over ``phases`` for
    ``flops_formula``, ``peak_bytes`` and ``process_bytes``, lists over phases and threads for ``time``,
    ``time_low`` and ``time_high``; ``no_stream`` says why there is no stream, and is empty where there is.
    """
    runs = {phase: one_pass(module, x, phase, layout) for phase in phases}
    if alone:
        _load_libraries()
    # before anything else has run, or memory that libraries keep for the next run would hide
    found: Numbers = {"process_bytes": [process_peak(runs[p]) if alone else math.nan for p in phases]}
    bytes_ = {phase: tensor_bytes(module, x, phase, layout) for phase in phases}
    found |= {"peak_bytes": [one.peak for one in bytes_.values()], "parameter_bytes": parameter_bytes(module)}
    found["kept_bytes"] = float(bytes_[BACKWARD].kept) if BACKWARD in phases else math.nan
    found |= _formulas(module, len(x), phases)
    times = [[seconds(runs[phase], count, least) for count in threads] for phase in phases]
    for i, name in enumerate(("time", "time_low", "time_high")):
        found[name] = [[one[i] for one in row] for row in times]
    return found | _one_more_token(module, x, least)


def counted(module: nn.Module, x: Tensor, phases: Sequence[str], layout: str | None = None) -> Numbers:
    """``flops`` of each phase; apart from ``costs``, since torch takes seconds to load what counts them."""
    return {"flops": [count_flops(module, x, backward=phase == BACKWARD, layout=layout) for phase in phases]}


def _formulas(module: nn.Module, n: int, phases: Sequence[str]) -> Numbers:
    formula = complexity(module, n)
    names = ("chain", "parallelism", "sequential_steps", "path_length", "pairs")
    found: Numbers = {name: getattr(formula, name, None) for name in names}
    found = {name: math.nan if value is None else value for name, value in found.items()}
    totals = {FORWARD: "total", BACKWARD: "with_backward"}
    found["flops_formula"] = [getattr(formula, totals[phase], math.nan) for phase in phases]
    return found | {"flops_chain": found.pop("chain")}


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
