"""A table of numbers as text: which columns are read, and which only say where a row stands. No torch here.

    x[t, j] = row t, column j,    standardised: (x[t, j] - mean_j) / std_j,  over all rows of the file

A first line that holds names is a header. Columns that say where a row stands (``row_index``: dates, times,
row numbers) are the index, said and not read, unless they are asked for by name.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depprobe.errors import BadInput, unknown
from depprobe.runs.tables.row_index import DATES, KINDS, dates_of, is_date, kind_of, rises
from depprobe.units import counted

Floats = NDArray[np.float64]

SUFFIXES = {".csv": ",", ".tsv": "\t"}
#: words for what a shell makes hard to type
_DELIMITERS = {"tab": "\t", "\\t": "\t", "space": " "}
#: delimiters that a file without the expected one may have
_OTHERS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','", " ": "space"}


@dataclass(frozen=True)
class Table:
    """Columns (rows, columns) by name, with the index that says where each row stands, if there is one."""

    data: Floats
    names: tuple[str, ...]
    index: str = ""
    notes: tuple[str, ...] = ()


def read_table(
    path: Path, columns: Any = None, delimiter: str | None = None, decimal: str | None = None
) -> Table:
    """The columns of a table that hold numbers, or those asked for, by name or by position from 0.

    Raises
    ------
    BadInput : ragged rows, an unknown column, one that is not of numbers, an empty cell, no column.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "x.csv")
    >>> _ = path.write_text("day;price;sold\\n2020-01-01;1,5;3\\n2020-01-02;2,5;4\\n")
    >>> found = read_table(path, delimiter=";", decimal=",")
    >>> found.names, found.data.tolist(), found.index
    (('price', 'sold'), [[1.5, 3.0], [2.5, 4.0]], 'day: 2020-01-01 to 2020-01-02')
    """
    usual = SUFFIXES.get(path.suffix.lower(), ",")
    apart = usual if delimiter is None else _DELIMITERS.get(delimiter, delimiter)
    point = "." if decimal is None else decimal
    for said, given in (("delimiter", apart), ("decimal", point)):
        if len(given) != 1 or given.isalnum() or given in '"\r\n':
            raise BadInput(f"{said} must be one character that no number or name holds, not {given!r}")
    if apart == point:
        raise BadInput(f"delimiter and decimal are both {point!r}; give another --delimiter")
    lines, rows = _cells(path, apart)
    return Columns(path.name, apart, point, lines, rows).chosen(columns)


def standardised(data: Floats, names: Sequence[str]) -> tuple[Floats, Floats, Floats]:
    """Columns of mean 0 and standard deviation 1, with the means and deviations that they had.

    Raises ``BadInput``: a column is constant.

    Examples
    --------
    >>> [part.tolist() for part in standardised(np.array([[1.0], [3.0]]), ["a"])]
    [[[-1.0], [1.0]], [2.0], [1.0]]
    """
    flat = [name for name, low, high in zip(names, data.min(0), data.max(0), strict=True) if low == high]
    if flat:
        called = f"{', '.join(map(repr, flat[:4]))} {'does' if len(flat) == 1 else 'do'} not vary"
        raise BadInput(f"{called} and cannot be standardised; leave out --standardise, or read other columns")
    # powers of two change no digit, and squares of the rest neither overflow nor vanish
    power = np.frexp(np.abs(data).max(0))[1]
    data = np.ldexp(data, -power)
    mean, std = data.mean(0), data.std(0)
    return (data - mean) / std, np.ldexp(mean, power), np.ldexp(std, power)


def _cells(path: Path, apart: str) -> tuple[list[int], list[list[str]]]:
    """Numbers of the lines that are not empty, and their cells; raises ``BadInput`` for ragged rows."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=apart, skipinitialspace=True, strict=True)
            numbered = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        raise BadInput(
            f"cannot read input {str(path)!r}: byte {error.start} is not UTF-8; save it as UTF-8"
        ) from None
    if apart == " ":
        # a run of blanks is one
        numbered = [(line, [cell for cell in row if cell]) for line, row in numbered]
    if not numbered:
        raise BadInput(f"input {str(path)!r} is empty")
    width = len(numbered[0][1])
    for line, row in numbered:
        if len(row) != width:
            raise BadInput(
                f"cannot read input {str(path)!r}: line {line} has {counted(len(row), 'column')} and line "
                f"{numbered[0][0]} has {width}{_hint(apart, ''.join(numbered[0][1]).replace(' ', ''))}"
            )
    return [line for line, _ in numbered], [[cell.strip() for cell in row] for _, row in numbered]


