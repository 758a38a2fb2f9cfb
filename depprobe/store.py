"""Datasets on disk: atomic save and load, validation, provenance. No torch here.

Files are netCDF-4 written through ``h5netcdf``, first under a temporary name in the same folder and
then renamed, so that a reader meets either the whole file or none. The same dataset gives the same
bytes: nothing in a file depends on the time, the machine or the path.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from depprobe import __version__
from depprobe.errors import BadInput, DepprobeError
from depprobe.vocabulary import ATTRIBUTES, DIMENSIONS, JACOBIAN_ATTRIBUTES, KINDS, SCHEMA_VERSION

#: smaller variables gain nothing from compression, and HDF5 cannot compress scalars
_COMPRESS_FROM = 1024
#: compressed data carry a checksum too, so damage is an error instead of wrong numbers
_COMPRESSION = {"zlib": True, "complevel": 4, "shuffle": True}

#: dimensions that may stand before those of a block
_LEADING = ("layer", "seed", "sample")


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
    BadInput : netCDF cannot hold a variable or attribute, or the folder cannot be written.
    DepprobeError : writing failed midway, for instance on a full disk; the path is as it was before.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> ds = xr.Dataset({"log_norm": ("target", [-1.5])}, attrs={"n": 10})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(save(ds, folder + "/runs/a.nc")).identical(ds)
    True
    """
    refusal = _first_unstorable(ds)
    if refusal:
        raise BadInput(f"cannot store the dataset: {refusal}")
    # a dataset that was loaded remembers how its file was packed, which must not leak into the next file
    plain = ds.drop_encoding()
    encoding: dict[Any, dict[str, Any]] = {
        name: {"_FillValue": None} | (_COMPRESSION if variable.size >= _COMPRESS_FROM else {})
        for name, variable in plain.variables.items()
        if variable.dtype.kind in "iuf"
    }
    with replacing(path) as temporary:
        try:
            plain.to_netcdf(temporary, mode="w", format="NETCDF4", engine="h5netcdf", encoding=encoding)
        except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
            raise BadInput(f"cannot store the dataset: {_one_line(error)}") from error
    return Path(path)


