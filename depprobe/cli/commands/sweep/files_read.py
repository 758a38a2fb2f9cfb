"""Files that cells of a grid read: input, weights, the one that makes the model; faults of them told once."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from depprobe.cli.commands.sweep.keys import Keys, Settings
from depprobe.cli.options import TABLE
from depprobe.errors import BadInput, harmless
from depprobe.store.sweeps.folder import Plan
from depprobe.units import counted

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
    """One line on the cells whose files do not exist, or whose input cannot be read; empty without such.

    Raises ``BadInput`` with that line where no cell can be measured.
    """
    exists: dict[str, bool] = {}
    # absent files and the fault of an input, by all that decides what is read and how
    alike: dict[tuple[object, ...], tuple[list[str], str]] = {}
    each = []
    for cell in plan.cells:
        subject, values = tuple(cell.settings["subject"].items()), cell.settings["values"]
        same = subject, *(str(values.get(name)) for name in ("input", *TABLE))
        if same not in alike:
            read = files_of(keys, Settings(subject, values))
            exists |= {file: os.path.exists(file) for file in {*read.values()} - exists.keys()}
            how = {name: keys.typed(name, values[name]) for name in TABLE if name in values}
            fault = _fault(read["input"], how) if exists.get(read.get("input", "")) else ""
            alike[same] = [file for file in {*read.values()} if not exists[file]], fault
        each.append(alike[same])
    total, without = len(each), sum(bool(absent or fault) for absent, fault in each)
    said = []
    if (count := sum(bool(absent) for absent, _ in each)) > 0:
        need = Counter(file for absent, _ in each for file in absent)
        said.append(f"{_of(count, total)} need{'s' * (1 == count < total)} {_absent(need)}")
    if (count := sum(bool(fault) for _, fault in each)) > 0:
        faults = _listed(Counter(fault for _, fault in each if fault), str)
        said.append(f"{_of(count, total)} fail{'s' * (1 == count < total)}: {faults}")
    line = harmless("; ".join(said))
    if without == total > 0:
        raise BadInput(f"{line}; nothing was measured")
    return f"{line}; the others are measured" if line else ""


def _fault(name: str, how: dict[str, Any]) -> str:
    """Why an input that is there cannot be read; empty where it can."""
    from depprobe.runs.inputs import read

    try:
        read(name, **how)
    except BadInput as error:
        return str(error)
    return ""


def _of(count: int, total: int) -> str:
    return f"all {total} cells" if count == total > 1 else f"{count} of {counted(total, 'cell')}"


def _absent(need: Counter[str]) -> str:
    if len(need) == 1:
        return f"{next(iter(need))!r}, which does not exist"
    return f"files that do not exist: {_listed(need, repr)}"


def _listed(counts: Counter[str], form: Callable[[str], str]) -> str:
    """What is counted, the most frequent first, with numbers where there are several."""
    if len(counts) == 1:
        return form(next(iter(counts)))
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    more = [f"{len(ordered) - _LISTED} more"] if len(ordered) > _LISTED else []
    return ", ".join([*(f"{form(one)} ({count})" for one, count in ordered[:_LISTED]), *more])


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
