r"""Zeros behind units that are saturated: a factor that only rounded to 0.

    sigma(-100) = 3.7e-44 is 0 in float32, tanh(20) = 1 in float64:   h_t = z h_(t-1) + ..., z rounded to 0

Such a factor is not zero, though its gradient is 0 and no replacement of an earlier input shows. Where a
sigmoid or tanh on the way is at its end, the row is taken once more at x / 1024, out of saturation: what has
a gradient there is not proved to be ignored at x.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.function import SequenceFunction
from depprobe.core.recorded_graph import saturates
from depprobe.operators.autograd.products import Products

_SMALLER = 2.0**-10


class Saturation:
    """Which inputs of one function a saturated unit may hide."""

    def __init__(self, function: SequenceFunction, products: Products) -> None:
        self._function, self._products = function, products
        self._graph: tuple[Tensor, Tensor] | None = None
        self._saturated: bool | None = None

    def __getstate__(self) -> dict[str, object]:
        # a graph does not travel; it is recorded again
        return vars(self) | {"_graph": None}

    def hides(self, t: int) -> NDArray[np.bool_]:
        """Inputs (n_in,) that output t reads once x is small, where some unit is saturated at x."""
        function = self._function
        if self._saturated is None:
            self._saturated = saturates(function.record()[1])
        if not self._saturated:
            return np.zeros(function.shape[2], dtype=bool)
        if self._graph is None:
            self._graph = function.record(x=_SMALLER * function.x)
        cotangent = torch.zeros_like(function.y)
        cotangent[t] = (
            1 + torch.arange(function.shape[1], device=cotangent.device).to(cotangent) / function.shape[1]
        )
        return self._products.single(cotangent, self._graph).ne(0).any(1).cpu().numpy()
