"""Cells of a grid: their marks, how one is measured, and how much work it is."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depprobe._version import __version__
from depprobe.cli.commands.sweep.files_read import files_of
from depprobe.cli.commands.sweep.grid import Grid
from depprobe.cli.commands.sweep.keys import SUBJECT, Keys, Settings, check_together
from depprobe.cli.named_models import WORDS
from depprobe.errors import BadInput
from depprobe.models.shards import INDEX
from depprobe.store.atomic import reason_of
from depprobe.store.marks import content_of, mark_of
from depprobe.store.sweeps.folder import Cell, Plan, on_one_line
from depprobe.vocabulary import SCHEMA_VERSION

#: what torch says where memory is refused
_REFUSED = re.compile(r"(can't|not) allocate memory|out of memory", re.IGNORECASE)
#: stands for the content of a file that is not there
_NOT_READABLE = "not readable"
#: probes that measure time, whose cells run alone on their machine
TIMED = ("cost",)


def plan_of(grid: Grid, before: Plan | None = None) -> Plan:
    """The cells of a grid with their marks.

    Raises ``BadInput`` where two cannot be told apart, and where a file is not there that cells of the plan
    made ``before`` read: seen from another folder, all would have other marks.
    """
    from depprobe.cli.commands.sweep.prediction import work_of

    check_together(grid.keys, grid.cells, grid.axes)
    cells: dict[str, Cell] = {}
    contents = _Contents()
    for settings in grid.cells:
        at = {axis: grid.keys.at(settings, axis) for axis in grid.axes}
        given = {"subject": dict(settings.subject), "values": settings.values}
        mark = _mark(grid.keys, settings, contents)
        cells.setdefault(mark, Cell(mark, given, at, work_of(grid.keys, settings)))
    if before is not None and contents.absent and {cell.mark for cell in before.cells} != set(cells):
        raise BadInput(
            f"the grid reads {contents.absent[0]!r}, which is not there as seen from {os.getcwd()!r}: retry "
            "where the sweep was run"
        )
    return Plan(grid.keys.probe, grid.axes, list(cells.values()))


def grid_again(plan: Plan) -> Grid:
    """The grid that a plan was made of, each setting checked again; raises ``BadInput``."""
    keys = Keys(plan.probe)
    return Grid(keys, list(plan.axes), [settings_of(cell.settings, keys) for cell in plan.cells])


def settings_of(given: Mapping[str, Any], keys: Keys) -> Settings:
    """The settings of a cell as its plan holds them, checked again."""
    subject = dict(given["subject"])
    return keys.settings({SUBJECT: subject, **given["values"]})


def measure(probe: str, threads: int | None, where: str, given: Mapping[str, Any], path: str) -> str | None:
    """Measure one cell in the folder ``where`` and save it; None, or one line on why it could not be.

    Raises ``DepprobeError`` where the file cannot be written.
    """
    from depprobe.store.files import save_named

    keys, data = Keys(probe), Path(path)
    if os.getcwd() != where:
        os.chdir(where)
    try:
        ds = _measured(keys, settings_of(given, keys), threads, data)
    except (Exception, SystemExit) as error:
        return on_one_line(_said(error))
    # named after the mark
    save_named(ds, data, data.stem)
    return None


def _measured(keys: Keys, settings: Settings, threads: int | None, data: Path) -> Any:
    module = importlib.import_module(keys.module)
    # long names: click looks for names like a short one first, which takes a millisecond
    words = [*keys.words(settings), "--quiet", "--output", str(data)]
    words += ["--figure", str(data.with_suffix(".png"))]
    if threads and keys.probe not in TIMED:
        words += ["--threads", str(threads)]
    with keys.command.make_context(keys.probe, list(words)) as context:
        context.meta[WORDS] = words
        options = dict(context.params)
        options.pop("theory", None)
        run = module.asked(options.pop("input_", "noise"), options)
        return module.measured(run)


def _said(error: BaseException) -> str:
    import click

    from depprobe.errors import DepprobeError

    if isinstance(error, click.ClickException):
        said = error.format_message()
    elif isinstance(error, DepprobeError):
        said = str(error)
    elif isinstance(error, OSError) and error.strerror:
        said = reason_of(error)
    else:
        said = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    refused = isinstance(error, MemoryError) or _REFUSED.search(said)
    return f"more memory than this machine has left: {said}" if refused else said


def _mark(keys: Keys, settings: Settings, contents: Mapping[str, str]) -> str:
    """The hash of the full configuration: options that differ from their defaults, and what files hold."""
    values = {key: keys.typed(key, value) for key, value in settings.values.items()}
    asked = {key: value for key, value in values.items() if value != keys.default(key)}
    facts = {"probe": keys.probe, "subject": settings.subject, "options": asked}
    facts |= {"version": __version__, "schema": SCHEMA_VERSION}
    read = {key: contents[file] for key, file in files_of(keys, settings).items()}
    return mark_of(facts | {"contents": read})


class _Contents(dict[str, str]):
    """Hashes of files by name, each read once."""

    @property
    def absent(self) -> list[str]:
        """Names of those that are not there."""
        return [file for file, content in self.items() if content == _NOT_READABLE]

    def __missing__(self, file: str) -> str:
        path = Path(file)
        # whoever reads it says what is wrong with it
        self[file] = _NOT_READABLE
        with contextlib.suppress(OSError):
            if path.is_file() or path.is_dir():
                self[file] = content_of(path)
            if file.endswith(INDEX):
                shards = sorted(path.parent.glob(f"*{Path(file.removesuffix(INDEX)).suffix}"))
                self[file] = mark_of({one.name: content_of(one) for one in (path, *shards)})
        return self[file]
