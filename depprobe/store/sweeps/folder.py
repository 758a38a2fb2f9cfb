"""The folder of a sweep: which cells were asked for, and what became of each.

    sweep.json          the cells that the last call asked for, and the axes along which they lie
    <mark>.nc           the dataset of a cell, whole and with its checksum, or not there
    <mark>.failed.json  why a cell could not be measured
    <mark>.begun        processes that began to measure a cell and have not ended it: it goes with the cell

``mark`` is the hash of a cell's full configuration (``store.marks``). A cell is ``measured``, ``failed``,
``damaged`` (its file does not fit its checksum, or is that of another cell) or ``missing``. Only these names
are ever written or removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depprobe.errors import BadInput, DepprobeError, harmless
from depprobe.store.atomic import is_gone, one_line, reason_of, remove_forgotten, replacing, this_process
from depprobe.store.trailer import verify

PLAN = "sweep.json"
MEASURED, FAILED, DAMAGED, MISSING = "measured", "failed", "damaged", "missing"
_MARK, _PROCESS = re.compile(r"[0-9a-f]{24}"), re.compile(r"[0-9a-f]{10}")
#: bytes of a plan above which it is none of ours: some million cells
_LARGEST = 1 << 29


@dataclass(frozen=True)
class Cell:
    """One cell: its mark, what was asked, where it lies on the axes, and its share of the work.

    Attributes
    ----------
    mark : hash of its configuration, which names its files.
    settings : option -> value, as given.
    at : axis -> value.
    work : predicted work, in any unit that is the same for all cells.
    """

    mark: str
    settings: Mapping[str, Any]
    at: Mapping[str, str | int | float]
    work: float = 1.0


@dataclass(frozen=True)
class Plan:
    """The cells of a sweep of one probe, and the axes along which they lie."""

    probe: str
    axes: Sequence[str]
    cells: Sequence[Cell] = field(default_factory=list)


class SweepFolder:
    """The folder of one sweep; ``say(cell)`` names a cell in words."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def data(self, cell: Cell) -> Path:
        """Where the dataset of a cell is, or would be."""
        return self.folder / f"{cell.mark}.nc"

    def _begun(self, cell: Cell) -> Path:
        return self.folder / f"{cell.mark}.begun"

    def _failure(self, cell: Cell) -> Path:
        return self.folder / f"{cell.mark}.failed.json"

    def claim(self) -> None:
        """Take the folder for a sweep, before anything is measured.

        Raises
        ------
        BadInput : it is a link or no folder, or holds files and is not that of a sweep, or cannot be made.
        """
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise BadInput(f"{str(self.folder)!r} is not a folder: name another --output")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            foreign = next(self.folder.iterdir(), None)
        except OSError as error:
            raise BadInput(f"cannot write {str(self.folder)!r}: {reason_of(error)}") from None
        if foreign is not None and not (self.folder / PLAN).is_file():
            remove_forgotten(self.folder)
            if next(self.folder.iterdir(), None) is not None:
                raise BadInput(
                    f"{str(self.folder)!r} holds other files, such as {foreign.name!r}: name a new folder "
                    "with --output"
                )
        remove_forgotten(self.folder)
        for begun in self.folder.glob("*.begun"):
            if _MARK.fullmatch(begun.stem) and begun.with_suffix(".nc").is_file():
                begun.unlink(missing_ok=True)

    def write(self, plan: Plan) -> None:
        """Say which cells are asked for."""
        cells = [{"mark": c.mark, "settings": c.settings, "at": c.at, "work": c.work} for c in plan.cells]
        document = {"probe": plan.probe, "axes": plan.axes, "cells": cells}
        with replacing(self.folder / PLAN) as temporary:
            temporary.write_text(json.dumps(document), encoding="utf-8")

    def plan(self) -> Plan:
        """The cells that were asked for; raises ``BadInput`` where this is no folder of a sweep."""
        path = self.folder / PLAN
        if not path.is_file():
            raise BadInput(f"{str(self.folder)!r} is not the folder of a sweep: it holds no {PLAN}")
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError("too large")
            return _plan(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadInput(
                f"{str(path)!r} is not as depprobe writes it ({one_line(error)}): run the sweep again"
            ) from None

    def earlier(self, plan: Plan) -> list[Cell]:
        """Cells whose files are here and that only grids before this one asked for."""
        asked = {cell.mark for cell in plan.cells}
        marks = sorted(path.stem for path in self.folder.glob("*.nc") if _MARK.fullmatch(path.stem))
        return [Cell(mark, {}, {}) for mark in marks if mark not in asked]

    def state(self, cell: Cell) -> str:
        """What became of a cell: ``measured``, ``failed``, ``damaged`` or ``missing``."""
        data = self.data(cell)
        if data.is_symlink():
            return DAMAGED
        if data.is_file():
            try:
                return MEASURED if verify(data, cell.mark) else DAMAGED
            except (OSError, BadInput):
                return DAMAGED
        if data.exists():
            return DAMAGED
        return FAILED if self._failure(cell).is_file() else MISSING

    def reason(self, cell: Cell) -> str:
        """Why a cell has no dataset; empty where it has one."""
        state = self.state(cell)
        if state == MEASURED:
            return ""
        if state == DAMAGED:
            return "its file is damaged, or that of another cell: the same command measures it again"
        if state == MISSING:
            killed = self.killed(cell)
            return "not measured yet" + f"; processes killed at it: {killed}" * bool(killed)
        try:
            reason = json.loads(self._failure(cell).read_text(encoding="utf-8"))["reason"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return "failed, and the reason is not readable"
        return on_one_line(str(reason))

    def fail(self, cell: Cell, reason: str) -> None:
        """Keep why a cell could not be measured."""
        with replacing(self._failure(cell)) as temporary:
            document = {"reason": on_one_line(reason), "settings": cell.settings}
            temporary.write_text(json.dumps(document), encoding="utf-8")

    @contextmanager
    def under_way(self, cell: Cell) -> Iterator[None]:
        """Note that this process measures a cell; the note stays where the process is killed meanwhile."""
        try:
            with self._begun(cell).open("a", encoding="ascii") as stream:
                stream.write(this_process() + "\n")
        except OSError as error:
            raise DepprobeError(f"could not write {str(self._begun(cell))!r}: {reason_of(error)}") from None
        try:
            yield
        finally:
            self._begun(cell).unlink(missing_ok=True)

    def killed(self, cell: Cell) -> int:
        """How many processes began to measure a cell and were killed, as far as can be known here."""
        return sum(self._ends(cell))

    def is_taken(self, cell: Cell) -> bool:
        """Whether another process is at this cell, as far as can be known here."""
        return not all(self._ends(cell))

    def _ends(self, cell: Cell) -> list[bool]:
        """For each process that began a cell, whether it was killed."""
        try:
            lines = self._begun(cell).read_text(encoding="ascii").splitlines()
            return [is_gone(line, self._begun(cell)) for line in lines if _PROCESS.fullmatch(line)]
        except (OSError, ValueError):
            return []

    def forget(self, cell: Cell) -> None:
        """Remove what is damaged of a cell, and why it failed."""
        if self.state(cell) == DAMAGED and (self.data(cell).is_symlink() or self.data(cell).is_file()):
            self.data(cell).unlink(missing_ok=True)
        self._failure(cell).unlink(missing_ok=True)
        self._begun(cell).unlink(missing_ok=True)


def on_one_line(text: str) -> str:
    """Text on one line, without what a terminal would obey, cut where it is long."""
    return harmless(" ".join(text.split()))[:400]


def _plan(document: Any) -> Plan:
    probe, axes = document["probe"], document["axes"]
    cells = [Cell(c["mark"], dict(c["settings"]), dict(c["at"]), float(c["work"])) for c in document["cells"]]
    if not isinstance(probe, str) or not isinstance(axes, list) or len(set(axes)) != len(axes):
        raise ValueError("no probe or axes")
    for cell in cells:
        if not _MARK.fullmatch(cell.mark) or set(cell.at) != set(axes):
            raise ValueError("a cell without its mark or place")
        if not all(isinstance(value, str | int | float) for value in cell.at.values()):
            raise ValueError("a cell whose place is no number or text")
    return Plan(probe, axes, cells)
