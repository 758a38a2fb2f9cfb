"""The recurrence inside a model, at what it reads there.

A model that is no recurrence itself is called once at its input, and the ``nn.RNN``, ``nn.GRU`` or
``nn.LSTM`` in it, by name where there are several, is measured at what the model hands it in that call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.core.calling.weights_in_effect import weights_in_effect
from depprobe.core.function import SequenceFunction
from depprobe.errors import BadInput, unknown
from depprobe.runs.cases import Case, Cases
from depprobe.runs.subject import refuse


def at_recurrences(measured: Cases, part: str | None) -> Cases:
    """The same cases, with each model replaced by the recurrence in it; recurrences stay as they are.

    Parameters
    ----------
    measured : modules at their inputs.
    part : name of the submodule; None where each model holds one recurrence, or is one.

    Raises
    ------
    BadInput : no recurrence of this name, several and no name, one that is not called once from zero, or
        whose weights the model's forward replaces.
    """
    if part is None and all(case.named for case in measured.cases):
        return measured
    if all(case.named for case in measured.cases):
        refuse({"part": part}, [("part", "it names a recurrence inside a model of your own")])
    # beside models, named layers are what they are
    parts = [None if case.named else part for case in measured.cases]
    return measured._replace(cases=[_inner(*one) for one in zip(measured.cases, parts, strict=True)])


def _inner(case: Case, part: str | None) -> Case:
    module = case.build()
    found = {name: one for name, one in module.named_modules() if isinstance(one, nn.RNNBase)}
    if part is None:
        floats = isinstance(case.given, Tensor) and case.given.is_floating_point()
        if not found and not floats:
            raise BadInput(f"{case.label} holds no recurrence: no nn.RNN, nn.GRU or nn.LSTM")
        if "" in found or not found:
            # a recurrence itself; or none, which whoever needs one says best
            return case
        if len(found) > 1:
            raise BadInput(
                f"{case.label} holds the recurrences {', '.join(found)}; name one with part= (--part)"
            )
        part = next(iter(found))
    elif part not in found:
        raise unknown(f"recurrence in {case.label}", part, filter(None, found))
    recurrent = found[part]
    read = _read(module, recurrent, case, part)
    return replace(case, build=lambda: recurrent, given=read, named=False, tokens=())


def _read(module: nn.Module, recurrent: nn.RNNBase, case: Case, part: str) -> Tensor:
    """What the recurrence reads in one call of the module, (n, d_in)."""
    calls: list[tuple[Any, ...]] = []
    replaced: list[str] = []
    with weights_in_effect(recurrent):
        weights = zip(recurrent._flat_weights_names, recurrent._flat_weights, strict=True)
        held = {name: weight.detach().clone() for name, weight in weights if weight is not None}

    def note(_: nn.Module, given: tuple[Any, ...]) -> None:
        # calls without gradients choose, and are no part of the function
        if torch.is_grad_enabled():
            calls.append(given)
            replaced.extend(name for name in held if not torch.equal(held[name], getattr(recurrent, name)))

    function = SequenceFunction(module, case.given)
    with recurrent.register_forward_pre_hook(note):
        function()
    if len(calls) != 1 or len(calls[0]) > 1:
        how = f"called {len(calls)} times" if len(calls) != 1 else "handed a state to start from"
        raise BadInput(f"{part} of {case.label} is {how} at this input; it must be called once, from zero")
    if replaced:
        raise BadInput(
            f"{case.label} replaces {', '.join(replaced)} of {part} in its forward, so that {part} does not "
            "hold the weights it runs with; measure a recurrence that holds them"
        )
    (x,) = calls[0]
    if not isinstance(x, Tensor):
        raise BadInput(f"{part} of {case.label} reads {type(x).__name__}, not a tensor")
    batch = 0 if recurrent.batch_first else 1
    if x.ndim == 3 and x.shape[batch] != 1:
        raise BadInput(f"{part} of {case.label} reads {x.shape[batch]} sequences at once; it must read one")
    return (x.select(batch, 0) if x.ndim == 3 else x).detach().clone()
