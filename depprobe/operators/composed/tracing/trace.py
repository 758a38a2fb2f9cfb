r"""A forward pass cut at the calls that an operator knows.

    x --glue--> call --glue--> call --glue--> y

Each known call runs on detached inputs and hands on a fresh leaf, so that the autograd graph falls into
pieces of glue between calls. Nothing in the user's module is touched: calls are seen by a torch function
mode.

Source: ``torch.overrides.TorchFunctionMode``; gradient edges of ``torch.autograd.graph``.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from depprobe.core.calling.environment import lets_in
from depprobe.operators.calls import KnownCall, known_calls, known_cells
from depprobe.operators.composed.cut import Cut, Edge, Port, edge_of, flat, unseen
from depprobe.operators.composed.tracing.loops import Loops
from depprobe.operators.composed.tracing.registered import Make, shadowed

#: functions whose calls are noted, for rules that read them
noted_functions: set[Any] = set()


class Note(NamedTuple):
    """A call as it was made; ``places`` are those of its tensor arguments, with their versions then."""

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    places: list[tuple[Tensor, Edge | None, int]]


def _recomputes() -> bool:
    """Whether saved tensors are made anew when asked for, as under a checkpoint: nothing is cut there."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


class Tracer(TorchFunctionMode):
    """Cuts known calls out of the forward pass that runs inside it, but for those whose ordinal is in
    ``left``.

    Attributes
    ----------
    cuts : what was cut, in order.
    modules, make : modules with an operator of their own, and what makes it at x (n, d).
    owner : the cut that each node of an output's leaf belongs to.
    kept : the leaves that stand for outputs; the graph holds no reference that python sees.
    notes : calls of ``noted_functions``, by the place of what they returned.
    hooked : nodes whose gradients code of the user's may see, and whether as those of a tensor.
    """

    def __init__(
        self,
        left: frozenset[int] = frozenset(),
        modules: Sequence[nn.Module] = (),
        make: Make = lambda module, x: None,
    ) -> None:
        super().__init__()
        self._left, self._modules, self._make = left, modules, make
        self._shadows: Any = None
        self._start()

    def _start(self) -> None:
        self.cuts: list[Cut] = []
        self.kept: list[Tensor] = []
        self.owner: dict[Node, Cut] = {}
        self.hooked: list[tuple[Node, bool]] = []
        self.notes: dict[Edge, Note] = {}
        self._count, self._inside = 0, False
        self._loops = Loops(weakref.proxy(self))

    def __enter__(self) -> Any:
        self._start()  # a forward pass may be taken twice, and the last one counts
        self._shadows = shadowed(self._modules, self._make, self._shown)
        self._shadows.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._shadows.__exit__(*exception)
        self._shadows = None

    def _shown(self, call: KnownCall) -> Any:
        """The output of a module with an operator of its own, cut out; None where it is to run as it is."""
        ordinal = None if self._inside else self.next_ordinal()
        if ordinal is None:
            return None
        self._inside = True
        try:
            return self._cut(ordinal, call)
        finally:
            self._inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():  # for an operation of higher order, which stays whole
            return func(*args, **kwargs)
        if lets_in(func) and not self._inside:
            self.hooked.append((args[0].grad_fn, func is Tensor.register_hook))
            return func(*args, **kwargs)
        if self._inside or not torch.is_grad_enabled() or _recomputes():
            return func(*args, **kwargs)
        if func in known_cells:
            handed = self._loops.step(func, args, kwargs)
            return func(*args, **kwargs) if handed is None else handed
        reader = known_calls.get(func)
        if reader is None:
            return self._noted(func, args, kwargs) if func in noted_functions else func(*args, **kwargs)
        call = reader(*args, **kwargs)
        if call is None or not any(x.requires_grad for x in call.inputs):
            return func(*args, **kwargs)
        ordinal = self.next_ordinal()
        if ordinal is None or any(self.moves(weight) for weight in call.weights):
            return func(*args, **kwargs)
        return self._cut(ordinal, call)

    def _noted(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensors = [x for x in args if isinstance(x, Tensor)]
        places = [(x, edge_of(x) if x.grad_fn is not None else None, x._version) for x in tensors]
        kept = args
        if places and (func.__name__.endswith("_") or kwargs.get("inplace") or any(a is True for a in args)):
            # what it works on in place is kept as it was
            first = places[0][0].detach().clone()
            kept, places[0] = (first, *args[1:]), (first, places[0][1], first._version)
        found = func(*args, **kwargs)
        edge = edge_of(found) if isinstance(found, Tensor) else None
        if edge is not None and all(edge != below for _, below, _ in places):
            self.notes[edge] = Note(func, kept, kwargs, places)
        return found

    def next_ordinal(self) -> int | None:
        """Number of the next call that could be cut; None where it is to be left."""
        ordinal, self._count = self._count, self._count + 1
        return None if ordinal in self._left else ordinal

    def moves(self, weight: Tensor | None) -> bool:
        """Whether a weight may depend on x: it was computed from something that leads to a leaf of ours."""
        if weight is None or weight.grad_fn is None:
            return False
        ours, seen, waiting = {id(x) for x in self.kept}, set(), [weight.grad_fn]
        while waiting:
            node = waiting.pop()
            variable = getattr(node, "variable", None)
            if variable is not None and (
                id(variable) in ours or not isinstance(variable, torch.nn.Parameter)
            ):
                return True
            for below, _ in node.next_functions:
                if below is not None and below not in seen:
                    seen.add(below)
                    waiting.append(below)
        return False

    def _cut(self, ordinal: int, call: KnownCall) -> Any:
        ports = [Port(edge_of(x), x.shape, axis) for x, axis in zip(call.inputs, call.axes, strict=True)]
        # a copy, since the forward may go on to change its tensors in place
        held = zip(call.inputs if call.reads_inputs else [], call.axes, strict=False)
        inputs = [flat(x.detach().clone()[None], axis)[0] for x, axis in held]
        cut = Cut(ordinal, ports, lambda: call.linearise(inputs))
        cut.held = call.held
        # with gradients asked for, so that torch takes the same kernels as in training
        given = {id(x): x.detach().requires_grad_() for x in call.inputs}
        with unseen():
            outputs = call.run(*(given[id(x)] for x in call.inputs))
        single = not isinstance(outputs, tuple)
        axes = iter(call.out_axes)
        handed = tuple(self.handed(cut, x, next(axes, None)) for x in ((outputs,) if single else outputs))
        self.cuts.append(cut)
        return handed[0] if single else handed

    def handed(self, cut: Cut, output: Any, axis: int | None) -> Any:
        """An output as the forward goes on with it: a fresh leaf, served by the cut if it has an axis."""
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        leaf = output.detach().requires_grad_()
        self.kept.append(leaf)
        edge = edge_of(leaf)
        assert edge is not None
        if axis is None:
            cut.unserved.append(edge)
        else:
            cut.outputs.append(Port(edge, leaf.shape, axis))
            self.owner[edge[0]] = cut
        # a copy, not the leaf or a view of it: the forward may go on in place
        found = leaf.clone()
        # of the leaf only its place in the graph is needed
        leaf.data = leaf.new_empty(()).expand(leaf.shape)
        return found
