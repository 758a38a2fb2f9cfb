r"""What a step does besides its product, each in one kernel on CUDA, with the same in torch beside it.

    step Jacobians of an LSTM:   M_c = i W_i + f W_f + g W_g,   M_h = o W_o + m M_c      (``lstm.py``)
    between two products:        R' += R D,   e' += v * u',   then e' += b * s',  u' = w * s'   (u: w * s)

    rows brought to range, with their exponents                                      (``scaled.py``)

for all rows of a block, of which the last 3 q are s, e and u. D, the path past the weights, is of an LSTM
    c' = c keep + h keep_to_m,   of a GRU h' += h keep.

Shapes: W (4, d, D), slopes (steps, 4, d), m (steps, d), M (steps, 2 d, D); rows (r + 3 q, S + d_in);
b, w (q', S) and v (q', S + d_in), repeated along q.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from depprobe.core.device import compiled
from depprobe.core.scaled import Scaled, peaks

_KERNELS = "depprobe.operators.chain.kernels.triton_steps"
_BLOCK = 256
#: largest step Jacobian that one block of threads holds
_TILE_BYTES = 128 << 10
#: widest rows that one block of threads brings to range
_WIDEST = 4096


def lstm_matrices(weight: Tensor, slopes: Tensor, to_m: Tensor, out: Tensor) -> None:
    """Write step Jacobians of an LSTM without projection to ``out``."""
    kernels = compiled(_KERNELS, out.device)
    _, d, columns = weight.shape
    if kernels is None:
        i, f, g, o = slopes[..., None].unbind(1)
        cell, hidden = out[:, :d], out[:, d:]
        torch.mul(i, weight[0], out=cell)
        cell.addcmul_(f, weight[1]).addcmul_(g, weight[2])
        torch.mul(o, weight[3], out=hidden)
        hidden.addcmul_(to_m[..., None], cell)
        return
    grid = len(out), d, -(-columns // _BLOCK)
    strides = slopes.stride(0), slopes.stride(1), to_m.stride(0), out.stride(0), out.stride(1)
    kernels.matrices[grid](weight, slopes, to_m, out, d, columns, *strides, _BLOCK)


def between(
    kind: str,
    direct: Sequence[Tensor],
    block: Tensor,
    after: Tensor,
    width: int,
    v: Tensor,
    more: tuple[Tensor, Tensor] | None,
    q: int,
) -> None:
    """What is done to the rows ``after`` a product, in place, before the next.

    Parameters
    ----------
    kind : ``lstm``, ``gru`` or empty, for no path past the weights.
    direct : (d,) each: keep and keep_to_m, or keep.
    block, after : rows before and after the product.
    width : S; columns of ``after`` beyond are inputs.
    v : signs (q', S + d_in).
    more : b and w of the next step, if there is one.
    q : rows of s, of e and of u.
    """
    kernels = compiled(_KERNELS, after.device)
    if kernels is None:
        _between(kind, direct, block, after, width, v, more, q)
        return
    rows, columns = after.shape
    first = 0 if kind else rows - 3 * q
    b, w = more or (v, v)
    d = len(direct[0]) if direct else 0
    keep, to = (*direct, v, v)[:2]
    grid = rows - 2 * q - first, -(-columns // _BLOCK)
    strides = block.stride(0), after.stride(0), b.stride(0), v.stride(0)
    codes = {"": 0, "lstm": 1, "gru": 2}[kind], int(more is not None)
    kernels.between[grid](
        block,
        after,
        keep,
        to,
        b,
        w,
        v,
        first,
        rows - 3 * q,
        q,
        len(v),
        d,
        width,
        columns,
        *strides,
        *codes,
        _BLOCK,
    )


def whole_run(matrices: Tensor, rows: Tensor, width: int, b: Tensor, w: Tensor, v: Tensor, q: int) -> bool:
    """All steps of a run of a narrow layer at once: rows[0] to rows[1:], (steps + 1, r + 3 q, S + d_in).

    The same as, for each step j, a product with matrices[-1 - j], (steps, S, S + d_in), and ``between``.
    False, and nothing done, where there is no kernel for it.
    """
    kernels = compiled(_KERNELS, rows.device)
    if kernels is None:
        return False
    steps, count, columns = len(matrices), rows.shape[1] - 3 * q, rows.shape[2]
    lines, size = (kernels.next_power_of_2(number) for number in (width, columns))
    if lines * size * rows.element_size() > _TILE_BYTES:
        return False
    given = matrices, rows, b.contiguous(), w.contiguous(), v, steps, count, q, v.stride(1), width, columns
    strides = matrices.stride(0), matrices.stride(1), rows.stride(0), rows.stride(1)
    kernels.run[count + q,](*given, *strides, lines, size)
    return True


def rescaled(rows: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``Scaled(rows, log_scale).rescaled((1,))`` of rows (r, S), and the largest moduli (r, 1)."""
    kernels = compiled(_KERNELS, rows.device)
    if kernels is None or rows.shape[1] > _WIDEST:
        peak = peaks(rows, (1,))
        return *Scaled(rows, log_scale).over(peak), peak
    r, width = rows.shape
    out, peak, scale = rows.new_empty(r, width), rows.new_empty(r, 1), torch.empty_like(log_scale)
    if r:
        size = kernels.next_power_of_2(width)
        kernels.rescale[r,](rows, log_scale, out, scale, peak, width, rows.stride(0), size)
    return out, scale, peak


def settled(own: Tensor, scales: Tensor, w: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """s and e after a run, the largest entry of each target's brought to 1, and scales (T,).

    Parameters
    ----------
    own : s and e of all targets, (2 T ROWS, S).
    scales : exponents before, (T,).
    w : of some step of each layer, (ROWS, S); their signs are taken.
    """
    kernels, targets = compiled(_KERNELS, own.device), len(scales)
    q, width = len(own) // 2, own.shape[1]
    lost = 2 * torch.finfo(own.dtype).tiny
    if kernels is None or len(w) > 1 or width > _WIDEST:
        both = own.unflatten(0, (2, targets, -1))
        found = Scaled(both, scales[:, None, None]).over(peaks(both, (0, 2, 3)))
        left = found.log_scale.flatten()
        # entries of rows and errors below the range of floats are lost
        s, e = found.values.unbind(0)
        return s, e + lost * torch.cat(list(w), 1).sign(), torch.where(left.isneginf(), scales, left)
    out, moved = own.new_empty(2, targets, q // targets, width), torch.empty_like(scales)
    size = kernels.next_power_of_2(width)
    kernels.settle[targets,](own, scales, w[0], out, moved, q, width, own.stride(0), lost, size)
    return out[0], out[1], moved


def _between(
    kind: str,
    direct: Sequence[Tensor],
    block: Tensor,
    after: Tensor,
    width: int,
    v: Tensor,
    more: tuple[Tensor, Tensor] | None,
    q: int,
) -> None:
    if kind == "lstm":
        keep, to_m = direct
        cell = after[:, : len(keep)]
        torch.mul(block[:, : len(keep)], keep, out=cell)
        cell.addcmul_(block[:, len(keep) : width], to_m)
    elif kind == "gru":
        after[:, :width].addcmul_(block[:, :width], direct[0])
    s, e, u = after[len(after) - 3 * q :].unflatten(0, (3, -1, len(v))).unbind(0)
    e.addcmul_(v[:, : e.shape[-1]], u)
    if more is not None:
        b, w = more
        e[..., :width].addcmul_(b, s[..., :width])
        torch.mul(w, s[..., :width], out=u[..., :width])
