r"""Calls inside a forward that an operator knows: cut out of the autograd graph and pulled through by
structure.

    rows on the outputs of a call  ->  rows on its inputs

While a user's forward runs, each call of a torch function in ``known_calls`` is shown to its reader, which
says what the call reads and how to linearise it, or that it does not serve this one. Everything else is left
to autograd.

Shapes: rows (r, n, width) on a tensor whose time axis is moved to the front and whose other axes are
flattened; live (m, n), for each of m targets the positions that may carry anything.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from depprobe.core.scaled import Scaled


class LinearisedCall(abc.ABC):
    """One call at its inputs."""

    @abc.abstractmethod
    def pull(self, rows: Sequence[Scaled], live: Sequence[Tensor]) -> list[tuple[Scaled, Tensor]]:
        """Rows and live positions on every output as rows and live positions on every input.

        Rows carry one exponent for each row and position: log_scale (r, n, 1) or broadcasting to it.
        """

    @abc.abstractmethod
    def reach(self, live: Sequence[Tensor]) -> list[Tensor]:
        """Live positions on every output as live positions on every input."""


@dataclass(frozen=True)
class KnownCall:
    """What a reader says of one call.

    Attributes
    ----------
    inputs : tensors that gradients may flow into, in the order in which ``pull`` returns rows on them.
    axes : time axis of each.
    run : the call on other tensors in the place of the inputs; a tensor, or a tuple of them.
    out_axes : time axis of each output, flattened; outputs beyond these have no pull (None: not a tensor).
    linearise : from the inputs, each (n, width), to what pulls rows.
    weights : tensors that are held fixed; where one of them depends on x, the call is left to autograd.
    reads_inputs : whether ``linearise`` reads them, so that they are to be kept as they are now.
    held : bytes of what it is linearised to, and of buffers on the way there.
    """

    inputs: list[Tensor]
    axes: list[int]
    run: Callable[..., Any]
    out_axes: list[int]
    linearise: Callable[[Sequence[Tensor]], LinearisedCall]
    weights: Sequence[Tensor | None] = ()
    reads_inputs: bool = True
    held: int = 0


#: share of the float range below 1 that exponents of rows pulled together may span at a position
_WITHIN = 0.5
#: torch function -> reader of (args, kwargs)
known_calls: dict[Callable[..., Any], Callable[..., KnownCall | None]] = {}

#: torch function of a single step -> reader; the calls of one loop are pulled through as one
known_cells: dict[Callable[..., Any], Callable[..., Any]] = {}


def reads(*functions: Callable[..., Any]) -> Callable[[Callable[..., KnownCall | None]], Any]:
    """Register a reader of the calls of torch functions; it takes their arguments."""

    def register(reader: Callable[..., KnownCall | None]) -> Callable[..., KnownCall | None]:
        for function in functions:
            known_calls[function] = reader
        return reader

    return register


def runs(scale: Tensor, spread: Tensor | None, dtype: torch.dtype) -> list[int]:
    """Sizes of runs of rows that may share the exponents of what they are pulled to.

    Rows of a run stand on the same positions, with exponents that differ by half the float range at most;
    where those of no two rows could, all rows are one run.

    Parameters
    ----------
    scale : exponents at the positions pulled from, (r, T), -inf where a row does not stand.
    spread : ln of the ratio of the largest to the smallest factor at each position pulled to.
    """
    limit = -_WITHIN * math.log(torch.finfo(dtype).tiny)
    absent, lowest = scale.isneginf(), torch.where(scale.isneginf(), math.inf, scale)
    if spread is None or not scale.numel():
        return [len(scale)]
    if float((scale.amax(0) - lowest.amin(0)).amax() + spread.amax()) <= limit:
        return [len(scale)]
    sizes, first = [1], 0
    for i in range(1, len(scale)):
        run = slice(first, i + 1)
        apart = (scale[run].amax(0) - lowest[run].amin(0)).amax() > limit
        if bool(apart | (absent[i] != absent[first]).any()):
            first = i
            sizes.append(0)
        sizes[-1] += 1
    return sizes
