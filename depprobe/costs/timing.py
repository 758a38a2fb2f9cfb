"""Seconds a call takes: median and quartiles of repeated runs, at a stated number of threads.

Measured by ``torch.utils.benchmark.Timer``, which warms up, sets the threads and runs fast calls in blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from depprobe.errors import BadInput

#: fewer runs have no quartiles
_RUNS = 5


class Seconds(NamedTuple):
    """Median, lower and upper quartile of the seconds a call takes."""

    median: float
    low: float
    high: float


def seconds(run: Callable[[], object], threads: int = 1, least: float = 0.2) -> Seconds:
    """Time a call until it has run, warmed up, for ``least`` seconds in all, and at least five times.

    Examples
    --------
    >>> found = seconds(lambda: sum(range(100)), least=0.01)
    >>> 0 < found.low <= found.median <= found.high
    True
    """
    from torch.utils.benchmark import Timer, timer  # slow to import

    if threads < 1:
        raise BadInput(f"threads must be at least 1, not {threads}")
    if not least > 0:
        raise BadInput(f"the time to run for must be above 0 s, not {least}")
    runs = Timer("run()", globals={"run": run}, num_threads=threads)
    times = list(runs.blocked_autorange(min_run_time=least).times)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        while len(times) < _RUNS:
            # the timer would warm up before each of these, which take seconds
            # torch's clock waits for CUDA devices
            start = timer()
            run()
            times.append(timer() - start)
    finally:
        torch.set_num_threads(before)
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75))
    return Seconds(float(median), float(low), float(high))


def all_threads() -> int:
    """Number of processors this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
