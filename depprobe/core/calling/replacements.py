r"""Which inputs an output ignores, found by replacing them.

    y_t(x with x_k replaced for all k in G) = y_t(x) to the bit, five times   =>   y_t ignores every k in G

Three replacements are unrelated, one of them large: it takes a saturated unit out of saturation, as do its
opposite and its neighbour's. Many inputs are replaced at once (group testing), the future and the past first,
then halves of them, so that a causal or banded module is settled in a few passes.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from depprobe.core.recorded_graph import graph_facts

if TYPE_CHECKING:
    from depprobe.core.function import SequenceFunction

#: groups that are tried for one output
_TRIES = 24


class Replacements:
    """The replacements of one function's input, and what they have shown so far.

    Parameters
    ----------
    function : deterministic at its x.
    """

    def __init__(self, function: SequenceFunction) -> None:
        self._function = function
        self._unchanged: dict[bytes, Tensor] = {}
        x = function.x
        leaf, y = function.record(nullcontext())
        narrowest = graph_facts(y, leaf).narrowest
        self._y = y.detach()
        draw = torch.Generator().manual_seed(0)
        draws = torch.randn(3, *x.shape, generator=draw, dtype=torch.float64, device="cpu")
        # cubes of the largest stay in range in the narrowest dtype on the way, squares below masks of float32
        widest = min(torch.finfo(dtype).max for dtype in (narrowest, torch.float32))
        factors = (7.0, -0.01, widest**0.3)
        shifts = (3.0, -0.03, 0.0)
        self._values = [
            (factor * draw + shift).to(x) for factor, shift, draw in zip(factors, shifts, draws, strict=True)
        ]
        # of a large value and its opposite one scores high in attention, and opens a gate
        large = self._values[-1]
        self._values += [-large, large.roll(1, 0)]
        self._finite = self._y.isfinite().all(1)

    def ignores(self, t: int, sources: Tensor) -> Tensor:
        """For each source, whether output t is proved to ignore it: bool, of the same length."""
        result = torch.zeros(len(sources), dtype=torch.bool, device=sources.device)
        if not bool(self._finite[t]):
            return result  # what is infinite stays so whatever was replaced
        every = torch.arange(len(sources), device=sources.device)
        queue = [part for part in (every[sources > t], every[sources <= t]) if len(part)]
        with self._function.held():
            for _ in range(_TRIES):
                if not queue:
                    break
                part = queue.pop(0)
                if self._keeps(t, sources[part]):
                    result[part] = True
                elif len(part) > 1:
                    queue.extend(part.chunk(2))
        return result

    def _keeps(self, t: int, group: Tensor) -> bool:
        key = group.cpu().numpy().tobytes()
        if key not in self._unchanged:
            x = self._function.x
            same = self._finite.clone()
            for value in self._values:
                changed = x.clone()
                changed[group] = value[group]
                try:
                    y = self._function(changed)
                except ValueError:  # what the module does not take proves nothing
                    same[:] = False
                    break
                same &= (y == self._y).all(1) if y.shape == self._y.shape else False
                if not bool(same[t]):
                    break
            else:
                self._unchanged[key] = same
            return bool(same[t])
        return bool(self._unchanged[key][t])
