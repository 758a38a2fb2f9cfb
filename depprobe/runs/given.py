"""The input that a call brings itself: a tensor, an array, token ids, or the keyword arguments of a forward.

floats    (n, d_in)   or (samples, n, d_in)
integers  (n,)        or (samples, n)          token ids
mapping   name -> value, as a tokenizer gives it: ids (samples, n) or embeddings (samples, n, d_in) in it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from depprobe.core.calling.arguments import as_tensor
from depprobe.errors import BadInput

#: one input: floats (n, d_in), ids (n,), or keyword arguments
Sample: TypeAlias = Tensor | Mapping[str, Any]

#: entries of a mapping that say how many samples it holds, and the axes of one of them
_LEADING = {"input_ids": 1, "inputs_embeds": 2}
FORMS = "floats (n, d) or (samples, n, d), integer ids (n,) or (samples, n), or a mapping of arguments"


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
