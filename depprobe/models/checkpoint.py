"""Weights from files: ``.safetensors``, ``.npz``, and what torch saves (weights alone). No code is run.

Weights in several files are read by the index beside them, ``model.safetensors.index.json``: ``shards``.

A checkpoint of a training loop holds its weights under a name such as ``state_dict`` or ``model``; wrappers
put ``module.`` (data parallel), ``_orig_mod.`` (compiled) or ``model.`` before every name. Both are seen
through. All else must fit: every weight of the module, no other, each of its shape.
"""

from __future__ import annotations

import abc
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from depprobe.errors import BadInput
from depprobe.models.shards import INDEX, shards_of

#: suffix -> what reads it
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".npz")
_INSIDE = ("state_dict", "model_state_dict", "model_state", "model", "weights", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
#: what torch says it would have to import
_CODE = re.compile(r"GLOBAL ([\w.]+)")
#: the name of a file that holds a share of a model's weights
_SHARD = re.compile(r"-\d+-of-\d+\.\w+$")
_SEVERAL = "; it is one of several files of weights: give the index beside them (.index.json)"
#: names listed in an error
_SHOWN = 4


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Raises
    ------
    BadInput : no such file, another kind of file, a damaged one, or one that holds more than weights.

    Examples
    --------
    >>> import os, tempfile
    >>> file = os.path.join(tempfile.mkdtemp(), "net.pt")
    >>> torch.save(torch.nn.Linear(2, 3).state_dict(), file)
    >>> {name: tuple(value.shape) for name, value in read_weights(file).items()}
    {'weight': (3, 2), 'bias': (3,)}
    """
    path = Path(path)
    if path.name.endswith(INDEX):
        return _of_several(path)
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"weights are read from {', '.join(SUFFIXES)}, not from {str(path)!r}")
    if not path.is_file():
        raise BadInput(f"no such file of weights: {str(path)!r}")
    read = {".safetensors": _safetensors, ".npz": _npz}.get(path.suffix.lower(), _torch)
    try:
        found = _unwrapped(read(path), path)
    except BadInput:
        raise
    except Exception as error:  # damage surfaces as whatever the decoder meets first
        raise BadInput(f"cannot read the weights in {str(path)!r}: {_first_line(error)}") from error
    if not found:
        raise BadInput(f"{str(path)!r} holds no weights by name")
    other = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
    if other:
        name, value = next(iter(other.items()))
        raise BadInput(
            f"{str(path)!r} holds {name!r}, which is {type(value).__name__}, beside weights; save "
            "module.state_dict() alone"
        )
    return found


def _of_several(path: Path) -> dict[str, Tensor]:
    """The weights of all files of an index, each file holding those that are placed in it and no others."""
    found: dict[str, Tensor] = {}
    for file, names in shards_of(path, SUFFIXES).items():
        held = read_weights(file)
        faults = [_listed("lacks", sorted(names - held.keys())), _listed("adds", sorted(held.keys() - names))]
        if any(faults):
            said = "; ".join(filter(None, faults))
            raise BadInput(f"{str(file)!r} does not hold what {path.name!r} places in it: it {said}")
        found |= held
    return found


def _torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # of pickles that others wrote, which say by an error whether they can be read
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damage surfaces as whatever the decoder meets first
        named = _CODE.search(str(error))
        code = named[1].removeprefix("__builtin__.") if named else ""
        fault = f"runs {code} when it is unpickled" if code else "is damaged, or holds more than weights"
        raise BadInput(
            f"{str(path)!r} {fault}, and nothing in a checkpoint is run; save module.state_dict() instead of "
            "the module"
        ) from error


def _npz(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{str(path)!r} is not a .npz file; save the weights with numpy.savez")
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        return {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file.files}


def _safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise BadInput("reading .safetensors needs safetensors: pip install 'depprobe[models]'") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadInput(f"cannot read the weights in {str(path)!r}: {_first_line(error)}") from error


def _unwrapped(found: Any, path: Path) -> dict[str, Any]:
    """The mapping of names to tensors, out of what a training loop wraps it in."""
    # beside the weights a training loop may keep tensors such as the last loss
    while isinstance(found, Mapping):
        inner = next((key for key in _INSIDE if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        names = found[inner].keys()
        twice = [key for key, value in found.items() if isinstance(value, Mapping) and value.keys() == names]
        if names and len(twice) > 1:
            raise BadInput(
                f"{str(path)!r} holds the same weights under {' and '.join(map(repr, twice))}, averaged ones "
                "perhaps; save alone those that are meant"
            )
        found = found[inner]
    if not isinstance(found, Mapping):
        raise BadInput(
            f"{str(path)!r} holds {type(found).__name__}, not weights by name; save module.state_dict()"
        )
    return {str(name): value for name, value in found.items()}


def load(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> nn.Module:
    """The module with these weights, in their dtype where they share one, in eval mode.

    Parameters
    ----------
    module : changed in place.
    weights : by name.
    source : what errors call them, such as the file's name.

    Raises
    ------
    BadInput : a weight that the module lacks, one that the file lacks, or one of another shape.
    """
    own = module.state_dict()
    weights = _without_prefix(weights, set(own))
    # tied weights are stored once
    stored = {_place(own[name]) for name in weights if name in own}
    missing = [name for name in own if name not in weights and _place(own[name]) not in stored]
    surplus = [name for name in weights if name not in own]
    shapes = [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(own[name].shape)} in the module"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    kinds = [
        f"{name} is {weights[name].dtype} in the file and {own[name].dtype} in the module"
        for name in own
        if name in weights and own[name].is_floating_point() and not weights[name].is_floating_point()
    ]
    faults = [_listed("missing", missing), _listed("not in the module", surplus)]
    faults += [_listed("", shapes), _listed("", kinds)]
    if any(faults):
        raise BadInput(
            f"{source} does not fit {type(module).__name__}: {'; '.join(fault for fault in faults if fault)}"
            f"{_SEVERAL if _SHARD.search(source) else ''}"
            f"{_way_out(weights, own)}"
        )
    floats = {value.dtype for value in weights.values() if value.is_floating_point()}
    if len(floats) == 1:
        module = module.to(dtype=floats.pop())
    module.load_state_dict(dict(weights), strict=False)
    return module.eval()


def _without_prefix(weights: Mapping[str, Tensor], own: set[str]) -> Mapping[str, Tensor]:
    """Without what wrappers put before every name, where the names fit the module only so."""
    while not own & weights.keys():
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in weights)), None)
        if prefix is None:
            break
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _way_out(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Which names of the file fit without their beginning, where it holds the module's among others."""
    first = next(iter(own), "")
    before = [name.removesuffix(first) for name in weights if name.endswith(f".{first}")]
    fits = [prefix for prefix in before if all(f"{prefix}{name}" in weights for name in own)]
    called = " or ".join(map(repr, fits[:_SHOWN]))
    return f"; those that begin with {called} fit without it: save them alone" if first and fits else ""


def _place(value: Tensor) -> tuple[int, tuple[int, ...]]:
    return value.data_ptr(), tuple(value.shape)


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {', '.join(names[:_SHOWN])}{more}".strip() if names else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class StoredWeights:
    """A factory whose weights stand in files, so that no seed draws others."""

    __call__: Callable[..., nn.Module]


class ReadsText(StoredWeights, abc.ABC):
    """Such a factory of a model of text, with the model's own ids."""

    @abc.abstractmethod
    def ids(self, text: str) -> list[int]:
        """The ids of a text's tokens; raises ``BadInput`` where no tokenizer is known."""

    @abc.abstractmethod
    def words(self, ids: Sequence[int]) -> list[str]:
        """What each token reads as; nothing where no tokenizer is known."""


class Checkpoint(StoredWeights):
    """A factory that gives the module of another one with the weights of a file, in eval mode.

    Parameters
    ----------
    make : a module, or a factory, whose own draw of the weights is replaced.
    path : of the file.

    Raises
    ------
    BadInput : see ``read_weights``; when called, see ``load``.
    """

    def __init__(self, make: Any, path: Path) -> None:
        self.make, self.path, self.weights = make, path, read_weights(path)
        self.__name__ = path.stem
        if not isinstance(make, nn.Module):
            # read by inspect.signature: whether it takes a seed
            self.__wrapped__ = make

    def __call__(self, *seed: int) -> nn.Module:
        module = self.make if isinstance(self.make, nn.Module) else self.make(*seed)
        if not isinstance(module, nn.Module):
            raise BadInput(f"the factory for {self.path.name} returned {type(module).__name__}, no nn.Module")
        return load(module, self.weights, self.path.name)
