r"""Cotangent columns taken backwards through one step of a recurrent cell, no step Jacobian formed.

With G = (G_c, G_h) (S, m) on s_k, its product (ds_k/ds_{k-1})^T G is

    RNN    W_hh^T (phi' G)
    GRU    z G + W_r^T (a_r G) + W_z^T (a_z G) + W_hn^T (a_h G)
    LSTM   G_m = W_hr^T G_h,  E = G_c + a_c G_m,
           f E on c,  W_i^T (a_i E) + W_f^T (a_f E) + W_g^T (a_g E) + W_o^T (a_o G_m) on h

The a are the slopes of the gates at step k, as in ``tangents.py``, whose transpose this is.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from depprobe.operators.chain.cells import CellChain, GRUChain, LSTMChain, RNNChain


@singledispatch
def pull_step(cell: CellChain, k: int, columns: Tensor) -> Tensor:
    """Columns (S, m) on s_k to columns (S, m) on s_{k-1}. Any cell will do; those known form no matrix."""
    return cell.full_matrices(k, k + 1)[0, :, : cell.width].T @ columns


@pull_step.register
def _(cell: RNNChain, k: int, columns: Tensor) -> Tensor:
    return cell._weight[:, : cell.d_h].T @ (cell._slope[k, :, None] * columns)


@pull_step.register
def _(cell: GRUChain, k: int, columns: Tensor) -> Tensor:
    reset, update, _, new_h = cell._slopes[k, :, :, None]
    weight = cell._weight[:, :, : cell.d_h].flatten(0, 1)
    stacked = torch.cat([reset * columns, update * columns, new_h * columns])
    return torch.addcmul(weight.T @ stacked, cell._keep[k, :, None], columns)


@pull_step.register
def _(cell: LSTMChain, k: int, columns: Tensor) -> Tensor:
    on_h = columns[cell.d_c :]
    memory = on_h if cell._project is None else cell._project.T @ on_h
    on_c = torch.addcmul(columns[: cell.d_c], cell._to_m[k, :, None], memory)
    i, f, g, o = cell._slopes[k, :, :, None]
    weight = cell._weight[:, :, : cell.d_h].flatten(0, 1)
    through = weight.T @ torch.cat([i * on_c, f * on_c, g * on_c, o * memory])
    return torch.cat([cell._keep[k, :, None] * on_c, through])
