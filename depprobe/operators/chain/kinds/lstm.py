r"""Step Jacobians of long short-term memory: the forget gate carries c past the weights.

    s = (c, h),  m = o tanh(c)      M_c = sum over i, f, g of diag(dc/dz_g) W_g,   D: c -> c by f
                                    M_h = W_hr (diag(dm/dz_o) W_o + diag(dm/dc) M_c)
    push   Q_c' = f * Q_c + a_i (W_i V) + a_f (W_f V) + a_g (W_g V),   V = (Q_h, U)
           Q_m' = a_o (W_o V) + a_c Q_c',   Q_h' = W_hr Q_m'
    pull   G_m = W_hr^T G_h,  E = G_c + a_c G_m,
           f E on c,  W_i^T (a_i E) + W_f^T (a_f E) + W_g^T (a_g E) + W_o^T (a_o G_m) on h

The a are the slopes of the gates at step k. c_t = f c_{t-1} + i g gathers the rounding errors of all steps:
variance_t = f^2 variance_{t-1} + what the step adds.

Shapes: Q, G (S, m), U (d_in, m). Source: Hochreiter and Schmidhuber 1997; torch.nn.LSTM.
"""

from __future__ import annotations

import torch
from torch import Tensor

from depprobe.core.device import waits
from depprobe.operators.chain.cells import (
    CellWeights,
    combined,
    dsigmoid,
    dtanh,
    over,
    sizes,
)
from depprobe.operators.chain.kernels.steps import lstm_matrices
from depprobe.operators.chain.kinds.gated import GatedChain


