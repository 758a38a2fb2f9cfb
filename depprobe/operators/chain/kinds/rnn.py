r"""Step Jacobians of the plain recurrence h_k = phi(W_hh h_{k-1} + W_ih x_k + b).

    M_k = diag(phi'(z)) W;   push: diag(phi') (W_hh Q + W_ih U),   pull: W_hh^T (phi' G)

Shapes: Q (d, m), U (d_in, m), G (d, m). Source: Elman 1990; torch.nn.RNN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from depprobe.operators.chain.cells import CellChain, CellWeights, dtanh, over


class RNNChain(CellChain):
    """Plain recurrence."""

    _by_step = ("_slope",)

    def __init__(
        self, weights: CellWeights, x: Tensor, h: Tensor, before: Tensor, _: Tensor, relu: bool = False
    ) -> None:
        super().__init__(weights, x, h, before)
        self._weight = weights.stacked(1)[0]
        from_x, from_h = weights.preactivations(x, before)
        self._z, self._relu = from_x + from_h, relu
        self._slope = (self._z > 0).to(x.dtype) if relu else dtanh(self._z)

    def matrices(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        return torch.mul(self._slope[start:stop, :, None], self._weight, out=out)

    def row_errors(self) -> Tensor:
        if self._relu:
            return torch.zeros_like(self._z)
        of_x, of_h = self.argument_errors()
        lost = torch.full_like(self._z, torch.finfo(self._z.dtype).tiny)
        return 2 * self._z.tanh().abs() * (of_x + of_h) + 3 + over(lost, self._slope)

    def reach(self, k: int, units: Tensor) -> tuple[Tensor, Tensor]:
        found = self._links[units & (self._z[k] > 0) if self._relu else units].any(0)
        return found[: self.d_h], found[self.d_h :]

    def push(self, k: int, columns: Tensor, inputs: Tensor | None, out: Tensor) -> None:
        read = columns if inputs is None else torch.cat([columns, inputs])
        torch.mm(self._weight[:, : len(read)], read, out=out)
        out.mul_(self._slope[k, :, None])

    def pull(self, k: int, columns: Tensor) -> Tensor:
        return self._weight[:, : self.d_h].T @ (self._slope[k, :, None] * columns)
