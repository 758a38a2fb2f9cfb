"""Which operator serves a forward by its traced graph: a faster rule where one applies, else the graph."""

from __future__ import annotations

import torch
from torch import Tensor

from depprobe.core.calling.arguments import is_half
from depprobe.core.calling.one_function import require_linear
from depprobe.core.calling.passes import DoesNotRun
from depprobe.core.function import SequenceFunction
from depprobe.core.options import Options
from depprobe.core.temporal_jacobian import TemporalJacobian
from depprobe.errors import BadInput
from depprobe.operators.autograd.recording import Live, backward_failure, structures
from depprobe.operators.composed.operator import GraphJacobian
from depprobe.operators.composed.rules.operator import LineJacobian
from depprobe.operators.composed.rules.reading import read_line
from depprobe.operators.composed.traces import Traces
from depprobe.operators.dispatch import register_general


def structural_support(function: SequenceFunction, memory: int) -> Live | None:
    """Positions that a path leads to from an output, by structure; None where there is no trace."""
    if is_half(function.module, function.x):
        return None
    try:
        traces = Traces(function, Options(memory=memory))
        if traces.whole.partition.runs_python:
            return None
    except DoesNotRun:
        return None
    return traces.live


structures.append(structural_support)


@register_general
def graph_jacobian(function: SequenceFunction, options: Options) -> TemporalJacobian | None:
    """The operator of a forward that runs under a tracer, or None."""
    if options.wrt in ("h", "c"):
        return None
    try:
        traces = Traces(function, options)
        line = read_line(traces.whole.tracer, traces.whole.points[0], traces.whole.y)
        if line is not None and options.norm in LineJacobian.norms:
            return LineJacobian(line, function, options)
        found = GraphJacobian(function, options, traces)
    except DoesNotRun:  # a forward that differentiates inside itself cannot be cut
        return None
    if options.method == "structured" and not found.knows_a_call:
        return None
    if found.runs_python:
        try:
            found.support(function.shape[0] - 1)
        except BadInput:  # such code may want all gradients at once, as a reentrant checkpoint does
            return None
        if traces.whole.partition.own_code:
            _require_linear(function, traces.whole.partition.narrowest)
    return found


def _require_linear(function: SequenceFunction, narrowest: torch.dtype) -> None:
    with function.held():
        leaf, y = function.record()

        def product(cotangent: Tensor) -> Tensor:
            try:
                (found,) = torch.autograd.grad(y, leaf, cotangent, retain_graph=True, materialize_grads=True)
            except Exception as error:  # of whatever kind code of the user's raises
                raise BadInput(backward_failure(function.module, error)) from error
            return found

        require_linear(function.module, product, y.detach(), narrowest)
