"""Keys of a grid file: the options of a command by their long names, without those of how results are said.

``layer`` and ``model`` name what is measured and lie on one axis; a table gives a model with more:
``{model = "net.py:make", weights = "net.pt", label = "A"}``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import click

from depprobe.cli.named_models import Named, named
from depprobe.cli.options import SAYING
from depprobe.errors import BadInput, unknown

PROBES = ("jacobian", "spectrum", "gates", "lyapunov", "cost")
#: the axis of what is measured, and the keys that stand on it
SUBJECT = "layer"
_SUBJECTS = ("layer", "model")
OF_SUBJECT = (*_SUBJECTS, "weights", "label")
#: axis -> option that gives a cell several values of it
_SEVERAL = {"seed": "seeds", "n": "n", "d": "d", "threads": "threads"}
#: options of the sweep, not of its cells
OF_SWEEP = ("threads", "workers", "scheduler", "output")
#: options that do not bear on a dataset
_OTHERS = ("help", "theory", *SAYING)


@dataclass(frozen=True)
class Settings:
    """What one cell is given: what is measured, and options by name, as written."""

    subject: tuple[tuple[str, str], ...]
    values: dict[str, Any]


class Keys:
    """The keys that a grid of one probe may hold.

    Examples
    --------
    >>> Keys("gates").words(Keys("gates").settings({"layer": {"layer": "lstm"}, "hold_h": True, "n": 20}))
    ['--layer', 'lstm', '--n', '20', '--hold-h']
    """

    def __init__(self, probe: Any) -> None:
        if not isinstance(probe, str) or probe not in PROBES:
            raise unknown("probe", str(probe), PROBES)
        self.probe = probe
        self._seen: dict[Any, Any] = {}

    @cached_property
    def command(self) -> click.Command:
        """The command whose options these are."""
        found: click.Command = getattr(importlib.import_module(self.module), self.probe)
        return found

    @property
    def module(self) -> str:
        """The module of the command."""
        return f"depprobe.cli.commands.{self.probe}"

    @cached_property
    def options(self) -> dict[str, click.Option]:
        """Option by key."""
        return {
            _key(option): option
            for option in self.command.params
            if isinstance(option, click.Option) and not _is_other(option)
        }

    @cached_property
    def _context(self) -> click.Context:
        return click.Context(self.command)

    def renamed(self, table: Mapping[str, Any], where: str) -> dict[str, Any]:
        """A table of the file with its keys in one spelling; raises ``BadInput`` for an unknown one."""
        known = [*dict.fromkeys((*OF_SUBJECT, *self.options))]
        found: dict[str, Any] = {}
        for written, value in table.items():
            key = written.replace("-", "_")
            if key in OF_SWEEP and key not in known:
                raise BadInput(f"{written} is no key of a grid: give --{written} to depprobe sweep")
            if key not in known:
                raise unknown(f"key of {self.probe} in [{where}]", written, known)
            if key in _SUBJECTS:
                several = value if isinstance(value, list) else [value]
                subjects = [one if isinstance(one, Mapping) else {key: one} for one in several]
                here = subjects if isinstance(value, list) else subjects[0]
                if SUBJECT in found:
                    here = [*_all(found[SUBJECT]), *_all(here)]
                found[SUBJECT] = here
            else:
                found[key] = value
        return found

    def settings(self, given: Mapping[str, Any]) -> Settings:
        """The settings of a cell, each value checked; raises ``BadInput``."""
        values = dict(given)
        subject = values.pop(SUBJECT, None)
        if subject is None:
            raise BadInput('a cell without a layer: give layer = ["lstm"] or model = ["net.py:make"]')
        beside: dict[str, Any] = {key: values.pop(key) for key in ("weights", "label") if key in values}
        found = self._subject(subject, beside)
        for key, value in values.items():
            self.typed(key, value)
        return Settings(found, values)

    def _subject(self, subject: Any, beside: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        if not isinstance(subject, Mapping):
            raise BadInput(f"a layer must be a name or a table, not {subject!r:.60}")
        said = {**beside, **subject}
        for key, value in said.items():
            if key not in OF_SUBJECT:
                raise unknown("key of a layer", key, OF_SUBJECT)
            if not isinstance(value, str) or not value:
                raise BadInput(f"{key} must be text, not {value!r:.60}")
        if set(said.get("label", "")) & set(":/\\="):
            raise BadInput(f"a label holds no : / \\ or =, which {said['label']!r:.60} does")
        if sum(key in said for key in _SUBJECTS) != 1:
            raise BadInput(f"one of layer and model names what is measured, not {sorted(said)}")
        made = tuple(sorted(said.items()))
        if made not in self._seen:
            one = _named(dict(made))
            if not one.is_model:
                from depprobe.registry import Spec

                Spec.parse(one.text).options()
            self._seen[made] = one
        return made

    def named(self, settings: Settings) -> Named:
        """The layer or model of a cell as a command line names it."""
        return _named(dict(settings.subject))

    def typed(self, key: str, value: Any) -> Any:
        """A value as the command takes it; raises ``BadInput`` where it does not."""
        seen = (key, repr(value))
        if seen not in self._seen:
            self._seen[seen] = self._typed(key, value)
        return self._seen[seen]

    def _typed(self, key: str, value: Any) -> Any:
        option = self.options[key]
        if option.is_flag:
            if not isinstance(value, bool):
                raise BadInput(f"{key} must be true or false, not {value!r:.60}")
            return value
        try:
            typed = [
                option.type.convert(_text(key, one), option, self._context) for one in self._each(key, value)
            ]
        except click.ClickException as error:
            raise BadInput(f"{key} = {value!r:.60}: {error.message}") from None
        return tuple(typed) if option.multiple else typed[0]

    def _each(self, key: str, value: Any) -> list[Any]:
        """The values to write: one for each time the option is repeated, lists of others with commas."""
        if not isinstance(value, list):
            return [value]
        if not value:
            raise BadInput(f"{key} is an empty list")
        return value if self.options[key].multiple else [",".join(_text(key, one) for one in value)]

    def words(self, settings: Settings) -> list[str]:
        """The words of the command line that measures this cell, in the order of the command's options."""
        words = self.named(settings).words
        for key, option in self.options.items():
            if key not in settings.values:
                continue
            value = settings.values[key]
            if option.is_flag:
                words += [option.opts[-1]] if value else option.secondary_opts[-1:]
            else:
                for one in self._each(key, value):
                    words += [option.opts[-1], _text(key, one)]
        return words

    def at(self, settings: Settings, axis: str) -> str | int | float:
        """Where a cell lies on an axis: its name, or the value of an option, the default where not given."""
        if axis == SUBJECT:
            return self.named(settings).name
        if axis in OF_SUBJECT:
            return dict(settings.subject).get(axis, "")
        given = axis in settings.values
        value = self.typed(axis, settings.values[axis]) if given else self.default(axis)
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        if isinstance(value, int | float):
            return value
        text = "" if value is None else str(value)
        # options that take lists, such as the lengths of cost, are text
        return int(text) if text.isdecimal() and text.isascii() else text

    def default(self, key: str) -> Any:
        """The value of an option that is not given; None where it has none."""
        value = self.options[key].get_default(self._context)
        # what newer versions of click hand out for None
        return None if value is getattr(click.core, "UNSET", None) else value

    def matches(self, settings: Settings, wanted: Mapping[str, Any]) -> bool:
        """Whether a cell has one of the values wanted of every key."""
        return all(self._has(settings, key, value) for key, value in wanted.items())

    def _has(self, settings: Settings, key: str, wanted: Any) -> bool:
        if key == SUBJECT:
            # by all that is said of it, or by the name it goes by
            name = [self.named(settings).name]
            held = settings.subject
            return any([*one.values()] == name or all(p in held for p in one.items()) for one in _all(wanted))
        if key in OF_SUBJECT:
            return dict(settings.subject).get(key) in _all(wanted)
        there = self.at(settings, key)
        single = settings.values.get(key)
        return single == wanted or there in _all(wanted) or str(there) in map(str, _all(wanted))


