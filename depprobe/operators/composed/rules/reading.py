r"""A traced forward read as a line: convolutions and what acts on each position, one on another.

    y  --views-->  f_L  --views-->  ...  --views-->  f_1  --views-->  x,     f_l one known function, or a sum

Each place on the way has a time axis; views between two calls change neither the order of positions nor that
of features, which a row of ordinal numbers shows. A sum of two branches goes on where they first meet.
Anything else is no line, and is left to the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from depprobe.operators.composed.cut import Edge, edge_of, flat
from depprobe.operators.composed.pieces.views import axis_below, below_view
from depprobe.operators.composed.rules.levels import Conv, EachPosition, Elementwise, Level, Matrix, Residual
from depprobe.operators.composed.tracing.registered import OperatorCall
from depprobe.operators.composed.tracing.trace import Note, Tracer, noted_functions
from depprobe.operators.convolution.operator import ToeplitzJacobian
from depprobe.operators.convolution.taps import Taps

#: noted calls beyond which a forward is not looked at
_MOST = 500


class NoLine(Exception):
    """The forward is no line of known calls."""


class Place(NamedTuple):
    """A tensor on the way: its place in the graph, shape and time axis."""

    edge: Edge
    shape: torch.Size
    axis: int


def read_line(tracer: Tracer, leaf: Tensor, y: Tensor) -> list[Level] | None:
    """The levels from x (n, d) to y (n_out, d_out), bottom first; None where the forward is no line.

    To be read before anything else hooks into the graph.
    """
    bottom, top = edge_of(leaf), edge_of(y)
    if tracer.hooked or top is None or bottom is None:
        return None
    if not 0 < len(tracer.notes) + len(tracer.cuts) < _MOST:
        return None
    try:
        with torch.enable_grad():
            places = _Reader(tracer, bottom).way(Place(top, y.shape, 0))
    except (NoLine, LookupError):  # a call of another form than torch's own modules make
        return None
    finally:
        tracer.notes.clear()
    found = [level for level, _ in places if level is not None]
    return found[::-1] if any(isinstance(level, Conv | Residual) for level in found) else None


class _Reader:
    def __init__(self, tracer: Tracer, bottom: Edge) -> None:
        self._tracer, self._bottom = tracer, bottom
        self._steps: dict[Place, tuple[Level | None, Place]] = {}

    def way(self, place: Place) -> list[tuple[Level | None, Place]]:
        """Steps from a place down to x: what is passed, None for a view, and the place below."""
        found: list[tuple[Level | None, Place]] = []
        while place.edge != self._bottom:
            if place not in self._steps:
                self._steps[place] = self._step(place)
            found.append(self._steps[place])
            place = found[-1][1]
        return found

    def _step(self, place: Place) -> tuple[Level | None, Place]:
        note, cut = self._tracer.notes.get(place.edge), self._tracer.owner.get(place.edge[0])
        if note is not None:
            return _READERS[note.function](self, note, place)
        if cut is None:
            return None, self._viewed(place)
        (port,) = cut.inputs if len(cut.inputs) == 1 else (None,)
        if port is None or port.edge is None or not isinstance(cut.linearised, OperatorCall):
            raise NoLine
        jacobian = cut.linearised.jacobian
        if not isinstance(jacobian, ToeplitzJacobian):
            raise NoLine
        level = Conv(jacobian.weight, jacobian.groups, jacobian.taps)
        return level, Place(port.edge, port.shape, port.axis)

    def _viewed(self, place: Place) -> Place:
        """The next place below that is not a view."""
        edge = place.edge
        while edge not in self._tracer.notes and edge[0] not in self._tracer.owner and edge != self._bottom:
            below = below_view(edge)
            if below is None:
                raise NoLine
            edge = below
        found = axis_below(*place, edge) if edge != place.edge else None
        if found is None:
            raise NoLine
        return Place(edge, *found)

    # -- calls ---------------------------------------------------------------------------------------

    def below(self, note: Note, place: Place) -> tuple[Place, Tensor]:
        """Place of the first argument, which alone may move, and its value; time as in ``place``."""
        x, edge, version = note.places[0] if note.places else (None, None, 0)
        others = [z for z in (*note.args[1:], *note.kwargs.values()) if isinstance(z, Tensor)]
        if edge is None or x is None or x is not note.args[0] or any(map(self._tracer.moves, others)):
            raise NoLine
        if x._version != version or x._backward_hooks or x.ndim != len(place.shape):
            raise NoLine
        return Place(edge, x.shape, place.axis), x.detach()

    def each_entry(self, note: Note, place: Place, piecewise: bool) -> tuple[Level, Place]:
        """An elementwise function."""
        below, x = self.below(note, place)
        known = _SLOPES.get(note.function)
        slope = partial(known, **note.kwargs) if known else _by_autograd(_applied(note))
        return Elementwise(slope, flat(x[None], below.axis)[0], piecewise), below

    def each_position(self, note: Note, place: Place) -> tuple[Level, Place]:
        """A function of the last axis, the features of a position."""
        below, x = self.below(note, place)
        rows = flat(x[None], below.axis)[0]
        features = x.shape[-1] if below.axis < x.ndim - 1 else 0
        normalised = note.args[1] if note.function in (F.layer_norm, F.rms_norm) else [features]
        dim = note.kwargs.get("dim", note.args[1] if len(note.args) > 1 else None)
        if rows.shape[1] != features or list(normalised) != [features]:
            raise NoLine
        if note.function in _SOFTMAX and dim not in (-1, x.ndim - 1):
            raise NoLine
        return EachPosition(_applied(note), rows), below

    def channels(self, note: Note, place: Place) -> tuple[Level, Place]:
        """A norm with the channels of (positions, channels) or (1, channels, positions) on axis 1."""
        below, x = self.below(note, place)
        rows = flat(x[None], below.axis)[0]
        if below.axis == 1 or x.ndim > 3 or rows.shape[1] != x.shape[1]:
            raise NoLine
        if note.function is F.group_norm:
            if x.ndim != 2:
                raise NoLine
            return EachPosition(_applied(note), rows), below
        if note.kwargs.get("training", True):
            raise NoLine
        return Elementwise(_by_autograd(_applied(note)), rows, True), below

    def matrix(self, note: Note, place: Place) -> tuple[Level, Place]:
        """``F.linear``."""
        below, x = self.below(note, place)
        weight = note.args[1].detach()
        if below.axis == x.ndim - 1 or weight.shape[1] != x.numel() // x.shape[below.axis]:
            raise NoLine
        return Matrix(weight), below

    def convolution(self, note: Note, place: Place) -> tuple[Level, Place]:
        """``conv1d``, with the padding right below it."""
        below, x = self.below(note, place)
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, note.args, strict=False)) | dict(note.kwargs)
        weight, groups = given["weight"].detach(), given.get("groups", 1)
        stride, dilation = (_one(given.get(name, 1)) for name in ("stride", "dilation"))
        if place.axis != len(place.shape) - 1 or place.shape[:-2].numel() != 1:
            raise NoLine
        kernel, padding = weight.shape[2], given.get("padding", 0)
        span = dilation * (kernel - 1)
        if padding == "same":
            pad = span // 2, span - span // 2
        else:
            pad = (0, 0) if padding == "valid" else (_one(padding),) * 2
        mode = "zeros"
        above = self._tracer.notes.get(below.edge)
        if above is not None and above.function is F.pad:
            below, x = self.below(above, place)
            left, right, *rest = above.args[1] if len(above.args) > 1 else above.kwargs["pad"]
            mode = above.kwargs.get("mode", above.args[2] if len(above.args) > 2 else "constant")
            mode = "zeros" if mode == "constant" else mode
            if any(rest) or min(left, right) < 0 or (mode != "zeros" and any(pad)):
                raise NoLine
            pad = pad[0] + left, pad[1] + right
        return Conv(weight, groups, Taps(kernel, stride, dilation, pad, mode, x.shape[-1])), below

    def sum(self, note: Note, place: Place) -> tuple[Level | None, Place]:
        """A sum with a constant, or of two branches."""
        moving = [(x, edge) for x, edge, _ in note.places if edge is not None and self._moves(x, edge)]
        if any(name != "alpha" or value != 1 for name, value in note.kwargs.items()):
            raise NoLine
        if any(x.shape != place.shape or x._backward_hooks for x, _ in moving) or not moving:
            raise NoLine
        if len(moving) == 1:
            return None, Place(moving[0][1], place.shape, place.axis)
        one, other = (Place(edge, place.shape, place.axis) for _, edge in moving)
        ways = [[(None, one), *self.way(one)], [(None, other), *self.way(other)]]
        met = next(p for _, p in ways[0] if any(p == q for _, q in ways[1]))
        branches: list[list[Level]] = []
        for way in ways:
            end = [p for _, p in way].index(met) + 1
            branches.append([level for level, _ in reversed(way[:end]) if level is not None])
        width = met.shape.numel() // met.shape[met.axis]
        return Residual(branches[0], branches[1], width), met

    def _moves(self, x: Tensor, edge: Edge) -> bool:
        return edge == self._bottom or edge[0] in self._tracer.owner or self._tracer.moves(x)


def _one(value: Any) -> int:
    return int(value[0]) if isinstance(value, (tuple, list)) else int(value)


def _applied(note: Note) -> Callable[[Tensor], Tensor]:
    """The call on another first argument, out of place."""
    kwargs = {name: value for name, value in note.kwargs.items() if name != "inplace"}
    rest = [z.detach() if isinstance(z, Tensor) else z for z in note.args[1:]]
    function = note.function  # the note holds the graph
    return lambda z: function(z.clone(), *rest, **kwargs)


def _by_autograd(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def slope(z: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = z.detach().clone().requires_grad_()
            # entries do not mix: the sum's gradient is the slopes
            (found,) = torch.autograd.grad(function(leaf).sum(), leaf)
        return found

    return slope


def _slope_of_sigmoid(z: Tensor) -> Tensor:
    return z.sigmoid() * (-z).sigmoid()


def _slope_of_tanh(z: Tensor) -> Tensor:
    # 1 - tanh^2 would round to zero long before it underflows
    return 4 * _slope_of_sigmoid(2 * z)


def _slope_of_gelu(z: Tensor, approximate: str = "none") -> Tensor:
    # 1 + erf and 1 + tanh round to zero below -6 in float32 and -8 in float64, the slopes below -40
    z = z.clamp(-40, 40)
    if approximate == "none":
        return 0.5 * (-z / math.sqrt(2)).erfc() + z * (-0.5 * z * z).exp() / math.sqrt(2 * math.pi)
    u, slope = 1 + 0.044715 * z * z, 1 + 3 * 0.044715 * z * z
    twice = 2 * math.sqrt(2 / math.pi)
    return (twice * u * z).sigmoid() + twice * slope * z * _slope_of_sigmoid(twice * u * z)


def _named(names: str) -> list[Any]:
    """Functions and methods of torch of these names."""
    homes = torch, F, Tensor
    return [getattr(home, name) for name in names.split() for home in homes if hasattr(home, name)]


_SLOPES = dict.fromkeys(_named("sigmoid sigmoid_"), _slope_of_sigmoid)
_SLOPES |= dict.fromkeys(_named("tanh tanh_"), _slope_of_tanh)
_SLOPES |= dict.fromkeys(_named("gelu"), _slope_of_gelu)
_SOFTMAX = _named("softmax log_softmax")
#: slopes of these are zero only where they are cut off, never by underflow
_PIECEWISE = _named(
    "relu relu_ relu6 leaky_relu leaky_relu_ hardtanh hardtanh_ threshold _threshold threshold_ hardshrink "
    "softshrink hardsigmoid"
)
_SMOOTH = _named(
    "tanh tanh_ sigmoid sigmoid_ gelu silu elu elu_ selu selu_ celu celu_ mish softplus softsign logsigmoid "
    "tanhshrink hardswish"
)
_READERS: dict[Any, Callable[[_Reader, Note, Place], tuple[Level | None, Place]]] = {
    **dict.fromkeys(_PIECEWISE, partial(_Reader.each_entry, piecewise=True)),
    **dict.fromkeys(_SMOOTH, partial(_Reader.each_entry, piecewise=False)),
    **dict.fromkeys([F.layer_norm, F.rms_norm, *_SOFTMAX], _Reader.each_position),
    **dict.fromkeys([F.group_norm, F.batch_norm], _Reader.channels),
    **dict.fromkeys(_named("conv1d"), _Reader.convolution),
    **dict.fromkeys(_named("add add_ __add__ __iadd__ __radd__"), _Reader.sum),
    F.linear: _Reader.matrix,
}
noted_functions.update(_READERS, [F.pad])
