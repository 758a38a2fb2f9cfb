"""What is measured at a time: one module at one input, over layers, seeds, samples and depths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from depprobe.core.calling.outputs import depths
from depprobe.core.options import require
from depprobe.errors import BadInput
from depprobe.runs.inputs import Source
from depprobe.runs.request import DTYPES, OF_THE_INPUT, Request, check_dtype, refuse
from depprobe.runs.subject import NamedLayer, Sample, Subject, length_of, numbers, subjects_of

#: share of the budget below which one (d x d) matrix cannot make the weights exceed it
_SMALL_SHARE = 0.01


@dataclass(frozen=True)
class Case:
    """One module at one input: ``build()`` is the module, ``given`` floats (n, d_in), ids or a mapping."""

    label: str
    seed: int
    build: Callable[[], nn.Module]
    given: Sample
    projected: bool = False
    named: bool = True
    sample: int = 0

    @property
    def x(self) -> Tensor:
        """The input (n, d_in), where it is floats; raises ``BadInput`` for ids or a mapping."""
        if isinstance(self.given, Tensor) and self.given.is_floating_point():
            return self.given
        what = "token ids" if isinstance(self.given, Tensor) else "a mapping"
        raise BadInput(f"x must be floats (n, d) here, not {what}")


class Cases(NamedTuple):
    """What one call measures: a label for each layer, a seed for each draw, and their cases in that order."""

    labels: list[str]
    seeds: list[int]
    cases: list[Case]

    @property
    def named(self) -> str:
        """The layers in one line."""
        return ", ".join(self.labels)

    @property
    def samples(self) -> int:
        """Number of inputs, of the same weights."""
        return len(self.cases) // (len(self.labels) * len(self.seeds))

    @property
    def lead(self) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions that number the cases."""
        return {"layer": self.labels, "seed": self.seeds, "sample": range(self.samples)}

    @property
    def length(self) -> int | None:
        """Number of input positions, where the input itself tells it."""
        return length_of(self.cases[0].given)

    @property
    def dtype(self) -> str:
        """dtype of the first input that is floats, or else of the weights that read it."""
        case = self.cases[0]
        values = [case.given] if isinstance(case.given, Tensor) else case.given.values()
        floats = [value for value in values if _is_float(value)]
        weights = floats or [p for p in case.build().parameters() if p.is_floating_point()]
        return str(weights[0].dtype if weights else torch.float32).removeprefix("torch.")

    @property
    def numbers(self) -> np.ndarray:
        """All inputs in a row, for their fingerprint."""
        return np.concatenate([numbers(case.given) for case in self.cases])

    @property
    def own_width(self) -> bool:
        """Whether what is measured has a width of its own, rather than the one asked for."""
        return not all(case.named for case in self.cases)


def cases_of(
    target: Any,
    x: Any,
    request: Request,
    others: Mapping[str, Any] | None = None,
    unused: Sequence[tuple[str, str]] = (),
) -> Cases:
    """The cases of one call, layer by layer, then seed by seed, then sample by sample.

    Parameters
    ----------
    target : spec string or several; module; factory; or a mapping from labels to any of these.
    x : a ``Source``, None for noise, or an input as ``samples_of`` takes it.
    request : sizes, numbers, dtype, device and budget.
    others : further arguments of the call, by name, which a subject may refuse.
    unused : (name, reason) of arguments that the call would not use.

    Raises
    ------
    BadInput : fewer than one sample or seed, no layer, one twice, what the module or a layer refuses, or an
        argument that has no meaning in this call.
    OverBudget : input or weights that would not fit.
    """
    subjects = subjects_of(target)
    drawn = x is None or isinstance(x, Source)
    meaningless = [*unused, *((name, why) for one in subjects for name, why in one.refuses.items())]
    if not drawn:
        meaningless += [(name, "x is given and brings its own") for name in OF_THE_INPUT]
    refuse(request.given() | dict(others or {}), meaningless)
    samples, seeds = request.of("samples"), request.of("seeds")
    if samples < 1 or seeds < 1:
        raise BadInput(f"samples and seeds must be at least 1, not {samples} and {seeds}")
    layers = [one for one in subjects if isinstance(one, NamedLayer)]
    if drawn and len(layers) < len(subjects):
        raise BadInput("a module needs its input: pass x of shape (n, d) or (samples, n, d)")
    if layers or request.dtype:
        check_dtype(request.of("dtype"))
    if layers and request.of("d") < 1:
        raise BadInput(f"d must be at least 1, not {request.of('d')}")
    if drawn:
        require_room(layers, x or Source("noise"), request)
    first = request.seed
    if first < 0 or first + seeds > 2**63:
        raise BadInput(f"seeds must lie between 0 and 2^63 - 1, not {first} to {first + seeds - 1}")
    draws = list(range(first, first + seeds))
    cases = [case for one in subjects for seed in draws for case in _cases(one, x, seed, request)]
    return Cases([one.label for one in subjects], draws, cases)


