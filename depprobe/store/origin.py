"""How a dataset came about: command, versions, fingerprint of the input."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import sys
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from depprobe._version import __version__
from depprobe.errors import BadInput


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
        versions["torch"] = _version_of("torch")
    record: dict[str, Any] = {**details, "command": command, "versions": versions}
    if x is not None:
        record["input_sha256"] = fingerprint(x)
    return json.dumps(record, sort_keys=True)


@functools.cache
def _version_of(package: str) -> str:
    return importlib.metadata.version(package)


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
