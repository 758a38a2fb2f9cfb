"""What netCDF can hold: real numbers and strings, and attributes that are these or flat lists of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr


def first_unstorable(ds: xr.Dataset) -> str | None:
    """What netCDF cannot hold in the dataset, or None."""
    for name, variable in ds.variables.items():
        kind = variable.dtype.kind
        if not isinstance(name, str) or not name or "/" in name:
            return f"variable name {name!r} is not a string without slashes"
        if kind == "O" and all(isinstance(value, str) for value in variable.values.flat):
            continue
        if kind not in "iufU" or (kind == "f" and variable.dtype.itemsize not in (4, 8)):
            hint = {"b": "; write 0 and 1", "c": "; use the dimension 'part'"}.get(kind, "")
            return f"variable {name!r} is {variable.dtype}; netCDF holds real numbers and strings{hint}"
    holders: list[tuple[str, Mapping[Any, Any]]] = [("of the dataset", ds.attrs)]
    holders += [(f"of variable {name!r}", variable.attrs) for name, variable in ds.variables.items()]
    for place, attributes in holders:
        for name, value in attributes.items():
            if not isinstance(name, str) or not name:
                return f"attribute name {name!r} {place} is not a string"
            fault = _unstorable_value(value)
            if fault:
                return f"attribute {name!r} {place} {fault}"
    return None


def _unstorable_value(value: Any) -> str | None:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, list | tuple | np.ndarray):
        items = list(value)
        if not items:
            return "is an empty list; leave it out"
        if any(isinstance(item, list | tuple | np.ndarray) for item in items):
            return "is a nested list; use a variable"
        if len({isinstance(item, str) for item in items}) > 1:
            return "is a list of strings and numbers; use one or the other"
        return next(filter(None, map(_unstorable_value, items)), None)
    if isinstance(value, str):
        # a lone surrogate has no UTF-8 form, and HDF5 ends strings at a NUL
        storable = "\0" not in value and value.encode("utf-8", "replace").decode() == value
        return None if storable else "holds characters that are not storable text"
    if isinstance(value, bool | np.bool_):
        return f"is the bool {value}; write 0 or 1, or a string"
    if value is None:
        return "is None; leave it out"
    if isinstance(value, complex | np.complexfloating):
        return "is complex; write its real and imaginary parts"
    if isinstance(value, dict):
        return "is a dict; write it as a JSON string"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "is an integer beyond 64 bits; write it as a string"
    if isinstance(value, np.float16 | np.longdouble) and not isinstance(value, np.float64):
        return f"is {type(value).__name__}; use float64"
    if isinstance(value, int | float | np.integer | np.floating):
        return None
    return f"is a {type(value).__name__}; use a number, a string or a list of either"
