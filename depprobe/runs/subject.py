"""What is measured: a named layer, a module, a factory that draws its weights; each gives modules and inputs.

"lstm:forget_bias=2"      a named layer: built here, at an input that is drawn, read or given
module                    measured as it is, at the input given
seed -> module, () -> module   a factory: built here, at the input given
{"label": any of these}   several, in one dataset
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from depprobe.core.calling.arguments import as_tensor
from depprobe.core.calling.environment import drawn_from, factory_state
from depprobe.errors import BadInput, DepprobeError
from depprobe.registry import Spec, layers
from depprobe.runs.inputs import Source, joined
from depprobe.runs.request import DTYPES, Request, device_of

#: one input: floats (n, d_in), ids (n,), or keyword arguments
Sample: TypeAlias = Tensor | Mapping[str, Any]

#: entries of a mapping that say how many samples it holds, and the axes of one of them
_LEADING = {"input_ids": 1, "inputs_embeds": 2}
FORMS = "floats (n, d) or (samples, n, d), integer ids (n,) or (samples, n), or a mapping of arguments"

#: a file is named by the spec string and the seed; of other weights it knows nothing
_NOT_KEPT = "finished cases are kept of named layers alone"


class Subject(abc.ABC):
    """Something that is measured, under its label in datasets."""

    #: arguments that have no meaning for it -> why
    refuses: Mapping[str, str] = {}

    def __init__(self, label: str) -> None:
        self.label = label

    @abc.abstractmethod
    def build(self, seed: int, request: Request) -> nn.Module:
        """The module with the weights of one seed."""

    @abc.abstractmethod
    def inputs(self, x: Any, seed: int, request: Request) -> tuple[list[Sample], bool]:
        """Its inputs, one a sample, and whether a fixed random projection joined them to its width."""


class NamedLayer(Subject):
    """A layer of the registry, by its spec string; weights drawn in float32, so that dtypes agree."""

    def __init__(self, label: str, text: str) -> None:
        super().__init__(label)
        self.spec = Spec.parse(text)
        self.entry, self.options = layers[self.spec.name], self.spec.options()
        self.refuses = dict.fromkeys(("forward", "layout"), f"{label} is a named layer, which has its own")

    def build(self, seed: int, request: Request, d_in: int | None = None) -> nn.Module:
        """The layer in eval mode; ``d_in`` where it differs from d and the layer reads any width."""
        device, dtype = device_of(request.of("device")), DTYPES[request.of("dtype")]
        with drawn_from(seed):
            module: nn.Module = self.entry.build(request.of("d"), **self.widths(d_in), **self.options)
            return module.to(device=device, dtype=dtype).eval()

    def widths(self, d_in: int | None) -> dict[str, int]:
        """The width of the input, where the builder takes one."""
        return {"d_in": d_in} if d_in is not None and self.entry.reads_any_width else {}

    def inputs(self, x: Any, seed: int, request: Request) -> tuple[list[Sample], bool]:
        """Windows of a source, or x as given, joined to the layer's width where it reads no other."""
        n, d, samples = (request.of(name) for name in ("n", "d", "samples"))
        device, dtype = device_of(request.of("device")), DTYPES[request.of("dtype")]
        if x is None or isinstance(x, Source):
            windows = (x or Source("noise")).windows(n, d, samples, seed)
        else:
            given = samples_of(x, nn.Identity())
            if not all(isinstance(one, Tensor) and one.is_floating_point() for one in given):
                raise BadInput(f"{self.label} reads floats (n, d) or (samples, n, d), not ids or a mapping")
            windows = torch.stack([one for one in given if isinstance(one, Tensor)]).double().cpu().numpy()
        projected = windows.shape[-1] != d and not self.entry.reads_any_width
        if projected:
            windows = joined(windows, d)
        return [torch.from_numpy(one).to(device, dtype) for one in windows], projected


class BuiltModule(Subject):
    """A module that a user built: measured as it is."""

    def __init__(self, label: str, module: nn.Module) -> None:
        super().__init__(label)
        self.module = module
        self.refuses = {
            "d": f"{label} has its own width",
            "finished": _NOT_KEPT,
            **dict.fromkeys(("seeds", "dtype", "device"), f"{label} is a module that is already built"),
        }

    def build(self, seed: int, request: Request) -> nn.Module:
        """The module itself."""
        return self.module

    def inputs(self, x: Any, seed: int, request: Request) -> tuple[list[Sample], bool]:
        """x in the dtype and on the device of the module, where it is an array; tensors as they are."""
        return samples_of(x, self.module), False


class Factory(Subject):
    """A function that builds a module: from a seed, or from nothing, then under a generator seeded by it."""

    def __init__(self, label: str, make: Callable[..., Any]) -> None:
        super().__init__(label)
        self.make, self.takes_seed = make, _takes_seed(label, make)
        self.refuses = {"d": f"{label} has its own width", "finished": _NOT_KEPT}

    def build(self, seed: int, request: Request) -> nn.Module:
        """A module with the weights of one seed, moved to the dtype and device that were asked for."""
        device = None if request.device is None else device_of(request.device)
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
        dtype = None if request.dtype is None else DTYPES[request.dtype]
        return module if device is dtype is None else module.to(device=device, dtype=dtype)

    def inputs(self, x: Any, seed: int, request: Request) -> tuple[list[Sample], bool]:
        """x in the dtype and on the device of the module built, for an array, or in those asked for."""
        samples = samples_of(x, nn.Identity() if isinstance(x, Tensor) else self.build(seed, request))
        dtype = None if request.dtype is None else DTYPES[request.dtype]
        device = None if request.device is None else device_of(request.device)
        return [moved(one, dtype, device) for one in samples], False


