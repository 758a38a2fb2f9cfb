"""The square matrices that a module multiplies its state by, or that a user names, as float64 arrays.

They are those that its next forward uses, whatever they are computed from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from depprobe.core.calling.weights_in_effect import weights_in_effect
from depprobe.errors import BadInput

#: gates of each kind of module in torch's order
GATES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.LSTM: ("i", "f", "g", "o"),
    nn.GRU: ("r", "z", "n"),
    nn.RNN: ("",),
    nn.LSTMCell: ("i", "f", "g", "o"),
    nn.GRUCell: ("r", "z", "n"),
    nn.RNNCell: ("",),
}


def recurrent_weights(module: nn.Module, label: str) -> dict[str, NDArray[np.float64]]:
    """Every recurrent weight of a module and its parts, by name and gate: ``weight_hh_l0[f]`` -> (d, d).

    Where an LSTM projects, h = W_hr m, the weight on h is (d, d_h): the matrix given is W_gate W_hr (d, d),
    which takes the memory m_{k-1} to the gate's argument, named ``weight_hh_l0[f] @ weight_hr_l0``.

    Raises
    ------
    BadInput : there is none; the message lists the square weights.

    Examples
    --------
    >>> list(recurrent_weights(nn.GRU(3, 5), "GRU"))
    ['weight_hh_l0[r]', 'weight_hh_l0[z]', 'weight_hh_l0[n]']
    """
    with weights_in_effect(module):
        found, square = dict(_of_parts(module)), _square_names(module)
    if not found:
        raise BadInput(
            f"{label} has no recurrent weight"
            + (f"; name a square one: {square}" if square else ", and no square one")
        )
    return found


def named_weights(module: nn.Module, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """The parameters or buffers of these names, each (d, d).

    Raises
    ------
    BadInput : no such weight, or not a square matrix of real numbers; the message lists those that are, and
        says how recurrent weights are had.
    """
    # gates stand one above another in a weight, which is not square and has no name for each
    recurs = any(isinstance(part, tuple(GATES)) for part in module.modules())
    gates = "; by default, without a name, the recurrent gates are taken" if recurs else ""
    with weights_in_effect(module):
        weights = _all(module)
        known = f"square weights: {_square_names(module) or 'none'}{gates}"
        for name in names:
            if name not in weights:
                raise BadInput(f"no weight {name!r}; {known}")
            if not _is_square(weights[name]):
                shape = " x ".join(map(str, weights[name].shape)) or "a number"
                raise BadInput(f"weight {name!r} is {shape}, not a square matrix; {known}")
        return {name: _array(weights[name]) for name in names}


def _of_parts(module: nn.Module) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for path, part in module.named_modules():
        gates = next((names for kind, names in GATES.items() if isinstance(part, kind)), ())
        if isinstance(part, nn.RNNBase):
            weights = dict(zip(part._flat_weights_names, part._flat_weights, strict=True))
        else:
            weights = {"weight_hh": part.weight_hh} if gates else {}
        for name, weight in weights.items():
            if not name.startswith("weight_hh") or weight is None:
                continue
            suffix = name.removeprefix("weight_hh")
            project = weights.get(f"weight_hr{suffix}")
            prefix = f"{path}." if path else ""
            for gate, matrix in zip(gates, weight.chunk(len(gates)), strict=True):
                full = f"{prefix}{name}" + (f"[{gate}]" if gate else "")
                square = _array(matrix)
                if project is not None:
                    full, square = f"{full} @ weight_hr{suffix}", square @ _array(project)
                yield full, square


def _array(weight: Tensor) -> NDArray[np.float64]:
    return weight.detach().cpu().double().numpy().copy()


def _all(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, buffers, and what is computed from them, by name."""
    found = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
    for path, part in module.named_modules():
        computed = {name for name, value in vars(part).items() if isinstance(value, Tensor)}
        computed |= set(part.parametrizations) if is_parametrized(part) else set()
        found |= {f"{path}.{name}".lstrip("."): getattr(part, name) for name in sorted(computed)}
    return found


def _is_square(weight: Tensor) -> bool:
    return weight.ndim == 2 and weight.shape[0] == weight.shape[1] > 0 and weight.is_floating_point()


def _square_names(module: nn.Module) -> str:
    return ", ".join(name for name, weight in _all(module).items() if _is_square(weight))
