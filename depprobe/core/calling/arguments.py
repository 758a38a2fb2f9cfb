r"""What is handed to a forward: a sequence of vectors or ids, or named arguments of which one counts.

x  float (n, d);  ids (n,);  a mapping of the forward's keyword arguments, as a tokenizer gives it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from depprobe.core.calling.known import check_part
from depprobe.errors import BadInput, no_numbers

#: dtypes of 16 bits, in which models are measured by autograd alone
HALF = (torch.float16, torch.bfloat16)


#: one input: floats (n, d_in), ids (n,), or keyword arguments
Sample: TypeAlias = Tensor | Mapping[str, Any]

#: entries of a mapping that say how many samples it holds, and the axes of one of them
_LEADING = {"input_ids": 1, "inputs_embeds": 2}
FORMS = "floats (n, d) or (samples, n, d), integer ids (n,) or (samples, n), or a mapping of arguments"


def weights_of(module: nn.Module) -> tuple[torch.dtype, torch.device] | None:
    """dtype and device of a module's weights, or None where it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return None


class Argument(NamedTuple):
    """The argument that counts, and those beside it.

    ``value`` is float (n, d) or integer ids (n,), time first; ``name`` its keyword, None for the first;
    ``beside`` further keyword arguments, with a batch of one.
    """

    value: Tensor
    name: str | None = None
    beside: Mapping[str, Any] = {}

    @property
    def is_ids(self) -> bool:
        """Whether it holds integers, to be looked up in an embedding."""
        return not self.value.is_floating_point()


def argument_of(x: Any, module: nn.Module) -> Argument:
    """Read what the user gave as x.

    Raises ``BadInput``: neither real vectors, ids nor a mapping that holds one such sequence.

    Examples
    --------
    >>> argument_of(torch.tensor([3, 1, 2]), nn.Embedding(5, 2)).is_ids
    True
    """
    if _names_arguments(x):
        return _from_mapping({str(key): x[key] for key in list(x.keys())}, module)
    value = as_tensor(x, module)
    if value.is_complex():
        raise BadInput("x is complex; give its real and imaginary parts side by side (torch.view_as_real)")
    if not value.is_floating_point() and value.ndim != 1:
        if isinstance(x, Tensor):
            raise BadInput(
                f"x must be float (n, d), or integer ids (n,), not {value.dtype} {tuple(value.shape)}"
            )
        value = value.to((weights_of(module) or (torch.float64, None))[0])
    return Argument(value)


def as_tensor(x: Any, module: nn.Module) -> Tensor:
    """A tensor as it is; an array or list in the module's dtype and on its device, integers as they are."""
    if isinstance(x, Tensor):
        if x.is_nested:
            raise BadInput("x is a nested tensor, which has no one shape; give each of its parts a call")
        x = x.detach().to_dense()
        # an inference tensor cannot be recorded; a copy can
        return x.clone() if x.is_inference() else x
    if isinstance(x, np.ma.MaskedArray):
        if bool(np.ma.getmaskarray(x).any()):
            raise BadInput("x is a masked array with masked entries; fill them (x.filled(0.0)) or cut them")
        x = x.data
    try:
        array = np.asarray(x)
    except (ValueError, TypeError) as error:
        raise BadInput(f"x is no array of numbers: {error}") from None
    if array.dtype.kind not in "iufb":
        raise no_numbers(x, array.dtype)
    dtype, device = weights_of(module) or (torch.float64, torch.device("cpu"))
    if array.dtype.kind in "iub":
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)
    # big-endian, strided and extended arrays too: numpy brings them to plain float64
    return in_dtype(np.array(array, dtype=np.float64, order="C"), dtype, device)


