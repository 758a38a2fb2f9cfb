"""``depprobe sweep``: a probe over a grid of layers, sizes and seeds; what became of it."""

from __future__ import annotations

import os
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from depprobe.cli import output, tables
from depprobe.cli.grouped_help import Grouped
from depprobe.cli.options import THREADS, shared
from depprobe.cli.progress import progress
from depprobe.errors import BadInput, unknown
from depprobe.units import counted

if TYPE_CHECKING:
    from depprobe.store.sweeps.folder import Plan, SweepFolder

#: cells listed by name; of more, how many there are
_LISTED = 20
#: cells that are named of those that fail for one reason
_EXAMPLES = 3
_FAILED, _CHECK_FAILED = 1, 3
#: clusters that are started one after another where workers are gone for good
_CLUSTERS = 3

engine_options = (
    shared("quiet"),
    click.option("--threads", type=THREADS, help="Threads of one cell."),
    click.option("--scheduler", metavar="tcp://...", help="Measure on the workers of a Dask scheduler."),
    click.option(
        "--workers",
        type=click.IntRange(1, 1024),
        metavar="N",
        help="Measure in N processes, each with its share of the processors.",
    ),
)


def on_engines(function: Any) -> Any:
    """Decorator that gives a command the options of where cells run."""
    for option in engine_options:
        function = option(function)
    return function


class _Sweep(click.Group):
    """A group whose first word may be the grid file itself."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in self.commands:
            folder = len(args) > 1 and not args[1].startswith("-")
            if folder and not Path(args[0]).suffix and not Path(args[0]).exists():
                raise unknown("command of sweep", args[0], self.commands)
            return "", measure, args
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            raise BadInput("give a grid file, as in depprobe sweep grid.toml; --help shows what it holds")
        # options belong to the grid file's command, wherever it stands among them
        if args and args[0] not in self.commands and not {"-h", "--help"} & set(args):
            args = ["--", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Grid files and commands; options are those of a grid file's command."""
        if incomplete.startswith("-"):
            return measure.shell_complete(click.Context(measure), incomplete)
        return [CompletionItem(incomplete, type="file"), *super().shell_complete(ctx, incomplete)]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with click.Context(measure, info_name="depprobe sweep", parent=None) as inner:
            measure.format_help(inner, formatter)
        with formatter.section("Commands"):
            formatter.write_dl(
                [(f"{name} FOLDER", c.get_short_help_str()) for name, c in self.commands.items()]
            )


@click.group(cls=_Sweep, short_help="a probe over a grid, in one folder", invoke_without_command=False)
def sweep() -> None:
    """Measure a probe over a grid of layers, sizes and seeds."""


@click.command(cls=Grouped)
@click.argument("grid", metavar="GRID.toml", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the cells go (default: runs/ and the name of the grid file).",
)
@click.option("--dry-run", is_flag=True, help="Print cells, predicted work and memory; measure nothing.")
@on_engines
def measure(grid: Path, folder: Path | None, dry_run: bool, **how: Any) -> None:
    """Measure every cell of a grid file, one netCDF file each, in one folder.

    GRID.toml holds probe = "jacobian" (or spectrum, gates, lyapunov, cost), [grid] with lists whose every
    combination is a cell, [fixed] with what all share, and [[include]] and [[exclude]] for cells more or
    less. Keys are the options of that command. The same command goes on where it was; a cell that cannot be
    measured is kept with its reason. depprobe.open_sweep(FOLDER) opens all as one dataset.

    \b
    depprobe sweep grid.toml --dry-run
    depprobe sweep grid.toml -o runs/decay
    depprobe sweep grid.toml --workers 8 --threads 2
    depprobe sweep grid.toml --scheduler tcp://10.0.0.1:8786
    depprobe sweep status runs/decay
    """
    from depprobe.cli.commands.sweep.cells import plan_of
    from depprobe.cli.commands.sweep.files_read import check_files
    from depprobe.cli.commands.sweep.grid import read
    from depprobe.store.sweeps.folder import SweepFolder

    found = read(grid)
    plan = plan_of(found)
    absent = check_files(found.keys, plan)
    into = SweepFolder(folder or Path("runs") / grid.stem)
    if dry_run:
        from depprobe.cli.commands.sweep.dry_run import summary

        said = summary(found, plan, into)
        notes = [*said.notes, *filter(None, [absent])]
        output.echo("\n".join([tables.as_text(said), "", *notes]))
        return
    _warn(absent)
    into.claim()
    into.write(plan)
    _measure(plan, into, **how)


