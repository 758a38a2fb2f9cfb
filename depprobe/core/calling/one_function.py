r"""Whether a module is one function of one sequence, and in which layout.

Deterministic: two passes give one output. One sequence: a sample has no derivative in its neighbour in the
batch. One layout: where (n, d) runs too and gives another result than (1, n, d), the call is refused. Where
code of the user's sees gradients, what it makes of them is linear, as derivatives are:

    P(u + v) = P(u) + P(v),   P(s u) = s P(u)  for s = -1, 2^k, 2^-k:    P a vector-Jacobian product

Powers of two round nothing, and reach far beyond what rows are scaled to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.core.calling.arguments import HALF
from depprobe.core.calling.known import CHANNELS_FIRST, natural_layout
from depprobe.core.calling.layout import batch_axis, laid_out, time_first
from depprobe.core.calling.passes import DoesNotRun, Pass, Passes
from depprobe.core.recorded_graph import coarsest
from depprobe.errors import BadInput, OverBudget

#: positions of a shorter input, over which layout and batch are tried
_SHORT = 17
#: epsilons, of the largest output, by which kernels may differ between two passes; and with 16 bits
_ROUNDING, _ROUNDING_HALF = 1e4, 16.0
#: relative to the largest entry, by which sums of gradients, which may cancel, and multiples may differ
_SUMS, _MULTIPLES = 1e-2, 1e-4
#: share of all positions whose pass shows what passes over first positions lose
_TELLING = 0.6
#: share of the range of exponents by which gradients are scaled
_FAR = 0.3


def found_layout(passes: Passes, is_known: bool) -> tuple[str, Pass, bool]:
    """The layout of a module for which none was stated, a pass in it, and whether it is known to repeat.

    Raises ``BadInput``: it runs in none, or in two with different results.
    """
    module = passes.module
    natural = natural_layout(module)
    _refuse_square(passes, natural, is_known)
    errors: list[DoesNotRun] = []
    for layout in dict.fromkeys([natural or "b n d", "b n d", "n d"]):
        try:
            recorded = passes.one_pass(layout)
        except DoesNotRun as error:
            errors.append(error)
            continue
        repeats = layout == "b n d" and natural is None and _runs_alone(passes, recorded)
        return layout, recorded, repeats
    raise errors[0]


def _runs_alone(passes: Passes, recorded: Pass) -> bool:
    """Whether x without a batch gives the same as with one; raises ``BadInput`` where it does not."""
    few, first = _shorter(passes, "b n d", recorded)
    if not first.has_time and first.y.shape[1] != len(few.argument.value):
        # as many numbers as positions are then no such vector, wherever that is said to sit
        few = few.but(per_position=None)
    try:
        alone = few.one_pass("n d").y
    except OverBudget:
        raise
    except BadInput:
        return False  # it takes batches only
    if same_output(first.y, alone, roughly=True):
        return True
    _require_repeatable(passes, "b n d", recorded)
    shape = tuple(passes.argument.value.shape)
    raise BadInput(
        f"{passes.who} runs on {(1, *shape)} and on {shape} with different results; say which is "
        "meant: layout='b n d' or layout='n d'"
    )


def _refuse_square(passes: Passes, natural: str | None, is_known: bool) -> None:
    """Where n = d, a module that holds layers of channels first may take time for them without a word."""
    value = passes.argument.value
    if value.ndim != 2 or value.shape[0] != value.shape[1]:
        return
    module = passes.module
    first = next(iter(module.children()), module) if isinstance(module, nn.Sequential) else module
    if natural == "b d n" and is_known and natural_layout(first) == "b d n":
        return
    child = next((child for child in module.modules() if isinstance(child, CHANNELS_FIRST)), None)
    own = type(module).__module__.startswith("depprobe.")
    if child is not None and type(child).__module__.startswith("torch.") and not own:
        raise BadInput(
            f"x is {tuple(value.shape)} and {passes.who} holds {type(child).__name__}, which reads "
            "(batch, channels, time): both orders would run; say layout='b n d' or layout='b d n', "
            "or use n != d"
        )


def require_function(passes: Passes, layout: str, first: Pass, repeats: bool, stated: bool) -> None:
    """Refuse a module whose output at x is random, or depends on what else is in the batch; by a derivative
    only, where the layout was ``stated``.

    Raises ``BadInput``: naming which.
    """
    kept = keeps_beside_another(passes, layout, first, stated)
    if kept:
        return
    if kept is False or not repeats:
        _require_repeatable(passes, layout, first)
    if kept is False:
        axis = batch_axis(layout)
        raise BadInput(
            f"{passes.who} does not take (batch, n, d) in layout {layout!r}: the output of a "
            f"sample changes with the one before it, so axis {axis} is no batch to it (time first, as where "
            "parts lack batch_first=True, or statistics over the batch); state "
            + ("another layout" if stated else f"layout={layout!r} if it is one, or another layout")
            + ", such as 'n b d' or 'n d'"
        )


def _require_repeatable(passes: Passes, layout: str, first: Pass) -> None:
    if not same_output(first.y, passes.one_pass(layout, first.leaf).y):
        raise BadInput(
            f"{passes.who} gives two outputs at one x, so rows would come from different functions: it "
            "draws random numbers, or keeps something between calls outside the module"
        )


def _shorter(passes: Passes, layout: str, first: Pass) -> tuple[Passes, Pass]:
    """Calls with the first positions of a long x, which show layout and batch as well, and one of them."""
    value = passes.argument.value
    if len(value) < 4 * _SHORT:
        return passes, first
    few = passes.cropped(_SHORT + (value.ndim == 2 and value.shape[1] == _SHORT))
    if few is None:
        return passes, first
    try:
        return few, few.one_pass(layout)
    except OverBudget:
        raise
    except BadInput:
        return passes, first  # it takes sequences of this length only


def keeps_beside_another(passes: Passes, layout: str, first: Pass, stated: bool) -> bool | None:
    """Whether the output at x stays the same in a batch, behind another sample, or has no derivative in that
    if the layout was ``stated``; None where that cannot be.
    """
    axis = batch_axis(layout)
    if axis is None or passes.of != "output":
        return None
    passes, first = _shorter(passes, layout, first)
    value = passes.argument.value
    other = value.flip(0) + 1 if value.is_floating_point() else value.flip(0)
    given = torch.cat([laid_out(one, layout) for one in (other, value)], axis)
    try:
        both, together = passes.batch_of_two(layout, given)
    except OverBudget:
        raise
    except BadInput:
        return None  # it takes one sample at a time, and then nothing can mix
    if together.ndim not in (1, 2, 3):
        return None  # a number for the whole batch; or it is made for one sample
    place = axis if together.ndim == 3 else 0
    if together.shape[place] == 1:
        # one that reads the first sample alone does not mix; the last position of time first does
        _, swapped = passes.batch_of_two(layout, given.roll(1, axis))
        alone = time_first(swapped, layout, "it")[0]
        return None if same_output(first.y, alone, roughly=True) else False
    if together.shape[place] != 2:
        return False
    try:
        y, _ = time_first(together.narrow(place, 1, 1), layout, "it")
    except BadInput:
        return None
    if same_output(first.y, y) or same_output(first.y, y.T):
        return True
    if stated and not _reaches(passes, together.select(place, 1), both, axis):
        return True
    # what is chaotic, or coarse inside, rounds otherwise in a batch of two, and then goes elsewhere from its
    # first steps on, but to the bit the same way behind a copy of itself
    _, twin = passes.batch_of_two(layout, torch.cat([laid_out(value, layout)] * 2, axis))
    beside_itself = torch.equal(twin.narrow(place, 1, 1), together.narrow(place, 1, 1))
    return beside_itself and same_output(first.y[:1], y[:1], roughly=True)


def _reaches(passes: Passes, second: Tensor, both: Tensor, axis: int) -> bool:
    """Whether the second sample's output has, as far as can be told, a derivative in the first of both.

    Where samples only decide together, how many steps are taken, say, it has none, and J at one is as it is.
    """
    if not both.requires_grad:  # ids
        return True
    if not second.requires_grad:
        return False
    try:
        with passes.held():
            (found,) = torch.autograd.grad(second, both, second.detach().cos(), materialize_grads=True)
    except Exception:  # of whatever kind code of the user's raises
        return True
    return bool(found.select(axis, 0).any())


def same_output(y: Any, other: Any, roughly: bool = False) -> bool:
    """Whether two outputs are equal but for rounding, which is that of the coarsest dtype on the way to y if
    ``roughly`` is asked for.
    """
    if y.shape != other.shape:
        return False
    found, beside = y.detach(), other.detach()
    size = float(found.abs().nan_to_num(0, 0, 0).max()) if y.numel() else 0.0

    def within(dtype: torch.dtype) -> bool:
        apart = (_ROUNDING_HALF if dtype in HALF else _ROUNDING) * torch.finfo(dtype).eps
        return torch.allclose(found, beside, 0, apart * size, equal_nan=True)

    # all of a graph is looked through only where it matters
    return within(y.dtype) or (roughly and within(coarsest(y)))


#: see ``Prefixes.serve``
Gradient = Callable[[Tensor, int | None], Sequence[Tensor] | None]


class Prefixes:
    """Whether passes over first positions, whose outputs are those of the whole, have its gradients too.

    A module may detach, or scale gradients, by how long its input is: the more, the shorter it is, while the
    shortest show the least of it. So the shortest pass that is used is compared, and one of a telling length.
    """

    def __init__(self) -> None:
        self._compared: dict[int, bool] = {}

    def serve(self, y: Tensor, length: int, gradient: Gradient) -> bool:
        """Whether a pass over so many of the positions of y (n, d_out) may stand for the whole.

        Parameters
        ----------
        y, length : the outputs, and how many of them.
        gradient : of some first outputs, from a cotangent on them and from a pass over so many positions
            (None: over all), in these positions; None where that pass is not to be had.
        """
        n = len(y)
        if length < min(self._compared, default=n):
            return all(self._compare(y, one, gradient) for one in (length, int(_TELLING * n)))
        return all(self._compared.values())

    def _compare(self, y: Tensor, length: int, gradient: Gradient) -> bool:
        if length not in self._compared:
            draw = torch.Generator().manual_seed(length)
            drawn = torch.randn(length, *y.shape[1:], generator=draw, dtype=torch.float64, device="cpu").to(y)
            whole, short = (gradient(drawn, among) for among in (None, length))
            same = whole is not None and short is not None
            self._compared[length] = same and all(map(same_output, short or (), whole or ()))
        return self._compared[length]


def require_linear(
    module: nn.Module, product: Callable[[Tensor], Tensor], y: Tensor, narrowest: torch.dtype
) -> None:
    """Refuse a module whose gradients are changed in a way that is not linear.

    Parameters
    ----------
    module : whose gradients they are.
    product : from a cotangent (n_out, d_out) to a gradient.
    y : the output (n_out, d_out).
    narrowest : dtype of least range on the way.

    Raises
    ------
    BadInput : they are.
    """
    draw = torch.Generator().manual_seed(0)
    u, v = (torch.randn(y.shape, generator=draw, dtype=torch.float64, device="cpu").to(y) for _ in range(2))
    of_u = product(u)
    far = 2.0 ** int(_FAR * math.log2(torch.finfo(narrowest).max))
    pairs = [(product(u + v), of_u + product(v), _SUMS)]
    pairs += [(product(s * u) / s, of_u, _MULTIPLES) for s in (-1.0, far, 1 / far)]
    if not all(_alike(found, expected, tolerance, narrowest) for found, expected, tolerance in pairs):
        raise BadInput(
            f"{type(module).__name__} changes gradients in a way that is not linear in them (a hook or a "
            "backward of its own that clips, say), so they are no derivatives; measure it without that"
        )


def _alike(found: Tensor, expected: Tensor, tolerance: float, narrowest: torch.dtype) -> bool:
    """Whether two gradients agree, as far as they are in the middle of the range of floats."""
    size = float(expected.abs().max())
    near = torch.finfo(narrowest).max ** (0.9 - _FAR)
    if not bool(found.isfinite().all()) or not 1 / near < size < near:
        return True
    return float((found - expected).abs().max()) <= tolerance * size
