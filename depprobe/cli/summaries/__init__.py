"""What is said of each kind of dataset: one module a kind, with ``summary(ds) -> Summary``. No torch here.

A kind is named after the command that measures it, and known by a variable that only it has.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import xarray as xr

from depprobe.cli.output import Summary
from depprobe.curves.names import one_setting
from depprobe.errors import BadInput
from depprobe.vocabulary import KINDS


def kind_of(ds: xr.Dataset) -> str:
    """The kind of a dataset, distances among them; raises ``BadInput`` where it is none."""
    for kind, variable in (KINDS | {"distances": "best_form"}).items():
        if variable in ds.data_vars:
            return kind
    raise BadInput(
        f"not a valid dataset: no variable that tells what was measured: {', '.join(KINDS.values())}"
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
    if how and kind != "jacobian":
        raise BadInput(f"{', '.join(how)}: only a Jacobian has distances; this is a dataset of {kind}")
    return importlib.import_module(f"{__name__}.{kind}").summary(ds, **how)
