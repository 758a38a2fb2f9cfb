"""The named tables, and the spec strings that address their entries. No torch here.

A spec string is ``name`` or ``name:option=value,option=value``: the one address of a layer on the
command line, in test ids, dataset coordinates, file names and legends.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from depprobe.errors import BadInput, unknown

#: parameters of a builder that come from the call, not from the spec string
FROM_THE_CALL = ("d", "d_in")


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
    """A table filled by the modules of one package, read when it is first asked."""

    def __init__(self, kind: str, package: str) -> None:
        self._kind, self._package = kind, package
        self._entries: dict[str, Layer] = {}
        self._discovered = False

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

    def __getitem__(self, name: str) -> Layer:
        if name not in self._filled():
            raise unknown(self._kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._filled()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._filled()))

    def __len__(self) -> int:
        return len(self._filled())


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
