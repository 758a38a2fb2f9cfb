r"""A torch recurrence as chains of step Jacobians, one for each layer and direction.

One step maps the state s_{k-1} and the input x_k to s_k. With a row block R on s_k (rows, S),

    R ds_k/d(h_{k-1}, x_k) = R M_k            M_k (S, d_h + d_in), every path through a weight
    R ds_k/ds_{k-1}       += R D_k            D_k the elementwise path past the weights

The fused module gives h; gate values for all t are then one matrix product (torch.nn documents the cells).
Derivatives of saturated gates come from sigma(z) sigma(-z), which keeps them exact to round-off where
sigma(z) (1 - sigma(z)) would give 0. What they lack still is known: a gate's argument errs by
e = 2 (|W_hh| |h| + |W_ih| |x| + |b|) units u of the last place, row norms times norms, so relatively

    sigma'(z) by e,   tanh'(z) by 2 e,   tanh(z) by e / |z|,  and row l of M by (sum_g |dp_gl W_gl|^2)^(1/2)
    over (sum_g |p_gl W_gl|^2)^(1/2), p_gl the slopes of the gates

Shapes: x (n, d_in); W = [W_hh | W_ih] (gates, d, d_h + d_in); d_h < d where an LSTM projects (W_hr), else
d_h = d; initial states h0 (layers directions, d_h), c0 (layers directions, d).
Source of the errors: Higham 2002, section 3.1; independent errors add in squares.
"""

from __future__ import annotations

import abc
import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from depprobe.core.device import waits


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

    def stacked(self, gates: int) -> Tensor:
        """[W_hh | W_ih] gate by gate: (gates, d, d_h + d_in)."""
        return torch.cat([self.hh, self.ih], 1).unflatten(0, (gates, -1))


class SweptChain(abc.ABC):
    """What a sweep asks of the chain of one layer in one direction; state columns are (c, h)."""

    n: int
    d_in: int
    d_h: int
    d_c: int = 0
    #: size of the outputs, (n,)
    size: Tensor
    #: what a sweep may take, a ``recurrence.Room``; None for no limit
    room: Any = None

    @property
    def width(self) -> int:
        """Width S of the state."""
        return self.d_c + self.d_h

    @property
    @abc.abstractmethod
    def overflow(self) -> int:
        """First step after which the state is not finite; n where there is none."""

    @abc.abstractmethod
    def weight_norms(self) -> tuple[Tensor, Tensor]:
        """Norms of the rows of W_hh and W_ih: (gates d,) each."""

    @abc.abstractmethod
    def bare(self) -> CellChain:
        """The chain without tensors."""

    @abc.abstractmethod
    def constants(self) -> list[Tensor]:
        """What a sweep reads at every step."""

    @abc.abstractmethod
    def packed(self, first: int, last: int, errors: bool) -> Tensor:
        """What a sweep reads of each step first <= k < last, with the errors of rows or without, side by
        side: (last - first, numbers)."""

    @abc.abstractmethod
    def part_reach(self, wrt: str, units: Tensor) -> Tensor:
        """Which units of that part given units of s_k depend on, by non-zero factors: bool."""

    @abc.abstractmethod
    def reach(self, k: int, units: Tensor) -> tuple[Tensor, Tensor]:
        """Which of (s_{k-1}, x_k) given units of s_k depend on, by non-zero factors: bool (S,), (d_in,)."""


