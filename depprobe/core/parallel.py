"""Independent pieces of work side by side, one thread each, where small products share threads badly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


class Stopped(Exception):
    """Work that is no longer wanted was given up."""


def each(function: Callable[[A, Event], B], items: Sequence[A]) -> list[B]:
    """``[function(item, stop) for item in items]``, as many at once as torch has threads.

    Inside, torch takes one thread for each. What a call raises is raised here. ``stop`` is set then and on an
    interrupt: calls under way are waited for, and should look at it now and then and raise ``Stopped``.

    Examples
    --------
    >>> each(lambda x, stop: x + 1, [1, 2, 3])
    [2, 3, 4]
    """
    stop, threads, graded = Event(), torch.get_num_threads(), torch.is_grad_enabled()
    workers = min(threads, len(items))
    if workers < 2:
        return [function(item, stop) for item in items]

    def run(item: A) -> B:
        if stop.is_set():
            raise Stopped
        with torch.set_grad_enabled(graded):
            return function(item, stop)

    try:
        with ThreadPoolExecutor(workers, "depprobe", torch.set_num_threads, (1,)) as pool:
            try:
                return list(pool.map(run, items))
            except BaseException:
                stop.set()
                raise
    finally:
        # a worker's number is its own, but also what later threads would start with
        torch.set_num_threads(threads)
