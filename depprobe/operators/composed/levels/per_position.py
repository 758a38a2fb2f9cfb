r"""Levels that mix no positions: only J[t,t] is not zero.

    elementwise     R_t -> R_t * phi'(x_t)
    matrix          R_t -> R_t W
    any other f     R_t -> R_t df/dx_t,  by vector-Jacobian products

Shapes: rows R (P, r, d_out), x (n, d), W (d_out, d). A block that is zero stays zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from depprobe.core.rows import Rows
from depprobe.operators.composed.levels.level import Level, Positions


class PerPosition(Level):
    """A level that mixes no positions."""

    def support(self, where: Positions) -> Positions:
        """The positions themselves."""
        return where

    def window(self) -> tuple[int, int] | None:
        """No other position."""
        return (0, 0)

    def is_closed(self) -> bool:
        """Nothing moves."""
        return True


class Elementwise(PerPosition):
    """y = phi(x) entry by entry; ``slope`` takes some positions of x (P, d) to phi'(x) there."""

    def __init__(self, slope: Callable[[Tensor], Tensor], x: Tensor, piecewise: bool) -> None:
        self.slope, self.x, self.width, self.piecewise = slope, x, x.shape[1], piecewise

    def zeros_are_exact(self) -> bool:
        """Where slopes are cut off at zero, or none of them is zero."""
        return self.piecewise or bool((self.slope(self.x) != 0).all())

    def pull(self, rows: Rows) -> Rows:
        """Rows times the slopes."""
        return rows._replace(values=rows.values * self.slope(self.x[rows.where])[:, None]).settled()


class Matrix(PerPosition):
    """y_t = W x_t + b."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.width, self.work = weight, weight.shape[1], float(weight.numel())

    def is_shift_invariant(self) -> bool:
        """One matrix for all positions."""
        return True

    def pull(self, rows: Rows) -> Rows:
        """Rows times the matrix."""
        return rows._replace(values=rows.values @ self.weight).settled()


class EachPosition(PerPosition):
    """y_t = f(x_t) with any f that reads one position, such as a layer norm."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.function, self.x, self.width = function, x, x.shape[1]
        self.work = 8.0 * self.width

    def zeros_are_exact(self) -> bool:
        """No: it rounds on its way."""
        return False

    def pull(self, rows: Rows) -> Rows:
        """One vector-Jacobian product over the positions that carry anything, for each row."""
        with torch.enable_grad():
            leaf = self.x[rows.where].requires_grad_()
            y = self.function(leaf)
            (pulled,) = torch.autograd.grad(
                y, leaf, rows.values.transpose(0, 1), is_grads_batched=True, materialize_grads=True
            )
        return rows._replace(values=pulled.transpose(0, 1)).settled()
