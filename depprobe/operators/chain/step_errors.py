r"""Rounding errors of step Jacobians: relative standard errors of their rows, in units u of the last place.

    M_l = sum_g p_gl W_gl  (+ the elementwise path),    error_l^2 = sum_g |dp_gl W_gl|^2 / sum_g |p_gl W_gl|^2

Every gate's argument errs by e = 2 (|W_hh| |h| + |W_ih| |x| + |b|), row norms times norms, of which follow

    sigma'(z): e,    tanh'(z): 2 e,    tanh(z): e / |z|      (relative, and a few units of their own)
    c_t = f c_{t-1} + i g:  variance_t = f^2 variance_{t-1} + what the step adds,  summed by doubling
    h_{t-1} - tanh(a):  tanh'(a) e_a + 3 min(|tanh a|, 1 - |tanh a|)                (absolute)

Shapes: gates (n, d), results (n, S). Source: Higham 2002, section 3.1; sums of independent errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch

import torch
from torch import Tensor

from depprobe.operators.chain.cells import CellChain, GRUChain, LSTMChain, RNNChain


@singledispatch
def row_errors(cell: CellChain) -> Tensor:
    """Relative standard errors of the rows of each step Jacobian, in units of the last place: (n, S)."""
    raise NotImplementedError(type(cell).__name__)


@row_errors.register
def _(cell: RNNChain) -> Tensor:
    if cell.relu:
        return torch.zeros_like(cell.z)
    of_x, of_h = cell.argument_errors()
    return 2 * cell.z.tanh().abs() * (of_x + of_h) + 3 + _lost(cell._slope)


@row_errors.register
def _(cell: GRUChain) -> Tensor:
    reset, update, new_x, new_h = cell._slopes.abs().unbind(1)
    of_x, of_h = (part.chunk(3, 1) for part in cell.argument_errors())
    e_r, e_z = of_x[0] + of_h[0], of_x[1] + of_h[1]
    _, z, new = cell._z
    r = new_h / new_x.clamp_min(torch.finfo(new_x.dtype).tiny)
    tanh = new.tanh().abs()
    e_new = of_x[2] + r * (of_h[2] + cell.from_h.abs() * (e_r + 2)) + new.abs()
    slope = e_z + 2 * e_new + 5
    apart = 4 * torch.sigmoid(2 * new) * torch.sigmoid(-2 * new) * e_new + 3 * torch.minimum(tanh, 1 - tanh)
    hh, ih = (norms.chunk(3) for norms in cell.weight_norms())
    both = [(hh[gate].square() + ih[gate].square()).sqrt() for gate in (0, 1)]
    return _combined(
        [
            (reset, reset * (slope + e_r + 3) + _over(reset * of_h[2], cell.from_h), both[0]),
            (update, update * (e_z + 4) + cell._keep * torch.sigmoid(-z) * apart, both[1]),
            (new_x, new_x * slope, ih[2]),
            (new_h, new_h * (slope + e_r + 2), hh[2]),
            (cell._keep, cell._keep * (e_z + 2), torch.ones_like(hh[0])),
        ]
    )


@row_errors.register
def _(cell: LSTMChain) -> Tensor:
    of_i, of_f, of_g, of_o = cell._slopes.abs().unbind(1)
    e_i, e_f, e_g, e_o = sum(cell.argument_errors()).chunk(4, 1)  # type: ignore[union-attr]
    zi, _, zg, _ = cell._z
    before, c = cell.cells[:-1].abs(), cell.cells[1:].abs()
    i, f = torch.sigmoid(zi), cell._keep
    new = i * zg.tanh().abs()
    added = c.square() + (new * (e_i + 4) + i * e_g).square() + (f * before * (e_f + 3)).square()
    of_c = _carried(added, f.square()).sqrt()
    e_before = torch.cat([torch.zeros_like(of_c[:1]), of_c[:-1]])
    hh, ih = (norms.chunk(4) for norms in cell.weight_norms())
    W = [(a.square() + b.square()).sqrt() for a, b in zip(hh, ih, strict=True)]
    terms = [
        (of_i, of_i * (e_i + 5) + _over(of_i * e_g, zg), W[0]),
        (of_f, of_f * (e_f + 4) + _over(of_f * e_before, before), W[1]),
        (of_g, of_g * (e_i + 2 * e_g + 5), W[2]),
        (f, f * (e_f + 2), torch.ones_like(W[0])),
    ]
    on_c = _combined(terms)
    size = sum((slope * norm).square() for slope, _, norm in terms).sqrt()  # type: ignore[union-attr]
    to_m = cell._to_m * size
    terms = [
        (of_o, of_o * (e_o + 4) + _over(of_o * of_c, c), W[3]),
        (to_m, to_m * (e_o + 2 * of_c + 5), torch.ones_like(W[3])),
        (torch.zeros_like(to_m), to_m * on_c, torch.ones_like(W[3])),
    ]
    on_h = _combined(terms)
    if cell._project is not None:
        size = sum((slope * norm).square() for slope, _, norm in terms)
        power = cell._project.square().T
        on_h = _over(((on_h.square() * size) @ power).sqrt(), (size @ power).sqrt())
    return torch.cat([on_c, on_h], 1)


def _combined(terms: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Relative error of sums of independent terms: slopes (n, d), their errors, and norms (d,) of what they
    multiply.
    """
    size, error = 0.0, 0.0
    for slope, off, norm in terms:
        size = size + (slope * norm).square()
        error = error + ((off + torch.finfo(off.dtype).tiny) * norm).square()
    assert isinstance(size, Tensor)
    assert isinstance(error, Tensor)
    return _over(error.sqrt(), size.sqrt())


def _over(a: Tensor, b: Tensor) -> Tensor:
    return a / b.abs().clamp_min(torch.finfo(b.dtype).tiny)


def _lost(slope: Tensor) -> Tensor:
    """Digits lost to gradual underflow."""
    return _over(torch.full_like(slope, torch.finfo(slope.dtype).tiny), slope)


def _carried(added: Tensor, kept: Tensor) -> Tensor:
    """v_t = kept_t v_{t-1} + added_t from zero, for all t (n, d) by doubling."""
    total, share, gap = added.clone(), kept.clone(), 1
    while gap < len(total):
        total[gap:] += share[gap:] * total[:-gap]
        share[gap:] = share[gap:] * share[:-gap]
        gap *= 2
    return total
