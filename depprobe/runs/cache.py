"""Finished cases of a long run, kept on disk until all are there, so that an interrupted run goes on.

Each case is one .npz file, named by a hash of all that bears on it (module, weights' seed, options, input,
and the machine where that does), so that nothing stale is ever taken up; a checksum behind the data tells
damage, and what is damaged is measured again. A folder made here holds a marker; one without it is someone
else's, and nothing in it is read, written or removed. ``holding`` makes fields of a result, and back.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

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
#: arrays, numbers and text by name
Fields = dict[str, Any]

#: the file that says whose a folder is, and what it says
MARKER = "depprobe-unfinished-run.txt"
_SAYS = "Finished cases of a run of depprobe that has not ended; the same command takes them up.\n"
#: names of the files that are written here, whole or not
_OURS = re.compile(r"[0-9a-f]{24}\.(npz|json)|\.[0-9a-f]{16}\.tmp")

_NORMS = tuple(field.name for field in fields_of(LogNorms))


class Finished:
    """Results as fields, by the facts they follow from, one file each, in a folder of their own.

    Fields are numbers, text and arrays of them; those that are None are left out. ``beside`` are facts that
    hold for all of them.
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
        return self.folder / f"{mark_of(facts | self.beside)}.npz"


#: where finished cases are kept: a folder's name, or the folder as such
Place: TypeAlias = Finished | str | os.PathLike[str]


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
    files = {file for file in found if file and file.endswith(".py")}
    folders = {os.path.dirname(file) for file in files if "site-packages" not in Path(file).parts}
    if folders:
        loaded = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
        # names, not paths, of which thousands take a tenth of a second
        files |= {file for file in loaded if file.endswith(".py") and os.path.dirname(file) in folders}
    return sorted(path for file in files if (path := Path(file)).is_file())


@dataclass(frozen=True)
class Holding(Generic[Found]):
    """A folder of finished cases that takes and gives what one probe measures."""

    folder: Finished
    fields_of: Callable[[Found], Fields]
    made_of: Callable[[Fields], Found]

    def claim(self) -> None:
        """As of the folder."""
        self.folder.claim()

    def get(self, facts: dict[str, Any]) -> Found | None:
        """What was measured under these facts before, or None; what does not fit is measured again."""
        known = self.folder.get(facts)
        try:
            return None if known is None else self.made_of(known)
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, facts: dict[str, Any], found: Found) -> None:
        """Keep what was measured."""
        self.folder.put(facts, self.fields_of(found))


def as_it_is(found: Any) -> Any:
    """Fields that are the result themselves."""
    return dict(found)


def holding(
    finished: Any,
    fields_of: Callable[[Found], Fields] = as_it_is,
    made_of: Callable[[Fields], Found] = as_it_is,
) -> Holding[Found] | None:
    """Where a probe keeps its finished cases, or None; raises ``BadInput`` for what is no such place."""
    if finished is None:
        return None
    if not isinstance(finished, Finished | str | os.PathLike):
        raise BadInput(f"finished must be a folder in which to keep finished cases, not {finished!r:.60}")
    folder = finished if isinstance(finished, Finished) else Finished(finished)
    return Holding(folder, fields_of, made_of)


def fields_of_results(found: list[Result]) -> Fields:
    """Norms of one case at every depth as fields, ``0.values``, ``0.target``, ..."""
    fields: Fields = {}
    for i, one in enumerate(found):
        known = {name: value for name, value in vars(one).items() if name != "norms"} | vars(one.norms)
        fields |= {f"{i}.{name}": value for name, value in known.items()}
    return fields


def results_of(every: Fields) -> list[Result]:
    """Norms of one case at every depth; raises ``ValueError`` where they do not fit together."""
    depths = sorted({int(name.partition(".")[0]) for name in every})
    found = [
        _result({name.removeprefix(f"{i}."): v for name, v in every.items() if name.startswith(f"{i}.")})
        for i in depths
    ]
    if not found or any(len(one.norms.values) != len(one.target) for one in found):
        raise ValueError("norms and targets of different numbers")
    return found


def _result(fields: Fields) -> Result:
    norms = LogNorms(**{name: fields.pop(name) for name in _NORMS if name in fields})
    rest: dict[str, Any] = {name: str(fields[name]) for name in ("method", "error_kind", "zero_proof")}
    rest |= {name: float(fields[name]) for name in ("tolerance", "log_floor")}
    shape = tuple(int(size) for size in fields["shape"])
    probes = int(fields["probes"])
    return Result(norms, fields["target"], fields.get("position"), shape=shape, probes=probes, **rest)