def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a netCDF-4 file fully into memory and close it.

    Parameters
    ----------
    path : a file that ``save`` or another netCDF-4 program wrote.

    Returns
    -------
    The dataset, its attributes as Python numbers, strings and lists.

    Raises
    ------
    BadInput : the file is missing, truncated, damaged or not netCDF-4; the message names path and fault.

    Examples
    --------
    >>> load("no/such/file.nc")
    Traceback (most recent call last):
    depprobe.errors.BadInput: cannot read 'no/such/file.nc': no such file
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise BadInput("it is a folder" if file.is_dir() else "no such file")
        with file.open("rb") as stream:
            signature = stream.read(8)
        if not signature:
            raise BadInput("it is empty")
        if signature != b"\x89HDF\r\n\x1a\n":
            raise BadInput("it is not a netCDF-4 file")
        # units such as "seconds" describe a measured time here, not a date to decode
        with xr.open_dataset(
            file.absolute(),
            engine="h5netcdf",
            phony_dims="access",
            decode_times=False,
            decode_timedelta=False,
        ) as stored:
            if any(str(dim).startswith("phony_dim") for dim in stored.dims):
                raise BadInput("it is HDF5 but not netCDF-4: its dimensions have no names")
            ds = stored.load().drop_encoding()
    except BadInput as error:
        raise BadInput(f"cannot read {str(path)!r}: {error}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise BadInput(f"cannot read {str(path)!r}: {_reason(error)}") from error
        # damage surfaces as whatever the decoder meets first: OSError, KeyError, RuntimeError, ...
        fault = f"truncated, damaged or not netCDF-4 ({_one_line(error)})"
        raise BadInput(f"cannot read {str(path)!r}: {fault}") from error
    holders: list[Any] = [ds, *ds.variables.values()]
    for holder in holders:
        holder.attrs = {name: _as_python(value) for name, value in holder.attrs.items()}
    return ds


def validate(ds: xr.Dataset) -> None:
    """Check that a dataset keeps the contract of what is measured here, so that it explains itself.

    Dimensions come from the vocabulary; every attribute of ``vocabulary.ATTRIBUTES`` is there, or a
    coordinate of its name on ``layer``, ``seed`` or ``sample`` where it varies; the schema version is known;
    every variable has ``long_name`` and ``units``; one of ``vocabulary.KINDS`` is there;
    ``log_norm`` is float64, over (target, source) or
    (target, lag) after any of (layer, seed, sample), with a coordinate ``position`` on ``target``, or on
    ``layer`` and ``target``.

    Parameters
    ----------
    ds : the dataset, as measured or loaded.

    Raises
    ------
    BadInput : naming every fault found, in one line.

    Examples
    --------
    >>> import xarray as xr
    >>> validate(xr.Dataset({"log_norm": (("time",), [0.0])}))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    depprobe.errors.BadInput: not a valid dataset: unknown dimension 'time' ...
    """
    version = ds.attrs.get("schema_version")
    if version is not None and version != SCHEMA_VERSION:
        # the rest of the contract is that of another version, so checking it would mislead
        raise BadInput(f"not a valid dataset: unknown schema version {version!r}; known: {SCHEMA_VERSION!r}")
    faults = [*_dimension_faults(ds), *_attribute_faults(ds), *_label_faults(ds), *_log_norm_faults(ds)]
    if faults:
        raise BadInput(f"not a valid dataset: {'; '.join(faults)}")


def provenance(command: str, x: ArrayLike | None = None, **details: str | int | float) -> str:
    """How a dataset came about, as one JSON string for the attribute ``provenance``.

    It holds no time, host or path of its own, so that the same command gives the same data bit for bit.

    Parameters
    ----------
    command : the command line or Python call.
    x : the input measured at, (n, d) or (samples, n, d); its fingerprint is recorded.
    **details : further facts, such as the hash of the weights.

    Returns
    -------
    JSON with sorted keys: ``command``, ``versions``, ``input_sha256`` where x is given, and the details.
    The version of torch is recorded where torch is loaded.

    Examples
    --------
    >>> import json
    >>> json.loads(provenance("depprobe jacobian --layer lstm"))["command"]
    'depprobe jacobian --layer lstm'
    """
    versions = {
        "depprobe": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "xarray": xr.__version__,
    }
    if "torch" in sys.modules:
        versions["torch"] = importlib.metadata.version("torch")
    record: dict[str, Any] = {**details, "command": command, "versions": versions}
    if x is not None:
        record["input_sha256"] = fingerprint(x)
    return json.dumps(record, sort_keys=True)


def fingerprint(values: ArrayLike) -> str:
    """SHA-256 of an array's type, shape and values, the same on every machine.

    Parameters
    ----------
    values : an array of numbers, any shape.

    Returns
    -------
    64 hexadecimal digits.

    Raises
    ------
    BadInput : the values are not numbers.

    Examples
    --------
    >>> fingerprint([1.0, 2.0])[:8], fingerprint([[1.0, 2.0]])[:8]
    ('78706631', 'fd704a15')
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise BadInput(f"a fingerprint takes numbers, not {array.dtype}")
    array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name in the folder of ``path``; rename it to ``path`` if the block succeeds.

    If the block raises anything, an interrupt included, the temporary file goes and ``path`` stays as it was.

    Parameters
    ----------
    path : the file to make or replace; parent folders are made, symbolic links followed.

    Raises
    ------
    BadInput : the folder cannot be made or written, or the path is something other than a file.
    DepprobeError : the block failed to write.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(folder + "/table.csv") as temporary:
    ...         _ = temporary.write_text("lag,norm")
    ...     [file.name for file in pathlib.Path(folder).iterdir()]
    ['table.csv']
    """
    final = Path(os.path.realpath(path))
    # short whatever the final name, which may use the full length a file system allows
    temporary = final.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        if final.exists() and not final.is_file():
            raise BadInput(f"cannot write {str(path)!r}: it is {'a folder' if final.is_dir() else 'no file'}")
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise BadInput(f"cannot write {str(path)!r}: {_reason(error)}") from error
    try:
        try:
            yield temporary
            temporary.replace(final)
        except OSError as error:
            raise DepprobeError(f"could not write {str(path)!r}: {_reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    return error.strerror.lower() if error.strerror else _one_line(error)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _as_python(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _first_unstorable(ds: xr.Dataset) -> str | None:
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


def _dimension_faults(ds: xr.Dataset) -> list[str]:
    known = ", ".join(DIMENSIONS)
    return [f"unknown dimension {str(dim)!r} (known: {known})" for dim in ds.dims if dim not in DIMENSIONS]


def _attribute_faults(ds: xr.Dataset) -> list[str]:
    varying = {name for name, coord in ds.coords.items() if coord.ndim and set(coord.dims) <= {*_LEADING}}
    needed = (*ATTRIBUTES, *(JACOBIAN_ATTRIBUTES if "log_norm" in ds.data_vars else ()))
    missing = [name for name in needed if name not in ds.attrs and name not in varying]
    return [f"missing attributes: {', '.join(missing)}"] if missing else []


def _label_faults(ds: xr.Dataset) -> list[str]:
    faults = []
    for name, variable in ds.variables.items():
        missing = [label for label in ("long_name", "units") if not variable.attrs.get(label)]
        if missing:
            faults.append(f"variable {str(name)!r} has no {' and no '.join(missing)}")
    return faults


def _log_norm_faults(ds: xr.Dataset) -> list[str]:
    if "log_norm" not in ds.data_vars:
        tell = [repr(name) for name in KINDS.values()]
        return [] if set(KINDS.values()) & set(ds.data_vars) else [f"no variable {' or '.join(tell)}"]
    faults = []
    dims = ds["log_norm"].dims
    if dims[-2:] not in (("target", "source"), ("target", "lag")) or not set(dims[:-2]) <= {*_LEADING}:
        faults.append(
            f"log_norm is over ({', '.join(map(str, dims))}), not over (target, source) or (target, lag) "
            f"after any of ({', '.join(_LEADING)})"
        )
    for name in ("log_norm", "log_norm_error", "log_norm_stderr"):
        if name in ds and ds[name].dtype != np.float64:
            faults.append(f"{name} is {ds[name].dtype}, not float64")
        if name in ds and ds[name].dims != dims:
            faults.append(f"{name} is not over the dimensions of log_norm")
    # layers with strides sit at different positions
    if "target" in dims and (
        "position" not in ds.coords or ds["position"].dims not in (("target",), ("layer", "target"))
    ):
        faults.append("no coordinate 'position' on target")
    return faults
