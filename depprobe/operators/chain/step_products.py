r"""Columns taken through one step of a recurrent cell, no step Jacobian formed: tangents on, cotangents back.

With columns Q = (Q_c, Q_h) on s_{k-1} (S, m), and U (d_in, m) on x_k where a layer below moves it,

    RNN    Q' = diag(phi') (W_hh Q_h + W_ih U)
    GRU    Q' = z * Q + a_r (W_r V) + a_z (W_z V) + a_h (W_hn Q) + a_x (W_in U)
    LSTM   Q_c' = f * Q_c + a_i (W_i V) + a_f (W_f V) + a_g (W_g V),
           Q_m' = a_o (W_o V) + a_c Q_c',  Q_h' = W_hr Q_m'

V = (Q_h, U), and the a are the slopes of the gates at step k. One matrix product a step, (gates d, d_h) x
(d_h, m), is all that touches the weights: the step Jacobian (S, S) is never formed.

Backwards, with G = (G_c, G_h) (S, m) on s_k, its product (ds_k/ds_{k-1})^T G is

    RNN    W_hh^T (phi' G)
    GRU    z G + W_r^T (a_r G) + W_z^T (a_z G) + W_hn^T (a_h G)
    LSTM   G_m = W_hr^T G_h,  E = G_c + a_c G_m,
           f E on c,  W_i^T (a_i E) + W_f^T (a_f E) + W_g^T (a_g E) + W_o^T (a_o G_m) on h

The a are the slopes of the gates at step k, as above, whose transpose this is.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from depprobe.operators.chain.cells import CellChain, GRUChain, LSTMChain, RNNChain


@singledispatch
def push_step(cell: CellChain, k: int, columns: Tensor, inputs: Tensor | None, out: Tensor) -> None:
    """Columns (S, m) on s_{k-1}, and (d_in, m) on x_k, to columns on s_k in ``out`` (S, m).

    ``inputs`` is None where the input does not move. Any cell will do; those known below form no matrix.
    """
    matrix = cell.full_matrices(k, k + 1)[0]
    torch.mm(matrix, _joined(columns, inputs), out=out) if inputs is not None else torch.mm(
        matrix[:, : cell.width], columns, out=out
    )


def _joined(hidden: Tensor, inputs: Tensor | None) -> Tensor:
    return hidden if inputs is None else torch.cat([hidden, inputs])


def _products(weight: Tensor, hidden: Tensor, inputs: Tensor | None) -> Tensor:
    """W V for weights (gates, d, d_h + d_in): (gates, d, m)."""
    gates, d, _ = weight.shape
    read = _joined(hidden, inputs)
    return (weight.view(gates * d, -1)[:, : len(read)] @ read).view(gates, d, -1)


@push_step.register
def _(cell: RNNChain, k: int, columns: Tensor, inputs: Tensor | None, out: Tensor) -> None:
    torch.mm(
        cell._weight[:, : len(columns) + (0 if inputs is None else len(inputs))],
        _joined(columns, inputs),
        out=out,
    )
    out.mul_(cell._slope[k, :, None])


@push_step.register
def _(cell: GRUChain, k: int, columns: Tensor, inputs: Tensor | None, out: Tensor) -> None:
    reset, update, new_x, new_h = cell._slopes[k, :, :, None]
    moved = _products(cell._weight[:2], columns, inputs)
    torch.mul(columns, cell._keep[k, :, None], out=out)
    out.addcmul_(reset, moved[0]).addcmul_(update, moved[1])
    out.addcmul_(new_h, cell._weight[2, :, : cell.d_h] @ columns)
    if inputs is not None:
        out.addcmul_(new_x, cell._weight[2, :, cell.d_h :] @ inputs)


@push_step.register
def _(cell: LSTMChain, k: int, columns: Tensor, inputs: Tensor | None, out: Tensor) -> None:
    moved = _products(cell._weight, columns[cell.d_c :], inputs)
    to_i, to_f, to_g, to_o = cell._slopes[k, :, :, None]
    c = out[: cell.d_c]
    torch.mul(columns[: cell.d_c], cell._keep[k, :, None], out=c)
    c.addcmul_(to_i, moved[0]).addcmul_(to_f, moved[1]).addcmul_(to_g, moved[2])
    memory = moved[3].mul_(to_o)
    if cell._project is None:
        torch.addcmul(memory, cell._to_m[k, :, None], c, out=out[cell.d_c :])
    else:
        torch.mm(cell._project, memory.addcmul_(cell._to_m[k, :, None], c), out=out[cell.d_c :])


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
