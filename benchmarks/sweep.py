"""What a sweep costs beyond measuring: a cell, opening a thousand, ten thousand, and two workers beside one.

Usage: python benchmarks/sweep.py [--cells 1000] [--speedup]

Processor seconds are printed for what one process does, which a busy machine does not change; the speed-up of
workers is of wall-clock time, start-up not counted, and needs a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import depprobe
from depprobe.cli.commands.sweep.cells import measure, plan_of
from depprobe.cli.commands.sweep.grid import grid_of
from depprobe.runs.sweeps.engine import InProcess, run_cells
from depprobe.runs.sweeps.executors import engine
from depprobe.store.sweeps.folder import Plan, SweepFolder

#: cells that one way takes before the other has its turn
_TURN = 20


def planned(grid: dict[str, Any], where: Path) -> tuple[Plan, SweepFolder]:
    """The cells of a grid, and a folder for them."""
    plan, folder = plan_of(grid_of(grid)), SweepFolder(where)
    folder.claim()
    folder.write(plan)
    return plan, folder


def overhead(cells: int, where: Path) -> None:
    """Trivial cells through the sweep, in turns with the same ones measured and saved by xarray alone."""
    small = {"n": 10, "d": 4}
    depprobe.jacobian("rnn", **small)
    start = time.process_time()
    plan, folder = planned({"grid": {"layer": ["rnn"], "seed": list(range(cells))}, "fixed": small}, where)
    print(f"plan                        {cell_ms(start, cells):.2f} ms a cell")
    task, bare = partial(measure, plan.probe, None, os.getcwd()), str(where.with_suffix(".nc"))
    took: dict[str, list[float]] = {name: [] for name in ("measure", "to_netcdf", "sweep")}
    for first in range(0, cells, _TURN):
        turn = plan.cells[first : first + _TURN]
        start = time.process_time()
        found = [depprobe.jacobian("rnn", **small, seed=first + i) for i in range(len(turn))]
        took["measure"].append(cell_ms(start, len(turn)))
        start = time.process_time()
        for ds in found:
            ds.to_netcdf(bare, engine="h5netcdf")
        took["to_netcdf"].append(cell_ms(start, len(turn)))
        start = time.process_time()
        run_cells(turn, folder, task, InProcess())
        took["sweep"].append(cell_ms(start, len(turn)))
    alone, written, swept = (statistics.median(took[name]) for name in ("measure", "to_netcdf", "sweep"))
    print(f"measure                     {alone:.2f} ms a cell")
    print(f"xarray's to_netcdf          {written:.2f} ms a cell")
    share = (swept - alone) / written
    print(f"sweep, all in               {swept:.2f} ms a cell")
    print(f"  beyond measuring          {swept - alone:.2f} ms a cell, {share:.2f} of to_netcdf")
    start = time.process_time()
    run_cells(plan.cells, folder, task, InProcess())
    print(f"again, all there            {cell_ms(start, cells):.2f} ms a cell")
    start = time.process_time()
    depprobe.open_sweep(where)
    print(f"open_sweep                  {time.process_time() - start:.2f} s", flush=True)


def cell_ms(start: float, cells: int) -> float:
    """Milliseconds of this process a cell."""
    return (time.process_time() - start) / cells * 1e3


def speedup(where: Path) -> None:
    """64 LSTM cells of two seconds: one worker with one thread, then two."""
    grid = {"grid": {"layer": ["lstm"], "seed": list(range(64))}, "fixed": {"n": 1000, "d": 256}}
    took = {}
    for workers in (1, 2):
        plan, folder = planned(grid, where / str(workers))
        with engine(workers, None, 1, timed=False) as with_:
            task = partial(measure, plan.probe, 1, os.getcwd())
            warm, warm_folder = planned({**grid, "fixed": {"n": 10, "d": 4}}, where / f"warm{workers}")
            run_cells(warm.cells[: 4 * workers], warm_folder, task, with_.executor, at_once=with_.at_once)
            start = time.monotonic()
            run_cells(plan.cells, folder, task, with_.executor, at_once=with_.at_once)
            took[workers] = time.monotonic() - start
        print(f"{workers} workers: {took[workers]:.1f} s", flush=True)
    print(f"speed-up {took[1] / took[2]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--speedup", action="store_true", help="two workers beside one, some four minutes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.speedup:
            speedup(Path(folder))
        else:
            overhead(given.cells, Path(folder) / "out")


if __name__ == "__main__":
    main()
