r"""Passes of a user's module: protected, so that it is left bit for bit as it was; or bare, for costs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from depprobe.core.calling.arguments import Argument
from depprobe.core.calling.environment import (
    Compiler,
    GradientCode,
    ProcessState,
    RecordedRecurrences,
    pinned,
)
from depprobe.core.calling.interception import Interception
from depprobe.core.calling.known import natural_layout
from depprobe.core.calling.layout import arranged, failure, laid_out, time_first
from depprobe.core.calling.outputs import OF_WORDS, WRT_WORDS, chosen_output, submodule_of
from depprobe.core.memory import BudgetGuard
from depprobe.core.recorded_graph import reaches
from depprobe.core.snapshot.snapshot import Snapshot
from depprobe.errors import BadInput, DepprobeError

#: n by n numbers of which a pass is thought to make no more
TIMES = 64


class DoesNotRun(BadInput):
    """The module fails on what it is given, or gives something of another shape than its layout's."""


class Pass(NamedTuple):
    """One call: the variable (n_in, d_in), the output (n_out, d_out) with its graph, whether it has time.

    ``points`` are outputs (n_in, d_in) of several submodules, in the graph, where those were asked for; the
    variable is the first of them then.
    """

    leaf: Tensor
    y: Tensor
    has_time: bool
    points: tuple[Tensor, ...] = ()


