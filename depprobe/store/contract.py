"""The contract of a dataset: names from the vocabulary, labels on everything, attributes to reproduce it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from depprobe.errors import BadInput
from depprobe.store.labelled import completed
from depprobe.vocabulary import (
    ATTRIBUTES,
    COMPUTED,
    DIMENSIONS,
    JACOBIAN_ATTRIBUTES,
    KINDS,
    SCHEMA_VERSION,
    STATUS,
    describe,
)

#: dimensions that may stand before those of a block
_LEADING = ("layer", "depth", "seed", "sample")
BESIDE_LOG_NORM = (
    *(f"log_norm_{name}" for name in ("error", "stderr", "low", "high")),
    "effective_rank",
    "probe_loading",
)
_FLAGS = {name: describe("log_norm_status")[name] for name in ("flag_values", "flag_meanings")}


def validate(ds: xr.Dataset) -> None:
    """Check that a dataset keeps the contract of what is measured here, so that it explains itself.

    What joining by ``xarray.concat`` loses is put back first, as ``save`` and ``load`` do.
    Dimensions come from the vocabulary; every attribute of ``vocabulary.ATTRIBUTES`` is there, or a
    coordinate of its name on ``layer``, ``seed`` or ``sample`` where it varies; the schema version is known;
    every variable has ``long_name`` and ``units``; one of ``vocabulary.KINDS`` or ``COMPUTED`` is there;
    ``log_norm`` is float64, over (target, source) or (target, lag) after any of (layer, depth, seed, sample),
    with ``log_norm_status`` beside it: int8 with CF flags, log_norm being finite for finite, -inf for zero
    alone and NaN for all others; ``position``, where it is known, is on ``target``, or on ``layer`` and
    ``target``.

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
    if not isinstance(ds, xr.Dataset):
        raise BadInput(f"not a valid dataset: {type(ds).__name__}")
    ds = completed(ds)
    version = ds.attrs.get("schema_version")
    if version is not None and version != SCHEMA_VERSION:
        # the rest of the contract is that of another version, so checking it would mislead
        raise BadInput(f"not a valid dataset: unknown schema version {version!r}; known: {SCHEMA_VERSION!r}")
    faults = [*_dimension_faults(ds), *_attribute_faults(ds), *_label_faults(ds), *_log_norm_faults(ds)]
    if faults:
        raise BadInput(f"not a valid dataset: {'; '.join(faults)}")


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
        tell = [*KINDS.values(), *COMPUTED.values()]
        return [] if {*tell} & {*ds.data_vars} else [f"no variable {' or '.join(map(repr, tell))}"]
    faults = []
    dims = ds["log_norm"].dims
    if dims[-2:] not in (("target", "source"), ("target", "lag")) or not set(dims[:-2]) <= {*_LEADING}:
        faults.append(
            f"log_norm is over ({', '.join(map(str, dims))}), not over (target, source) or (target, lag) "
            f"after any of ({', '.join(_LEADING)})"
        )
    for name in ("log_norm", *BESIDE_LOG_NORM, "log_norm_status"):
        dtype = np.dtype(np.int8 if name == "log_norm_status" else np.float64)
        if name in ds and ds[name].dtype != dtype:
            faults.append(f"{name} is {ds[name].dtype}, not {dtype}")
        if name in ds and ds[name].dims != dims:
            faults.append(f"{name} is not over the dimensions of log_norm")
    # layers with strides sit at different positions
    if "position" in ds.coords and ds["position"].dims not in (("target",), ("layer", "target")):
        faults.append("position is not over target, or layer and target")
    return faults or _status_faults(ds)


def _status_faults(ds: xr.Dataset) -> list[str]:
    if "log_norm_status" not in ds:
        return ["no variable 'log_norm_status' beside log_norm"]
    values, status = ds["log_norm"].values, ds["log_norm_status"].values
    faults = []
    if not np.isin(status, list(STATUS.values())).all():
        faults.append(
            f"log_norm_status holds codes other than {min(STATUS.values())} to {max(STATUS.values())}"
        )
    for name, expected in (("finite", np.isfinite(values)), ("zero", np.isneginf(values))):
        wrong = int((expected != (status == STATUS[name])).sum())
        if wrong:
            faults.append(f"log_norm and log_norm_status disagree on what is {name} in {wrong} blocks")
    if np.isposinf(values).any():
        faults.append("log_norm is +inf; an overflow is NaN with the status overflow")
    if {name: ds["log_norm_status"].attrs.get(name) for name in _FLAGS} != _FLAGS:
        faults.append(f"log_norm_status has not the flags {_FLAGS['flag_meanings']!r}")
    return faults
