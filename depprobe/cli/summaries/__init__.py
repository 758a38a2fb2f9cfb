"""What is said of each kind of dataset: one module a kind, with ``summary(ds) -> Summary``. No torch here.

A kind is named after the command that measures it, or the function that computes it, and known by a variable
that only it has.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import xarray as xr

from depprobe.cli.output import Summary
from depprobe.curves.names import one_setting
from depprobe.errors import BadInput
from depprobe.vocabulary import COMPUTED, KINDS

#: kind of dataset -> the variable that tells it
TELL = KINDS | COMPUTED
#: why a kind has no table
NO_TABLE = {"decay": "a decay curve has no table; draw it: depprobe plot"}


def kind_of(ds: xr.Dataset) -> str:
    """The kind of a dataset; raises ``BadInput`` where it is none."""
    for kind, variable in TELL.items():
        if variable in ds.data_vars:
            return kind
    raise BadInput(
        f"not a valid dataset: no variable that tells what was measured: {', '.join(TELL.values())}"
    )


def files_by_kind(named: Sequence[tuple[str, xr.Dataset]]) -> dict[str, str]:
    """Each kind among named datasets, and the words for it in an error: the kind with its files."""
    files: dict[str, list[str]] = {}
    for name, ds in named:
        files.setdefault(kind_of(ds), []).append(name)
    return {kind: f"{kind} ({', '.join(names)})" for kind, names in sorted(files.items())}


def summary_of(ds: xr.Dataset, **how: Any) -> Summary:
    """The summary of a dataset of any kind; ``how`` are options of ``distances``, for a Jacobian.

    Raises
    ------
    BadInput : no such kind, several settings of a sweep, or options for a dataset that has no distances.
    """
    ds = one_setting(ds)
    kind = kind_of(ds)
    if kind in NO_TABLE:
        raise BadInput(NO_TABLE[kind])
    if how and kind != "jacobian":
        raise BadInput(f"{', '.join(how)}: distances are taken of a Jacobian; this is a dataset of {kind}")
    return importlib.import_module(f"{__name__}.{kind}").summary(ds, **how)
