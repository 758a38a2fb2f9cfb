"""What a sweep would do: its cells, by layer, with predicted work and memory."""

from __future__ import annotations

from depprobe.cli.commands.sweep.cells import settings_of
from depprobe.cli.commands.sweep.grid import Grid
from depprobe.cli.commands.sweep.prediction import bytes_of
from depprobe.cli.output import Summary
from depprobe.store.sweeps.folder import MEASURED, Cell, Plan, SweepFolder


def summary(grid: Grid, plan: Plan, folder: SweepFolder) -> Summary:
    """A row for each layer: cells, those that are there, work of all and of the largest, its memory."""
    from depprobe.units import readable

    rows: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        rows.setdefault(grid.keys.named(settings_of(cell.settings, grid.keys)).name, []).append(cell)
    heads = ["layer", "cells", "measured", "GFLOPs", "largest cell", "its memory"]
    columns = []
    for name, cells in rows.items():
        largest = max(cells, key=lambda cell: cell.work)
        needed = bytes_of(grid.keys, settings_of(largest.settings, grid.keys))
        there = sum(folder.state(cell) == MEASURED for cell in cells)
        work = [sum(cell.work for cell in cells), largest.work]
        said = [f"{value / 1e9:.3g}" for value in work]
        columns.append([name, str(len(cells)), str(there), *said, readable(needed) if needed else "unknown"])
    axes = ", ".join(f"{axis} {len({cell.at[axis] for cell in plan.cells})}" for axis in plan.axes)
    memory = {str(grid.keys.at(settings, "memory")) for settings in grid.cells}
    notes = [
        f"{len(plan.cells)} cells of depprobe {plan.probe} ({axes}) into {folder.folder}",
        "GFLOPs are of one forward pass of each cell, by formula; of a model, n d^2.",
        "Memory is that of one forward and backward pass with weights and input; a cell that would exceed "
        f"its budget ({', '.join(sorted(memory))}) is refused before it allocates anything.",
    ]
    return Summary(f"Sweep of {plan.probe}", heads, columns, [], notes, upright=True)
