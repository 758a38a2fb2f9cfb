r"""The costs of a user's model at inputs of several lengths, in this process.

Floats x (n, d_in): gradients in x and in every trainable parameter, as training a stack has them. Token ids
(n,): gradients in the parameters, the embedding's among them; of named outputs the logits, which are trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.core.calling.outputs import chosen_output
from depprobe.core.calling.passes import call_once, unharmed
from depprobe.costs.point import costs, counted
from depprobe.errors import BadInput, DepprobeError
from depprobe.runs.cases import Case, cases_of
from depprobe.runs.inputs import Source
from depprobe.runs.subject import Request


class _AtIds(nn.Module):
    """A model at fixed ids (n,), as a function of numbers (n, 1) that it does not read."""

    def __init__(self, model: nn.Module, ids: Tensor) -> None:
        super().__init__()
        self.model, self._ids = model, ids

    def forward(self, x: Tensor) -> Tensor:
        result, who = self.model(self._ids[None]), type(self.model).__name__
        named = isinstance(result, Mapping) and result.get("logits") is not None
        return chosen_output(result, "logits" if named else "output", who)


def cases_at(
    models: Mapping[str, Any], x: Any, lengths: Sequence[int], seed: int, dtype: str | None
) -> dict[tuple[str, int], Case]:
    """Models by label at the first n positions of a ``Source`` for each length, or at x as it is.

    Raises
    ------
    BadInput : several inputs, a mapping, or what ``cases_of`` refuses.
    """
    found = {}
    for (label, target), n in product(models.items(), lengths if isinstance(x, Source) else [None]):
        case, *more = cases_of({label: target}, x, Request(n=n, seed=seed, dtype=dtype)).cases
        if more:
            raise BadInput(f"costs are taken at one input (n, d), not at {1 + len(more)} samples")
        if not isinstance(case.given, Tensor):
            raise BadInput("costs are taken at x of floats (n, d) or ids (n,), not at a mapping")
        found[label, len(case.given)] = case
    return found


def width_of(case: Case) -> int:
    """The width of the input, or of the embedding that reads its ids."""
    if not isinstance(case.given, Tensor) or case.given.is_floating_point():
        return int(case.x.shape[1])
    parts = case.build().modules()
    return next((part.embedding_dim for part in parts if isinstance(part, nn.Embedding)), 1)


def costs_of(case: Case, phases: Sequence[str], threads: Sequence[int], least: float) -> dict[str, Any]:
    """All costs of a model at its input, see ``costs.point``; the model comes back as it was.

    Raises
    ------
    BadInput : the model cannot be called at this input.
    """
    module, given = case.build(), case.given
    who = type(module).__name__
    assert isinstance(given, Tensor), "which cases_at looks after"
    with _evaluating(module), unharmed(module):
        x = given
        if not given.is_floating_point():
            module, x = _AtIds(module, given), torch.zeros(len(given), 1, device=given.device)
        try:
            with torch.no_grad():
                call_once(module, x)
        except DepprobeError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise BadInput(f"{case.label} fails at n = {len(x)}: {type(error).__name__}: {said}") from error
        found = costs(module, x, phases, threads, least) | counted(module, x, phases)
        return found | {"no_stream": found["no_stream"].replace(_AtIds.__name__, who)}


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode: dropout and running statistics would change the module and the random numbers."""
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
        yield
    finally:
        for part in training:
            part.training = True
