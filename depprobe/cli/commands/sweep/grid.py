"""The cells of a grid file.

probe = "jacobian"          jacobian, spectrum, gates, lyapunov or cost
[grid]                      every combination of these lists is a cell
layer = ["lstm", "gru"]     key: an option of that command; model = [...] goes on along the same axis
[fixed]                     what all cells share
[[include]]                 further cells, over [fixed]; a list is a combination here too
[[exclude]]                 cells of [grid] that match every key are left out; a list means any of these
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from depprobe.cli.commands.sweep.keys import OF_SUBJECT, SUBJECT, Keys, Settings
from depprobe.errors import BadInput, unknown
from depprobe.store.atomic import one_line, reason_of
from depprobe.store.sweeps.folder import on_one_line

#: keys that bear on named layers alone, or on models alone (true)
_OF_ONE_KIND = {"d": False, "layout": True, "part": True}
_TABLES = ("probe", "grid", "fixed", "include", "exclude")
#: most bytes of a grid file, and most cells of a grid
_LONGEST, _MOST = 1 << 20, 1_000_000


@dataclass(frozen=True)
class Grid:
    """The settings of every cell, in the order of the file, and the axes along which cells differ."""

    keys: Keys
    axes: list[str]
    cells: list[Settings]


def read(path: Path) -> Grid:
    """The grid of a file.

    Raises
    ------
    BadInput : the file cannot be read, is not TOML, holds an unknown key or a value of a wrong kind.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise BadInput(f"cannot read {str(path)!r}: a grid of more than {_LONGEST >> 20} MiB")
        document = tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise BadInput(f"cannot read {str(path)!r}: {reason_of(error)}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{str(path)!r} is not TOML: {on_one_line(one_line(error))}") from None
    try:
        return grid_of(document)
    except BadInput as error:
        raise BadInput(f"{str(path)!r}: {on_one_line(str(error))}") from None


def grid_of(document: Mapping[str, Any]) -> Grid:
    """The grid that a parsed file describes.

    Examples
    --------
    >>> text = {"grid": {"layer": ["lstm", "gru"], "n": [10, 20]}, "exclude": [{"layer": "gru", "n": 20}]}
    >>> [cell.values for cell in grid_of({"probe": "jacobian", **text}).cells]
    [{'n': 10}, {'n': 20}, {'n': 10}]
    """
    for name in document:
        if name not in _TABLES:
            raise unknown("table of a grid", name, _TABLES)
    keys = Keys(document.get("probe", "jacobian"))
    grid = keys.renamed(_table(document, "grid"), "grid")
    fixed: dict[str, Any] = keys.renamed(_table(document, "fixed"), "fixed")
    for name in fixed:
        if name in grid:
            raise BadInput(f"{name} stands in [grid] and in [fixed]: leave one out")
    lists = {name: _listed(name, values) for name, values in grid.items()}
    cells = list(_combined(keys, lists, fixed))
    for number, said in enumerate(_tables(document, "exclude"), 1):
        left_out = keys.renamed(said, "exclude")
        others = [cell for cell in cells if not keys.matches(cell, left_out)]
        if len(others) == len(cells):
            raise BadInput(f"[[exclude]] number {number} matches no cell of [grid]: {said}")
        cells = others
    axes = list(grid)
    for more in _tables(document, "include"):
        values = keys.renamed(more, "include")
        rest = {name: value for name, value in fixed.items() if name not in values}
        cells += _combined(keys, {name: _any(value) for name, value in values.items()}, rest)
        # a layer or model with its weights and label is one value of one axis
        axes += [name for name in values if name not in (*axes, *set(OF_SUBJECT) - {SUBJECT})]
    cells = _for_whom_it_is(keys, cells, fixed)
    if not cells:
        raise BadInput('no cell: give lists in [grid], such as layer = ["lstm", "gru"]')
    kept = list(axes)
    for name in reversed([name for name in axes if name not in grid]):
        # what [[include]] names is an axis where cells need it to be told apart: else some lie at a default
        fewer = [other for other in kept if other != name]
        if len(_places(keys, cells, fewer)) == len(_places(keys, cells, kept)):
            kept = fewer
    return Grid(keys, kept or [SUBJECT], cells)


def _for_whom_it_is(keys: Keys, cells: list[Settings], fixed: Mapping[str, Any]) -> list[Settings]:
    """The cells, without what [fixed] says of the layers or of the models beside them alone.

    Raises ``BadInput`` where no cell can use it, or another table says it.
    """
    kinds = {keys.named(one).is_model for one in cells}
    for key, of_models in _OF_ONE_KIND.items():
        others = [one for one in cells if key in one.values and keys.named(one).is_model is not of_models]
        wrong = next((one for one in others if len(kinds) == 1 or one.values[key] != fixed.get(key)), None)
        if wrong is not None:
            way = "leave it out" if len(kinds) == 1 else "say it in [fixed], or in an [[include]]"
            what, whose = ("layer", "models") if of_models else ("model", "layers")
            name = keys.named(wrong).name
            said = f"{key} = {wrong.values[key]} has no meaning for the {what} {name!r}"
            raise BadInput(f"{said}, as it is for {whose}: {way}")
        bare = {id(one): {k: v for k, v in one.values.items() if k != key} for one in others}
        cells = [Settings(one.subject, bare.get(id(one), one.values)) for one in cells]
    return cells


def _places(keys: Keys, cells: Sequence[Settings], axes: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(str(keys.at(cell, name)) for name in axes) for cell in cells}


def _combined(keys: Keys, lists: Mapping[str, list[Any]], fixed: dict[str, Any]) -> Iterator[Settings]:
    if prod(len(values) for values in lists.values()) > _MOST:
        raise BadInput(f"a grid of more than {_MOST:,} cells")
    if not lists and not fixed:
        return
    for values in product(*lists.values()):
        yield keys.settings(fixed | dict(zip(lists, values, strict=True)))


def _listed(name: str, values: Any) -> list[Any]:
    if values == []:
        raise BadInput(f"[grid] {name} is an empty list; give one value at least, or leave it out")
    if not isinstance(values, list):
        raise BadInput(f"[grid] {name} must be a list, {name} = [...]; one value belongs in [fixed]")
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        said = next(iter(twice.values())) if isinstance(twice, Mapping) and len(twice) == 1 else twice
        raise BadInput(f"[grid] {name} lists {said!r} twice: leave one out")
    return values


def _any(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, Mapping):
        raise BadInput(f"{name} must be a table, [{name}], not {table!r:.60}")
    return table


def _tables(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(one, Mapping) and one for one in tables):
        raise BadInput(f"{name} must be tables, [[{name}]], each with a key, not {tables!r:.60}")
    return tables
