"""A sweep as one labelled dataset: the axes of the grid, then the dimensions of a cell.

    cell (target, source) over layer, n, seed  ->  (layer, n, seed, target, source)

Labels are those of all cells together. What was not measured is NaN, or the status ``not_measured``, and
``missing_reason`` says why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe._version import __version__
from depprobe.curves.align import with_lag
from depprobe.curves.names import REASON
from depprobe.errors import BadInput
from depprobe.store.atomic import as_path
from depprobe.store.sweeps.folder import MEASURED, SweepFolder, on_one_line
from depprobe.store.sweeps.stored_cell import Reader, StoredCell
from depprobe.units import readable
from depprobe.vocabulary import ABOUT, SCHEMA_VERSION, STATUS, describe

_FILL: dict[str, Any] = {"log_norm_status": np.int8(STATUS["not_measured"])}
#: bytes up to which arrays are read where dask is not installed
_MOST = 4 << 30
Place = tuple[int, ...]


def open_sweep(folder: str | os.PathLike[str]) -> xr.Dataset:
    """Open the folder of a sweep as one dataset over the axes of its grid.

    With dask installed (the extra ``sweep``) variables are read when they are computed, a chunk a cell;
    else at once.

    Parameters
    ----------
    folder : what ``depprobe sweep`` wrote.

    Returns
    -------
    A dataset over (axes of the grid, dimensions of a cell). Attributes in which cells differ, such as the
    operator that ran, are coordinates on the axes they depend on. Cells without values are NaN, and
    ``missing_reason`` over the axes says why: failed, not measured yet, damaged, or not asked for.

    Raises
    ------
    BadInput : not the folder of a sweep; no cell is measured; cells have a dimension in common with the
        axes; without dask, arrays of more than 4 GiB.

    Examples
    --------
    >>> open_sweep("no/such/folder")
    Traceback (most recent call last):
    depprobe.errors.BadInput: 'no/such/folder' is not the folder of a sweep: it holds no sweep.json
    """
    of = SweepFolder(as_path(folder))
    plan = of.plan()
    axes = {axis: _ordered([cell.at[axis] for cell in plan.cells]) for axis in plan.axes}
    reasons = np.full([len(values) for values in axes.values()], "not asked for", dtype=object)
    reader, found = Reader(), dict[Place, StoredCell]()
    numbered = [(axis, {value: i for i, value in enumerate(values)}) for axis, values in axes.items()]
    for cell in plan.cells:
        place = tuple(numbers[cell.at[axis]] for axis, numbers in numbered)
        if of.state(cell) != MEASURED:
            reasons[place] = of.reason(cell)
            continue
        try:
            found[place] = reader.read(of.data(cell))
            reasons[place] = ""
        except BadInput as error:
            reasons[place] = on_one_line(str(error))
    if not found:
        said = next((str(reason) for reason in reasons.flat if reason != "not asked for"), "no cell")
        raise BadInput(f"no cell in {str(of.folder)!r} is measured yet; the first: {said}")
    if len({"lag" in one.like.dims for one in found.values()}) > 1:
        found = {place: one.expanded() for place, one in found.items()}
    ds = _joined(found, axes)
    ds[REASON] = (list(axes), reasons.astype(str))
    if "log_norm_error" in ds and "kind" in ds.attrs:
        ds["log_norm_error"].attrs["kind"] = ds.attrs.pop("kind")
    ds = with_lag(ds.assign_coords({axis: _typed(values) for axis, values in axes.items()}))
    for name in map(str, ds.variables):
        about = describe(name) if name in ABOUT else {"long_name": name.replace("_", " "), "units": "1"}
        ds[name].attrs = about | ds[name].attrs
    return ds.assign_attrs(
        title=f"Sweep of {plan.probe} over {', '.join(axes)}",
        depprobe_version=__version__,
        schema_version=SCHEMA_VERSION,
        provenance=json.dumps({"command": f"depprobe.open_sweep({str(of.folder)!r})", "cells": len(found)}),
    )


def _ordered(values: Sequence[Any]) -> list[Any]:
    """Each value once: numbers by size, names as they come."""
    once = list(dict.fromkeys(values))
    return sorted(once) if all(isinstance(value, int | float) for value in once) else once


def _typed(values: list[Any]) -> list[Any]:
    return [str(value) for value in values] if any(isinstance(value, str) for value in values) else values


def _joined(found: Mapping[Place, StoredCell], axes: Mapping[str, list[Any]]) -> xr.Dataset:
    """All cells in one dataset, without the labels of the axes."""
    kinds = {id(one.like): one.like for one in found.values()}.values()
    for like in kinds:
        for axis in axes:
            if like.sizes.get(axis, 1) > 1:
                raise BadInput(f"cells have several values of {axis} each, which is an axis of the grid too")
    own = dict.fromkeys(str(dim) for like in kinds for dim in like.dims if dim not in axes)
    labels = {dim: _labels(dim, list(found.values())) for dim in own}
    sizes = {dim: len(values) for dim, values in labels.items()}
    frame = _Frame(found, {axis: len(values) for axis, values in axes.items()}, labels)
    ds = xr.Dataset(
        coords={dim: values for dim, values in labels.items() if any(dim in k.coords for k in kinds)}
    )
    for like in kinds:
        for name in map(str, like.variables):
            if name in ds.variables or name in axes or name in own:
                continue
            inner = [str(dim) for dim in like[name].dims if dim not in axes]
            if name in like.coords:
                ds = ds.assign_coords({name: frame.coordinate(name, inner)})
            else:
                ds[name] = ([*axes, *inner], frame.variable(name, inner, sizes))
            ds[name].attrs = {key: value for key, value in like[name].attrs.items() if key != "kind"}
    return _with_attributes(ds, found, axes)


def _labels(dim: str, cells: Sequence[StoredCell]) -> NDArray[Any]:
    """The labels of a dimension in all cells together; numbers where it has none."""
    held = [one.labels[dim] for one in cells if dim in one.labels]
    if not held:
        return np.arange(max(one.like.sizes.get(dim, 0) for one in cells))
    if all(values.dtype.kind in "iuf" for values in held):
        return np.unique(np.concatenate([values.ravel() for values in held]))
    return np.array(list(dict.fromkeys(str(value) for values in held for value in values.ravel())))


class _Frame:
    """Puts what cells hold into arrays over the axes and the common labels."""

    def __init__(
        self, found: Mapping[Place, StoredCell], axes: Mapping[str, int], labels: Mapping[str, NDArray[Any]]
    ) -> None:
        self.found, self.axes = found, axes
        self.at = {
            dim: {value: i for i, value in enumerate(values.tolist())} for dim, values in labels.items()
        }

    def positions(self, one: StoredCell, inner: Sequence[str]) -> tuple[NDArray[np.int64], ...]:
        """Where the values of a cell go along its own dimensions."""
        return tuple(
            np.array([self.at[dim][value] for value in one.labels[dim].ravel().tolist()])
            if dim in one.labels
            else np.arange(one.like.sizes[dim])
            for dim in inner
        )

    def coordinate(self, name: str, inner: list[str]) -> tuple[list[str], NDArray[Any]]:
        """A coordinate over its own dimensions where all cells agree on it, else over the axes too."""
        sizes = [len(self.at[dim]) for dim in inner]
        whole = np.full([*self.axes.values(), *sizes], None, dtype=object)
        for place, one in self.found.items():
            if name in one.labels:
                spots = np.ix_(*self.positions(one, inner)) if inner else ()
                shape = [len(p) for p in self.positions(one, inner)]
                whole[place][spots] = one.labels[name].reshape(shape)
        dims, values = _reduced([*self.axes], whole)
        return [*dims, *inner], _filled(values)

    def variable(self, name: str, inner: list[str], sizes: Mapping[str, int]) -> Any:
        """A variable over the axes and its own dimensions: a dask array with a chunk a cell, or in memory."""
        shape = [sizes[dim] for dim in inner]
        holders = {place: one for place, one in self.found.items() if name in one.like}
        dtype = _common([one.like[name].dtype for one in holders.values()], name)
        blocks = _Blocks(
            name,
            shape,
            dtype,
            {place: (one, self.positions(one, inner) if inner else ()) for place, one in holders.items()},
        )
        if find_spec("dask") is None:
            return blocks.all_of([*self.axes.values()])
        import dask.array as da

        chunks = (*((1,) * size for size in self.axes.values()), *((size,) for size in shape))
        meta = np.empty((0,) * len(chunks), dtype)
        return da.map_blocks(blocks, chunks=chunks, dtype=dtype, meta=meta)


class _Blocks:
    """The values of one variable, cell by cell: a block has one entry along each axis."""

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        dtype: np.dtype,
        table: Mapping[Place, tuple[StoredCell, tuple[NDArray[np.int64], ...]]],
    ) -> None:
        self.name, self.shape, self.dtype, self.table = name, tuple(shape), dtype, table

    def __dask_tokenize__(self) -> Any:
        # a file's name follows from all that bears on it
        return self.name, self.shape, [(place, str(one.path)) for place, (one, _) in self.table.items()]

    def __call__(self, block_id: Place) -> NDArray[Any]:
        lead = len(block_id) - len(self.shape)
        return self.of(block_id[:lead]).reshape((1,) * lead + self.shape)

    def of(self, place: Place) -> NDArray[Any]:
        """The values of one cell at their places; missing where it has none."""
        values = np.full(self.shape, _missing(self.name, self.dtype), dtype=self.dtype)
        if place in self.table:
            one, spots = self.table[place]
            values[np.ix_(*spots) if spots else ()] = one.values(self.name).reshape(list(map(len, spots)))
        return values

    def all_of(self, axes: Sequence[int]) -> NDArray[Any]:
        """All cells in memory; raises ``BadInput`` where that would be too much."""
        size = float(np.prod([*axes, *self.shape])) * self.dtype.itemsize
        if size > _MOST:
            raise BadInput(
                f"{self.name} takes {readable(size)}: pip install 'depprobe[sweep]' reads it in pieces"
            )
        values = np.full([*axes, *self.shape], _missing(self.name, self.dtype), dtype=self.dtype)
        for place in self.table:
            values[place] = self.of(place)
        return values


def _missing(name: str, dtype: np.dtype) -> Any:
    return _FILL.get(name, "" if dtype.kind in "US" else np.nan)


def _common(dtypes: Sequence[np.dtype], name: str) -> np.dtype:
    if name in _FILL:
        return np.dtype(np.int8)
    if any(dtype.kind in "OUS" for dtype in dtypes):
        return np.dtype("U64")
    return np.result_type(*dtypes, np.float32 if all(d == np.float32 for d in dtypes) else np.float64)


def _with_attributes(
    ds: xr.Dataset, found: Mapping[Place, StoredCell], axes: Mapping[str, list[Any]]
) -> xr.Dataset:
    """Attributes of all cells: one where they agree, else a coordinate on the axes they depend on."""
    names = dict.fromkeys(name for one in found.values() for name in one.attrs)
    for name in names:
        if name in axes or name in ds.variables:
            continue
        values = np.full([len(at) for at in axes.values()], None, dtype=object)
        for place, one in found.items():
            held = one.attrs.get(name)
            values[place] = json.dumps(held) if isinstance(held, list) else held
        dims, values = _reduced([*axes], values)
        if dims:
            ds = ds.assign_coords({name: (dims, _filled(values))})
        else:
            ds.attrs[name] = next(one.attrs[name] for one in found.values() if name in one.attrs)
    return ds


def _reduced(dims: list[str], values: NDArray[Any]) -> tuple[list[str], NDArray[Any]]:
    """Values without the dimensions along which those that are known are all the same."""
    # what could follow from layers or seeds alike follows from layers
    for dim in sorted(dims, key=lambda dim: dim == "layer"):
        axis = dims.index(dim)
        known = _known(values)
        # the first that is known along this dimension stands for all
        first = np.take_along_axis(values, known.argmax(axis, keepdims=True), axis)
        if bool((values == first)[known].all()):
            values, dims = first.squeeze(axis), [other for other in dims if other != dim]
    return dims, values


def _known(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.array([value is not None for value in values.flat], bool).reshape(values.shape)


def _filled(values: NDArray[Any]) -> NDArray[Any]:
    """Objects as numbers or text, missing ones as NaN or ''."""
    known = [value for value in values.flat if value is not None]
    if all(isinstance(value, int | float) for value in known):
        whole = len(known) == values.size and all(isinstance(value, int) for value in known)
        filled = [np.nan if value is None else value for value in values.flat]
        return np.array(filled, dtype=np.int64 if whole else np.float64).reshape(values.shape)
    return np.array(["" if value is None else str(value) for value in values.flat]).reshape(values.shape)
