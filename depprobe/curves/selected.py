"""What ``sel`` and ``isel`` leave, as if it had been measured alone.

    ds.sel(layer="gru").isel(seed=1, target=3)  ->  over (target, source), of that layer and seed

A selection turns a dimension into a coordinate without one, but leaves the attributes as they were.
"""

from __future__ import annotations

import xarray as xr

from depprobe.vocabulary import ATTRIBUTES, JACOBIAN_ATTRIBUTES

_ORDER = ("layer", "depth", "seed", "sample", "target", "source", "lag")


def selected(ds: xr.Dataset) -> xr.Dataset:
    """A Jacobian dataset over (target, source) or (target, lag) again, its attributes those of what is left.

    Unchanged, and the same object, where nothing was selected.

    Examples
    --------
    >>> ds = xr.Dataset(
    ...     {"log_norm": (("seed", "target", "source"), [[[0.0]], [[0.0]]])},
    ...     coords={"seed": [0, 1], "target": [0], "source": [0]},
    ...     attrs={"seed": 0},
    ... )
    >>> one = selected(ds.isel(seed=1, target=0))
    >>> one.log_norm.dims, one.attrs
    (('target', 'source'), {'seed': 1})
    """
    if not isinstance(ds, xr.Dataset) or "log_norm" not in ds:
        return ds
    # chunked by the caller; what names and places norms is read all over
    chunked = {name: one.compute() for name, one in ds.coords.items() if one.chunks is not None}
    ds = _in_order(_with_axes(ds.assign_coords(chunked) if chunked else ds))
    single = {str(name): one for name, one in ds.coords.items() if one.size == 1 and str(name) in _said(ds)}
    left = {name: one.item() for name, one in single.items()}
    left = {name: value for name, value in left.items() if ds.attrs.get(name) != value}
    if not left:
        return ds
    if "layer" in left and "title" in ds.attrs:
        left["title"] = str(ds.attrs["title"]).replace(str(ds.attrs.get("layer", "")), left["layer"])
    return ds.assign_attrs(left)


def _said(ds: xr.Dataset) -> set[str]:
    """What attributes say of a Jacobian dataset."""
    return {*ATTRIBUTES, *JACOBIAN_ATTRIBUTES, "of", "probes", "deflated", *map(str, ds.attrs)}


def _with_axes(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with the axes that ``isel(target=3)`` or ``sel(source=0)`` took from its norms."""
    for axis, other in (("target", "target"), ("source", "lag")):
        if {axis, other} & {*ds["log_norm"].dims}:
            continue
        if axis in ds.coords and ds[axis].ndim == 0:
            moved = ["position"] if axis == "target" and "position" in ds.coords else []
            ds = ds.expand_dims(axis).assign_coords({name: ds[name].expand_dims(axis) for name in moved})
    return ds


def _in_order(ds: xr.Dataset) -> xr.Dataset:
    dims = [dim for dim in _ORDER if dim in ds["log_norm"].dims]
    same = tuple(dims) == ds["log_norm"].dims or len(dims) < ds["log_norm"].ndim
    return ds if same else ds.transpose(*dims, ...)
