r"""Rows and tangents taken through one recurrent layer, with a source at every position.

    pull: R_{k-1} = (R_k + G_k) ds_k/ds_{k-1},  X_k = (R_k + G_k) ds_k/dx_k      cotangents G (rows, n, d_out)
    push: S_k = ds_k/ds_{k-1} S_{k-1} + ds_k/dx_k x_k                            tangents x (n, d_in)

Each row of a cotangent carries its own exponent at every position, so that rows 1e-5000 apart meet
without underflow; the addition keeps what a float addition keeps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from depprobe.core.temporal_jacobian import Scaled
from depprobe.operators.chain.cells import CellChain

_BATCH = 16


def pull(directions: Sequence[CellChain], rows: Scaled) -> Scaled:
    """Take cotangents (rows, n, d_out) on a layer's output to cotangents (rows, n, d_in) on its input."""
    values, log_scale = rows
    log_scale = log_scale.expand(values.shape[0], values.shape[1], 1)
    parts, first = [], 0
    for direction, cell in enumerate(directions):
        part = values[:, :, first : first + cell.d_h]
        if direction:
            out = _pull_one(cell, part.flip(1), log_scale.flip(1))
            parts.append(Scaled(out.values.flip(1), out.log_scale.flip(1)))
        else:
            parts.append(_pull_one(cell, part, log_scale))
        first += cell.d_h
    out = parts[0]
    for other in parts[1:]:
        out = _add(out, other)
    return out


def _add(a: Scaled, b: Scaled) -> Scaled:
    peak = torch.maximum(a.log_scale, b.log_scale)
    safe = torch.where(peak.isfinite(), peak, torch.zeros_like(peak))
    dtype = a.values.dtype
    total = a.values * (a.log_scale - safe).exp().to(dtype) + b.values * (b.log_scale - safe).exp().to(dtype)
    return Scaled(total, peak)


def _normalised(a: Scaled) -> Scaled:
    """The same with the largest entry of each row at 1."""
    peak = a.values.abs().amax(-1, keepdim=True)
    safe = torch.where(peak > 0, peak, torch.ones_like(peak))
    log_scale = torch.where(
        peak > 0, a.log_scale + safe.double().log(), torch.full_like(a.log_scale, -torch.inf)
    )
    return Scaled(a.values / safe, log_scale)


def _pull_one(cell: CellChain, cotangents: Tensor, log_scale: Tensor) -> Scaled:
    rows, n, _ = cotangents.shape
    out = cotangents.new_zeros(rows, n, cell.d_in)
    out_scale = torch.full((rows, n, 1), -torch.inf, dtype=torch.float64, device=cotangents.device)
    state = Scaled(cotangents.new_zeros(rows, cell.width), out_scale[:, 0])
    for stop in range(n, 0, -_BATCH):
        start = max(0, stop - _BATCH)
        matrices = cell.full_matrices(start, stop)
        for k in range(stop - 1, start - 1, -1):
            arriving = cotangents.new_zeros(rows, cell.width)
            arriving[:, cell.d_c :] = cotangents[:, k]
            state = _normalised(_add(state, _normalised(Scaled(arriving, log_scale[:, k]))))
            through = state.values @ matrices[k - start]
            tap = _normalised(Scaled(through[:, cell.width :], state.log_scale))
            out[:, k], out_scale[:, k] = tap.values, tap.log_scale
            state = Scaled(through[:, : cell.width], state.log_scale)
    return Scaled(out, out_scale)


def push(directions: Sequence[CellChain], tangent: Tensor) -> Tensor:
    """Take a tangent (n, d_in) on a layer's input to a tangent (n, d_out) on its output."""
    outputs = []
    for direction, cell in enumerate(directions):
        inputs = tangent.flip(0) if direction else tangent
        state = tangent.new_zeros(cell.width)
        hidden = []
        for start in range(0, cell.n, _BATCH):
            stop = min(start + _BATCH, cell.n)
            for M, x in zip(cell.full_matrices(start, stop), inputs[start:stop], strict=True):
                state = M @ torch.cat([state, x])
                hidden.append(state[cell.d_c :])
        part = torch.stack(hidden)
        outputs.append(part.flip(0) if direction else part)
    return torch.cat(outputs, 1)