class LSTMChain(GatedChain):
    """Long short-term memory."""

    gates, keeper = ("i", "f", "g", "o"), "f"
    _by_step = ("_slopes", "_to_m", "_keep", "_keep_to_m")
    _constant = ("_weight", "_project")

    def __init__(self, weights: CellWeights, x: Tensor, h: Tensor, before: Tensor, c_first: Tensor) -> None:
        super().__init__(weights, x, h, before)
        self.d_c = weights.hh.shape[0] // 4
        from_x, from_h = weights.preactivations(x, before)
        self._z = (from_x + from_h).unflatten(1, (4, -1)).movedim(1, 0)
        zi, zf, zg, zo = self._z
        i, f, g, o = torch.sigmoid(zi), torch.sigmoid(zf), torch.tanh(zg), torch.sigmoid(zo)
        new = i * g
        if waits(x.device):
            new[0] += f[0] * c_first
            self._cells = torch.cat([c_first[None], _carried(new, f)])
        else:
            cells = [c_first]
            for added, kept in zip(new.unbind(0), f.unbind(0), strict=True):
                cells.append(torch.addcmul(added, kept, cells[-1]))
            self._cells = torch.stack(cells)
        start, c = self._cells[:-1], self._cells[1:]
        self._to_m = o * dtanh(c)
        self._slopes = torch.stack(
            [g * dsigmoid(zi), start * dsigmoid(zf), i * dtanh(zg), torch.tanh(c) * dsigmoid(zo)], 1
        )
        self._keep, self._keep_to_m = f, f * self._to_m
        self._weight, self._project = weights.stacked(4), weights.hr

    def matrices(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        W, steps, d = self._weight, slice(start, stop), self.d_c
        M = W.new_empty(stop - start, self.width, W.shape[2]) if out is None else out
        on_m = M if self._project is None else W.new_empty(stop - start, 2 * d, W.shape[2])
        lstm_matrices(W, self._slopes[steps], self._to_m[steps], on_m)
        if self._project is not None:
            M[:, :d] = on_m[:, :d]
            torch.matmul(self._project, on_m[:, d:], out=M[:, d:])
        return M

    def direct(self, k: int) -> tuple[str, tuple[Tensor, ...]] | None:
        return None if self._project is not None else ("lstm", (self._keep[k], self._keep_to_m[k]))

    def _cell_variances(self, of_arguments: Tensor) -> Tensor:
        """Variances of the rounding errors of c before every step and after the last: (n + 1, d)."""
        of_i, of_f, of_g, _ = of_arguments.chunk(4, 1)
        start, c, kept = self._cells[:-1], self._cells[1:], self._keep
        size = torch.sigmoid(self._z[0])
        new = size * self._z[2].tanh().abs() * (of_i + 4) + size * of_g
        added = c.square() + new.square() + (kept * start * (of_f + 3)).square()
        first = torch.zeros_like(added[0]) if self.variances is None else self.variances
        added[0] += kept[0].square() * first
        return torch.cat([first[None], _carried(added, kept.square())])

    def last_variances(self) -> Tensor:
        of_x, of_h = self.argument_errors()
        # its own memory: a view would keep those of every step
        return self._cell_variances(of_x + of_h)[-1].clone()

    def row_errors(self) -> Tensor:
        i, f, g, o = self._slopes.abs().unbind(1)
        of_x, of_h = self.argument_errors()
        of_i, of_f, of_g, of_o = (of_x + of_h).chunk(4, 1)
        start, c, kept = self._cells[:-1].abs(), self._cells[1:], self._keep
        errors = self._cell_variances(of_x + of_h).sqrt()
        of_start, of_c = errors[:-1], errors[1:]
        hh, ih = (norms.chunk(4) for norms in self.weight_norms())
        norms, one = [a.hypot(b) for a, b in zip(hh, ih, strict=True)], torch.ones_like(hh[0])
        terms = [
            (i, i * (of_i + 5) + over(i * of_g, self._z[2]), norms[0]),
            (f, f * (of_f + 4) + over(f * of_start, start), norms[1]),
            (g, g * (of_i + 2 * of_g + 5), norms[2]),
            (kept, kept * (of_f + 2), one),
        ]
        on_c, to_m = combined(terms), self._to_m * sizes(terms)
        terms = [
            (o, o * (of_o + 4) + over(o * of_c, c), norms[3]),
            (to_m, to_m * (of_o + 2 * of_c + 5 + on_c), one),
        ]
        on_h = combined(terms)
        if self._project is not None:
            size, power = sizes(terms).square(), self._project.square().T
            on_h = over(((on_h.square() * size) @ power).sqrt(), (size @ power).sqrt())
        return torch.cat([on_c, on_h], 1)

    def _to_memory(self, rows: Tensor) -> Tensor:
        """Row block on h as a row block on m = o tanh(c)."""
        rows = rows[:, self.d_c :]
        return rows if self._project is None else rows @ self._project

    def part(self, wrt: str, k: int, rows: Tensor) -> Tensor:
        if wrt == "cell":
            return torch.addcmul(rows[:, : self.d_c], self._to_memory(rows), self._to_m[k])
        return super().part(wrt, k, rows)

    def part_reach(self, wrt: str, units: Tensor) -> Tensor:
        return self._reached_cells(units) if wrt == "cell" else super().part_reach(wrt, units)

    def _reached_cells(self, units: Tensor) -> Tensor:
        """Units of c that given units of (c, h) depend on at the same step."""
        from_h = units[self.d_c :]
        memory = from_h if self._project is None else (self._project[from_h] != 0).any(0)
        return units[: self.d_c] | memory

    def add_direct(self, k: int, rows: Tensor, out: Tensor) -> None:
        cell = out[:, : self.d_c]
        torch.mul(rows[:, : self.d_c], self._keep[k], out=cell)
        cell.addcmul_(self._to_memory(rows), self._keep_to_m[k])

    def add_direct_matrices(self, start: int, stop: int, out: Tensor) -> None:
        out[:, : self.d_c, : self.d_c].diagonal(dim1=1, dim2=2).copy_(self._keep[start:stop])
        to_cell = out[:, self.d_c :, : self.d_c]
        if self._project is None:
            to_cell.diagonal(dim1=1, dim2=2).copy_(self._keep_to_m[start:stop])
        else:
            torch.mul(self._project, self._keep_to_m[start:stop, None], out=to_cell)

    def reach(self, k: int, units: Tensor) -> tuple[Tensor, Tensor]:
        cells = self._reached_cells(units)
        found = self._links[cells].any(0)
        return torch.cat([cells, found[: self.d_h]]), found[self.d_h :]

    def push(self, k: int, columns: Tensor, inputs: Tensor | None, out: Tensor) -> None:
        h = columns[self.d_c :]
        read = h if inputs is None else torch.cat([h, inputs])
        moved = (self._weight.flatten(0, 1)[:, : len(read)] @ read).unflatten(0, (4, -1))
        to_i, to_f, to_g, to_o = self._slopes[k, :, :, None]
        c = out[: self.d_c]
        torch.mul(columns[: self.d_c], self._keep[k, :, None], out=c)
        c.addcmul_(to_i, moved[0]).addcmul_(to_f, moved[1]).addcmul_(to_g, moved[2])
        memory = moved[3].mul_(to_o).addcmul_(self._to_m[k, :, None], c)
        out[self.d_c :] = memory if self._project is None else self._project @ memory

    def pull(self, k: int, columns: Tensor) -> Tensor:
        on_h = columns[self.d_c :]
        memory = on_h if self._project is None else self._project.T @ on_h
        on_c = torch.addcmul(columns[: self.d_c], self._to_m[k, :, None], memory)
        i, f, g, o = self._slopes[k, :, :, None]
        weight = self._weight[:, :, : self.d_h].flatten(0, 1)
        through = weight.T @ torch.cat([i * on_c, f * on_c, g * on_c, o * memory])
        return torch.cat([self._keep[k, :, None] * on_c, through])


def _carried(added: Tensor, kept: Tensor) -> Tensor:
    """v_t = kept_t v_{t-1} + added_t from zero, for all t (n, d), by doubling."""
    total, share, gap = added.clone(), kept.clone(), 1
    while gap < len(total):
        total[gap:] += share[gap:] * total[:-gap]
        share[gap:] = share[gap:] * share[:-gap]
        gap *= 2
    return total
