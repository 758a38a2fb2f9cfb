"""Finished cases of a long run, kept on disk until all are there, so that an interrupted run goes on.

Each case is one file, .npz or JSON, named by a hash of all that bears on it (module, weights' seed, options,
input, and the machine where that does), so that nothing stale is ever taken up; its checksum, of a zip or
behind the JSON, tells damage, and what is damaged is measured again. A folder made here holds a
marker; one without it is someone else's, and nothing in it is read, written or removed.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from abc import ABC, abstractmethod
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from depprobe.core.calling.arguments import bits_of
from depprobe.errors import BadInput
from depprobe.operators import LogNorms
from depprobe.runs.cases import Case
from depprobe.runs.labelling import Result, fingerprint, numbers_of
from depprobe.store import replacing
from depprobe.store.marks import mark_of
from depprobe.store.trailer import data_of, sealed

Found = TypeVar("Found")

#: the file that says whose a folder is, and what it says
MARKER = "depprobe-unfinished-run.txt"
_SAYS = "Finished cases of a run of depprobe that has not ended; the same command takes them up.\n"
#: names of the files that are written here, whole or not
_OURS = re.compile(r"[0-9a-f]{24}\.(npz|json)|\.[0-9a-f]{16}\.tmp")

_NORMS = tuple(field.name for field in fields_of(LogNorms))


class _Folder(ABC, Generic[Found]):
    """Results by the facts they follow from, one file each, in a folder of their own."""

    suffix: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def _read(self, path: Path) -> Found | None: ...

    @abstractmethod
    def _write(self, path: Path, found: Found) -> None: ...

    def claim(self) -> None:
        """Refuse a folder that was not made here, before anything is measured; raises ``BadInput``."""
        there = self.folder.is_symlink() or self.folder.exists()
        if there and not self._is_ours():
            raise BadInput(
                f"finished cases would be kept in {str(self.folder)!r}, which is not depprobe's: move it, or "
                "name another --output"
            )

    def get(self, facts: dict[str, Any]) -> Found | None:
        """What was measured under these facts before, or None; a damaged file is measured again."""
        path = self._path(facts)
        try:
            return self._read(path) if path.is_file() and not path.is_symlink() else None
        except Exception:  # damage surfaces as whatever the decoder meets first
            return None

    def put(self, facts: dict[str, Any], found: Found) -> None:
        """Keep what was measured; written under another name and renamed."""
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            (self.folder / MARKER).write_text(_SAYS, encoding="utf-8")
        path = self._path(facts)
        if path.is_symlink():
            # what it leads to is not ours
            path.unlink()
        with replacing(path) as temporary:
            self._write(temporary, found)

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
        return self.folder / f"{mark_of(facts)}{self.suffix}"


def identity_of(case: Case | None) -> dict[str, Any]:
    """The facts that tell a case from others under its label: its input and, of a user's model, all of it.

    Weights and buffers by their bits, attributes as they print, and the files that hold the code of its
    classes, with those beside them that are loaded.
    """
    if case is None:
        return {}
    known = {"input": fingerprint(numbers_of([case]))}
    if case.named:
        return known
    module = case.build()
    digest = hashlib.sha256()
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(bits_of(value.detach().cpu().contiguous()))
    for name, part in module.named_modules():
        own = {key: repr(value) for key, value in vars(part).items() if key[0] != "_"}
        own = {key: text for key, text in own.items() if " at 0x" not in text}
        digest.update(f"{name}{type(part).__qualname__}{sorted(own.items())}".encode())
    for path in _code_of({type(part) for part in module.modules()}):
        digest.update(path.read_bytes())
    return known | {"model": digest.hexdigest()}


def _code_of(kinds: set[type]) -> list[Path]:
    """The files that hold these classes, and loaded ones in the folders of those outside torch."""
    found = {getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in kinds}
    files = {Path(file) for file in found if file and file.endswith(".py")}
    folders = {file.parent for file in files if "site-packages" not in file.parts}
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    beside = {Path(file) for file in loaded if file and file.endswith(".py")}
    return sorted(file for file in files | {b for b in beside if b.parent in folders} if file.is_file())


class Finished(_Folder[list[Result]]):
    """The finished cases of one run that gives norms, each with its results at every depth."""

    suffix = ".npz"

    def _read(self, path: Path) -> list[Result] | None:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            every = {name: kept[name] for name in kept.files}
        depths = sorted({int(name.partition(".")[0]) for name in every})
        found = [
            _result({name.removeprefix(f"{i}."): v for name, v in every.items() if name.startswith(f"{i}.")})
            for i in depths
        ]
        whole = bool(found) and all(len(one.norms.values) == len(one.target) for one in found)
        return found if whole else None

    def _write(self, path: Path, found: list[Result]) -> None:
        fields: dict[str, Any] = {}
        for i, one in enumerate(found):
            known = {name: value for name, value in vars(one).items() if name != "norms"} | vars(one.norms)
            fields |= {f"{i}.{name}": value for name, value in known.items() if value is not None}
        with path.open("wb") as stream:
            np.savez(stream, **fields)


def _result(fields: dict[str, Any]) -> Result:
    norms = LogNorms(**{name: fields.pop(name) for name in _NORMS if name in fields})
    rest: dict[str, Any] = {name: str(fields[name]) for name in ("method", "error_kind", "zero_proof")}
    rest |= {name: float(fields[name]) for name in ("tolerance", "log_floor")}
    shape = tuple(int(size) for size in fields["shape"])
    probes = int(fields["probes"])
    return Result(norms, fields["target"], fields.get("position"), shape=shape, probes=probes, **rest)


class FinishedPoints(_Folder[dict[str, Any]]):
    """The finished points of one run whose results are numbers by name."""

    suffix = ".json"

    def _read(self, path: Path) -> dict[str, Any] | None:
        kept = json.loads(data_of(path))
        return kept if isinstance(kept, dict) else None

    def _write(self, path: Path, found: dict[str, Any]) -> None:
        path.write_bytes(sealed(json.dumps(found).encode()))