def subjects_of(target: Any) -> list[Subject]:
    """What a target names, each with its label.

    Raises
    ------
    BadInput : nothing, a label twice, or what is neither spec string, module, factory nor a mapping of these.
    """
    if isinstance(target, Mapping):
        if not target:
            raise BadInput("the mapping is empty; give label: module, factory or spec string")
        for label in target:
            if not isinstance(label, str) or not label.strip():
                raise BadInput(f"a label must be text, not {label!r}")
        return [_subject(label, one) for label, one in target.items()]
    if isinstance(target, str | nn.Module) or callable(target) or not isinstance(target, Iterable):
        return [_subject(None, target)]
    named = list(target)
    for one in named:
        if not isinstance(one, str):
            what = "modules and factories" if callable(one) else f"{type(one).__name__} {one!r}"
            raise BadInput(
                f"a list holds names of layers, not {what}; several are measured as a mapping "
                "{label: module or factory}"
            )
    if not named:
        raise BadInput("no layer was given; see depprobe layers")
    subjects = [_subject(None, one) for one in named]
    labels = [subject.label for subject in subjects]
    if len(set(labels)) < len(labels):
        raise BadInput(f"a layer is given twice: {', '.join(labels)}")
    return subjects


def _subject(label: str | None, target: Any) -> Subject:
    if isinstance(target, str):
        return NamedLayer(label or str(Spec.parse(target)), target)
    if isinstance(target, nn.Module):
        return BuiltModule(label or type(target).__name__, target)
    if callable(target):
        name: str = getattr(target, "__name__", type(target).__name__)
        return Factory(label or name, target)
    raise BadInput(
        f"{type(target).__name__} {target!r} is neither the name of a layer, nor an nn.Module, nor a factory "
        "seed -> nn.Module"
    )


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
    # one that has a default is the seed only if it says so
    return bool(needed) or any(p.name == "seed" and p.kind in kinds for p in parameters[:1])


def samples_of(x: Any, module: nn.Module) -> list[Sample]:
    """The inputs in x, one a sample; arrays in the dtype and on the device of the module's weights.

    Raises
    ------
    BadInput : x is none of these, is empty, masked, or not of real numbers.

    Examples
    --------
    >>> [one.shape for one in samples_of(np.zeros((2, 7, 3)), nn.Identity())]
    [torch.Size([7, 3]), torch.Size([7, 3])]
    """
    if hasattr(x, "keys"):
        return _split({str(name): x[name] for name in list(x.keys())})
    tensor = as_tensor(x, module)
    if not isinstance(x, Tensor) and not tensor.is_floating_point() and not _reads_ids(module):
        tensor = as_tensor(np.asarray(x, np.float64), module)
    axes = 2 if tensor.is_floating_point() else 1
    if tensor.ndim not in (axes, axes + 1) or tensor.numel() == 0:
        raise BadInput(f"x must be {FORMS}, with entries, not {tensor.dtype} of shape {tuple(tensor.shape)}")
    return list(tensor) if tensor.ndim > axes else [tensor]


def _reads_ids(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in module.modules())


def _split(x: Mapping[str, Any]) -> list[Sample]:
    if not x:
        raise BadInput(f"x is an empty mapping; it must be {FORMS}")
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in x.items()}
    counts = {shapes[name][0] for name, axes in _LEADING.items() if len(shapes.get(name, ())) == axes + 1}
    if len(counts) != 1 or counts == {1}:
        return [x]
    (samples,) = counts

    def part(name: str, i: int) -> Any:
        return x[name][i : i + 1] if shapes[name][:1] == (samples,) else x[name]

    return [{name: part(name, i) for name in x} for i in range(samples)]


def moved(x: Sample, dtype: torch.dtype | None, device: torch.device | None) -> Sample:
    """One input on another device, its floats of another dtype; None leaves either as it is."""
    if not isinstance(x, Tensor):
        return {name: moved(v, dtype, device) if isinstance(v, Tensor) else v for name, v in x.items()}
    return x.to(device=device, dtype=dtype if x.is_floating_point() else None)


def numbers(x: Sample) -> np.ndarray:
    """All numbers of one input in a row, for its fingerprint."""
    values = [x] if isinstance(x, Tensor) else [x[name] for name in sorted(x)]
    parts = []
    for value in values:
        if isinstance(value, Tensor):
            # numpy knows no bfloat16
            plain = value.detach().cpu()
            parts.append((plain.float() if plain.dtype is torch.bfloat16 else plain).numpy().ravel())
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            parts.append(value.ravel())
    return np.concatenate(parts) if parts else np.zeros(0)


def length_of(x: Sample) -> int | None:
    """Number of positions of one input; None where only the module that reads it can tell."""
    if isinstance(x, Tensor):
        return x.shape[0]
    return next(
        (x[name].shape[-axes] for name, axes in _LEADING.items() if hasattr(x.get(name), "shape")), None
    )
