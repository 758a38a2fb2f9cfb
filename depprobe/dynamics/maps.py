r"""Step Jacobians along the trajectory of any map made of torch operations.

    s_{k+1} = step(s_k)   or   step(s_k, u_k),    J_k = ds_{k+1}/ds_k by autodiff

Small states: all Jacobians of a stretch in one batched call. Large ones of which few columns are wanted: one
Jacobian-vector product for every column, so that nothing (S, S) is formed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from depprobe.errors import BadInput, DepprobeError

_STEPS, _BYTES = 1024, 32 << 20
#: state width below which whole Jacobians are taken, however few columns are wanted
_SMALL = 32

Step = Callable[..., Tensor]


class MapStretch:
    """Successive steps of a map: states (steps, S) before them, inputs (steps, ...) or none."""

    def __init__(self, step: Step, states: Tensor, inputs: Any, whole: bool) -> None:
        self.steps, self._states, self._step = len(states), states, step
        self._inputs = inputs
        self._jacobians = _jacobians(step, states, inputs) if whole else None

    def push(self, k: int, columns: Tensor, steps: int = 1) -> Tensor:
        """Columns (S, m) before step k to those after so many steps."""
        for j in range(k, k + steps):
            columns = self._step_of(j, columns)
        return columns

    def _step_of(self, k: int, columns: Tensor) -> Tensor:
        if self._jacobians is not None:
            return self._jacobians[k] @ columns
        given = () if self._inputs is None else (self._inputs[k],)

        def moved(column: Tensor) -> Tensor:
            return torch.func.jvp(lambda s: self._step(s, *given), (self._states[k],), (column,))[1]

        with warnings.catch_warnings():
            # torch loads its rules for forward mode with a function that it has deprecated itself
            warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
            return torch.func.vmap(moved, in_dims=1, out_dims=1)(columns)

    def log_abs_det(self) -> Tensor:
        """ln |det J_k|: (steps,) float64, -inf where exactly singular."""
        if self._jacobians is None:
            eye = torch.eye(self._states.shape[1], dtype=self._states.dtype, device=self._states.device)
            whole = torch.stack([self.push(k, eye) for k in range(self.steps)])
        else:
            whole = self._jacobians
        return torch.linalg.slogdet(whole.double())[1].cpu()


def _jacobians(step: Step, states: Tensor, inputs: Any) -> Tensor:
    given = (states,) if inputs is None else (states, inputs)
    return torch.func.vmap(torch.func.jacrev(step))(*given)


def map_stretches(
    step: Step, state: Tensor, inputs: Tensor | Sequence[Any] | None, steps: int, columns: int
) -> Iterator[MapStretch]:
    """The trajectory of a map from a state (S,), in order.

    Parameters
    ----------
    step : takes the state, and one entry of ``inputs`` where they are given, to the next state (S,).
    inputs : tensor (steps, ...) or None.
    columns : how many tangent columns will be pushed.

    Raises
    ------
    BadInput : the map does not give a state of the same shape, or is not made of torch operations.
    DepprobeError : the trajectory reached Inf or NaN.
    """
    size = len(state)
    whole = size <= _SMALL or 4 * columns >= size
    length = max(1, min(_STEPS, _BYTES // (16 * (size**2 if whole else size))))
    for start in range(0, steps, length):
        stop = min(start + length, steps)
        states = [state]
        with torch.no_grad():
            for k in range(start, stop):
                state = step(state) if inputs is None else step(state, inputs[k])
                if not isinstance(state, Tensor) or state.shape != states[0].shape:
                    found = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
                    raise BadInput(f"step must give a tensor of shape ({size},) like its state, not {found}")
                states.append(state)
        path = torch.stack(states)
        if not bool(path.isfinite().all()):
            first = start + int((~path.isfinite()).any(1).nonzero()[0]) - 1
            raise DepprobeError(
                f"the trajectory reached Inf or NaN at step {first}: the map is unstable there"
            )
        given = None if inputs is None else torch.as_tensor(inputs[start:stop], device="cpu")
        try:
            stretch = MapStretch(step, path[:-1], given, whole)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise BadInput(
                f"step must be made of torch operations that torch.func differentiates: {reason}"
            ) from error
        yield stretch
