"""Where cells run: in this process, on a Dask cluster started here, or on one that runs already.

Dask is imported when it is asked for; the extra ``sweep`` brings it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

from depprobe.errors import BadInput
from depprobe.runs.sweeps.engine import InProcess

#: what a worker offers that may measure time: one cell at once on its machine
ALONE = "alone"
#: cells handed to a cluster before one comes back; workers may come and go
_AHEAD = 1000
#: seconds in which a worker that was killed is replaced, on a machine that does much else
_STARTING = 60.0
_SETTINGS = {
    # sampling what runs takes time, and nobody looks at it
    "distributed.worker.profile.enabled": False,
    # a cluster gives up for good what is not back by then, such as a worker that starts slowly
    "distributed.deploy.lost-worker-timeout": "1 day",
}


class Engine(NamedTuple):
    """An executor, the most cells to hand it at once, and the threads of one cell (None: as they are).

    ``lost()`` says whether its workers are gone for good, ``idle()`` why nothing may come back for a while.
    """

    executor: Executor
    at_once: int
    threads: int | None
    lost: Callable[[], bool] = lambda: False
    idle: Callable[[], str] = str


@contextlib.contextmanager
def engine(workers: int | None, scheduler: str | None, threads: int | None, timed: bool) -> Iterator[Engine]:
    """The executor that was asked for, closed afterwards.

    Parameters
    ----------
    workers : processes to start here, each with its share of the processors, or so many ``threads``.
    scheduler : address of a Dask scheduler that runs already.
    threads : threads of one cell.
    timed : whether cells measure time: they run one at a time, on a scheduler's workers that offer ``alone``.

    Raises
    ------
    BadInput : both are given; Dask is not installed; no scheduler answers; no worker offers ``alone``.
    """
    if workers is not None and scheduler is not None:
        raise BadInput("--workers starts processes here, --scheduler uses others: give one of them")
    if scheduler is not None:
        with _connected(scheduler, timed) as (executor, idle):
            yield Engine(executor, _AHEAD, threads, idle=idle)
    elif workers is not None:
        with _started(workers) as (executor, lost):
            share = max(1, len(os.sched_getaffinity(0)) // workers)
            yield Engine(executor, 1 if timed else 4 * workers, threads or share, lost)
    else:
        yield Engine(InProcess(), 1, threads)


@contextlib.contextmanager
def _started(workers: int) -> Iterator[tuple[Executor, Callable[[], bool]]]:
    distributed = _distributed()
    import dask

    with (
        dask.config.set(_SETTINGS),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            preload=["depprobe.runs.sweeps.worker_setup"],
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        seen = time.monotonic()

        def lost() -> bool:
            nonlocal seen
            seen = time.monotonic() if cluster.scheduler.workers else seen
            return time.monotonic() - seen > _STARTING

        yield client.get_executor(pure=False), lost


@contextlib.contextmanager
def _connected(address: str, timed: bool) -> Iterator[tuple[Executor, Callable[[], str]]]:
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=10)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise BadInput(f"no Dask scheduler answers at {address!r}: {said}") from None
    with distributed.utils.silence_logging_cmgr(logging.CRITICAL), client:
        resources = {ALONE: 1} if timed else None
        if timed and not any(one.get("resources", {}).get(ALONE) for one in _workers(client)):
            raise BadInput(
                f"cells that measure time run alone, and no worker at {address} offers that: start one on "
                f"each machine with dask worker {address} --nthreads 1 --resources {ALONE}=1"
            )

        def idle() -> str:
            try:
                return "" if _workers(client) else "no worker has joined the scheduler"
            except OSError:  # it is gone, which what was handed to it tells
                return ""

        yield client.get_executor(pure=False, **({"resources": resources} if resources else {})), idle


def _workers(client: Any) -> list[dict[str, Any]]:
    info = client.scheduler_info(n_workers=-1)["workers"]
    return list(info.values())


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise BadInput(
            "--workers and --scheduler need Dask: pip install 'depprobe[sweep]', or leave them out"
        ) from None
    return distributed
