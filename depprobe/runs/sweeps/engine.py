"""Cells through a ``concurrent.futures.Executor``: the largest first, each failure kept, the rest goes on.

A task measures one cell from its settings, writes its file and returns None, or why it could not be measured.
What it raises ends the sweep: the folder cannot be written, or the executor is gone. Settings go out and one
line comes back; tensors never travel.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from depprobe.errors import DepprobeError
from depprobe.runs.sweeps.within_memory import within_memory
from depprobe.store.sweeps.folder import DAMAGED, FAILED, MEASURED, Cell, SweepFolder
from depprobe.units import counted

#: called with (cells done by their share of the work, cells in all, what is under way)
Progress = Callable[[float, int, str], None]
#: measures a cell of these settings into a file; None, or why it could not
Task = Callable[..., str | None]
_GOES_ON = "what is measured stays, and the same command goes on"
#: seconds between two looks at whether workers are there
_PATIENCE = 5.0
#: exceptions of an executor that mean one cell cannot be measured: it has ended several workers
_OF_ONE_CELL = ("KilledWorker",)
#: processes that may be killed at one cell before it is kept as failed, and what is said of it
_TRIES = 2
_KILLED = (
    f"{_TRIES} processes that measured it were killed, as systems do when memory runs out; sweep retry with "
    "--workers 1 measures it in a process of its own"
)


@dataclass
class Tally:
    """What became of the cells of one call, by mark: measured, taken up from before, failed and why."""

    measured: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class WorkersLost(DepprobeError):
    """Nothing will come back any more; ``measured`` are the marks of what did."""

    def __init__(self, measured: Sequence[str]) -> None:
        super().__init__(f"the workers are gone; {_GOES_ON}")
        self.measured = list(measured)


class InProcess(Executor):
    """Runs each task at once, in this process and thread, within what memory there is."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            with within_memory():
                future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def run_cells(
    cells: Sequence[Cell],
    folder: SweepFolder,
    task: Task,
    executor: Executor,
    *,
    at_once: int = 1,
    lost: Callable[[], bool] = lambda: False,
    idle: Callable[[], str] = str,
    progress: Progress | None = None,
) -> Tally:
    """Measure what is missing of the cells.

    Parameters
    ----------
    cells : all that is asked for; those measured or failed before are left as they are.
    folder : of the sweep, claimed.
    task : called as ``task(settings, path)`` where the executor runs it.
    executor : any; it is not shut down here.
    at_once : most cells handed to the executor before one comes back.
    lost : asked now and then while nothing comes back; true where nothing ever will.
    idle : asked likewise why that may be; empty where all is well.
    progress : called with cells done, by their share of the work, cells in all, and the time left.

    Raises
    ------
    WorkersLost : as ``lost`` says. DepprobeError : the folder cannot be written, or the executor broke.
        What is measured stays.
    """
    tally, waiting = Tally(), deque[Cell]()
    # what is measured here ends with this process, and so does what measures it
    here = isinstance(executor, InProcess)
    # a cell at which a process was killed before waits for all others
    for cell in sorted(cells, key=lambda cell: (folder.killed(cell) > 0, -cell.work)):
        state = folder.state(cell)
        if state == DAMAGED:
            folder.forget(cell)
        if state == MEASURED:
            tally.there.append(cell.mark)
        elif state == FAILED:
            tally.failed[cell.mark] = folder.reason(cell)
        elif here and folder.killed(cell) >= _TRIES:
            folder.forget(cell)
            folder.fail(cell, _KILLED)
            tally.failed[cell.mark] = _KILLED
        else:
            waiting.append(cell)
    clock = _Clock(sum(cell.work for cell in waiting), len(waiting), progress)
    running: dict[Future[str | None], Cell] = {}
    passed = set[str]()  # left for later once, since another process was at them
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                cell = waiting.popleft()
                if folder.data(cell).is_file():  # another process on this folder has measured it
                    tally.there.append(cell.mark)
                    clock.done(cell.work)
                    continue
                if here and waiting and cell.mark not in passed and folder.is_taken(cell):
                    passed.add(cell.mark)
                    waiting.append(cell)
                    continue
                clock.say(len(tally.failed))
                with folder.under_way(cell) if here else nullcontext():
                    running[executor.submit(task, cell.settings, str(folder.data(cell)))] = cell
            done = wait(running, timeout=_PATIENCE, return_when=FIRST_COMPLETED).done if running else set()
            if running and not done and lost():
                raise WorkersLost(tally.measured)
            if running and not done:
                clock.say(len(tally.failed), idle())
            for future in done:
                cell = running.pop(future)
                reason = _outcome(future)
                if reason is None:
                    tally.measured.append(cell.mark)
                else:
                    folder.fail(cell, reason)
                    tally.failed[cell.mark] = reason
                clock.done(cell.work)
        clock.say(len(tally.failed))
    finally:
        for future in running:
            future.cancel()
    return tally


def _outcome(future: Future[str | None]) -> str | None:
    error = None if future.cancelled() else future.exception()
    if error is None and not future.cancelled():
        return future.result()
    if type(error).__name__ in _OF_ONE_CELL:
        return "the processes that measured it were ended, as systems do when memory runs out"
    if isinstance(error, DepprobeError):
        raise error
    what = (
        "a worker process ended"
        if isinstance(error, BrokenExecutor)
        else f"workers are gone ({error!r:.120})"
        if error
        else "the scheduler of the workers is gone"
    )
    raise DepprobeError(f"{what}; {_GOES_ON}") from error


class _Clock:
    """Tells how much is done, and from the work done so far how long the rest takes."""

    def __init__(self, work: float, cells: int, progress: Progress | None) -> None:
        self.work, self.cells, self.progress = work, cells, progress
        self.worked, self.count, self.start = 0.0, 0, time.monotonic()

    def done(self, work: float) -> None:
        self.worked, self.count = self.worked + work, self.count + 1

    def say(self, failed: int, more: str = "") -> None:
        if self.progress is None or not self.cells:
            return
        words = [f"{self.count} of {counted(self.cells, 'cell')}", *filter(None, [more])]
        if failed:
            words.append(f"{failed} failed")
        if self.worked and self.count < self.cells:
            left = (time.monotonic() - self.start) * (self.work - self.worked) / self.worked
            words.append(f"{duration(left)} left")
        self.progress(self.cells * self.worked / self.work, self.cells, ", ".join(words))


def duration(seconds: float) -> str:
    """A time as a clock shows it.

    Examples
    --------
    >>> duration(75), duration(3725)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