class CellChain(SweptChain):
    """The step Jacobians of one layer in one direction, in the order in which the cell reads the input.

    State columns have widths ``d_c`` (0 without a cell state) and ``d_h``. Constructors take weights, x,
    outputs h, those before them, and c before step 0.
    """

    #: names of the gates in torch's order, empty for a cell without
    gates: tuple[str, ...] = ()
    #: [W_hh | W_ih], columns last, and how many of the columns are W_hh's
    _weight: Tensor
    _recurrent: int
    #: variances of the rounding errors of c before step 0, (d,), where the chain goes on from another
    variances: Tensor | None = None
    #: names of what a sweep reads: tensors with a row for every step, and others that may be None
    _by_step: tuple[str, ...] = ()
    _constant: tuple[str, ...] = ("_weight",)
    #: of a bare chain: shapes of the first, and names of the second that are there
    _shapes: tuple[torch.Size, ...]
    _names: tuple[str, ...]

    def __init__(self, weights: CellWeights, x: Tensor, h: Tensor, before: Tensor) -> None:
        self.n, self.d_in, self.d_h = x.shape[0], x.shape[1], h.shape[1]
        self._given, self._recurrent = (weights, x, before), self.d_h
        self.size = h.norm(dim=1)
        self._finite = h.isfinite().all(1)

    @functools.cached_property
    def overflow(self) -> int:
        bad = (~self._finite).nonzero()
        return int(bad[0]) if len(bad) else self.n

    @functools.cached_property
    def _links(self) -> Tensor:
        """Which columns of [W_hh | W_ih] a unit hangs on through any gate: bool (d, d_h + d_in)."""
        linked = self._weight != 0
        return linked.any(0) if linked.ndim == 3 else linked

    @functools.cached_property
    def errors(self) -> Tensor:
        """What ``row_errors`` returns."""
        return self.row_errors()

    @abc.abstractmethod
    def matrices(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """M_k for start <= k < stop, written to ``out`` if given: (stop - start, S, d_h + d_in)."""

    @abc.abstractmethod
    def row_errors(self) -> Tensor:
        """Relative standard errors of the rows of each step Jacobian, in units of the last place: (n, S)."""

    def argument_errors(self) -> tuple[Tensor, Tensor]:
        """Rounding errors of both parts of ``preactivations``, in units of the last place."""
        weights, x, before = self._given
        parts = ((x, weights.ih, weights.b_ih), (before, weights.hh, weights.b_hh))
        of_x, of_h = (
            2 * (z.norm(dim=1)[:, None] * W.norm(dim=1) + (0 if b is None else b.abs())) for z, W, b in parts
        )
        return of_x, of_h

    def last_variances(self) -> Tensor | None:
        """``variances`` for a chain that goes on from this one."""
        return None

    def weight_norms(self) -> tuple[Tensor, Tensor]:
        return self._given[0].hh.norm(dim=1), self._given[0].ih.norm(dim=1)

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

    def by_step(self) -> list[Tensor]:
        """What a sweep reads of each step: (n, ...) each."""
        return [getattr(self, name) for name in self._by_step]

    @functools.cached_property
    def _whole(self) -> Tensor:
        return torch.cat([part.flatten(1) for part in (*self.by_step(), self.errors)], 1)

    def packed(self, first: int, last: int, errors: bool) -> Tensor:
        if waits(self.size.device):
            # a slice is one call; runs take what they do not read too
            return self._whole[first:last]
        parts = [*self.by_step(), *([self.errors] if errors else [])]
        return torch.cat([part[first:last].flatten(1) for part in parts], 1)

    def constants(self) -> list[Tensor]:
        return [value for name in self._constant if (value := getattr(self, name)) is not None]

    def kind(self) -> tuple[object, ...]:
        """What a sweep depends on besides the tensors it reads."""
        return type(self), self.d_c, self.d_h, self.d_in, self._recurrent, self._shapes, self._names

    def bare(self) -> Self:
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor) or name == "_given":
                setattr(other, name, None)
        other._shapes = tuple(value.shape[1:] for value in self.by_step())
        other._names = tuple(name for name in self._constant if getattr(self, name) is not None)
        return other

    def unpacked(self, packed: Tensor) -> tuple[list[Tensor], Tensor]:
        """What ``by_step`` returned, flattened side by side, and what stands beside it."""
        sizes = [math.prod(shape) for shape in self._shapes]
        *parts, rest = packed.split([*sizes, packed.shape[1] - sum(sizes)], 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True)], rest

    def with_tensors(self, given: Sequence[Tensor]) -> Self:
        """The bare chain with what ``by_step`` and ``constants`` returned."""
        other = copy.copy(self)
        for name, tensor in zip([*self._by_step, *self._names], given, strict=True):
            setattr(other, name, tensor)
        return other

    def direct(self, k: int) -> tuple[str, tuple[Tensor, ...]] | None:
        """D_k as ``kernels.steps.between`` takes it; None where it is more than that."""
        return "", ()

    def add_direct(self, k: int, rows: Tensor, out: Tensor) -> None:
        """Add R D_k into ``out`` (rows, S), where ``rows`` is R; columns (c) are overwritten."""

    def add_direct_matrices(self, start: int, stop: int, out: Tensor) -> None:
        """Add D_k for start <= k < stop into ``out`` (stop - start, S, S)."""

    def part(self, wrt: str, k: int, rows: Tensor) -> Tensor:
        """Row block on s_k as one on its part ``wrt``: ``c``, ``h``, or ``cell`` (c, with h following it)."""
        return rows[:, : self.d_c] if wrt == "c" else rows[:, self.d_c :]

    def part_reach(self, wrt: str, units: Tensor) -> Tensor:
        return units[: self.d_c] if wrt == "c" else units[self.d_c :]

    def full_matrices(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Whole step Jacobians ds_k/d(s_{k-1}, x_k): (stop - start, S, S + d_in).

        One product with these takes a step; for wide cells ``matrices`` and ``add_direct`` do the same
        with fewer operations, for narrow ones the fewer calls win. ``out`` is what an earlier call returned,
        to be overwritten.
        """
        if out is None:
            out = self._weight.new_zeros(stop - start, self.width, self.width + self.d_in)
        self.matrices(start, stop, out[:, :, self.d_c :])
        self.add_direct_matrices(start, stop, out[:, :, : self.width])
        return out

    @abc.abstractmethod
    def push(self, k: int, columns: Tensor, inputs: Tensor | None, out: Tensor) -> None:
        """Columns (S, m) on s_{k-1}, and (d_in, m) on x_k, to columns on s_k in ``out`` (S, m).

        ``inputs`` is None where the input does not move. One product with the weights; no step Jacobian.
        """

    @abc.abstractmethod
    def pull(self, k: int, columns: Tensor) -> Tensor:
        """Columns (S, m) on s_k to columns (S, m) on s_{k-1}: ``push`` transposed, without inputs."""


def dsigmoid(z: Tensor) -> Tensor:
    """sigma'(z)."""
    return torch.sigmoid(z) * torch.sigmoid(-z)


def dtanh(z: Tensor) -> Tensor:
    """tanh'(z)."""
    return 4 * dsigmoid(2 * z)


def over(a: Tensor, b: Tensor) -> Tensor:
    """a / |b|; large where b is 0."""
    return a / b.abs().clamp_min(torch.finfo(b.dtype).tiny)


def combined(terms: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Relative errors (n, d) of sums of independent terms: slopes, their errors, norms of their factors."""
    # below the range of floats digits are lost
    least = torch.finfo(terms[0][0].dtype).tiny
    error = torch.stack([((off + least) * norm).square() for _, off, norm in terms]).sum(0)
    return over(error.sqrt(), sizes(terms))


def sizes(terms: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Root of the sum of the squares of terms: (n, d)."""
    return torch.stack([(slope * norm).square() for slope, _, norm in terms]).sum(0).sqrt()