def cases_of_specs(
    labels: Sequence[str], x: Any, n: int, d: int, samples: int, seeds: list[int], dtype: str, device: str
) -> list[Case]:
    """Cases of named layers at seeds of one's own choice, without regard to the budget."""
    check_dtype(dtype)
    asked = Request(n=n, d=d, samples=samples, dtype=dtype, device=device)
    layers = subjects_of(list(labels))
    return [case for one in layers for seed in seeds for case in _cases(one, x, seed, asked)]


def _cases(subject: Subject, x: Any, seed: int, request: Request) -> list[Case]:
    inputs, projected = subject.inputs(x, seed, request)
    named = isinstance(subject, NamedLayer)
    build: Callable[[], nn.Module] = partial(subject.build, seed, request)
    if isinstance(subject, NamedLayer):
        assert isinstance(inputs[0], Tensor)
        build = partial(subject.build, seed, request, inputs[0].shape[-1])
    return [Case(subject.label, seed, build, one, projected, named, i) for i, one in enumerate(inputs)]


class Point(NamedTuple):
    """One case with a numerator and a denominator, none of them with stars."""

    case: Case
    of: str
    wrt: str


def along_depth(cases: Sequence[Case], of: str, wrt: str) -> tuple[list[Point], list[str]]:
    """Every case at every depth, depth fastest, and the submodules; no submodules where no star is given.

    Raises
    ------
    BadInput : stars in both names, a name without a submodule, or layers with different numbers of them.
    """
    starred = [name for name in (of, wrt) if "*" in name]
    if len(starred) > 1:
        raise BadInput(f"of={of!r} and wrt={wrt!r} both run along depth; give one of them without a star")
    if not starred:
        return [Point(case, of, wrt) for case in cases], []
    found: dict[str, list[str]] = {}
    for case in cases:
        if case.label not in found:
            found[case.label] = depths(case.build(), starred[0])
    counts = {label: len(names) for label, names in found.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} in {label}" for label, count in counts.items())
        raise BadInput(f"{starred[0]!r} names different numbers of submodules: {said}")
    points = [
        Point(case, name if "*" in of else of, name if "*" in wrt else wrt)
        for case in cases
        for name in found[case.label]
    ]
    return points, next(iter(found.values()))


def only_case(target: Any, x: Any, what: str) -> Case:
    """The case of one module at one input; raises ``BadInput`` where x holds several samples."""
    cases = cases_of(target, x, Request()).cases
    if len(cases) > 1:
        raise BadInput(f"{what} one input (n, d), not at {len(cases)} samples")
    return cases[0]


def require_room(layers: Sequence[NamedLayer], source: Source, request: Request) -> None:
    """Refuse inputs or weights that would not fit the budget, before either is allocated.

    Raises
    ------
    OverBudget : naming options that would fit.
    BadInput : a source that is too short.
    """
    n, d, memory = request.of("n"), request.of("d"), request.memory
    size = DTYPES[request.of("dtype")].itemsize
    source.check(n, request.of("samples"))
    inputs, width = len(layers) * request.of("seeds") * request.of("samples"), max(d, source.width or d)
    require(
        # drawn or read in float64, whatever the dtype asked for
        8.0 * inputs * width * n,
        memory,
        f"the input ({inputs} x {n} x {width})",
        "use a smaller --n or --d, fewer layers, samples or seeds, or a larger --memory",
    )
    # drawing weights without storage can cost seconds of torch's start-up: only where it could matter
    for layer in layers if size * d**2 >= _SMALL_SHARE * memory else ():
        with torch.device("meta"):
            module = layer.entry.build(d, **layer.widths(source.width or d), **layer.options)
        needed = size * sum(p.numel() for p in (*module.parameters(), *module.buffers()))
        cheaper = "a smaller --d" if size == 4 else "a smaller --d, or --dtype float32"
        require(needed, memory, f"{layer.label} with its weights", f"use {cheaper}, or a larger --memory")


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
