"""Stored datasets as ``show`` and ``plot`` take them: checked, each file named in its fault. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import click
import xarray as xr

from depprobe import store
from depprobe.cli.output import command_of
from depprobe.cli.summaries import kind_of
from depprobe.curves.names import one_setting
from depprobe.errors import BadInput


def read_all(
    paths: Sequence[Path],
    without: Mapping[str, str],
    each: Callable[[list[Path]], Iterable[Path]] = iter,
) -> tuple[dict[Path, xr.Dataset], dict[Path, str]]:
    """The datasets of files and of folders, and why other files could not be taken, each said on stderr.

    ``without`` says why some kinds are not taken; ``each`` gives the files in turn, and may tell how many are
    read.

    Raises
    ------
    BadInput : a folder without datasets, or no file that can be taken; of a single file, its own fault.
    """
    files = [file for path in paths for file in (_within(path) if path.is_dir() else [path])]
    if len(files) == 1:
        return {files[0]: read(files[0], without)}, {}
    found, faults = dict[Path, xr.Dataset](), dict[Path, str]()
    for file in each(files):
        try:
            found[file] = read(file, without)
        except BadInput as error:
            faults[file] = " ".join(str(error).split())
            click.echo(f"depprobe: {faults[file]}", err=True)
    if not found:
        raise BadInput(f"none of {len(files)} files holds a dataset that can be shown or drawn")
    return found, faults


def _within(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.nc"))
    if not files:
        raise BadInput(f"{str(folder)!r} holds no dataset (*.nc)")
    return files


def read(file: Path, without: Mapping[str, str]) -> xr.Dataset:
    """Load and check a dataset of a known kind.

    Raises
    ------
    BadInput : the file cannot be read, does not keep the contract, is of a kind in ``without``, or holds the
        evidence of a claim, which only ``depprobe claims`` prints; the message names the file.
    """
    ds = store.load(file)
    made = command_of(ds)
    if "claim" in ds.attrs and made.startswith("depprobe claims "):
        raise BadInput(f"{str(file)!r} is the evidence of claim {ds.attrs['claim']}; to see it: {made}")
    try:
        ds = one_setting(ds)
        store.validate(ds)
        if (kind := kind_of(ds)) in without:
            raise BadInput(without[kind])
    except BadInput as error:
        raise BadInput(f"{str(file)!r}: {error}") from None
    return ds
