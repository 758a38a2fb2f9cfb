"""What a sweep would do: its cells by layer and size, with predicted work and memory of each."""

from __future__ import annotations

from collections.abc import Sequence

from depprobe.cli.commands.sweep.cells import settings_of
from depprobe.cli.commands.sweep.grid import Grid
from depprobe.cli.commands.sweep.keys import Keys, Settings
from depprobe.cli.commands.sweep.prediction import bytes_of
from depprobe.cli.output import Summary
from depprobe.store.sweeps.folder import MEASURED, Cell, Plan, SweepFolder
from depprobe.units import counted, readable

#: most rows of one layer and size each; a grid of more has a row a layer
_ROWS = 40
_SIZES = ("n", "d")


def summary(grid: Grid, plan: Plan, folder: SweepFolder) -> Summary:
    """A row for each layer and size: cells, those that are there, work and memory of a cell."""
    settings = [settings_of(cell.settings, grid.keys) for cell in plan.cells]
    names = [grid.keys.named(one).name for one in settings]
    sizes = [
        size
        for size in _SIZES
        if size in grid.keys.options and any(grid.keys.at(one, size) != "" for one in settings)
    ]
    at = [[_said(grid.keys, one, size) for size in sizes] for one in settings]
    rows: dict[tuple[str, ...], list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault((name, *at[i]), []).append(i)
    if len(rows) > _ROWS:
        rows = {(name,): [i for i, other in enumerate(names) if other == name] for name in names}

    def work(i: int) -> float:
        return plan.cells[i].work

    # the least and the most work of each row
    ends = {key: (min(row, key=work), max(row, key=work)) for key, row in rows.items()}
    asked = sorted({i for pair in ends.values() for i in pair})
    memory = dict(zip(asked, bytes_of(grid.keys, [settings[i] for i in asked]), strict=True))
    columns = [
        [
            key[0],
            *(_between([at[i][j] for i in ends[key]]) for j in range(len(sizes))),
            str(len(row)),
            str(sum(folder.state(plan.cells[i]) == MEASURED for i in row)),
            _between([f"{work(i) / 1e9:.3g}" for i in ends[key]]),
            _between([_readable(memory[i]) for i in ends[key]]),
        ]
        for key, row in rows.items()
    ]
    heads = ["layer", *sizes, "cells", "measured", "GFLOPs a cell", "memory a cell"]
    return Summary(f"Sweep of {plan.probe}", heads, columns, [], _notes(grid, plan, folder), upright=True)


def _said(keys: Keys, settings: Settings, size: str) -> str:
    """A size as the cell gives it; a model has no width, and its own length, unless one is given."""
    is_own = keys.named(settings).is_model and size not in settings.values
    return "-" if is_own else str(keys.at(settings, size))


def _between(ends: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def _readable(size: float | None) -> str:
    return "unknown" if size is None else readable(size)


def _notes(grid: Grid, plan: Plan, folder: SweepFolder) -> list[str]:
    axes = ", ".join(f"{axis} {len({cell.at[axis] for cell in plan.cells})}" for axis in plan.axes)
    left: list[Cell] = [cell for cell in plan.cells if folder.state(cell) != MEASURED]
    memory = sorted({str(grid.keys.at(settings, "memory")) for settings in grid.cells})
    total = sum(cell.work for cell in left) / 1e9
    return [
        f"{counted(len(plan.cells), 'cell')} of depprobe {plan.probe} ({axes}) into {folder.folder}",
        f"{counted(len(left), 'cell')} to measure, {total:.3g} GFLOPs: one forward pass of each, by "
        "formula; n d^2 of a model.",
        "Memory is that of one forward and backward pass with weights and input; a cell that would exceed "
        f"its budget ({', '.join(memory)}) is refused before it allocates anything.",
    ]
