"""Independent pieces of work side by side, one thread each, where small products share threads badly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def each(function: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """``[function(item) for item in items]``, as many at once as torch has threads.

    Inside, torch takes one thread for each. What a call raises is raised here. An interrupt does not wait for
    calls under way, which end by themselves.

    Examples
    --------
    >>> each(lambda x: x + 1, [1, 2, 3])
    [2, 3, 4]
    """
    threads, graded = torch.get_num_threads(), torch.is_grad_enabled()
    workers = min(threads, len(items))
    if workers < 2:
        return [function(item) for item in items]

    def run(item: A) -> B:
        with torch.set_grad_enabled(graded):
            return function(item)

    try:
        with ThreadPool(workers, torch.set_num_threads, (1,)) as pool:
            return pool.map(run, items, chunksize=1)
    finally:
        # a worker's number is its own, but also what later threads would start with
        torch.set_num_threads(threads)
