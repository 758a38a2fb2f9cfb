"""A stored dataset as ``show`` and ``plot`` take it: checked, and its file named in every fault. No torch."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from depprobe import store
from depprobe.cli.output import command_of
from depprobe.errors import BadInput


def read(file: Path) -> xr.Dataset:
    """Load and check a dataset of one of the kinds that commands measure.

    Raises
    ------
    BadInput : the file cannot be read, does not keep the contract, or holds the evidence of a claim, which
        only ``depprobe claims`` prints; the message names the file.
    """
    ds = store.load(file)
    made = command_of(ds)
    if "claim" in ds.attrs and made.startswith("depprobe claims "):
        raise BadInput(f"{str(file)!r} is the evidence of claim {ds.attrs['claim']}; to see it: {made}")
    try:
        store.validate(ds)
    except BadInput as error:
        raise BadInput(f"{str(file)!r}: {error}") from None
    return ds
