"""Seconds of several calls taken in turn, so that what disturbs the machine disturbs all of them alike.

    round 1: A B C, round 2: C B A, ...        ratios within a round, then their median and quartiles

Processor seconds of this process, on one thread: what other processes take meanwhile is not counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from depprobe.errors import BadInput

#: a faster call is repeated until it has run for so many seconds
LEAST = 0.04


def interleaved_seconds(
    runs: Mapping[str, Callable[[], object]], rounds: int, least: float = LEAST
) -> dict[str, NDArray[np.float64]]:
    """Processor seconds of each call in each round, on one thread, after one call of each to warm up.

    A call is repeated for ``least`` seconds within a round.

    Examples
    --------
    >>> found = interleaved_seconds({"a": lambda: sum(range(99)), "b": lambda: None}, rounds=3, least=0.001)
    >>> found["a"].shape, bool((found["b"] > 0).all())
    ((3,), True)
    """
    if rounds < 1 or not least > 0:
        raise BadInput(f"timing needs at least 1 round of more than 0 s, not {rounds} of {least} s")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        calls = {name: max(1, math.ceil(least / max(_seconds(run, 1), 1e-6))) for name, run in runs.items()}
        found = {name: np.empty(rounds) for name in runs}
        for i in range(rounds):
            for name in list(runs)[:: -1 if i % 2 else 1]:
                found[name][i] = _seconds(runs[name], calls[name])
    finally:
        torch.set_num_threads(before)
    return found


def _seconds(run: Callable[[], object], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - start) / calls
