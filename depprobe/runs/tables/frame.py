"""A table of pandas as the cells of a file: read by the same rules. No torch here.

frame, its index of dates  ->  names, rows of text  ->  the columns of numbers, and the index
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from depprobe.errors import BadInput
from depprobe.runs.tables.csv_table import Columns, Table

#: what messages call it
NAME = "DataFrame"
#: suffix of a file that pandas alone reads -> its function
READERS = {
    ".parquet": "read_parquet",
    **dict.fromkeys((".feather", ".arrow"), "read_feather"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "read_excel"),
}


def is_frame(value: Any) -> bool:
    """Whether a value is a table of pandas."""
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def as_csv(path: Path) -> str:
    """The line of pandas that makes a .csv of a table of another kind, for a message; "" for other files.

    Examples
    --------
    >>> as_csv(Path("prices.parquet"))
    "; in Python: pandas.read_parquet('prices.parquet').to_csv('prices.csv', index=False)"
    """
    reader = READERS.get(path.suffix.lower())
    csv = path.with_suffix(".csv").name
    return f"; in Python: pandas.{reader}({path.name!r}).to_csv({csv!r}, index=False)" if reader else ""


def read_frame(frame: Any, columns: Any = None) -> Table:
    """The columns of a table of pandas that hold numbers, or those asked for, by name or by position from 0.

    An index of dates is the index; any other names the rows and is not read.

    Raises
    ------
    BadInput : an unknown column, one that is not of numbers, an empty cell, no column, no row.

    Examples
    --------
    >>> import pandas as pd
    >>> found = read_frame(pd.DataFrame({"day": pd.date_range("2020", periods=2), "price": [1.5, 2.5]}))
    >>> found.names, found.data.tolist(), found.index
    (('price',), [[1.5], [2.5]], 'day: 2020-01-01 00:00:00 to 2020-01-02 00:00:00')
    """
    if not len(frame) or not len(frame.columns):
        raise BadInput(f"the {NAME} is empty, of shape {frame.shape}")
    if frame.index.dtype.kind == "M":
        frame = frame.reset_index()
    text = [[_cell(value) for value in frame.iloc[:, j]] for j in range(frame.shape[1])]
    names = [str(name) for name in frame.columns]
    rows = [list(row) for row in zip(*text, strict=True)]
    return Columns(NAME, ",", ".", list(range(len(rows))), rows, names).chosen(columns)


def _cell(value: Any) -> str:
    """A cell as a file would hold it: numbers in all their digits, nothing for what is missing."""
    import pandas as pd

    if pd.isna(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value).strip()