class Passes:
    """Protected calls of one module at one argument.

    Parameters
    ----------
    module, argument, forward : what is called, and with what.
    of, wrt : as ``SequenceFunction`` takes them.
    per_position : whether an output (1, n) holds a number for each position, and no features; None where
        that was not said.
    memory : bytes that a forward pass may take.

    Raises ``BadInput``: ``of`` or ``wrt`` names nothing.
    """

    def __init__(
        self,
        module: nn.Module,
        argument: Argument,
        forward: Mapping[str, Any],
        *,
        of: str,
        wrt: str,
        per_position: bool | None,
        memory: int,
    ) -> None:
        self.module, self.argument, self.forward = module, argument, forward
        self.of, self.wrt = of, wrt
        self._of = submodule_of(module, of, OF_WORDS, "of")
        self._wrt = submodule_of(module, wrt, WRT_WORDS, "wrt")
        self.per_position, self._memory = per_position, memory
        self._snapshot = Snapshot(module, (forward, argument.beside))
        self.hooks = GradientCode()
        self._compiler = Compiler()
        self._read = False  # whether a path is known to lead to the variable

    @property
    def who(self) -> str:
        """Name of the module's type, for messages."""
        return type(self.module).__name__

    @property
    def replaces_output(self) -> bool:
        """Whether the variable stands for the output of a submodule, rather than for x."""
        return self._wrt is not None or self.argument.is_ids

    def at(self, wrt: str) -> Passes:
        """The same with another denominator."""
        return self.but(wrt=wrt, _wrt=submodule_of(self.module, wrt, WRT_WORDS, "wrt"), _read=False)

    def but(self, **given: Any) -> Passes:
        other = Passes.__new__(Passes)  # with the same snapshot, as it calls the same module
        vars(other).update(vars(self) | given)
        return other

    def cropped(self, length: int) -> Passes | None:
        """Calls with the first positions alone; None where other arguments may know how many there are."""
        value, beside = self.argument.value, self.argument.beside
        whole = (1, len(value))
        known = {name: v[:, :length] for name, v in beside.items() if getattr(v, "shape", ()) == whole}
        others = [v for name, v in beside.items() if name not in known]
        if self.forward or any(isinstance(v, Tensor) and v.ndim for v in others):
            return None
        return self.but(argument=self.argument._replace(value=value[:length], beside={**beside, **known}))

    @contextlib.contextmanager
    def held(self) -> Iterator[ProcessState]:
        """As ``SequenceFunction.held``."""
        with pinned():
            process = self._snapshot.enter()
            try:
                yield process
            finally:
                self._snapshot.depth -= 1
                try:
                    self._put_back(process)
                except KeyboardInterrupt:
                    self._put_back(process)
                    raise

    def _put_back(self, process: ProcessState) -> None:
        process.restore()
        if not self._snapshot.depth:  # else before the next call
            self._snapshot.restore()

    def one_pass(
        self,
        layout: str,
        variable: Tensor | None = None,
        *,
        tracer: AbstractContextManager[Any] | None = None,
        points: Sequence[str] = (),
    ) -> Pass:
        """One call of the module in a layout, at x or another value of the variable.

        With ``points``, the names of submodules, their outputs are marked and nothing is replaced.

        Raises ``BadInput``: the module fails, draws random numbers, or its output is of no use.
        """
        for _ in range(2):
            with self.held() as process:
                self._snapshot.substitute()
                try:
                    found = self._recorded(layout, variable, tracer, points)
                except DoesNotRun as error:
                    if error.__cause__ is None or not self._compiler.wakes(error.__cause__):
                        raise
                    return self.one_pass(layout, variable, tracer=tracer, points=points)
                written = self._snapshot.restore()
                self._snapshot.require_whole(self.who, process.restore())
            if not written:
                return found
            self._snapshot.will_be_written(written)
        raise BadInput(
            f"{self.who} writes in place into a tensor that it does not hold as an attribute; "
            "let it make a new one"
        )

    def batch_of_two(self, layout: str, given: Tensor) -> tuple[Tensor, Tensor]:
        """A batch of two in a layout, and the output at it as the module returns it."""
        beside = {key: _twice(value) for key, value in self.argument.beside.items()}
        with self.held(), ExitStack() as stack:
            self._snapshot.substitute()
            calls = Interception(stack, self.module, layout)
            if self._of is not None:
                calls.capture(self.of, self._of)
            leaf = given.clone().requires_grad_() if given.is_floating_point() else given
            result = self._called(leaf.clone(), beside=beside)
            return leaf, chosen_output(result if self._of is None else calls.captured(), self.of, self.who)

    def _recorded(self, layout: str, variable: Tensor | None, tracer: Any, points: Sequence[str]) -> Pass:
        wrt = self._wrt
        marked: tuple[Tensor, ...] = ()
        with ExitStack() as stack:
            calls = Interception(stack, self.module, layout)
            if not self.replaces_output:
                variable = self.argument.value if variable is None else variable
                leaf = variable.detach().clone().requires_grad_()
                # of a copy: the module may write into what it is given
                given = laid_out(leaf.clone(), layout)
            else:
                given = laid_out(self.argument.value, layout)
            if points:
                for name in points:
                    calls.mark(name, submodule_of(self.module, name, (), "wrt"))
            elif self.replaces_output:
                calls.replace(self.wrt if wrt is not None else None, wrt, given, variable)
            if self._of is not None:
                calls.capture(self.of, self._of)
            result = self._called(given, tracer)
            of_layout = layout
            if self._of is not None:
                result, of_layout = calls.captured(), natural_layout(self._of) or layout
            if points:
                marked = calls.marked(points)
                leaf = marked[0]
            elif self.replaces_output:
                leaf = calls.leaf()
        what = self.who if self._of is None else f"{self.of!r}"
        chosen = chosen_output(result, self.of, what, len(leaf))
        try:
            y, has_time = time_first(chosen, of_layout, f"the output of {what}")
        except BadInput as error:  # which another layout may mend
            raise DoesNotRun(str(error)) from None
        if not has_time and y.shape[1] == leaf.shape[0]:
            if self.per_position is None:
                raise BadInput(
                    f"the output of {what}, {tuple(y.shape)}, may be a number for each of the {y.shape[1]} "
                    "positions or a vector without a time axis; say position='same' or position='end'"
                )
            if self.per_position:
                y, has_time = y.T, True
        if tracer is None and (points or not self._read):  # of a graph that was cut no path leads to the leaf
            for name, one in zip(points or [self.wrt], marked or (leaf,), strict=True):
                if not reaches(y, one):
                    why = f"does not depend on {repr(name) if points or wrt is not None else 'the input'}"
                    raise BadInput(f"the output of {what} {why} through differentiable operations")
            self._read = True
        return Pass(leaf, y, has_time, marked)

    def _called(self, given: Tensor, tracer: Any = None, beside: Mapping[str, Any] | None = None) -> Any:
        argument = self.argument if beside is None else self.argument._replace(beside=beside)
        first, named = arranged(self.module, given, argument, self.forward)
        recorded = RecordedRecurrences() if RecordedRecurrences.needed(self.module, given) else nullcontext()
        traced, on = nullcontext() if tracer is None else tracer, torch.is_grad_enabled()
        as_written = self._compiler.asleep()
        try:
            # which puts back behind the module whether gradients are recorded
            with recorded, torch.set_grad_enabled(on), traced, self.hooks, self._watched(given), as_written:
                return self.module(*first, **named)
        except Exception as error:
            refused = isinstance(error, torch.OutOfMemoryError | MemoryError | DepprobeError)
            if refused or "allocate memory" in str(error):
                raise
            raise DoesNotRun(failure(self.who, self.argument.value, given, error)) from error

    def _watched(self, given: Tensor) -> AbstractContextManager[Any]:
        """Counts what the pass makes where that could exceed the budget: n by n numbers a few times over."""
        shape = self.argument.value.shape
        risk = TIMES * shape[0] * max(shape) * (given.element_size() if given.is_floating_point() else 8)
        held = [*[given] * 3, *self.module.parameters()]  # x as given, as the variable, and handed over
        return BudgetGuard(self._memory, "the forward pass", held) if risk > self._memory else nullcontext()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_snapshot": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._snapshot = Snapshot(self.module, (self.forward, self.argument.beside))


def _twice(value: Any) -> Any:
    return torch.cat([value] * 2) if isinstance(value, Tensor) and value.ndim else value


def call_once(module: nn.Module, x: Tensor, layout: str | None = None) -> Tensor:
    """One call, (n, d_in) to (n_out, d_out): nothing is checked, and nothing put back.

    Parameters
    ----------
    module, x : x in the dtype and on the device of the module.
    layout : None for that of the module's type, else ``"b n d"``.

    Examples
    --------
    >>> import torch
    >>> call_once(nn.LSTM(3, 5), torch.zeros(9, 3)).shape
    torch.Size([9, 5])
    """
    layout = layout or natural_layout(module) or "b n d"
    first, named = arranged(module, laid_out(x, layout), Argument(x), {})
    with ExitStack() as stack:
        Interception(stack, module, layout)
        result = module(*first, **named)
    name = type(module).__name__
    return time_first(chosen_output(result, "output", name), layout, f"the output of {name}")[0]


@contextlib.contextmanager
def unharmed(module: nn.Module) -> Iterator[None]:
    """Around bare calls: the module, random generators and settings of the process are put back behind."""
    snapshot, process = Snapshot(module), ProcessState()
    snapshot.substitute()
    try:
        yield
    finally:
        process.restore()
        snapshot.restore()
