"""What commands say of a dataset, numbers with their errors, and JSON documents. No torch here."""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr

from depprobe.errors import BadInput, harmless

LN10 = math.log(10)

#: most decimals; an error below them is written with an exponent
_PLACES = 6


@dataclass(frozen=True)
class Summary:
    """What is said of a dataset.

    Attributes
    ----------
    title : one line on what was measured.
    headings : what the cells of a column are; the first one names the column.
    columns : one list of cells for each layer, in the order of ``headings``.
    records : the same with full precision, for JSON and CSV.
    notes : what a reader must know to take the numbers as they are meant.
    upright : whether each layer is printed as a row instead, where there are many.
    groups : for each layer, the heading that it and its neighbours stand under, where there are several.
    """

    title: str
    headings: list[str]
    columns: list[list[str]]
    records: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    upright: bool = False
    groups: list[str] = field(default_factory=list)


def power_of_ten(log: float) -> str:
    """A number given by its natural log, in scientific notation whatever its size.

    Examples
    --------
    >>> power_of_ten(-5000.0)
    '3.4e-2172'
    >>> power_of_ten(-math.inf)
    '0'
    """
    if math.isnan(log):
        return "unknown"
    if math.isinf(log):
        return "0" if log < 0 else "inf"
    exponent = math.floor(log / LN10)
    mantissa = 10 ** (log / LN10 - exponent)
    if round(mantissa, 1) >= 10:
        mantissa, exponent = 1.0, exponent + 1
    return f"{mantissa:.1f}e{exponent:+d}"


def with_error(value: float, error: float) -> str:
    """A value and its standard error, in the digits that the error leaves; ``-`` where unknown.

    Examples
    --------
    >>> with_error(-0.49541, 0.0011), with_error(2.31e-10, 4e-12)
    ('-0.4954 ± 0.0011', '2.310e-10 ± 4.0e-12')
    """
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return f"{value:g}"
    # fits of exact numbers leave errors of round-off
    if not math.isfinite(error) or error <= 1e-9 * abs(value):
        return f"{value:.4g}"
    if round(error, _PLACES) == 0:
        digits = 2 + math.floor(math.log10(max(abs(value), error))) - math.floor(math.log10(error))
        return f"{value:#.{digits}g} ± {error:.1e}"
    places = max(0, min(_PLACES, 1 - math.floor(math.log10(error))))
    return f"{value:.{places}f} ± {error:.{places}f}"


def with_interval(value: float, low: float, high: float) -> str:
    """A value and its 95 % interval, in the digits that its width leaves; ``-`` where unknown.

    Examples
    --------
    >>> with_interval(-0.49541, -0.4976, -0.4933), with_interval(2.0, 2.0, 3.0)
    ('-0.4954 [-0.4976, -0.4933]', '2 [2, 3]')
    """
    if math.isnan(value) or math.isinf(value):
        return "-" if math.isnan(value) else f"{value:g}"
    width = high - low
    if not math.isfinite(width) or width <= 1e-9 * abs(value):
        return f"{value:.4g}" + (f" [{low:.4g}, {high:.4g}]" if math.isinf(width) else "")
    if all(number == round(number) for number in (value, low, high)):
        return f"{value:.0f} [{low:.0f}, {high:.0f}]"
    places = max(0, min(_PLACES, 1 - math.floor(math.log10(width))))
    return f"{value:.{places}f} [{low:.{places}f}, {high:.{places}f}]"


def attributes_of(ds: xr.Dataset) -> dict[str, Any]:
    """The attributes of a dataset for JSON; what netCDF holds as JSON in a string as the object it is."""
    return {name: _unpacked(value) for name, value in ds.attrs.items()}


def _unpacked(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, dict) else value


def said(ds: xr.Dataset, name: str) -> str:
    """An attribute, or the values that it takes over the layers."""
    values = ds[name].values.ravel() if name in ds.coords else [ds.attrs.get(name)]
    return " or ".join(dict.fromkeys(map(str, values)))


def as_json(document: dict[str, Any]) -> str:
    """One JSON document; numbers that JSON lacks become null (NaN) or the strings "inf" and "-inf"."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, np.ndarray)):
            return [plain(item) for item in value]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return None if math.isnan(value) else "inf" if value > 0 else "-inf"
        return value

    return json.dumps(plain(document), indent=1, ensure_ascii=False)


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written, before the work is done rather than after.

    Raises
    ------
    BadInput : the path is a folder or device, or its folder cannot be made or written to.
    """
    folder = path.parent
    try:
        kind = "a folder" if path.is_dir() else "no file" if path.exists() and not path.is_file() else ""
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except OSError as error:
        # a name that is too long, a folder that may not be entered
        raise BadInput(f"cannot write {str(path)!r:.80}: {str(error.strerror).lower()}") from error
    if kind:
        raise BadInput(f"cannot write {str(path)!r}: it is {kind}")
    if not existing.is_dir():
        raise BadInput(f"cannot write {str(path)!r}: {str(existing)!r} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise BadInput(f"cannot write {str(path)!r}: no permission in {str(existing)!r}")
    try:
        # what permissions grant, a file system such as /proc may refuse still; the trial file goes at once
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise BadInput(f"cannot write {str(path)!r}: no file can be made in {str(existing)!r}") from error


def check_distinct(*paths: Path) -> None:
    """Refuse a call in which one file would overwrite another, or its own input.

    Raises
    ------
    BadInput : two of the paths name one file.
    """
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise BadInput(f"{str(path)!r} is named twice; dataset, figure and input must be different files")
        seen.add(real)


def shown(text: Path | str) -> str:
    """A path or a command on one line, in quotes where it holds what is not printed.

    Examples
    --------
    >>> shown("runs/a b.nc"), shown("a\\nb.nc")
    ('runs/a b.nc', "'a\\\\nb.nc'")
    """
    return str(text) if str(text).isprintable() else repr(str(text))


def echo(text: str) -> None:
    """Print a result on stdout."""
    click.echo(harmless(text))


def command_of(ds: xr.Dataset) -> str:
    """The command that a dataset's provenance records."""
    try:
        return str(json.loads(ds.attrs.get("provenance", "{}")).get("command", "unknown"))
    except ValueError:
        return "unknown"


def names_in(labels: str | Sequence[str]) -> list[str]:
    """The names in a list, or in one with commas, where a name that holds a comma stands in double quotes.

    Examples
    --------
    >>> names_in('LSTM, "TCN, 6 layers"')
    ['LSTM', 'TCN, 6 layers']
    """
    if isinstance(labels, Mapping):
        raise BadInput(f"names are a list, one a layer or row in their order, not a mapping: {dict(labels)}")
    if not isinstance(labels, str):
        return [str(name) for name in labels]
    return [name.strip() for name in next(csv.reader([" ".join(labels.split())], skipinitialspace=True), [])]


def labels_in(labels: str | Sequence[str], apart: bool = True) -> list[str]:
    """Names of layers; raises ``BadInput``: one is empty, or two are alike and must be ``apart``."""
    names = names_in(labels)
    if "" in names:
        raise BadInput(f"label {names.index('') + 1} is empty; give each layer a name")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None and apart:
        raise BadInput(f"two labels are {twice!r}; give each layer a name of its own")
    return names