def in_dtype(array: NDArray[np.float64], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The array as a tensor; raises ``BadInput`` where a finite entry lies beyond the dtype's largest."""
    made = torch.from_numpy(array).to(device=device, dtype=dtype)
    beyond = np.abs(array) > torch.finfo(dtype).max
    if (beyond & np.isfinite(array)).any():
        raise BadInput(
            f"x holds {array[beyond][0]:g}, beyond the largest {dtype}, {torch.finfo(dtype).max:.2g}: "
            "scale it (--standardise), or measure in float64 (--dtype float64, module.double())"
        )
    return made


def _names_arguments(x: Any) -> bool:
    """Whether x is a mapping of arguments; tables of pandas have keys too, and are arrays."""
    return hasattr(x, "keys") and not hasattr(x, "to_numpy")


def is_half(module: nn.Module, x: Tensor) -> bool:
    """Whether a module's weights, or what it reads, have 16 bits."""
    return x.dtype in HALF or any(weight.dtype in HALF for weight in module.parameters())


def bits_of(x: Tensor) -> bytes:
    """The numbers of a tensor as bytes, whatever their dtype."""
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def samples_of(x: Any, module: nn.Module) -> list[Sample]:
    """The inputs in x, one a sample; arrays in the dtype and on the device of the module's weights.

    Raises ``BadInput``: x is none of these, is empty, masked, or not of real numbers.

    Examples
    --------
    >>> [one.shape for one in samples_of(np.zeros((2, 7, 3)), nn.Identity())]
    [torch.Size([7, 3]), torch.Size([7, 3])]
    """
    if _names_arguments(x):
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


def _from_mapping(entries: dict[str, Any], module: nn.Module) -> Argument:
    tensors = {
        key: as_tensor(value, module) if isinstance(value, (Tensor, np.ndarray, list)) else value
        for key, value in entries.items()
    }
    name = _differentiated(tensors)
    value = tensors.pop(name)
    width = 1 if not value.is_floating_point() else 2
    batched = value.ndim == width + 1
    if value.ndim not in (width, width + 1) or (batched and value.shape[0] != 1):
        raise BadInput(
            f"{name!r} has shape {tuple(value.shape)}; it must be "
            + ("(n,) or (1, n)" if width == 1 else "(n, d) or (1, n, d)")
        )
    n = value.shape[1] if batched else value.shape[0]
    if not batched:
        tensors = {
            key: other[None] if isinstance(other, Tensor) and other.ndim and other.shape[0] == n else other
            for key, other in tensors.items()
        }
    return Argument(value[0] if batched else value, name, tensors)


def _differentiated(entries: Mapping[str, Any]) -> str:
    for name in ("input_ids", "inputs_embeds"):
        if isinstance(entries.get(name), Tensor):
            return name
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    floating = [name for name, v in tensors.items() if v.is_floating_point() and v.ndim in (2, 3)]
    if len(floating) == 1:
        return floating[0]
    if not floating:
        raise BadInput(
            f"none of {sorted(entries)} is a sequence of vectors to differentiate in; give input_ids, "
            "inputs_embeds or one floating entry (n, d)"
        )
    raise BadInput(
        f"{', '.join(map(repr, floating))} could each be what is differentiated in; "
        "leave one in x and put the others into forward={...}"
    )


def check(module: nn.Module, x: Tensor) -> None:
    """Refuse a module and an input that structure cannot serve: none, or of 16 bits.

    Raises ``BadInput``: see ``check_input`` and ``check_module``.
    """
    check_input(x)
    check_module(module)
    check_together(module, x)
    if is_half(module, x):
        raise BadInput(
            f"{x.dtype} has too few digits to measure this: use --dtype float32 (module.float(), x.float())"
        )


def checked(argument: Argument, module: nn.Module, copy: bool) -> Argument:
    """The argument, or a copy of it as it is now, once it and the module have passed all checks."""
    value = argument.value
    if argument.is_ids:
        if len(value) < 2:
            raise BadInput(f"x must hold n >= 2 ids, not {len(value)}")
        check_module(module)
    else:
        check_input(value)
        check_module(module)
        check_together(module, value)
    return argument._replace(value=value.detach().clone() if copy else value.detach())


def check_input(x: Tensor) -> None:
    """Refuse an input that is not (n, d) with n >= 2, real and finite."""
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 1:
        raise BadInput(f"x must be (n, d) with n >= 2 and d >= 1, not {tuple(x.shape)}")
    if not x.is_floating_point():
        raise BadInput(f"x must be floats, not {x.dtype}")
    if x.is_meta:
        raise BadInput("x is on the meta device and has no values; give it some")
    if not bool(x.isfinite().all()):
        raise BadInput("x holds NaN or Inf; every entry must be finite")


def check_module(module: nn.Module) -> None:
    """Refuse weights without values, or that autograd cannot go through, and what makes rows differ."""
    for name, weight in (*module.named_parameters(), *module.named_buffers()):
        _check_weight(module, name, weight)
    for name, child in module.named_modules():
        check_part(name or type(child).__name__, child)


def _check_weight(module: nn.Module, name: str, weight: Tensor) -> None:
    if is_lazy(weight):
        raise BadInput(
            f"weight {name!r} of {type(module).__name__} is lazy and not made yet; call the module once first"
        )
    if weight.is_meta:
        raise BadInput(
            f"weight {name!r} is on the meta device and has no values; load the weights first "
            "(module.to_empty(device='cpu'), then module.load_state_dict)"
        )
    if weight.is_inference():
        raise BadInput(
            f"weight {name!r} was made under torch.inference_mode, and autograd cannot go through it; "
            "build or load the module outside of it"
        )
    if not isinstance(weight, nn.Parameter):
        return
    values = weight if weight.layout is torch.strided else weight.detach().to_dense()
    if (weight.is_floating_point() or weight.is_complex()) and not bool(values.isfinite().all()):
        raise BadInput(f"weight {name!r} holds NaN or Inf")


def check_together(module: nn.Module, x: Tensor) -> None:
    """Refuse an input of another dtype or device than all of the module's weights."""
    found = {(p.dtype, p.device) for p in module.parameters() if p.is_floating_point()}
    found = found or {known for known in [weights_of(module)] if known}
    if found and (x.dtype, x.device) not in found:
        dtype, device = min(found, key=str)
        raise BadInput(
            f"x is {x.dtype} on {x.device} but the module is {dtype} on {device}; bring them together"
        )