def check_together(keys: Keys, cells: list[Settings], axes: Sequence[str]) -> None:
    """Refuse layers of one name, which one axis could not tell apart, and cells that lie along an axis."""
    subjects = dict.fromkeys(cell.subject for cell in cells)
    names: dict[str, Any] = {}
    for subject in subjects:
        apart = tuple(pair for pair in subject if pair[0] != "weights")
        name = _named(dict(subject)).name
        if names.setdefault(name, apart) != apart:
            raise BadInput(f"two layers would be called {name!r}: give each a label of its own")
    for cell, (axis, option) in product(cells, _SEVERAL.items()):
        if axis not in axes or option not in keys.options:
            continue
        held = keys.at(cell, option)
        if "," in str(held) or (axis != option and held != 1):
            raise BadInput(
                f"{axis} is an axis of the grid and a cell holds several of it ({option} = {held}): give one"
            )


def _named(subject: Mapping[str, str]) -> Named:
    key = "layer" if "layer" in subject else "model"
    label = f"{subject['label']}=" if "label" in subject else ""
    words = [f"--{key}", label + subject[key]]
    (one,) = named([*words, *(("--weights", subject["weights"]) if "weights" in subject else ())])
    return one


def _key(option: click.Option) -> str:
    return option.opts[-1].lstrip("-").replace("-", "_")


def _is_other(option: click.Option) -> bool:
    if option.name == "counts":  # threads to time with are part of what is measured
        return False
    return option.name in _OTHERS or not option.expose_value or _key(option) in ("layer", "table", "json")


def _all(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadInput(f"{key} takes a number or text, not {value!r:.60}")
    return str(value)
