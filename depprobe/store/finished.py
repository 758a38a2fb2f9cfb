"""Results kept on disk by all that they follow from, one file each.

    mark  =  hash(full configuration, code, what holds for all results of the folder)

Numbers, text and arrays are an .npz file named by the mark; a dataset is an .nc file, named so or otherwise.
Both carry mark and checksum behind their data (``store.trailer``): a file that is damaged, or of another
configuration, is measured again. Files are renamed into place, so two processes may share a folder, and a
disk needs no locks. A folder made for an unfinished run holds a marker; a folder without it is someone
else's, and nothing in it is removed.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from depprobe.errors import BadInput
from depprobe.store.atomic import replacing
from depprobe.store.files import load, save_named
from depprobe.store.marks import code_version, mark_of
from depprobe.store.trailer import data_of, sealed, verify

#: arrays, numbers and text by name
Fields = dict[str, Any]

#: the file that says whose a folder is, and what it says
MARKER = "depprobe-unfinished-run.txt"
_SAYS = "Finished cases of a run of depprobe that has not ended; the same command takes them up.\n"
#: names of the files that are written here, whole or not
_OURS = re.compile(r"[0-9a-f]{24}\.(npz|json)|\.[0-9a-f]{16}\.tmp")


class Finished:
    """Results by the facts they follow from, in a folder; ``beside`` are facts that hold for all of them.

    Fields are numbers, text and arrays of them; those that are None are left out.
    """

    def __init__(self, folder: str | os.PathLike[str], **beside: Any) -> None:
        self.folder, self.beside = Path(folder), beside

    def claim(self) -> None:
        """Refuse a folder that was not made here, before anything is measured; raises ``BadInput``."""
        there = self.folder.is_symlink() or self.folder.exists()
        if there and not self._is_ours():
            raise BadInput(
                f"finished cases would be kept in {str(self.folder)!r}, which is not depprobe's: move it, or "
                "name another --output"
            )

    def get(self, facts: dict[str, Any]) -> Fields | None:
        """What was measured under these facts before, or None; a damaged file is measured again."""
        path = self._path(facts)
        try:
            if not path.is_file() or path.is_symlink():
                return None
            with np.load(io.BytesIO(data_of(path, path.stem)), allow_pickle=False) as kept:
                return {name: kept[name][()] for name in kept.files}
        except Exception:  # damage surfaces as whatever the decoder meets first
            return None

    def put(self, facts: dict[str, Any], found: Fields) -> None:
        """Keep what was measured; written under another name and renamed."""
        if not self.folder.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MARKER).write_text(_SAYS, encoding="utf-8")
        path = self._path(facts)
        if path.is_symlink():
            # what it leads to is not ours
            path.unlink()
        stream = io.BytesIO()
        np.savez(stream, **{name: value for name, value in found.items() if value is not None})
        with replacing(path) as temporary:
            temporary.write_bytes(sealed(stream.getvalue(), path.stem))

    def dataset(
        self, facts: dict[str, Any], measure: Callable[[], xr.Dataset], name: str = "", fresh: bool = False
    ) -> xr.Dataset:
        """The dataset of these facts, as kept or else (if ``fresh``, always) measured, and then kept.

        The name of its file is the mark unless another is given; one under the same name is replaced.
        """
        path, mark = self.folder / f"{name or self._mark(facts)}.nc", self._mark(facts)
        with suppress(OSError, BadInput):  # not there, or damaged
            if not fresh and path.is_file() and verify(path, mark):
                return load(path)
        ds = measure()
        save_named(ds, path, mark)
        return ds

    def clear(self) -> None:
        """The run is whole: remove what was written here by name, and the folder if nothing else is in it."""
        if not self._is_ours():
            return
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
        if {path.name for path in self.folder.iterdir()} == {MARKER}:
            (self.folder / MARKER).unlink()
            self.folder.rmdir()

    def _is_ours(self) -> bool:
        marker = self.folder / MARKER
        if self.folder.is_symlink() or not marker.is_file() or marker.is_symlink():
            return False
        return marker.read_bytes() == _SAYS.encode()

    def _path(self, facts: dict[str, Any]) -> Path:
        return self.folder / f"{self._mark(facts)}.npz"

    def _mark(self, facts: dict[str, Any]) -> str:
        return mark_of({"code": code_version()} | facts | self.beside)
