"""Datasets that decide a statement: labels, attributes, and means with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from depprobe._version import __version__
from depprobe.ledger.claim import Measured
from depprobe.vocabulary import DIMENSIONS, SCHEMA_VERSION, VARIABLES, describe

#: dimensions separated by spaces and values; long name and units too where the vocabulary has no such word
Entry = tuple[Any, ...]


class About(NamedTuple):
    """What the attributes of evidence say: the claim's id, a title, and what was measured how."""

    claim: str
    title: str
    layer: str | Iterable[str]
    n: int
    d: int
    quick: bool
    seed: int


def evidence(
    about: About, variables: Mapping[str, Entry], coords: Mapping[str, Any], **attributes: Any
) -> xr.Dataset:
    """A labelled dataset of what was measured for a statement.

    Parameters
    ----------
    about : the statement, and what was measured for it.
    variables : by name.
    coords : values along each dimension.
    **attributes : further ones.
    """
    from depprobe.runs.labelling import provenance  # needs torch, which reading a verdict does without

    ds = xr.Dataset(
        {name: (dims.split(), np.asarray(values)) for name, (dims, values, *_) in variables.items()},
        coords={name: (name, np.asarray(list(values))) for name, values in coords.items()},
    )
    for name, (_, _, *words) in variables.items():
        ds[name].attrs = dict(zip(("long_name", "units"), words, strict=True)) if words else describe(name)
    for key in ds.coords:
        if str(key) in DIMENSIONS | VARIABLES:
            ds[key].attrs = describe(str(key))
    ds.attrs = {
        **{name: value for name, value in about._asdict().items() if name != "quick"},
        "layer": about.layer if isinstance(about.layer, str) else ", ".join(about.layer),
        "mode": "quick" if about.quick else "full",
        "dtype": "float64",
        "depprobe_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(command_of(about.claim, about.quick, about.seed)),
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
