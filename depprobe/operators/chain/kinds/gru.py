r"""Step Jacobians of the gated recurrent unit: the update gate z carries h past the weights.

    M = diag(dh/dz_r) W_r + diag(dh/dz_z) W_z + diag(dh/dz_n) [r W_hn | W_in],   D: z
    push   Q' = z * Q + a_r (W_r V) + a_z (W_z V) + a_h (W_hn Q) + a_x (W_in U),   V = (Q, U)
    pull   z G + W_r^T (a_r G) + W_z^T (a_z G) + W_hn^T (a_h G)

The a are the slopes of the gates at step k. dh/dz_z holds h_{k-1} - n, n = tanh(y), which cancels where both
are near 1 or -1; what each lacks of it, 1 - h and 2 sigma(-2 y), floats hold. It errs by
n' e_y + 3 min(|n|, 1 - |n|).

Shapes: Q, G (d, m), U (d_in, m). Source: Cho et al. 2014; torch.nn.GRU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from depprobe.operators.chain.cells import (
    CellWeights,
    combined,
    dsigmoid,
    dtanh,
    over,
)
from depprobe.operators.chain.kinds.gated import GatedChain

#: |y| from which on h - tanh(y) is taken from what each lacks of 1: tanh is a half there
_HALF = 0.55


class GRUChain(GatedChain):
    """Gated recurrent unit."""

    gates, keeper = ("r", "z", "n"), "z"
    _by_step = ("_slopes", "_keep")

    def __init__(self, weights: CellWeights, x: Tensor, h: Tensor, before: Tensor, _: Tensor) -> None:
        super().__init__(weights, x, h, before)
        from_x, from_h = weights.preactivations(x, before)
        xr, xz, xn = from_x.chunk(3, 1)
        hr, hz, self._hn = from_h.chunk(3, 1)
        r, z = xr + hr, xz + hz
        new = xn + torch.sigmoid(r) * self._hn
        self._z, self._keep = torch.stack([r, z, new]), torch.sigmoid(z)
        slope = torch.sigmoid(-z) * dtanh(new)
        reset, update = slope * self._hn * dsigmoid(r), _minus_tanh(before, new) * dsigmoid(z)
        self._slopes = torch.stack([reset, update, slope, slope * torch.sigmoid(r)], 1)
        self._weight = weights.stacked(3)

    def matrices(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        reset, update, new_x, new_h = self._slopes[start:stop, :, :, None].unbind(1)
        W, left = self._weight, self._recurrent
        M = torch.mul(reset, W[0], out=out)
        M.addcmul_(update, W[1])
        M[:, :, :left].addcmul_(new_h, W[2, :, :left])
        M[:, :, left:].addcmul_(new_x, W[2, :, left:])
        return M

    def row_errors(self) -> Tensor:
        reset, update, new_x, new_h = self._slopes.abs().unbind(1)
        (xr, xz, xn), (hr, hz, hn) = (part.chunk(3, 1) for part in self.argument_errors())
        of_r, of_z = xr + hr, xz + hz
        r, z, new = self._z
        n = new.tanh().abs()
        of_new = xn + torch.sigmoid(r) * (hn + self._hn.abs() * (of_r + 2)) + new.abs()
        apart = dtanh(new) * of_new + 3 * torch.minimum(n, 1 - n)
        slope = of_z + 2 * of_new + 5
        hh, ih = (norms.chunk(3) for norms in self.weight_norms())
        return combined(
            [
                (reset, reset * (slope + of_r + 3) + over(reset * hn, self._hn), hh[0].hypot(ih[0])),
                (update, update * (of_z + 4) + dsigmoid(z) * apart, hh[1].hypot(ih[1])),
                (new_x, new_x * slope, ih[2]),
                (new_h, new_h * (slope + of_r + 2), hh[2]),
                (self._keep, self._keep * (of_z + 2), torch.ones_like(hh[0])),
            ]
        )

    def direct(self, k: int) -> tuple[str, tuple[Tensor, ...]] | None:
        return "gru", (self._keep[k],)

    def add_direct(self, k: int, rows: Tensor, out: Tensor) -> None:
        out.addcmul_(rows, self._keep[k])

    def add_direct_matrices(self, start: int, stop: int, out: Tensor) -> None:
        out.diagonal(dim1=1, dim2=2).add_(self._keep[start:stop])

    def reach(self, k: int, units: Tensor) -> tuple[Tensor, Tensor]:
        found = self._links[units].any(0)
        return found[: self.d_h] | units, found[self.d_h :]

    def push(self, k: int, columns: Tensor, inputs: Tensor | None, out: Tensor) -> None:
        reset, update, new_x, new_h = self._slopes[k, :, :, None]
        read = columns if inputs is None else torch.cat([columns, inputs])
        moved = (self._weight[:2].flatten(0, 1)[:, : len(read)] @ read).unflatten(0, (2, -1))
        torch.mul(columns, self._keep[k, :, None], out=out)
        out.addcmul_(reset, moved[0]).addcmul_(update, moved[1])
        out.addcmul_(new_h, self._weight[2, :, : self.d_h] @ columns)
        if inputs is not None:
            out.addcmul_(new_x, self._weight[2, :, self.d_h :] @ inputs)

    def pull(self, k: int, columns: Tensor) -> Tensor:
        reset, update, _, new_h = self._slopes[k, :, :, None]
        weight = self._weight[:, :, : self.d_h].flatten(0, 1)
        stacked = torch.cat([reset * columns, update * columns, new_h * columns])
        return torch.addcmul(weight.T @ stacked, self._keep[k, :, None], columns)


def _minus_tanh(h: Tensor, y: Tensor) -> Tensor:
    one = y.sign()
    return torch.where(y.abs() < _HALF, h - torch.tanh(y), h - one + 2 * one * torch.sigmoid(-2 * y.abs()))
