r"""A user's module at one input, as a function of a sequence: the only place that calls it.

    y = f(x),    x (n_in, d_in),  y (n_out, d_out),  both time first

The module is called whole, as torch runs it, in one stated layout. ``of`` names what is differentiated: the
output, or that of a submodule; ``wrt`` what in: the input (of ids: what their embedding gives), or the
output of a submodule, which is then replaced by a variable. Whatever a call changes is put back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.calling.arguments import argument_of, bits_of, checked
from depprobe.core.calling.known import has_one_layout, is_torchs_own, natural_layout
from depprobe.core.calling.layout import check_layout
from depprobe.core.calling.one_function import found_layout, require_function
from depprobe.core.calling.outputs import WRT_WORDS, labels_of
from depprobe.core.calling.passes import Pass, Passes
from depprobe.core.calling.positions import check_length, positions_of
from depprobe.core.calling.replacements import Replacements
from depprobe.core.memory import OWN
from depprobe.core.options import DEFAULT_MEMORY, check_kind, require
from depprobe.errors import BadInput
from depprobe.vocabulary import STATUS

#: runs a forward inside a context: the variables (n_in, d_in), and the output (n_out, d_out) with its graph
Record = Callable[..., tuple[tuple[Tensor, ...], Tensor]]


class SequenceFunction:
    """A module at one input.

    Parameters
    ----------
    module : any ``nn.Module``, in eval mode if it has dropout.
    x : float (n, d), ids (n,), or a mapping of the forward's keyword arguments.
    of : ``output``, ``logits``, ``loss``, or the name of a submodule.
    wrt : ``x``; ``h`` or ``c``, which only the operator of a recurrent layer answers; or a submodule's name.
    layout : ``"b n d"``, ``"n b d"``, ``"b d n"`` or ``"n d"``; None for what the type of the module says.
    position : where outputs sit among inputs: ``same``, ``end``, ``forecast``, an array, or None.
    forward : further arguments of the module's forward, fixed.
    memory : bytes that the job may take.
    copy : whether x is copied, so that changes of it in place do not count later; a module with code of its
        own, which may write into x, gets a copy always.

    Raises
    ------
    BadInput : the module is no deterministic, differentiable function of this input in this layout.
    OverBudget : a forward pass would not fit.

    Examples
    --------
    >>> import torch
    >>> f = SequenceFunction(torch.nn.GRU(3, 5, batch_first=True), torch.zeros(9, 3))
    >>> f.layout, f.shape
    ('b n d', (9, 5, 9, 3))
    """

    def __init__(
        self,
        module: nn.Module,
        x: Any,
        *,
        of: str = "output",
        wrt: str = "x",
        layout: str | None = None,
        position: Any = None,
        forward: Mapping[str, Any] | None = None,
        memory: int = DEFAULT_MEMORY,
        copy: bool = True,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise BadInput(f"a module must be an nn.Module, not {type(module).__name__}")
        check_kind("text", of=of, wrt=wrt)
        check_kind("a mapping", forward={} if forward is None else forward)
        self.module, self.of, self.wrt, self.forward = module, of, wrt, dict(forward or {})
        #: whether all its parts are torch's (or this package's) own, as they come
        self.is_known = is_torchs_own(module)
        self._argument = checked(argument_of(x, module), module, copy or not self.is_known)
        if hasattr(module, "config") and "position_ids" not in self.forward | dict(self._argument.beside):
            check_length(module, len(self._argument.value))
        if of == "loss":
            given = {**self._argument.beside, **self.forward}
            self.forward |= labels_of(module, self._argument.value, given)
        self._position, self._memory = position, memory
        self._first: Pass | None = None
        self._kept: Pass | None = None
        #: submodules whose outputs are recorded together, as the denominators of so many functions
        self.points: tuple[str, ...] = ()
        if layout is not None:
            check_layout(layout)
        own = natural_layout(module) or "b n d"
        if self.is_known and self._is_whole and layout in (None, own) and has_one_layout(module):
            # torch's own types are functions by themselves: they need not run to be known as such
            self.layout = own
            if position is not None:
                _ = self.position
            return
        require(OWN, memory, "a module of one's own", "use --memory 16MiB or more")
        repeats, stated = False, layout is not None
        if layout is None:
            layout, found, repeats = found_layout(self._passes, self.is_known)
            self._keep(found)
        self.layout = layout
        first = self.first
        require_function(self._passes, layout, self._kept or first, repeats, stated)
        _ = self.position

    @cached_property
    def _passes(self) -> Passes:
        return Passes(
            self.module,
            self._argument,
            self.forward,
            of=self.of,
            wrt=self.wrt,
            per_position=None if self._position is None else str(self._position) == "same",
            memory=self._memory,
        )

    def __getstate__(self) -> dict[str, Any]:
        # a graph does not travel; it is recorded again where it is needed
        state = vars(self) | {"_kept": None}
        state.pop("_replacements", None)
        return state

    def __repr__(self) -> str:
        return (
            f"SequenceFunction({self._passes.who}, of={self.of!r}, wrt={self.wrt!r}, layout={self.layout!r})"
        )

    # -- what it is ----------------------------------------------------------------------------------

    @property
    def _is_whole(self) -> bool:
        """Whether it is the module's own output at a sequence of vectors."""
        return (
            self.of == "output"
            and self.wrt in WRT_WORDS
            and not self._argument.is_ids
            and self._argument.name is None
        )

    @property
    def plain(self) -> nn.Module | None:
        """The module, where the function is nothing but it at x in its own layout; else None."""
        own = natural_layout(self.module)
        served = own is None or self.layout == own or (own != "b d n" and self.layout == "n d")
        return self.module if self._is_whole and served else None

    @property
    def hooked(self) -> bool:
        """Whether a pass so far let code of the user's in on the way back, by hooks."""
        return self._passes.hooks.seen

    @property
    def first(self) -> Pass:
        """The pass at x, without its graph."""
        if self._first is None:
            self._keep(self._passes.one_pass(self.layout))
        assert self._first is not None
        return self._first

    def _keep(self, recorded: Pass) -> None:
        self._kept = recorded
        self._first = _without_graph(recorded)

    @property
    def x(self) -> Tensor:
        """What is differentiated in, (n_in, d_in)."""
        known = self.wrt in WRT_WORDS and not self._argument.is_ids
        return self._argument.value if known else self.first.leaf

    @property
    def given(self) -> bytes:
        """The bytes of x as it was given, whatever the denominator."""
        return bits_of(self._argument.value)

    @property
    def y(self) -> Tensor:
        """The output, (n_out, d_out)."""
        return self.first.y

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n_out, d_out, n_in, d_in)."""
        (n_out, d_out), (n_in, d_in) = self.y.shape, self.x.shape
        return n_out, d_out, n_in, d_in

    @property
    def position(self) -> NDArray[np.float64] | None:
        """Input position of each output, (n_out,), or None where it cannot be known."""
        return positions_of(self._position, self.y.shape[0], self.x.shape[0], self.first.has_time)

    # -- calls ---------------------------------------------------------------------------------------

    def __call__(self, x: Tensor | None = None) -> Tensor:
        """The output (n_out, d_out) at another value of the variable, without its graph."""
        # recorded all the same: without gradients torch takes other kernels, with other roundings
        return self._passes.one_pass(self.layout, self.x if x is None else x).y.detach()

    def record(
        self, tracer: AbstractContextManager[Any] | None = None, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The variable (n_in, d_in) and the output (n_out, d_out) with the graph between them.

        Parameters
        ----------
        tracer : entered around the module's call.
        x : another value of the variable.
        """
        if x is not None:
            found = self._passes.one_pass(self.layout, x, tracer=tracer)
            return found.leaf, found.y
        # a pass that does not serve is let go before another is made
        kept, self._kept = self._kept if tracer is None else None, None
        if kept is None:
            # what a submodule puts out is known after the first pass, and does not change
            variable = self.x if self._first is not None else None
            kept = self._passes.one_pass(self.layout, variable, tracer=tracer)
            if self._first is None:
                self._first = _without_graph(kept)
        return kept.leaf, kept.y

    def at_depths(self, names: Sequence[str]) -> list[SequenceFunction]:
        """The same in the output of each of some submodules, which ``record_points`` gives all at once."""
        found = self._passes.one_pass(self.layout, points=names)
        functions = []
        for name, point in zip(names, found.points, strict=True):
            one = copy.copy(self)
            vars(one).pop("_replacements", None)
            one.wrt, one.points, one._passes = name, tuple(names), self._passes.at(name)
            one._kept, one._first = None, _without_graph(found._replace(leaf=point))
            _ = one.position
            functions.append(one)
        return functions

    def record_points(
        self,
        tracer: AbstractContextManager[Any] | None = None,
        length: int | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """As ``record``, the variable of every one of ``points``, or the one there is; see ``prefix``.

        ``change`` is of the variable, where it is not an output on the way.
        """
        if length is None and change is None and not self.points:
            leaf, y = self.record(tracer)
            return (leaf,), y
        passes = self._passes if length is None else self._passes.cropped(length)
        assert passes is not None, "which prefix looks at"
        variable = None if self.points else self.x[:length]
        if variable is not None and change is not None:
            variable = change(variable)
        found = passes.one_pass(self.layout, variable, tracer=tracer, points=self.points)
        return found.points or (found.leaf,), found.y

    def ignores(self, t: int, sources: Tensor) -> Tensor:
        """Which of some inputs output t ignores: bool, as ``sources``; see ``Replacements``."""
        return self._replacements.ignores(t, sources)

    @cached_property
    def _replacements(self) -> Replacements:
        return Replacements(self)

    def prefix(self, length: int) -> Record | None:
        """As ``record``, of the first ``length`` inputs; None where other arguments may know the length."""
        if self._passes.cropped(length) is None or len(self.x) != len(self._argument.value):
            return None
        return partial(self.record_points, length=length)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around whatever runs code of the module's: one thread at a time, and all is put back behind it."""
        with self._passes.held():
            yield


def unknown_at(y: Tensor) -> int:
    """Status of a norm at one output (d_out,) of which a gradient says nothing; see ``vocabulary.STATUS``.

    Where the output is NaN that is every norm: it has no derivative, whatever autograd makes of it. From an
    infinite one a gradient of 0 may be anything.
    """
    finite = "undecided" if bool(y.isfinite().all()) else "overflow"
    return STATUS["not_a_number" if bool(y.isnan().any()) else finite]


def _without_graph(recorded: Pass) -> Pass:
    return Pass(recorded.leaf.detach(), recorded.y.detach(), recorded.has_time)