def _hint(apart: str, cells: Sequence[str]) -> str:
    """The delimiter that the file seems to have, where it is another; blanks only where there is no other."""
    found = {c for c in chain.from_iterable(cells) if c in _OTHERS and c != apart}
    other = next((_OTHERS[c] for c in _OTHERS if c in found), None)
    return f"; for columns set apart by {other} give --delimiter {other}" if other else ""


class Columns:
    """The columns of a table as text and as numbers; ``names`` None: the first row may hold them."""

    def __init__(
        self,
        file: str,
        apart: str,
        point: str,
        lines: list[int],
        rows: list[list[str]],
        names: list[str] | None = None,
    ) -> None:
        self._file, self._apart, self._first_row = file, apart, rows[0]
        self._point, self._counted = point, "line" if names is None else "row"
        named = names is None and self._has_header(rows)
        self.names = names or (rows[0] if named else [str(j) for j in range(len(rows[0]))])
        self._lines, rows = lines[named:], rows[named:]
        if not rows:
            raise BadInput(f"input {file!r} is empty but for its header")
        self._text = [list(column) for column in zip(*rows, strict=True)]
        self._values = [self._numbers(column) for column in self._text]
        self._notes = []
        if named and any(np.isfinite(self._numbers(self.names))):
            self._notes.append(f"its first line is read as names: {', '.join(self.names)}")

    def chosen(self, columns: Any) -> Table:
        alone = len(self.names) == 1
        told = zip(self.names, self._text, self._values, strict=True)
        kinds = {j: kind_of(j, *column, alone) for j, column in enumerate(told)}
        placing = sorted((j for j in kinds if kinds[j]), key=lambda j: KINDS.index(kinds[j]))
        if columns is None:
            wanted = [j for j in kinds if not kinds[j]]
            for kind in KINDS:
                called = ", ".join(repr(self.names[j]) for j in kinds if kinds[j] == kind)
                if called:
                    said = f"column {called} holds {kind} and is taken as the index, not as input"
                    self._notes.append(said)
            if not wanted:
                raise BadInput(f"{self._file} holds no column of numbers beside {self.names[placing[0]]!r}")
        else:
            wanted = self._positions(columns)
        index = ""
        if placing := [j for j in placing if j not in wanted]:
            cells = self._text[placing[0]]
            index = f"{self.names[placing[0]]}: {cells[0]} to {cells[-1]}"
        if placing and kinds[placing[0]] == DATES and self._falls(placing[0]):
            self._notes.append(f"its dates run backwards ({index})")
        for j in wanted:
            self._check(j, columns is None)
        data = np.stack([self._values[j] for j in wanted], 1)
        return Table(data, tuple(self.names[j] for j in wanted), index, tuple(self._notes))

    def _numbers(self, cells: Sequence[str]) -> Floats:
        import pandas as pd

        if self._point != ".":
            # a point in such a number would be a mark between thousands
            cells = [cell.replace(".", "?").replace(self._point, ".") for cell in cells]
        # plain strings: arrays of pandas's own read underscores and blanks otherwise
        found = pd.to_numeric(pd.Series(list(cells), dtype=object), errors="coerce")
        return np.asarray(found, dtype=np.float64)

    def _has_header(self, rows: list[list[str]]) -> bool:
        """Whether the first line holds names: some column is of numbers or dates from the second line on."""
        first = np.isnan(self._numbers(rows[0])) & ~_words_for_nan(rows[0])
        if not first.any():
            return False
        named = first & [not is_date(cell) for cell in rows[0]]
        if named.all() or len(rows) < 2:
            return bool(named.all())
        below = ~np.isnan(self._numbers(rows[1])) | [is_date(cell) for cell in rows[1]]
        return bool((named & below).any())

    def _positions(self, columns: Any) -> list[int]:
        if isinstance(columns, str):
            columns = next(csv.reader([columns], skipinitialspace=True), [])
        given = [columns] if isinstance(columns, int) else list(columns)
        if not given:
            raise BadInput("columns names none; leave it out to read all")
        found = [self._position(one) for one in given]
        twice = next((one for i, one in enumerate(given) if found[i] in found[:i]), None)
        if twice is not None:
            raise BadInput(f"column {twice!r} of {self._file} is named twice")
        return found

    def _position(self, one: Any) -> int:
        name = one.strip() if isinstance(one, str) else one
        if isinstance(name, str) and (count := self.names.count(name)):
            if count > 1:
                raise BadInput(f"{self._file} has {count} columns {name!r}; give the position, from 0")
            return self.names.index(name)
        if isinstance(name, bool) or not isinstance(name, int | np.integer | str):
            raise BadInput(f"a column is given by name or position, not {one!r}")
        if isinstance(name, str) and not (name.isascii() and name.isdecimal()):
            named = unknown(f"column in {self._file}", name, dict.fromkeys(self.names))
            raise BadInput(f"{named}{_hint(self._apart, self._first_row) if len(self.names) == 1 else ''}")
        if not 0 <= int(name) < len(self.names):
            last = len(self.names) - 1
            raise BadInput(f"{self._file} has columns 0 to {last}, no column {name}: {', '.join(self.names)}")
        return int(name)

    def _falls(self, j: int) -> bool:
        dates = dates_of(self._text[j])
        return dates is not None and not rises(dates)

    def _check(self, j: int, all_read: bool) -> None:
        """Refuse a column that is not of finite numbers, naming its first other cell."""
        wrong = np.flatnonzero(~np.isfinite(self._values[j]))
        if not len(wrong):
            return
        at = int(wrong[0])
        cell, where = self._text[j][at], f"{self._counted} {self._lines[at]}, column {self.names[j]!r}"
        what = f"holds {cell!r}, not a number" if cell else "is empty"
        if not np.isnan(self._values[j][at]) or _words_for_nan([cell])[0]:
            what = f"holds NaN or Inf ({cell})"
        way = (
            f"; it must be finite in all rows ({len(wrong)} {'is' if len(wrong) == 1 else 'are'} not)"
            if cell and "NaN" in what
            else ""
        )
        others = [name for i, name in enumerate(self.names) if i != j and np.isfinite(self._values[i]).all()]
        if not cell:
            way = f"; fill {'it' if len(wrong) == 1 else f'the {len(wrong)} empty ones'} or leave out the row"
        hint = _hint(self._apart, self._first_row if len(self.names) == 1 else [cell])
        if len(self.names) > 1 and re.fullmatch(r"[+-]?\d{1,3}([., ']\d{3})+([.,]\d+)?", cell):
            hint = "; write numbers without marks between thousands"
        elif hint and "," in cell and self._point == "." and self._apart != ",":
            hint = "; for numbers such as 1,5 give --decimal ','"
        elif all_read and others and not hint:
            way += f"; --columns {','.join(others[:4])} reads those of numbers alone"
        raise BadInput(f"cannot read input {self._file!r}: {where} {what}{way}{hint}")


def _words_for_nan(cells: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([cell.lower().lstrip("+-") == "nan" for cell in cells], dtype=bool)
