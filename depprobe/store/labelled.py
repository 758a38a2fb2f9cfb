"""What joining datasets by xarray loses, put back: labels of known names, what a missing cell means.

``xarray.concat`` fills cells that one of its datasets does not have with NaN, codes and names among them, and
leaves the dimension it makes without labels.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from depprobe.curves.align import placed
from depprobe.vocabulary import ABOUT, STATUS, describe

_STATUS = "log_norm_status"


def completed(ds: xr.Dataset) -> xr.Dataset:
    """A dataset with labels on every known variable, and a status of ``not_measured`` in missing cells.

    Unchanged, and the same object, where nothing is missing.

    Examples
    --------
    >>> ds = xr.Dataset({"log_norm": (("target", "source"), [[0.0]])}, coords={"source": [0]})
    >>> completed(ds).source.attrs
    {'long_name': 'input position k', 'units': 'position'}
    """
    ds = placed(ds)
    changed: dict[str, xr.DataArray] = {}
    for key, variable in ds.variables.items():
        name = str(key)
        values = _repaired(name, ds[name])
        bare = name in ABOUT and not {"long_name", "units"} <= variable.attrs.keys()
        if bare or values is not variable.values:
            attrs = (describe(name) if name in ABOUT else {}) | variable.attrs
            changed[name] = xr.DataArray(values, dims=variable.dims, attrs=attrs)
    return ds.assign(changed) if changed else ds


def _repaired(name: str, x: xr.DataArray) -> np.ndarray:
    """Values of a variable without the NaN that an outer join put into it."""
    values = x.values
    if name == _STATUS and values.dtype.kind == "f":
        return np.where(np.isnan(values), STATUS["not_measured"], values).astype(np.int8)
    if values.dtype.kind == "O":
        lost = np.array([isinstance(one, float) for one in values.flat]).reshape(values.shape)
        return np.where(lost, "", values).astype(str) if lost.any() else values
    return values