@sweep.command(short_help="what is measured, and why the rest is not")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(folder: Path, as_json: bool) -> None:
    """Say how many cells of a sweep are measured, and why the others are not."""
    from depprobe.store.sweeps.folder import MEASURED, SweepFolder

    of = SweepFolder(folder)
    plan = of.plan()
    states = {cell.mark: of.state(cell) for cell in plan.cells}
    without = [cell for cell in plan.cells if states[cell.mark] != MEASURED]
    counts = Counter(states.values())
    if as_json:
        reasons = [{"mark": cell.mark, **cell.at, "reason": of.reason(cell)} for cell in without]
        output.echo(
            output.as_json({"probe": plan.probe, "cells": len(plan.cells), **counts, "without": reasons})
        )
        return
    said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    output.echo(f"sweep    {plan.probe}, {counted(len(plan.cells), 'cell')}: {said}")
    for cell in without[:_LISTED]:
        output.echo(f"without  {_named(cell.at)}: {of.reason(cell)}")
    if len(without) > _LISTED:
        output.echo(f"without  {len(without) - _LISTED} more; --json lists them")


@sweep.command(short_help="measure again what failed")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@on_engines
def retry(folder: Path, **how: Any) -> None:
    """Measure the cells that failed once more, and those that are missing."""
    from depprobe.cli.commands.sweep.cells import grid_again, plan_of
    from depprobe.cli.commands.sweep.files_read import check_files
    from depprobe.store.sweeps.folder import FAILED, SweepFolder

    of = SweepFolder(folder)
    before = of.plan()
    found = grid_again(before)
    plan = plan_of(found, before)
    _warn(check_files(found.keys, plan))
    of.claim()
    of.write(plan)
    for cell in plan.cells:
        if of.state(cell) == FAILED:
            of.forget(cell)
    _measure(plan, of, **how)


@sweep.command(short_help="check every file against its checksum")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
def verify(folder: Path) -> None:
    """Check every file of a sweep, those of earlier grids included, against its checksum, its name and the
    contract of datasets.
    """
    from depprobe import store
    from depprobe.store.sweeps.folder import DAMAGED, MEASURED, SweepFolder, on_one_line

    of = SweepFolder(folder)
    plan = of.plan()
    faults, checked = [], 0
    remedies = [(cell, "the same command") for cell in plan.cells]
    remedies += [(cell, "the grid that asked for it") for cell in of.earlier(plan)]
    for cell, remedy in remedies:
        state = of.state(cell)
        if state == DAMAGED:
            faults.append(
                f"{of.data(cell)}: damaged, or the file of another cell; {remedy} measures it again"
            )
        elif state == MEASURED:
            checked += 1
            try:
                store.validate(store.load(of.data(cell)))
            except BadInput as error:
                faults.append(on_one_line(f"{of.data(cell)}: {error}"))
    for fault in faults[:_LISTED]:
        click.echo(f"depprobe: {fault}", err=True)
    output.echo(f"checked  {counted(checked + len(faults), 'file')} in {folder}: {len(faults)} damaged")
    if faults:
        click.get_current_context().exit(_CHECK_FAILED)


def _measure(
    plan: Plan,
    folder: SweepFolder,
    workers: int | None,
    scheduler: str | None,
    threads: int | None,
    quiet: bool,
) -> None:
    from depprobe.cli.commands.sweep.cells import TIMED
    from depprobe.cli.commands.sweep.cells import measure as one
    from depprobe.runs.sweeps.engine import WorkersLost, duration, run_cells
    from depprobe.runs.sweeps.executors import engine

    start, timed, measured = time.monotonic(), plan.probe in TIMED, list[str]()
    for left in reversed(range(_CLUSTERS)):
        try:
            with progress(quiet) as report, engine(workers, scheduler, threads, timed) as with_:
                task = partial(one, plan.probe, with_.threads, os.getcwd())
                go = partial(
                    run_cells, at_once=with_.at_once, lost=with_.lost, idle=with_.idle, progress=report
                )
                tally = go(plan.cells, folder, task, with_.executor)
            break
        except WorkersLost as error:
            # a cluster that does not replace what was killed is itself replaced
            measured += error.measured
            if not left:
                raise
    tally.there = [mark for mark in tally.there if mark not in measured]
    tally.measured += measured
    alike: dict[str, list[str]] = {}
    for cell in plan.cells:
        if cell.mark in tally.failed:
            alike.setdefault(tally.failed[cell.mark], []).append(_named(cell.at))
    for reason, names in list(alike.items())[:_LISTED]:
        more = "; ..." if len(names) > _EXAMPLES else ""
        several = f"{len(names)} cells ({'; '.join(names[:_EXAMPLES])}{more})"
        click.echo(f"depprobe: {names[0] if len(names) == 1 else several}: {reason}", err=True)
    took = duration(time.monotonic() - start)
    before = f", {len(tally.there)} measured before" if tally.there else ""
    cells = counted(len(plan.cells), "cell")
    output.echo(f"sweep    {plan.probe}, {cells}: {len(tally.measured)} measured in {took}{before}")
    if tally.failed:
        output.echo(f"failed   {len(tally.failed)}; depprobe sweep retry {folder.folder} measures them again")
    output.echo(f"folder   {folder.folder}")
    if tally.failed:
        click.get_current_context().exit(_FAILED)


def _warn(said: str) -> None:
    if said:
        click.echo(f"depprobe: {said}", err=True)


def _named(at: Any) -> str:
    from depprobe.store.sweeps.folder import on_one_line

    return on_one_line(", ".join(f"{axis}={value}" for axis, value in at.items()))
