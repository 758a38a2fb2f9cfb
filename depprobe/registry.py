"""The named tables, and the spec strings that address their entries. No torch here.

A spec string is ``name`` or ``name:option=value,option=value``: the one address of a layer on the
command line, in test ids, dataset coordinates, file names and legends.

Other packages add to this one by entry points, which are imported when they are needed:

    [project.entry-points."depprobe.layers"]        [project.entry-points."depprobe.operators"]
    mine = "my_package.layers"                      "my_package" = "my_package.operators"

    [project.entry-points."depprobe.commands"]
    mine = "my_package.command:mine"

A layer's module registers it; an operator's module calls ``register_jacobian``, and is imported once a module
is measured whose class lives in the package, or below the dotted name, that the entry is named after; a
command is a ``click.Command``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depprobe.errors import BadInput, DepprobeError, PluginWarning, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: parameters of a builder that come from the call, not from the spec string
FROM_THE_CALL = ("d", "d_in")


@functools.cache
def offered(kind: str) -> tuple[EntryPoint, ...]:
    """What other packages offer of ``layers``, ``operators`` or ``commands``; nothing is imported."""
    group = f"depprobe.{kind}"
    files = (file for folder in sys.path for file in Path(folder).glob("*-info/entry_points.txt"))
    if not any(_mentions(file, group) for file in files):
        return ()
    from importlib import metadata  # takes half as long to load as all else that --help needs

    return tuple(sorted(metadata.entry_points(group=group), key=lambda entry: entry.name))


def _mentions(file: Path, words: str) -> bool:
    try:
        return words.encode() in file.read_bytes()
    except OSError:
        return False


def package_of(entry: EntryPoint) -> str:
    """The package that offers an entry point, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value.partition(":")[0]


def taken(entry: EntryPoint) -> Any:
    """What an entry point names, imported; raises ``DepprobeError`` in one line that names the package."""
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        said = (str(error).strip().splitlines() or ["no message"])[0]
        raise DepprobeError(
            f"{entry.group} {entry.name!r} of the package {package_of(entry)} cannot be loaded from "
            f"{entry.value}: {type(error).__name__}: {said}"
        ) from error


def take_all(entries: Iterable[EntryPoint]) -> None:
    """Import entry points; each that cannot be is a ``PluginWarning``, and hides no other."""
    for entry in entries:
        try:
            taken(entry)
        except DepprobeError as error:
            warnings.warn(str(error), PluginWarning, stacklevel=3)


@dataclass(frozen=True)
class Layer:
    """One named layer: how to build it and what the papers say of it.

    ``build(d, d_in=..., **options)`` returns an ``nn.Module`` that maps (n, d_in) to (n, d_out);
    a builder without a ``d_in`` parameter needs d_in = d. ``causal(**options)`` says whether
    output t may depend on later inputs.
    """

    name: str
    build: Callable[..., Any]
    equation: str
    citation: str
    causal: Callable[..., bool]
    examples: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """First line of the builder's docstring."""
        return (inspect.getdoc(self.build) or "").split("\n", 1)[0]

    @property
    def reads_any_width(self) -> bool:
        """Whether d_in may differ from d."""
        return "d_in" in inspect.signature(self.build).parameters

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The options a spec string may set, with their resolved annotations and defaults."""
        hints = typing.get_type_hints(self.build)
        return {
            name: parameter.replace(annotation=hints.get(name, str))
            for name, parameter in inspect.signature(self.build).parameters.items()
            if name not in FROM_THE_CALL
        }


class Table(Mapping[str, Layer]):
    """A table filled by the modules of one package, read when it is first asked, then by other packages."""

    def __init__(self, kind: str, package: str) -> None:
        self._kind, self._package = kind, package
        self._entries: dict[str, Layer] = {}
        self._discovered = False
        self._taken: set[str] = set()

    def register(
        self,
        name: str,
        *,
        equation: str,
        citation: str,
        causal: Callable[..., bool] = lambda **options: True,
        examples: tuple[str, ...] = (),
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator that enters a builder under ``name``; raises ``BadInput`` if the name is taken."""

        def enter(build: Callable[..., Any]) -> Callable[..., Any]:
            if name in self._entries:
                raise BadInput(f"{self._kind} {name!r} is registered already")
            self._entries[name] = Layer(name, build, equation, citation, causal, examples)
            return build

        return enter

    def _filled(self) -> dict[str, Layer]:
        if not self._discovered:
            self._discovered = True
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
        return self._entries

    def _take(self, wanted: Callable[[str], bool]) -> None:
        """Import what other packages offer under the names wanted, each entry once."""
        new = [one for one in offered(f"{self._kind}s") if wanted(one.name) and one.value not in self._taken]
        self._taken |= {entry.value for entry in new}
        take_all(new)

    def _complete(self) -> dict[str, Layer]:
        self._filled()
        self._take(lambda name: True)
        return self._entries

    def __getitem__(self, name: str) -> Layer:
        if name not in self:
            raise unknown(self._kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        # the package that names it first, then those whose entries have other names than their layers
        if name not in self._filled():
            self._take(lambda one: one == name)
        return name in self._entries or name in self._complete()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._complete()))

    def __len__(self) -> int:
        return len(self._complete())


#: every named layer; ``depprobe/layers`` fills it
layers = Table("layer", "depprobe.layers")


@dataclass(frozen=True)
class Spec:
    """A parsed spec string.

    Examples
    --------
    >>> spec = Spec.parse("lstm: forget_bias = 2")
    >>> spec.name, str(spec)
    ('lstm', 'lstm:forget_bias=2')
    """

    name: str
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Split a spec string; raises ``BadInput`` where it is not of the form name:option=value,...."""
        name, _, rest = text.partition(":")
        settings: dict[str, str] = {}
        for piece in filter(None, (part.strip() for part in rest.split(","))):
            option, equals, value = (part.strip() for part in piece.partition("="))
            if not (option and equals and value):
                raise BadInput(f"bad option {piece!r} in {text!r}; write {name}:option=value,option=value")
            if option in settings:
                raise BadInput(f"option {option!r} is given twice in {text!r}")
            settings[option] = value
        return cls(name.strip(), settings)

    def __str__(self) -> str:
        pairs = ",".join(f"{option}={value}" for option, value in self.settings.items())
        return f"{self.name}:{pairs}" if pairs else self.name

    def options(self) -> dict[str, Any]:
        """The settings as typed values, checked against the layer's options."""
        known = layers[self.name].options
        for option in self.settings:
            if option not in known:
                raise unknown(f"option of {self.name}", option, known)
        return {
            option: _parse_value(self.name, option, value, known[option].annotation)
            for option, value in self.settings.items()
        }


def _parse_value(layer: str, option: str, text: str, annotation: Any) -> Any:
    """Read ``text`` as the annotated type: int, float, bool, str, a Literal, or one of these or None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = list(typing.get_args(annotation))
        if text.lower() == "none" and type(None) in kinds:
            return None
        annotation = next(kind for kind in kinds if kind is not type(None))
    if typing.get_origin(annotation) is typing.Literal:
        choices = {str(choice): choice for choice in typing.get_args(annotation)}
        if text not in choices:
            raise unknown(f"value of {layer}:{option}", text, choices)
        return choices[text]
    if annotation is bool:
        if text.lower() not in ("true", "false"):
            raise BadInput(f"{layer}:{option} is true or false, not {text!r}")
        return text.lower() == "true"
    try:
        return annotation(text)
    except ValueError:
        raise BadInput(f"{layer}:{option} takes {annotation.__name__}, not {text!r}") from None
