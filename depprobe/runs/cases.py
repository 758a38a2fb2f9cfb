"""What one call measures, case by case: one module at one input, over layers, seeds and samples.

A target is a spec string, a module, a factory (seed -> module), or a mapping from labels to any of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from depprobe.core.calling.arguments import Sample
from depprobe.core.calling.outputs import depths as submodules
from depprobe.core.options import require
from depprobe.errors import BadInput
from depprobe.models.trained.by_name import trained
from depprobe.models.trained.catalogue import PREFIX
from depprobe.registry import Spec
from depprobe.runs.factory import Factory
from depprobe.runs.inputs import Source, symbol_of
from depprobe.runs.subject import BuiltModule, NamedLayer, Request, Subject, check_dtype, refuse

Item = TypeVar("Item")
Found = TypeVar("Found")

#: called with (items done, items in all, what is under way)
Progress = Callable[[float, int, str], None]
#: called by a measurement with the share of its own item that is done
Report = Callable[[float], None]


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
    tokens: tuple[str, ...] = ()
    symbol: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def x(self) -> Tensor:
        """The input (n, d_in), where it is floats; raises ``BadInput`` for ids or a mapping."""
        if isinstance(self.given, Tensor) and self.given.is_floating_point():
            return self.given
        what = "token ids" if isinstance(self.given, Tensor) else "a mapping"
        raise BadInput(f"x must be floats (n, d) here, not {what}")

    @property
    def dtype(self) -> str:
        """dtype of the first input that is floats, or else of the weights that read it."""
        values = [self.given] if isinstance(self.given, Tensor) else self.given.values()
        tensors = (one for one in (*values, *self.build().parameters()) if isinstance(one, Tensor))
        return next((str(one.dtype)[6:] for one in tensors if one.is_floating_point()), "float32")


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
        given = self.cases[0].given
        if isinstance(given, Tensor):
            return given.shape[0]
        axes = {"input_ids": 1, "inputs_embeds": 2}
        return next((given[k].shape[-a] for k, a in axes.items() if hasattr(given.get(k), "shape")), None)

    def firsts(self, items: Sequence[Item]) -> Sequence[Item]:
        """The first of each layer's, of items that stand layer by layer."""
        return items[:: len(items) // len(self.labels)]

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
    others : further arguments of the call, by name, which a subject may refuse.
    unused : (name, reason) of arguments that the call would not use.
    """
    subjects = subjects_of(target)
    drawn = x is None or isinstance(x, Source)
    meaningless = [*unused, *((name, why) for one in subjects for name, why in one.refuses.items())]
    if not drawn:
        meaningless += [(name, "x is given and brings its own") for name in ("n", "samples")]
    layers = [one for one in subjects if isinstance(one, NamedLayer)]
    for_some = (("d",) if layers else ()) + (("layout", "forward") if len(layers) < len(subjects) else ())
    meaningless = [(name, why) for name, why in meaningless if name not in for_some]
    refuse(request.given() | dict(others or {}), meaningless)
    samples, seeds = request.of("samples"), request.of("seeds")
    if samples < 1 or seeds < 1:
        raise BadInput(f"samples and seeds must be at least 1, not {samples} and {seeds}")
    if x is None and len(layers) < len(subjects):
        raise BadInput("a module needs its input: pass x of shape (n, d) or (samples, n, d)")
    if layers or request.dtype:
        check_dtype(request.of("dtype"))
    if layers and request.of("d") < 1:
        raise BadInput(f"d must be at least 1, not {request.of('d')}")
    if drawn and layers:
        require_room(layers, x or Source("noise"), request)
    first = request.seed
    if first < 0 or first + seeds > 2**63:
        last = f" to {first + seeds - 1}" if seeds > 1 else ""
        raise BadInput(f"seed must lie between 0 and 2^63 - 1, not {first}{last}")
    draws = list(range(first, first + seeds))
    return Cases([one.label for one in subjects], draws, _cases(subjects, x, draws, request))


def cases_of_specs(
    labels: Sequence[str], x: Any, n: int, d: int, samples: int, seeds: list[int], dtype: str, device: str
) -> list[Case]:
    """Cases of named layers at seeds of one's own choice, without regard to the budget."""
    check_dtype(dtype)
    asked = Request(n=n, d=d, samples=samples, dtype=dtype, device=device)
    return _cases(subjects_of(list(labels)), x, seeds, asked)


def _cases(subjects: Sequence[Subject], x: Any, seeds: Sequence[int], request: Request) -> list[Case]:
    cases = []
    for subject, seed in product(subjects, seeds):
        (inputs, projected), named = subject.inputs(x, seed, request), isinstance(subject, NamedLayer)
        build = partial(subject.build, seed, request, inputs[0])
        for i, one in enumerate(inputs):
            floats = isinstance(one, Tensor) and one.is_floating_point()
            tokens = () if floats else tuple(subject.tokens(x, one, i))
            symbol = symbol_of(x, subject) if tokens or isinstance(x, Source) else ""
            reads = i, tokens, symbol, getattr(x, "about", {})
            cases.append(Case(subject.label, seed, build, one, projected, named, *reads))
    return cases


def require_room(layers: Sequence[NamedLayer], source: Source, request: Request) -> None:
    """Refuse inputs or weights that would not fit the budget (``OverBudget``), before either is allocated."""
    n, d = request.of("n"), request.of("d")
    source.check(request.n, request.of("samples"))
    inputs, width = len(layers) * request.of("seeds") * request.of("samples"), max(d, source.width or d)
    require(
        # drawn or read in float64, whatever the dtype asked for
        8.0 * inputs * width * n,
        request.memory,
        f"the input ({inputs} x {n} x {width})",
        "use a smaller --n or --d, fewer layers, samples or seeds, or a larger --memory",
    )
    for layer in layers:
        layer.require_room(source.width, request)


def subjects_of(target: Any) -> list[Subject]:
    """What a target names, each with its label; raises ``BadInput`` for nothing, or a label twice."""
    if isinstance(target, Mapping):
        if not target:
            raise BadInput("the mapping is empty; give label: module, factory or spec string")
        for label in target:
            if not isinstance(label, str) or not label.strip():
                raise BadInput(f"a label must be text, not {label!r}")
        return [_subject(label, one) for label, one in target.items()]
    single = not isinstance(target, Iterable) or getattr(target, "ndim", 1) == 0
    if isinstance(target, str | nn.Module) or callable(target) or single:
        return [_subject(None, target)]
    named = list(target)
    for one in named:
        if not isinstance(one, str):
            what = "modules and factories" if callable(one) else f"{type(one).__name__} {one!r}"
            way = "several are measured as a mapping {label: module or factory}"
            raise BadInput(f"a list holds names of layers, not {what}; {way}")
    if not named:
        raise BadInput("no layer was given; see depprobe layers")
    subjects = [_subject(None, one) for one in named]
    labels = [subject.label for subject in subjects]
    if len(set(labels)) < len(labels):
        raise BadInput(f"a layer is given twice: {', '.join(labels)}")
    return subjects


def _subject(label: str | None, target: Any) -> Subject:
    if isinstance(target, str) and target.startswith(PREFIX):
        return Factory(label or target.removeprefix(PREFIX), trained(target))
    if isinstance(target, str):
        return NamedLayer(label or str(Spec.parse(target)), target)
    if isinstance(target, nn.Module):
        return BuiltModule(label or type(target).__name__, target)
    if callable(target):
        name: str = getattr(target, "__name__", type(target).__name__)
        return Factory(label or name, target)
    raise BadInput(
        f"{type(target).__name__} {target!r} is neither the name of a layer, nor an nn.Module, nor a factory "
        "seed -> nn.Module"
    )


class Point(NamedTuple):
    """One case with a numerator, and denominators that share its backward passes; none of them with stars."""

    case: Case
    of: str
    wrt: tuple[str, ...]


def along_depth(cases: Sequence[Case], of: str, wrt: str) -> tuple[list[Point], list[list[str]]]:
    """Every case at every depth, and the submodules of each layer; none where no star is given."""
    starred = [name for name in (of, wrt) if "*" in name]
    if len(starred) > 1:
        raise BadInput(f"of={of!r} and wrt={wrt!r} both run along depth; give one of them without a star")
    if not starred:
        return [Point(case, of, (wrt,)) for case in cases], []
    found: dict[str, list[str]] = {}
    for case in cases:
        if case.label not in found:
            found[case.label] = submodules(case.build(), starred[0])
    if len({len(names) for names in found.values()}) > 1:
        said = ", ".join(f"{len(names)} in {label}" for label, names in found.items())
        raise BadInput(f"{starred[0]!r} names different numbers of submodules: {said}")
    names = [*found.values()]
    if "*" in wrt:
        return [Point(case, of, tuple(found[case.label])) for case in cases], names
    return [Point(case, name, (wrt,)) for case in cases for name in found[case.label]], names


def collect(
    items: Sequence[Item],
    measure: Callable[[Item, Report], Found],
    *,
    name: Callable[[Item], str],
    progress: Progress | None = None,
    kept: Any = None,
    facts: Callable[[Item], dict[str, Any]] | None = None,
) -> list[Found]:
    """Measure every item, in order; ``measure`` is called with it and a function to report the share done to.

    ``name`` says what is under way; ``kept`` is where finished items are kept, and taken up from, by their
    ``facts``: see ``runs.cache``.

    Examples
    --------
    >>> collect([2, 3], lambda item, report: item**2, name=str)
    [4, 9]
    """
    if kept:
        kept.claim()
    results = []
    for done, item in enumerate(items):

        def report(share: float, done: int = done, item: Item = item) -> None:
            if progress:
                progress(done + share, len(items), name(item))

        report(0)
        known = facts(item) if kept and facts else {}
        found = kept.get(known) if kept else None
        if found is None:
            found = measure(item, report)
            if kept:
                kept.put(known, found)
        results.append(found)
    if progress:
        progress(len(items), len(items), "")
    return results
