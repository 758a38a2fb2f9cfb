"""Files that cells of a grid read: input, weights, the one that makes the model; absent ones told once."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections import Counter
from pathlib import Path

from depprobe.cli.commands.sweep.keys import Keys, Settings
from depprobe.errors import BadInput, harmless
from depprobe.store.sweeps.folder import Plan

#: absent files that are told by name
_LISTED = 5


def files_of(keys: Keys, settings: Settings) -> dict[str, str]:
    """The file or folder that a cell reads as input, weights and model, where it reads one."""
    named = keys.named(settings)
    given = settings.values
    files = {
        "input": str(keys.typed("input", given["input"])) if "input" in given else "noise",
        "weights": named.weights or "",
        "model": _code(named.text) if named.is_model else "",
    }
    return {key: file for key, file in files.items() if file and file != "noise"}


def check_files(keys: Keys, plan: Plan) -> str:
    """One line on the cells that need files that do not exist; empty where all are there.

    Raises ``BadInput`` with that line where no cell can be measured.
    """
    exists: dict[str, bool] = {}
    alike: dict[tuple[object, str], list[str]] = {}  # absent files by all that decides which are read
    need: Counter[str] = Counter()
    cells = 0
    for cell in plan.cells:
        subject, values = tuple(cell.settings["subject"].items()), cell.settings["values"]
        same = subject, str(values.get("input"))
        if same not in alike:
            read = {*files_of(keys, Settings(subject, values)).values()}
            exists |= {file: os.path.exists(file) for file in read - exists.keys()}
            alike[same] = [file for file in read if not exists[file]]
        need.update(alike[same])
        cells += bool(alike[same])
    if not need:
        return ""
    total = len(plan.cells)
    of = (
        f"all {total} cells need"
        if cells == total > 1
        else f"{cells} of {total} cells need{'s' * (cells == 1)}"
    )
    said = harmless(f"{of} {_said(need)}")
    if cells == total:
        raise BadInput(f"{said}; nothing was measured")
    return f"{said}; the others are measured"


def _said(need: Counter[str]) -> str:
    if len(need) == 1:
        return f"{next(iter(need))!r}, which does not exist"
    files = [f"{file!r} ({count})" for file, count in sorted(need.items(), key=lambda one: (-one[1], one[0]))]
    more = [f"{len(files) - _LISTED} more"] if len(files) > _LISTED else []
    return f"files that do not exist: {', '.join(files[:_LISTED] + more)}"


def _code(model: str) -> str:
    """The file or folder that a model is made from, as far as its name tells; a module that is not there."""
    if model.startswith("hf:"):
        return model.removeprefix("hf:")
    where = model.rpartition(":")[0]
    if where.endswith(".py") or model.startswith("trained:") or not where:
        return where if where.endswith(".py") else ""
    from depprobe.models.user_code import importable  # which loads torch

    found = None
    with importable(Path.cwd()), contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(where)
    if found is None:
        return where  # which is no file either, and is told like one
    return found.origin or "" if found.has_location else ""
