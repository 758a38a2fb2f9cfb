"""A function that builds a module, under the weights of every seed: seed -> module, or () -> module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from depprobe.core.calling.arguments import Sample, moved, samples_of
from depprobe.core.calling.environment import factory_state
from depprobe.core.device import device_of
from depprobe.errors import BadInput, DepprobeError
from depprobe.models.checkpoint import ReadsText, StoredWeights
from depprobe.models.trained.sound import ReadsSound
from depprobe.runs.inputs import Source
from depprobe.runs.module_inputs import samples_for
from depprobe.runs.subject import DTYPES, Request, Subject


class Factory(Subject):
    """A function that builds a module: from a seed, or from nothing, then under a generator seeded by it."""

    def __init__(self, label: str, make: Callable[..., Any]) -> None:
        super().__init__(label)
        self.make, self.takes_seed = make, _takes_seed(label, make)
        self.refuses = {"d": f"{label} has its own width"}
        if isinstance(make, StoredWeights):
            self.refuses["seeds"] = (
                f"the weights of {label} are stored, not drawn; models that draw theirs take a call of their "
                "own, and depprobe.combine joins both"
            )

    def build(self, seed: int, request: Request, given: Sample | None = None) -> nn.Module:
        dtype, device = self._place(request)
        try:
            with factory_state(seed):
                module = self.make(seed) if self.takes_seed else self.make()
        except DepprobeError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())
            raise BadInput(
                f"{self.label} was called as a factory seed -> nn.Module and raised "
                f"{type(error).__name__}: {said}"
            ) from error
        if not isinstance(module, nn.Module):
            raise BadInput(
                f"{self.label} was called as a factory seed -> nn.Module and returned "
                f"{type(module).__name__}; a function of x is measured as the forward of an nn.Module"
            )
        return module if device is dtype is None else module.to(device=device, dtype=dtype)

    def inputs(self, x: Any, seed: int, request: Request) -> tuple[list[Sample], bool]:
        if isinstance(x, Source):
            if x.text is not None and isinstance(self.make, ReadsText):
                ids = self.make.ids(x.text.decode("utf-8", errors="replace"))
                x = Source(x.name, data=np.array(ids, dtype=np.float64)[:, None])
            if x.data is not None and x.rate and isinstance(self.make, ReadsSound):
                x = Source(x.name, data=self.make.frames(x.data, x.rate))
            sizes = request.n, request.of("samples"), seed
            return samples_for(self.build(seed, request), x, *sizes), False
        # arrays in the dtype and on the device of the module built
        samples = samples_of(x, nn.Identity() if isinstance(x, Tensor) else self.build(seed, request))
        return [moved(one, *self._place(request)) for one in samples], False

    def tokens(self, x: Any, given: Sample, number: int = 0) -> Sequence[str]:
        if isinstance(self.make, ReadsText) and isinstance(given, Tensor):
            is_no_text = isinstance(x, Source) and x.text is None
            return () if is_no_text else self.make.words(given.tolist())
        return super().tokens(x, given, number)

    @staticmethod
    def _place(request: Request) -> tuple[torch.dtype | None, torch.device | None]:
        device = None if request.device is None else device_of(request.device)
        return None if request.dtype is None else DTYPES[request.dtype], device


def _takes_seed(label: str, make: Callable[..., Any]) -> bool:
    try:
        parameters = list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(needed) > 1 or any(p.kind not in kinds for p in needed):
        names = ", ".join(p.name for p in needed)
        raise BadInput(
            f"{label} needs the arguments {names}; a factory takes the seed alone, or nothing: wrap it, as "
            "in lambda seed: Model(...)"
        )
    own = inspect.unwrap(make)
    if (
        needed
        and isinstance(own, type)
        and issubclass(own, nn.Module)
        and "seed" not in needed[0].name.lower()
    ):
        # a width or a configuration: the seed in its place would build another model
        raise BadInput(
            f"{label} needs the argument {needed[0].name}, which is no seed; a factory takes the seed alone, "
            f"or nothing: wrap it, as in lambda seed: {own.__name__}({needed[0].name}=...)"
        )
    # one that has a default is the seed only if it says so
    return bool(needed) or any(p.name == "seed" and p.kind in kinds for p in parameters[:1])
