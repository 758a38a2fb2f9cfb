r"""A call of torch's recurrent kernels inside a forward: rows pulled through every layer, from and to its
states.

    outputs  out (n, directions d_h), h_n, c_n (layers directions, d)      inputs  x (n, d_in), h_0, c_0

So a state handed from one recurrence to another, or only the last state in use, keeps exponents too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled, added
from depprobe.operators.calls import KnownCall, LinearisedCall, reads
from depprobe.operators.chain.cells import CellChain
from depprobe.operators.chain.linearised import KERNELS, RecurrentWeights
from depprobe.operators.chain.vjp_rows import pull


class RecurrentCall(LinearisedCall):
    """One call at its inputs: x (n, d_in), and the states before step 0 (layers directions, width)."""

    def __init__(self, weights: RecurrentWeights, x: Tensor, *states: Tensor) -> None:
        self._weights, self._x, self._states = weights, x, states

    @cached_property
    def _layers(self) -> list[list[CellChain]]:
        return self._weights.chains(self._x, *self._states)

    def pull(self, rows: Sequence[Scaled], live: Sequence[Tensor]) -> list[tuple[Scaled, Tensor]]:
        """Rows on (out, h_n[, c_n]) as rows on (x, h_0[, c_0])."""
        out, *final = rows
        both = self._weights.both
        before: list[list[Scaled]] = [[] for _ in final]
        for depth in reversed(range(len(self._layers))):
            cells = self._layers[depth]
            places = [depth * len(cells) + direction for direction in range(len(cells))]
            last = [_joined(cell, final, place) for cell, place in zip(cells, places, strict=True)]
            out, initial = pull(cells, out, last)
            for cell, state in zip(reversed(cells), reversed(initial), strict=True):
                parts = (state.values[:, cell.d_c :], state.values[:, : cell.d_c])
                for found, part in zip(before, parts, strict=False):
                    found.insert(0, Scaled(part[:, None], state.log_scale[:, None]))
        any_state = torch.stack([alive.any(1) for alive in live[1:]]).any(0)
        last_state = torch.zeros_like(live[0])
        last_state[:, -1] = any_state
        alive = live[0] | last_state
        if both:
            reach = alive.any(1, keepdim=True).expand_as(alive)
        else:
            reach = alive.flip(1).cummax(1).values.flip(1)
        every = alive.any(1, keepdim=True)
        pulled = [(out, reach)]
        for states in before:
            values, scale = (torch.cat(part, 1) for part in zip(*states, strict=True))
            pulled.append((Scaled(values, scale), every.expand(-1, values.shape[1])))
        return pulled


def _joined(cell: CellChain, final: Sequence[Scaled], place: int) -> Scaled:
    """Rows on the last (h[, c]) of one layer and direction as rows on its state, columns (c, h)."""
    parts = [Scaled(rows.values[:, place], _at(rows.log_scale, place)) for rows in final]
    wide = [
        Scaled(torch.nn.functional.pad(part.values, pad), part.log_scale)
        for part, pad in zip(parts, ((cell.d_c, 0), (0, cell.d_h)), strict=False)
    ]
    return wide[0] if len(wide) == 1 else added(*wide)


def _at(log_scale: Tensor, place: int) -> Tensor:
    """Exponents (r, 1) at one position."""
    return log_scale[:, place if log_scale.shape[1] > 1 else 0]


def _read(kind: str, x: Tensor, *arguments: Any) -> KnownCall | None:
    """A call as torch makes it: x, [batch sizes of a packed sequence,] states, weights, options."""
    sizes = [part for part in arguments[:1] if isinstance(part, Tensor) and part.dtype == torch.int64]
    hx, flat, *options = arguments[len(sizes) :]
    biased, depth, dropout, training, both = options[:5]
    axis = 1 if options[5:] == [True] else 0
    # one sequence at a time, whether in a batch or packed
    single = bool((sizes[0] == 1).all()) if sizes else x.ndim == 3 and x.shape[1 - axis] == 1
    if not single or (dropout and training):
        return None
    states = list(hx) if kind == "lstm" else [hx]

    def run(x: Tensor, *states: Tensor) -> Any:
        return KERNELS[kind](x, *sizes, states if kind == "lstm" else states[0], flat, *options)

    axes = [axis] + [0] * len(states)
    weights = RecurrentWeights.of_call(kind, flat, biased, depth, both)
    return KnownCall([x, *states], axes, run, axes, lambda inputs: RecurrentCall(weights, *inputs), flat)


for _kind, _kernel in KERNELS.items():
    reads(_kernel)(partial(_read, _kind))
