"""The input that a call brings itself: a tensor, an array, token ids, or the keyword arguments of a forward.

floats    (n, d_in)   or (samples, n, d_in)
integers  (n,)        or (samples, n)          token ids
mapping   name -> value, as a tokenizer gives it; a first axis of its tensors longer than 1 holds samples
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from depprobe.errors import BadInput

#: one input: floats (n, d_in), ids (n,), or keyword arguments
Sample: TypeAlias = Tensor | Mapping[str, Any]

#: entries of a mapping that say how many samples it holds
_LEADING = ("input_ids", "inputs_embeds")
FORMS = "floats (n, d) or (samples, n, d), integer ids (n,) or (samples, n), or a mapping of arguments"


def samples_of(x: Any) -> list[Sample]:
    """The inputs in x, one a sample; arrays become tensors of their own dtype.

    Raises
    ------
    BadInput : x is none of these, is empty, masked, not of real numbers, or half precision.

    Examples
    --------
    >>> [one.shape for one in samples_of(np.zeros((2, 7, 3)))]
    [torch.Size([7, 3]), torch.Size([7, 3])]
    """
    if isinstance(x, Mapping):
        return _split(x)
    x = tensor_of(x)
    axes = 2 if x.is_floating_point() else 1
    if x.ndim not in (axes, axes + 1) or x.numel() == 0:
        raise BadInput(f"x must be {FORMS}, with entries, not {x.dtype} of shape {tuple(x.shape)}")
    if x.dtype in (torch.float16, torch.bfloat16):
        raise BadInput(f"{x.dtype} has too few digits to measure with: use module.float() and x.float()")
    return list(x) if x.ndim > axes else [x]


def tensor_of(x: Any) -> Tensor:
    """A tensor as it is, an array as one: byte order, strides and precision as torch takes them."""
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise BadInput(
            "x has masked entries, whose values are not known: fill them (x.filled) or leave them out"
        )
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise BadInput(f"x is no array: {error}") from None
    if array.dtype.kind not in "iuf":
        raise BadInput(f"x holds {array.dtype}; it must hold real numbers")
    kind = "f8" if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    if array.dtype.kind == "u":
        kind = "i8"
    return torch.from_numpy(np.array(array, dtype=kind, order="C"))


def _split(x: Mapping[str, Any]) -> list[Sample]:
    values = {name: tensor_of(v) if isinstance(v, np.ndarray) else v for name, v in x.items()}
    if not values:
        raise BadInput(f"x is an empty mapping; it must be {FORMS}")
    leading = [values[name] for name in _LEADING if isinstance(values.get(name), Tensor)]
    axes = {one.shape[0] for one in leading if one.ndim == (3 if one.is_floating_point() else 2)}
    if len(axes) != 1 or axes == {1}:
        return [values]
    (samples,) = axes

    def part(value: Any, i: int) -> Any:
        shared = not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != samples
        return value if shared else value[i : i + 1]

    return [{name: part(value, i) for name, value in values.items()} for i in range(samples)]


def moved(x: Sample, dtype: torch.dtype | None, device: torch.device | None) -> Sample:
    """One input on another device, its floats of another dtype; None leaves either as it is."""
    if isinstance(x, Mapping):
        return {name: moved(v, dtype, device) if isinstance(v, Tensor) else v for name, v in x.items()}
    return x.to(device=device, dtype=dtype if x.is_floating_point() else None)


def numbers(x: Sample) -> np.ndarray:
    """All numbers of one input in a row, for its fingerprint."""
    values = [x] if isinstance(x, Tensor) else [x[name] for name in sorted(x) if isinstance(x[name], Tensor)]
    plain = [value.detach().cpu() for value in values]
    parts = [(value.float() if value.dtype is torch.bfloat16 else value).numpy().ravel() for value in plain]
    return np.concatenate(parts) if parts else np.zeros(0)


def length_of(x: Sample) -> int | None:
    """Number of positions of one input; None where only the module that reads it can tell."""
    if isinstance(x, Tensor):
        return x.shape[0]
    found = next((x[name] for name in _LEADING if isinstance(x.get(name), Tensor)), None)
    if found is None:
        return None
    return found.shape[-2 if found.is_floating_point() else -1]
