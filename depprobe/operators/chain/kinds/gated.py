"""What recurrences with gates can tell of them."""

from __future__ import annotations

import torch
from torch import Tensor

from depprobe.operators.chain.cells import CellChain


class GatedChain(CellChain):
    """``z`` are the gates' arguments, (gates, n, d)."""

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
