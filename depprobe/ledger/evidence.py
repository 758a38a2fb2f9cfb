"""Datasets that decide a statement: labels, attributes, and means with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from depprobe import store
from depprobe._version import __version__
from depprobe.ledger.claim import Measured
from depprobe.vocabulary import DIMENSIONS, SCHEMA_VERSION, VARIABLES, describe

#: variable -> (dimensions, values), or with a long name and units where the vocabulary has no such word
Entry = tuple[Sequence[str], Any] | tuple[Sequence[str], Any, str, str]


def evidence(
    claim: str,
    variables: Mapping[str, Entry],
    coords: Mapping[str, Any],
    *,
    quick: bool,
    seed: int,
    n: int,
    d: int,
    layer: str,
    title: str,
    **attributes: Any,
) -> xr.Dataset:
    """A labelled dataset of what was measured for a statement.

    Parameters
    ----------
    claim : its id.
    variables : name to (dims, values), or (dims, values, long name, units) for names the vocabulary lacks.
    coords : values along each dimension.
    quick, seed, n, d, layer, title : for the attributes.
    **attributes : further ones.
    """
    ds = xr.Dataset(
        {name: (tuple(dims), np.asarray(values)) for name, (dims, values, *_) in variables.items()},
        coords={name: (name, np.asarray(values)) for name, values in coords.items()},
    )
    for name, (_, _, *about) in variables.items():
        ds[name].attrs = dict(zip(("long_name", "units"), about, strict=True)) if about else describe(name)
    for key in ds.coords:
        if str(key) in DIMENSIONS | VARIABLES:
            ds[key].attrs = describe(str(key))
    ds.attrs = {
        "title": title,
        "claim": claim,
        "mode": "quick" if quick else "full",
        "layer": layer,
        "n": n,
        "d": d,
        "seed": seed,
        "dtype": "float64",
        "depprobe_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": store.provenance(command_of(claim, quick, seed)),
        **attributes,
    }
    return ds


def command_of(claim: str, quick: bool, seed: int) -> str:
    """The command that measures a statement.

    Examples
    --------
    >>> command_of("C6", True, 0)
    'depprobe claims C6 --quick --seed 0'
    """
    return f"depprobe claims {claim}{' --quick' * quick} --seed {seed}"


def mean(values: ArrayLike, unit: str = "") -> Measured:
    """Mean over all values (seeds) and its standard error, NaN for a single one; NaNs are left out.

    Examples
    --------
    >>> mean([1.0, 3.0], "steps")
    Measured(value=2.0, stderr=1.0, unit='steps')
    """
    known = np.asarray(values, dtype=np.float64).ravel()
    known = known[~np.isnan(known)]
    if not known.size:
        return Measured(math.nan, math.nan, unit)
    error = float(known.std(ddof=1) / math.sqrt(known.size)) if known.size > 1 else math.nan
    return Measured(float(known.mean()), error, unit)
