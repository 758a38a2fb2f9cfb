r"""The costs of a user's model at one input, in this process.

Floats x (n, d_in): gradients in x and in every trainable parameter, as training a stack has them. Token ids
(n,): gradients in the parameters, the embedding's among them; of named outputs the logits, which are trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from depprobe.core.calling.arguments import Sample
from depprobe.core.calling.outputs import chosen_output
from depprobe.core.calling.passes import call_once, unharmed
from depprobe.costs.point import Numbers, costs, counted
from depprobe.errors import BadInput, DepprobeError


class _AtIds(nn.Module):
    """A model at fixed ids (n,), as a function of numbers (n, 1) that it does not read."""

    def __init__(self, model: nn.Module, ids: Tensor) -> None:
        super().__init__()
        self.model, self._ids = model, ids

    def forward(self, x: Tensor) -> Tensor:
        result, who = self.model(self._ids[None]), type(self.model).__name__
        named = isinstance(result, Mapping) and result.get("logits") is not None
        return chosen_output(result, "logits" if named else "output", who)


def width_of(module: nn.Module, given: Sample) -> int:
    """The width of an input, or of the embedding that reads its ids."""
    if isinstance(given, Tensor) and given.is_floating_point():
        return int(given.shape[1])
    return next((part.embedding_dim for part in module.modules() if isinstance(part, nn.Embedding)), 1)


def costs_of(
    module: nn.Module, given: Sample, phases: Sequence[str], threads: Sequence[int], least: float
) -> Numbers:
    """All costs of a model at floats (n, d_in) or ids (n,), see ``costs.point``; it comes back as it was.

    Raises
    ------
    BadInput : the model cannot be called at this input.
    """
    who = type(module).__name__
    assert isinstance(given, Tensor), "a mapping has no length to cost"
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
            raise BadInput(f"{who} fails at n = {len(x)}: {type(error).__name__}: {said}") from error
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
