r"""Step Jacobians of RNN, GRU and LSTM cells along a trajectory.

One step maps the state s_{k-1} and the input x_k to s_k. With a row block R on s_k (rows, S),

    R ds_k/d(h_{k-1}, x_k) = R M_k            M_k (S, d_h + d_in), every path through a weight
    R ds_k/ds_{k-1}       += R D_k            D_k the elementwise path past the weights

    LSTM  s = (c, h)   M_c = sum over i, f, g of diag(dc/dz_g) W_g
                       M_h = W_hr (diag(dm/dz_o) W_o + diag(dm/dc) M_c),  m = o tanh(c),  D: c -> c by f
    GRU   s = h        M = diag(dh/dz_r) W_r + diag(dh/dz_z) W_z + diag(dh/dz_n) [r W_hn | W_in],  D: z
    RNN   s = h        M = diag(phi'(z)) W

W = [W_hh | W_ih] (gates, d, d_h + d_in); d_h < d where the LSTM projects (W_hr), else d_h = d.
The fused module gives h; gate values for all t are then one matrix product (torch.nn documents the cells).
Derivatives of saturated gates come from sigma(z) sigma(-z), which keeps them exact to round-off where
sigma(z) (1 - sigma(z)) would give 0.
"""

from __future__ import annotations

import abc
import copy
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor


def _dsigmoid(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * torch.sigmoid(-z)


def _dtanh(z: Tensor) -> Tensor:
    return 4 * _dsigmoid(2 * z)


def _minus_tanh(h: Tensor, z: Tensor) -> Tensor:
    """h - tanh(z); where both are near 1 or -1, from what each lacks of it, which floats hold."""
    one = z.sign()
    return torch.where(z.abs() < 0.55, h - torch.tanh(z), h - one + 2 * one * torch.sigmoid(-2 * z.abs()))


def _overflow(h: Tensor) -> int:
    bad = (~h.isfinite()).any(1).nonzero()
    return int(bad[0]) if len(bad) else len(h)


@dataclass(frozen=True)
class CellWeights:
    """Weights of one layer and direction: hh (gates d, d_h), ih (gates d, d_in), hr (d_h, d)."""

    hh: Tensor
    ih: Tensor
    b_hh: Tensor | None = None
    b_ih: Tensor | None = None
    hr: Tensor | None = None

    def preactivations(self, x: Tensor, h_before: Tensor) -> tuple[Tensor, Tensor]:
        """Input part and recurrent part of every gate's argument, each (n, gates d)."""
        linear = torch.nn.functional.linear
        return linear(x, self.ih, self.b_ih), linear(h_before, self.hh, self.b_hh)

    def argument_errors(self, x: Tensor, h_before: Tensor) -> tuple[Tensor, Tensor]:
        """Rounding errors of ``preactivations``, in units of the last place."""
        parts = ((x, self.ih, self.b_ih), (h_before, self.hh, self.b_hh))
        sums = [z.norm(dim=1)[:, None] * W.norm(dim=1) + (0 if b is None else b.abs()) for z, W, b in parts]
        return 2 * sums[0], 2 * sums[1]

    def stacked(self, gates: int) -> Tensor:
        """[W_hh | W_ih] gate by gate: (gates, d, d_h + d_in)."""
        return torch.cat([self.hh, self.ih], 1).unflatten(0, (gates, -1))


class CellChain(abc.ABC):
    """The step Jacobians of one layer in one direction, in the order in which the cell reads the input.

    State columns are (c, h) with widths ``d_c`` (0 without a cell state) and ``d_h``.
    """

    n: int
    d_in: int
    d_h: int
    d_c: int = 0
    #: first step after which the state is not finite; n where there is none
    overflow: int
    #: names of the gates in torch's order, empty for a cell without
    gates: tuple[str, ...] = ()
    #: [W_hh | W_ih], columns last, and how many of the columns are W_hh's
    _weight: Tensor
    _recurrent: int
    #: weights, inputs and states before each step, as they were given
    given: tuple[CellWeights, Tensor, Tensor]

    @property
    def width(self) -> int:
        """Width S of the state."""
        return self.d_c + self.d_h

    @abc.abstractmethod
    def matrices(self, start: int, stop: int) -> Tensor:
        """M_k for start <= k < stop: (stop - start, S, d_h + d_in)."""

    def argument_errors(self) -> tuple[Tensor, Tensor]:
        """Rounding errors of both parts of the gates' arguments, (n, gates d), in units of the last place."""
        return self.given[0].argument_errors(*self.given[1:])

    def weight_norms(self) -> tuple[Tensor, Tensor]:
        """Norms of the rows of W_hh and W_ih, (gates d,)."""
        return self.given[0].hh.norm(dim=1), self.given[0].ih.norm(dim=1)

    def to(self, dtype: torch.dtype) -> Self:
        """The same chain in the precision given."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(other, name, value.to(dtype))
        return other

    def columns(self, of: Literal["h", "x"], dtype: torch.dtype) -> Self:
        """The same chain, of whose M_k only the columns on h or on x are left, in the precision given."""
        other = self.to(dtype)
        h, x = other._weight.tensor_split([self._recurrent], dim=-1)
        other._weight = (h if of == "h" else x).contiguous()
        other._recurrent, other.d_in = (self._recurrent, 0) if of == "h" else (0, self.d_in)
        return other

    def add_direct(self, k: int, rows: Tensor, out: Tensor) -> None:  # noqa: B027 - nothing to add is a case
        """Add R D_k into ``out`` (rows, S), where ``rows`` is R; columns (c) are overwritten."""

    def add_direct_matrices(self, start: int, stop: int, out: Tensor) -> None:  # noqa: B027
        """Add D_k for start <= k < stop into ``out`` (stop - start, S, S)."""

    def part(self, wrt: str, k: int, rows: Tensor) -> Tensor:
        """Row block on s_k as one on its part ``wrt``: ``c``, ``h``, or ``cell`` (c, with h following it)."""
        return rows[:, : self.d_c] if wrt == "c" else rows[:, self.d_c :]

    def part_reach(self, wrt: str, units: Tensor) -> Tensor:
        """Which units of that part given units of s_k depend on, by non-zero factors: bool."""
        return units[: self.d_c] if wrt == "c" else units[self.d_c :]

    def full_matrices(self, start: int, stop: int) -> Tensor:
        """Whole step Jacobians ds_k/d(s_{k-1}, x_k): (stop - start, S, S + d_in).

        One product with these takes a step; for wide cells ``matrices`` and ``add_direct`` do the same
        with fewer operations, for narrow ones the fewer calls win.
        """
        M = self.matrices(start, stop)
        full = M.new_zeros(stop - start, self.width, self.width + self.d_in)
        full[:, :, self.d_c :] = M
        self.add_direct_matrices(start, stop, full[:, :, : self.width])
        return full

    @abc.abstractmethod
    def reach(self, k: int, units: Tensor) -> tuple[Tensor, Tensor]:
        """Which of (s_{k-1}, x_k) given units of s_k depend on, by non-zero factors: bool (S,), (d_in,)."""


class GatedChain(CellChain):
    """What cells with gates can tell of them. ``z`` are the gates' arguments, (gates, n, d)."""

    _z: Tensor
    #: the gate that carries the state past the weights: f, or the update gate z
    keeper: str

    def gate_values(self) -> Tensor:
        """Values of all gates: (gates, n, d) float64; a candidate (g, n) by tanh, the others by sigmoid."""
        z = self._z.double()
        squash = [torch.tanh if gate in ("g", "n") else torch.sigmoid for gate in self.gates]
        return torch.stack([f(part) for f, part in zip(squash, z, strict=True)])

    def log_keep(self) -> Tensor:
        """Natural log of the gate that carries the state: (n, d) float64, exact where the gate underflows."""
        return torch.nn.functional.logsigmoid(self._z[self.gates.index(self.keeper)].double())


class RNNChain(CellChain):
    """Plain recurrence: M_k = diag(phi'(z_k)) W."""

    def __init__(self, weights: CellWeights, x: Tensor, h: Tensor, h_before: Tensor, relu: bool) -> None:
        self.n, self.d_in, self.d_h = x.shape[0], x.shape[1], h.shape[1]
        self._weight, self._recurrent, self.overflow = weights.stacked(1)[0], self.d_h, _overflow(h)
        from_x, from_h = weights.preactivations(x, h_before)
        self.z = z = from_x + from_h
        self.given, self.relu = (weights, x, h_before), relu
        self._slope = (z > 0).to(z.dtype) if relu else _dtanh(z)
        self._alive = (z > 0) if relu else torch.ones_like(z, dtype=torch.bool)
        self._links = self._weight != 0

    def matrices(self, start: int, stop: int) -> Tensor:
        return self._slope[start:stop, :, None] * self._weight

    def reach(self, k: int, units: Tensor) -> tuple[Tensor, Tensor]:
        found = self._links[units & self._alive[k]].any(0)
        return found[: self.d_h], found[self.d_h :]


class GRUChain(GatedChain):
    """Gated recurrent unit: the update gate z carries h past the weights."""

    gates, keeper = ("r", "z", "n"), "z"

    def __init__(self, weights: CellWeights, x: Tensor, h: Tensor, h_before: Tensor) -> None:
        self.n, self.d_in, self.d_h = x.shape[0], x.shape[1], h.shape[1]
        from_x, from_h = weights.preactivations(x, h_before)
        xr, xz, xn = from_x.chunk(3, 1)
        hr, hz, hn = from_h.chunk(3, 1)
        r, new = torch.sigmoid(xr + hr), xn + torch.sigmoid(xr + hr) * hn
        slope_n = torch.sigmoid(-(xz + hz)) * _dtanh(new)
        self._z, self.from_h = torch.stack([xr + hr, xz + hz, new]), hn
        self.given = weights, x, h_before
        self._keep = torch.sigmoid(xz + hz)
        self._slopes = torch.stack(
            [
                slope_n * hn * _dsigmoid(xr + hr),
                _minus_tanh(h_before, new) * _dsigmoid(xz + hz),
                slope_n,
                slope_n * r,
            ],
            1,
        )
        self._weight, self._recurrent, self.overflow = weights.stacked(3), self.d_h, _overflow(h)
        self._links = (self._weight != 0).any(0)

    def matrices(self, start: int, stop: int) -> Tensor:
        reset, update, new_x, new_h = self._slopes[start:stop, :, :, None].unbind(1)
        W = self._weight
        M = reset * W[0]
        M.addcmul_(update, W[1])
        left = self._recurrent
        M[:, :, :left].addcmul_(new_h, W[2, :, :left])
        M[:, :, left:].addcmul_(new_x, W[2, :, left:])
        return M

    def add_direct(self, k: int, rows: Tensor, out: Tensor) -> None:
        out.addcmul_(rows, self._keep[k])

    def add_direct_matrices(self, start: int, stop: int, out: Tensor) -> None:
        out.diagonal(dim1=1, dim2=2).add_(self._keep[start:stop])

    def reach(self, k: int, units: Tensor) -> tuple[Tensor, Tensor]:
        found = self._links[units].any(0)
        return found[: self.d_h] | units, found[self.d_h :]


class LSTMChain(GatedChain):
    """Long short-term memory: the forget gate carries c past the weights. ``c_first`` is c before step 0."""

    gates, keeper = ("i", "f", "g", "o"), "f"

    def __init__(
        self, weights: CellWeights, x: Tensor, h: Tensor, h_before: Tensor, c_first: Tensor | None = None
    ) -> None:
        self.n, self.d_in, self.d_h = x.shape[0], x.shape[1], h.shape[1]
        self.d_c = weights.hh.shape[0] // 4
        from_x, from_h = weights.preactivations(x, h_before)
        self._z = (from_x + from_h).unflatten(1, (4, -1)).movedim(1, 0)
        zi, zf, zg, zo = self._z
        i, f, g, o = torch.sigmoid(zi), torch.sigmoid(zf), torch.tanh(zg), torch.sigmoid(zo)
        cells = [torch.zeros_like(zi[0]) if c_first is None else c_first]
        for new, kept in zip((i * g).unbind(0), f.unbind(0), strict=True):
            cells.append(torch.addcmul(new, kept, cells[-1]))
        self.given, self.cells = (weights, x, h_before), torch.stack(cells)
        before, c = self.cells[:-1], self.cells[1:]
        self._to_m = o * _dtanh(c)
        self._slopes = torch.stack(
            [g * _dsigmoid(zi), before * _dsigmoid(zf), i * _dtanh(zg), torch.tanh(c) * _dsigmoid(zo)], 1
        )
        self._keep, self._keep_to_m = f, f * self._to_m
        self._weight, self._project, self._recurrent = weights.stacked(4), weights.hr, self.d_h
        self._links, self.overflow = (self._weight != 0).any(0), _overflow(h)

    def matrices(self, start: int, stop: int) -> Tensor:
        i, f, g, o = self._slopes[start:stop, :, :, None].unbind(1)
        W, d_c = self._weight, self.d_c
        M = W.new_empty(stop - start, self.width, W.shape[2])
        cell, out = M[:, :d_c], M[:, d_c:] if self._project is None else torch.empty_like(M[:, :d_c])
        torch.mul(i, W[0], out=cell)
        cell.addcmul_(f, W[1]).addcmul_(g, W[2])
        torch.mul(o, W[3], out=out)
        out.addcmul_(self._to_m[start:stop, :, None], cell)
        if self._project is not None:
            torch.matmul(self._project, out, out=M[:, d_c:])
        return M

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
