"""One step Jacobian ds_k/ds_{k-1} as a matrix, or as an operator that knows its products only."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from depprobe.operators.chain.cells import CellChain


def step_matrix(cell: CellChain, k: int) -> NDArray[np.float64]:
    """The step Jacobian on the full state, columns (c, h): (S, S)."""
    return cell.full_matrices(k, k + 1)[0, :, : cell.width].double().cpu().numpy()


def step_operator(cell: CellChain, k: int) -> LinearOperator:
    """The same by its products, (gates d) x d_h work each, in float64 whatever the trajectory's dtype.

    Examples
    --------
    >>> from torch import nn
    >>> from depprobe.operators.chain.trajectories import step_chains
    >>> cell = step_chains(nn.LSTM(3, 5).double(), torch.randn(9, 3).double())[0][0]
    >>> bool(np.allclose(step_operator(cell, 4).matmat(np.eye(10)), step_matrix(cell, 4)))
    True
    """
    exact = cell.to(torch.float64)  # iterations converge to the round-off of the products
    like = exact.matrices(k, k + 1)[0, :1, :1]

    def forth(columns: NDArray) -> NDArray:
        given = _columns(columns, like)
        out = torch.empty_like(given)
        exact.push(k, given, None, out)
        return out.cpu().numpy().reshape(columns.shape)

    def back(columns: NDArray) -> NDArray:
        return exact.pull(k, _columns(columns, like)).cpu().numpy().reshape(columns.shape)

    shape = (cell.width, cell.width)
    return LinearOperator(shape, matvec=forth, rmatvec=back, matmat=forth, rmatmat=back, dtype=np.float64)


def _columns(values: NDArray, like: Tensor) -> Tensor:
    # iterations hand over views of their own buffers, which must not be kept
    return torch.tensor(values, dtype=torch.float64, device=like.device).reshape(len(values), -1)
