"""What a worker does before it takes cells: load torch, and leave interrupts to who started it."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import torch  # noqa: F401  # loaded once, before the first cell


def dask_setup(worker: Any) -> None:
    """Called by Dask in the worker's process; a terminal sends Ctrl-C to all processes, and one answers."""
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
