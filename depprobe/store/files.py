"""Save and load: netCDF-4 through ``h5netcdf``, whole or not at all.

The same dataset gives the same bytes: nothing in a file depends on the time, the machine or the path. The
last bytes are a checksum of all others, so that damage is an error instead of wrong numbers.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import xarray as xr

from depprobe.curves.names import FILE
from depprobe.errors import BadInput
from depprobe.store.atomic import as_path, one_line, reason_of, replacing
from depprobe.store.labelled import completed
from depprobe.store.storable import first_unstorable
from depprobe.store.trailer import sealed, verify
from depprobe.store.version_1 import from_version_1
from depprobe.vocabulary import STATUS

#: smaller variables gain nothing from compression, and HDF5 cannot compress scalars
_COMPRESS_FROM = 1024
_COMPRESSION = {"zlib": True, "complevel": 4, "shuffle": True}
_STATUS = "log_norm_status"


def save(ds: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a dataset to one netCDF-4 file, whole or not at all.

    Parameters
    ----------
    ds : the dataset; variables are real numbers or strings, attributes are real numbers, strings or
        flat lists of either. A list of one element is read back as that element.
    path : where to write; parent folders are made, an existing file is replaced.

    Returns
    -------
    The path, as given.

    Raises
    ------
    BadInput : not one dataset; netCDF cannot hold a variable or attribute; the folder cannot be written.
    DepprobeError : writing failed midway, for instance on a full disk; the path is as it was before.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> ds = xr.Dataset({"log_norm": ("target", [-1.5])}, attrs={"n": 10})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(save(ds, folder + "/runs/a.nc")).identical(ds)
    True
    """
    return save_named(ds, path, "")


def save_named(ds: xr.Dataset, path: str | os.PathLike[str], name: str) -> Path:
    """As ``save``; the file carries the name, which tells whether it was renamed (``store.trailer``)."""
    if not isinstance(ds, xr.Dataset):
        several = isinstance(ds, list | tuple)
        way_out = ": save each to a file of its own" if several else ""
        raise BadInput(f"save takes one dataset, not {type(ds).__name__}{way_out}")
    as_path(path)
    ds = completed(ds) if _is_measured(ds) else ds
    refusal = first_unstorable(ds)
    if refusal:
        raise BadInput(f"cannot store the dataset: {refusal}")
    # a dataset that was loaded remembers how its file was packed, which must not leak into the next file;
    # what dask holds in chunks is computed here: the writer below would leave its place empty
    plain = ds.drop_encoding().compute()
    encoding: dict[Any, dict[str, Any]] = {
        name: {"_FillValue": None} | (_COMPRESSION if variable.size >= _COMPRESS_FROM else {})
        for name, variable in plain.variables.items()
        if variable.dtype.kind in "iuf"
    }
    if _STATUS in plain:
        encoding[_STATUS]["_FillValue"] = np.int8(STATUS["not_measured"])
        # CF: of the type of the variable
        flags = np.array(plain[_STATUS].attrs.get("flag_values", []), np.int8)
        plain[_STATUS].attrs |= {"flag_values": flags} if flags.size else {}
    with replacing(path) as temporary:
        try:
            content = _netcdf(plain, encoding)
        except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
            raise BadInput(f"cannot store the dataset: {one_line(error)}") from error
        temporary.write_bytes(sealed(content, name))
    return Path(path)


def _netcdf(ds: xr.Dataset, encoding: Mapping[Any, Mapping[str, Any]]) -> bytes:
    """The file in memory: where a disk is full, HDF5 ends the process instead of raising.

    Written in a thread of its own: a profiler that samples the caller's, as Dask's does in its workers, keeps
    handles open for longer, and when they are closed decides where HDF5 puts what comes next.
    """

    def written() -> bytes:
        stream = io.BytesIO()
        with _Remembering(stream, "w", track_order=True) as root, h5netcdf.File(root, "w") as file:
            ds.dump_to_store(xr.backends.H5NetCDFStore(file), encoding=encoding)
        return stream.getvalue()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(written).result()


class _Remembering(h5py.File):
    """A file that opens each of its items once: h5netcdf asks for them some hundred times while it writes."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._items: dict[str, Any] = {}

    def __getitem__(self, name: Any) -> Any:
        if not isinstance(name, str):
            return super().__getitem__(name)
        key = name.strip("/")
        if key and key not in self._items:
            self._items[key] = super().__getitem__(key)
        return self._items[key] if key else self

    def __delitem__(self, name: str) -> None:
        self._items.pop(name.strip("/"), None)
        super().__delitem__(name)


def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a netCDF-4 file fully into memory and close it.

    Parameters
    ----------
    path : a file that ``save`` or another netCDF-4 program wrote.

    Returns
    -------
    The dataset, its attributes as Python numbers, strings and lists. One of schema version 1 comes back in
    the present version: a Jacobian gets its ``log_norm_status``.

    Raises
    ------
    BadInput : the file is missing, truncated, damaged or not netCDF-4; the message names path and fault.

    Examples
    --------
    >>> load("no/such/file.nc")
    Traceback (most recent call last):
    depprobe.errors.BadInput: cannot read 'no/such/file.nc': no such file
    """
    file = as_path(path)
    try:
        if not file.is_file():
            raise BadInput("it is a folder" if file.is_dir() else "no such file")
        with file.open("rb") as stream:
            signature = stream.read(8)
        if not signature:
            raise BadInput("it is empty")
        if signature != b"\x89HDF\r\n\x1a\n":
            raise BadInput("it is not a netCDF-4 file")
        verify(file)
        # where the root cannot be read, h5netcdf leaves a file half made, which complains later
        with h5py.File(file, locking=False) as root:
            root.attrs.get("_nc3_strict")
        # units such as "seconds" describe a measured time here, not a date to decode
        with xr.open_dataset(
            file.absolute(),
            engine="h5netcdf",
            phony_dims="access",
            # files are replaced, never changed, and some disks have no locks
            driver_kwds={"locking": False},
            decode_times=False,
            decode_timedelta=False,
            # the fill value is a code of its own
            mask_and_scale={_STATUS: False},
        ) as stored:
            if any(str(dim).startswith("phony_dim") for dim in stored.dims):
                raise BadInput("it is HDF5 but not netCDF-4: its dimensions have no names")
            ds = stored.load().drop_encoding()
    except BadInput as error:
        raise BadInput(f"cannot read {str(path)!r}: {error}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise BadInput(f"cannot read {str(path)!r}: {reason_of(error)}") from error
        # damage surfaces as whatever the decoder meets first: OSError, KeyError, RuntimeError, ...
        fault = f"truncated, damaged or not netCDF-4 ({one_line(error)})"
        raise BadInput(f"cannot read {str(path)!r}: {fault}") from error
    if _STATUS in ds:
        ds[_STATUS].attrs.pop("_FillValue", None)
    holders: list[Any] = [ds, *ds.variables.values()]
    for holder in holders:
        holder.attrs = {name: _as_python(value) for name, value in holder.attrs.items()}
    if ds.attrs.get("schema_version") == "1":
        ds = from_version_1(ds)
    ds = completed(ds) if _is_measured(ds) else ds
    ds.encoding[FILE] = str(file.absolute())
    return ds


def _is_measured(ds: xr.Dataset) -> bool:
    return "schema_version" in ds.attrs


def _as_python(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
