"""Datasets of schema version 1, which had no ``log_norm_status``: NaN stood for every norm not known."""

from __future__ import annotations

import numpy as np
import xarray as xr

from depprobe.vocabulary import SCHEMA_VERSION, describe, status_of


def from_version_1(ds: xr.Dataset) -> xr.Dataset:
    """The same in the present version: what was NaN inside the sequence is undecided.

    Examples
    --------
    >>> old = xr.Dataset({"log_norm": (("target", "source"), [[np.nan, 0.0]])}, attrs={"schema_version": "1"})
    >>> from_version_1(old)["log_norm_status"].values.tolist()
    [[5, 1]]
    """
    if "log_norm" in ds:
        norms = ds["log_norm"]
        exists = xr.DataArray(True)
        if "lag" in norms.dims and {"position", "lag"} <= set(ds.coords) and "n" in ds.attrs:
            source = xr.apply_ufunc(np.floor, ds["position"] - ds["lag"] + 0.5)
            exists = (source >= 0) & (source < ds.attrs["n"])
        there = exists.broadcast_like(norms).transpose(*norms.dims)
        status = status_of(norms.values, there.values)
        ds = ds.assign(log_norm_status=(norms.dims, status, describe("log_norm_status")))
    return ds.assign_attrs(schema_version=SCHEMA_VERSION)
