"""Sweeps that are killed, ended or crossed at random times, and what must be true afterwards.

Each function takes a folder of its own and a generator of chance, and does its harm.
Processes are forked from one that has torch loaded, so that a kill meets the sweep and not its imports.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["depprobe.probes.jacobian", "distributed"])
#: cells of a tenth of a second
GRID = """
[grid]
layer = ["lstm", "gru", "rnn"]
seed = [0, 1, 2, 3]
[fixed]
n = 150
d = 48
"""
#: how many there are, and how many of them may be under way at a time
CELLS, UNDER_WAY = 12, 3
#: seconds that an undisturbed sweep takes, about
LASTS = 2.0
#: seconds in which a sweep that is told to end must have done so
SOON = 60.0


def run_main(arguments: list[str], said: str, largest: int | None = None) -> None:
    """The command in a process of its own, what it prints in a file; files up to ``largest`` bytes."""
    stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ["OMP_NUM_THREADS"] = "1"
    # a shell that starts the tests in the background has interrupts ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from depprobe.cli import main

    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def started(folder: Path, *more: str, largest: int | None = None) -> multiprocessing.process.BaseProcess:
    """A sweep of the grid into ``folder/out``, begun."""
    grid = folder / "grid.toml"
    grid.write_text(GRID)
    words = ["sweep", str(grid), "-o", str(folder / "out"), "--threads", "1", *more]
    process = SERVER.Process(target=run_main, args=(words, str(folder / "said"), largest))
    process.start()
    return process


def finished(process: multiprocessing.process.BaseProcess, within: float = 400.0) -> int:
    """The exit code of a sweep, which must end."""
    process.join(within)
    ended = not process.is_alive()
    if not ended:
        process.kill()
        process.join()
    assert ended, "the sweep hangs"
    return process.exitcode


def under_way(folder: Path, process: multiprocessing.process.BaseProcess) -> None:
    """Wait until the first cell is there."""
    until = time.monotonic() + 60
    while process.is_alive() and not any((folder / "out").glob("*.nc")) and time.monotonic() < until:
        time.sleep(0.01)


def _measured(folder: Path) -> int:
    return len([*(folder / "out").glob("*.nc")])


def _was_told(code: int, number: int, there: int) -> None:
    """A sweep ends by a signal, unless hardly a cell was left when it came."""
    assert code == 128 + number or (code == 0 and there >= CELLS - UNDER_WAY), f"{code} after {there} cells"


def main_killed(folder: Path, chance: np.random.Generator) -> None:
    process = started(folder)
    if chance.random() < 0.8:
        under_way(folder, process)
    time.sleep(chance.uniform(0, LASTS / 2))
    process.kill()
    finished(process)


def main_told_to_end(folder: Path, chance: np.random.Generator) -> None:
    process, number = started(folder), int(chance.choice([signal.SIGTERM, signal.SIGINT]))
    under_way(folder, process)
    time.sleep(chance.uniform(0, LASTS / 3))
    there = _measured(folder)
    with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
        os.kill(process.pid, number)
    _was_told(finished(process, SOON), number, there)


def main_of_a_cluster_killed(folder: Path, chance: np.random.Generator) -> None:
    process = started(folder, "--workers", "2")
    under_way(folder, process)
    children = _children(process.pid)
    process.kill()
    finished(process)
    _, alive = psutil.wait_procs(children, SOON)
    assert not alive, "workers outlive the sweep"


def cluster_told_to_end(folder: Path, chance: np.random.Generator) -> None:
    process, number = started(folder, "--workers", "2"), int(chance.choice([signal.SIGTERM, signal.SIGINT]))
    under_way(folder, process)
    children, there = _children(process.pid), _measured(folder)
    # a terminal sends its interrupt to all of them
    for one in [process.pid] + ([child.pid for child in children] if number == signal.SIGINT else []):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, number)
    _was_told(finished(process, SOON), number, there)
    _, alive = psutil.wait_procs(children, SOON)
    assert not alive, "workers outlive the sweep"
    assert (folder / "said").read_text().count("\n") <= 3


def worker_killed(folder: Path, chance: np.random.Generator) -> None:
    process = started(folder, "--workers", "1")
    under_way(folder, process)
    time.sleep(chance.uniform(0, LASTS / 3))
    workers = [child for child in _children(process.pid) if "spawn_main" in " ".join(_words(child))]
    if workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            workers[chance.integers(len(workers))].kill()
    code = finished(process)
    assert code == 0, f"exit code {code} after {(folder / 'said').read_text()}"


def scheduler_killed(folder: Path, chance: np.random.Generator) -> None:
    with a_scheduler(folder) as (address, server):
        process = started(folder, "--scheduler", address)
        under_way(folder, process)
        children = _children(server.pid)
        server.kill()
        code = finished(process, SOON)
        said = (folder / "said").read_text()
        assert code in (0, 1), said
        assert code == 0 or "what is measured stays, and the same command goes on" in said
        psutil.wait_procs(children, SOON)


def disk_full(folder: Path, chance: np.random.Generator) -> None:
    code = finished(started(folder, "-q", largest=int(chance.integers(500, 16000))))
    said = (folder / "said").read_text()
    assert (code, said.count("\n")) == (1, 1), said
    assert "file too large" in said


def files_damaged(folder: Path, chance: np.random.Generator) -> None:
    assert finished(started(folder)) == 0
    for file in (folder / "out").glob("*.nc"):
        whole = bytearray(file.read_bytes())
        if chance.random() < 0.5:
            del whole[int(chance.integers(len(whole))) :]
        else:
            whole[int(chance.integers(len(whole)))] ^= 1 << int(chance.integers(8))
        file.write_bytes(whole)


def two_at_once(folder: Path, chance: np.random.Generator) -> None:
    both = [started(folder)]
    time.sleep(chance.uniform(0, LASTS / 2))
    both.append(started(folder))
    assert [finished(process) for process in both] == [0, 0], (folder / "said").read_text()


@contextlib.contextmanager
def a_scheduler(folder: Path) -> Iterator[tuple[str, multiprocessing.process.BaseProcess]]:
    """A Dask cluster in a process of its own, by its address."""
    said = folder / "address"
    process = SERVER.Process(target=_serve, args=(str(said),))
    process.start()
    until = time.monotonic() + 60
    while not said.exists() and time.monotonic() < until:
        time.sleep(0.05)
    try:
        yield said.read_text(), process
    finally:
        process.kill()
        process.join()


def _serve(said: str) -> None:
    import logging

    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
    ) as cluster:
        temporary = Path(said + ".part")
        temporary.write_text(cluster.scheduler_address)
        temporary.rename(said)
        time.sleep(600)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


#: each kind of harm
KINDS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    kind.__name__: kind
    for kind in (
        main_killed,
        main_told_to_end,
        two_at_once,
        disk_full,
        files_damaged,
        worker_killed,
        main_of_a_cluster_killed,
        cluster_told_to_end,
        scheduler_killed,
    )
}
