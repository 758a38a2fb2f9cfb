"""Which tensor of what a module returns is meant, and the names of its submodules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from depprobe.errors import BadInput, unknown

#: words of ``of`` and ``wrt`` that come before a submodule of such a name
OF_WORDS, WRT_WORDS = ("output", "logits", "loss"), ("x", "h", "c")
#: how classes of transformers that predict the next token end, and the label that their loss leaves out
_CAUSAL_HEADS, _NO_LABEL = ("ForCausalLM", "LMHeadModel"), -100
#: tensors without a time axis that may stand beside one another: an output and states, say
_FEW = 3


def submodule_of(module: nn.Module, name: str, words: tuple[str, ...], option: str) -> nn.Module | None:
    """The submodule that ``of`` or ``wrt`` names, or None for one of the words.

    Raises ``BadInput``: it names neither.
    """
    if name in words:
        return None
    found = dict(module.named_modules())
    path = name.removeprefix("module:")
    if not path or path not in found:
        raise unknown(option, name, [*words, *(known for known in found if known)])
    return found[path]


def depths(module: nn.Module, pattern: str) -> list[str]:
    """The submodules that a pattern names, in their own order; a star stands for one level.

    Examples
    --------
    >>> depths(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Tanh())), "1.*")
    ['1.0', '1.1']
    """
    levels = pattern.removeprefix("module:").split(".")
    found = [name for name, _ in module.named_modules() if name and _matches(name.split("."), levels)]
    if not found:
        raise unknown("submodule", pattern, [name for name, _ in module.named_modules() if name])
    return found


def labels_of(module: nn.Module, ids: Tensor, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Labels that the loss of a causal language model of transformers needs, where none are ``given``: the
    ids, padding left out, (1, n). Its forward moves them by one.
    """
    causal = hasattr(module, "config") and type(module).__name__.endswith(_CAUSAL_HEADS)
    if not causal or "labels" in given or ids.is_floating_point():
        return {}
    labels, mask = ids[None].long(), given.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == labels.shape:
        read = mask.bool()
        # a first token that padding precedes is predicted from nothing, as one without padding is by none
        labels = labels.masked_fill(~(read & read.roll(1, 1)), _NO_LABEL)
    return {"labels": labels}


def _matches(name: list[str], levels: list[str]) -> bool:
    return len(name) == len(levels) and all(map(fnmatchcase, name, levels))


def chosen_output(result: Any, of: str, who: str, n: int | None = None) -> Tensor:
    """The tensor that ``of`` means in what a forward returned at n positions, as a strided one.

    Raises ``BadInput``: there is none; or it is nested or complex, holds no floating numbers, or is but the
    first of n.
    """
    tensor = _chosen(result, of, who)
    if tensor.is_nested:
        raise BadInput(f"the output of {who} is a nested tensor; return a padded one (to_padded_tensor)")
    alone = sum(size > 1 for size in tensor.shape) < 2
    if n is not None and n > _FEW and alone and _one_of(n, result, tensor):
        raise BadInput(
            f"{who} returns {n} tensors {tuple(tensor.shape)}, one for each position; join them along time "
            "(torch.stack)"
        )
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        raise BadInput(
            f"the output of {who} is complex; return its real and imaginary parts (torch.view_as_real)"
        )
    if not tensor.is_floating_point():
        raise BadInput(f"the output of {who} holds {tensor.dtype}, which has no derivative")
    return tensor


def _chosen(result: Any, of: str, who: str) -> Tensor:
    if dataclasses.is_dataclass(result) and not isinstance(result, Mapping):
        result = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    elif hasattr(result, "_asdict") and not isinstance(result, PackedSequence):
        result = result._asdict() if of != "output" else tuple(result)
    if of in ("logits", "loss"):
        named = result if isinstance(result, Mapping) else {}
        if isinstance(named.get(of), Tensor):
            return named[of]
        has = f"named outputs {sorted(map(str, named))}" if named else f"one {type(result).__name__}"
        way = "give its labels in forward, or " if of == "loss" else ""
        raise BadInput(f"{who} returns {has}, no {of!r}; {way}use of='output' or the name of a submodule")
    if isinstance(result, Mapping):
        if isinstance(result.get("last_hidden_state"), Tensor):
            return result["last_hidden_state"]
        if isinstance(result.get("hidden_states"), (tuple, list)) and result["hidden_states"]:
            return result["hidden_states"][-1]
        values = [value for key, value in result.items() if key != "loss"] + [result.get("loss")]
        found = next((found for found in map(_first_tensor, values) if found is not None), None)
    else:
        found = _first_tensor(result)
    if found is None:
        raise BadInput(f"{who} returned {type(result).__name__}; its output must be a tensor, or hold one")
    return found


def _one_of(n: int, result: Any, tensor: Tensor) -> bool:
    """Whether a tensor is but one of n of its shape that a list or tuple holds, anywhere in a result."""
    if isinstance(result, Mapping):
        return any(_one_of(n, value, tensor) for value in result.values())
    if not isinstance(result, (tuple, list)) or isinstance(result, PackedSequence):
        return False
    same = [one for one in result if isinstance(one, Tensor) and one.shape == tensor.shape]
    if len(result) == len(same) == n and any(one is tensor for one in same):
        return True
    return any(_one_of(n, one, tensor) for one in result)


def _first_tensor(result: Any) -> Tensor | None:
    if isinstance(result, Tensor):
        return result
    if isinstance(result, PackedSequence):
        if len(result.batch_sizes) != len(result.data):
            raise BadInput("a packed output must hold one sequence")
        return result.data[None]
    if isinstance(result, (tuple, list)):
        return next((found for found in map(_first_tensor, result) if found is not None), None)
    return None
