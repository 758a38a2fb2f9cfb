"""The square matrices whose spectra are taken: weights, and step Jacobians along a trajectory, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from torch import Tensor, nn

from depprobe.core.options import DEFAULT_MEMORY, wanted_positions
from depprobe.dynamics.step_operator import step_matrix, step_operator
from depprobe.errors import BadInput
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.trajectories import step_chains

Dense = NDArray[np.float64]


@dataclass(frozen=True)
class SquareMatrix:
    """A matrix (width, width): ``whole()`` is its entries, ``products()`` an operator that may lack them."""

    label: str
    width: int
    whole: Callable[[], Dense]
    products: Callable[[], LinearOperator]
    is_weight: bool


def weight_matrices(weights: Mapping[str, Dense]) -> list[SquareMatrix]:
    """Weights by name.

    Raises
    ------
    BadInput : a weight that is not finite.
    """
    for name, W in weights.items():
        if not np.isfinite(W).all():
            raise BadInput(f"weight {name!r} holds NaN or Inf")
    return [_weight(name, W) for name, W in weights.items()]


def step_matrices(
    module: nn.Module,
    x: Tensor,
    steps: str | int | Sequence[int],
    label: str,
    memory: int = DEFAULT_MEMORY,
) -> list[SquareMatrix]:
    """Step Jacobians ds_k/ds_{k-1} of each stacked layer and direction at positions k of x (n, d_in).

    Raises
    ------
    BadInput : a module without recurrence, positions outside the input, or an input that does not fit.
    """
    if not isinstance(module, nn.RNNBase):
        raise BadInput(f"{label} has no recurrence to take steps of; steps need nn.RNN, nn.GRU or nn.LSTM")
    n = len(x)
    positions = wanted_positions(steps, n).tolist()
    return [
        # the chain that reads backwards meets the last position first
        _step(f"step l{depth}{'_reverse' * direction} k={at}", cell, n - 1 - at if direction else at)
        for depth, layer in enumerate(step_chains(module, x, memory=memory))
        for direction, cell in enumerate(layer)
        for at in positions
    ]


def _weight(name: str, W: Dense) -> SquareMatrix:
    return SquareMatrix(name, len(W), lambda: W, lambda: aslinearoperator(W), True)


def _step(name: str, cell: CellChain, k: int) -> SquareMatrix:
    return SquareMatrix(name, cell.width, lambda: step_matrix(cell, k), lambda: step_operator(cell, k), False)
