"""What joining datasets by xarray loses, put back: labels of known names, what a missing cell means.

``xarray.concat`` fills cells that one of its datasets does not have with NaN, codes and names among them, and
leaves the dimension it makes without labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from depprobe.curves.align import placed, with_lag
from depprobe.curves.selected import selected
from depprobe.vocabulary import ABOUT, STATUS, describe

_STATUS = "log_norm_status"


def completed(ds: xr.Dataset) -> xr.Dataset:
    """A dataset with labels on every known variable, lags, and a status of ``not_measured`` in missing cells.

    Unchanged, and the same object, where nothing is missing.

    Examples
    --------
    >>> ds = xr.Dataset({"log_norm": (("target", "source"), [[0.0]])}, coords={"source": [0]})
    >>> completed(ds).source.attrs
    {'long_name': 'input position k', 'units': 'position'}
    """
    ds = with_lag(placed(selected(ds)))
    changed: dict[str, xr.Variable] = {}
    for name, variable in ds.variables.items():
        if name not in ABOUT:
            continue
        given, said = variable.values, describe(str(name))
        values = _repaired(str(name), given)
        flags = _flags_since(variable.attrs) if name == _STATUS else {}
        attrs = {label: said[label] for label in ("long_name", "units")} | variable.attrs | flags
        if values is not given or flags or len(attrs) > len(variable.attrs):
            changed[str(name)] = xr.Variable(variable.dims, values, attrs)
    return ds.assign(changed) if changed else ds


def _flags_since(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """The flags of today for a status that was written with the first of them; {} for any other."""
    values = np.atleast_1d(attrs.get("flag_values", [])).tolist()
    written = dict(zip(str(attrs.get("flag_meanings", "")).split(), values, strict=False))
    older = 0 < len(written) < len(STATUS) and list(written.items()) == list(STATUS.items())[: len(written)]
    return {name: ABOUT[_STATUS][name] for name in ("flag_values", "flag_meanings")} if older else {}


def _repaired(name: str, values: np.ndarray) -> np.ndarray:
    """Values of a variable without the NaN that an outer join put into it."""
    if name == _STATUS and values.dtype.kind == "f" and np.isnan(values).any():
        return np.where(np.isnan(values), STATUS["not_measured"], values).astype(np.int8)
    if values.dtype.kind == "O":
        lost = np.array([isinstance(one, float) and one != one for one in values.flat], bool)
        return np.where(lost.reshape(values.shape), "", values).astype(str) if lost.any() else values
    return values
