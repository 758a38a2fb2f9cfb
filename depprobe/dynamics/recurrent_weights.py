"""The square matrices that a module multiplies its state by, or that a user names, as float64 arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

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
    found = dict(_of_parts(module))
    if not found:
        square = _square_names(module)
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
    weights = _all(module)
    # gates stand one above another in a weight, which is not square and has no name for each
    gates = "; by default, without a name, the recurrent gates are taken" if _recurs(module) else ""
    known = f"square weights: {_square_names(module) or 'none'}{gates}"
    for name in names:
        if name not in weights:
            raise BadInput(f"no weight {name!r}; {known}")
        if not _is_square(weights[name]):
            raise BadInput(
                f"weight {name!r} is {' x '.join(map(str, weights[name].shape)) or 'a number'}, not a square "
                f"matrix; {known}"
            )
    return {name: _array(weights[name]) for name in names}


def _of_parts(module: nn.Module) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for path, part in module.named_modules():
        gates = next((names for kind, names in GATES.items() if isinstance(part, kind)), ())
        for name, weight in part.named_parameters(recurse=False) if gates else ():
            if not name.startswith("weight_hh"):
                continue
            suffix = name.removeprefix("weight_hh")
            project = getattr(part, f"weight_hr{suffix}", None)
            prefix = f"{path}." if path else ""
            for gate, matrix in zip(gates, weight.chunk(len(gates)), strict=True):
                full = f"{prefix}{name}" + (f"[{gate}]" if gate else "")
                square = _array(matrix)
                if project is not None:
                    full, square = f"{full} @ weight_hr{suffix}", square @ _array(project)
                yield full, square


def _recurs(module: nn.Module) -> bool:
    return any(isinstance(part, tuple(GATES)) for part in module.modules())


def _array(weight: Tensor) -> NDArray[np.float64]:
    return weight.detach().cpu().double().numpy()


def _all(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())


def _is_square(weight: Tensor) -> bool:
    return weight.ndim == 2 and weight.shape[0] == weight.shape[1] > 0 and weight.is_floating_point()


def _square_names(module: nn.Module) -> str:
    return ", ".join(name for name, weight in _all(module).items() if _is_square(weight))
