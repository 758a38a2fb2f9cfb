"""What the process is like while a user's code runs, and what is put back behind it.

Default dtype, random generators, number of threads: they belong to the process, so one thread at a time
runs a user's code (``options.pinned``), and what that draws or sets is put back.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from depprobe.core.options import pinned


class ProcessState:
    """Random generators, thread count and default dtype and device, as they are now."""

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._numpy: Any = np.random.get_state(legacy=False)
        self._python = random.getstate()
        self._threads = torch.get_num_threads()
        self._dtype = torch.get_default_dtype()
        self._device = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)

    def restore(self) -> bool:
        """Put it all back; returns whether random numbers had been drawn."""
        drawn = False
        if not torch.equal(torch.get_rng_state(), self._torch):
            drawn = True
            torch.set_rng_state(self._torch)
        if self._cuda and not all(map(torch.equal, torch.cuda.get_rng_state_all(), self._cuda)):
            drawn = True
            torch.cuda.set_rng_state_all(self._cuda)
        now: Any = np.random.get_state(legacy=False)
        here, there = now["state"], self._numpy["state"]
        if here["pos"] != there["pos"] or not np.array_equal(here["key"], there["key"]):
            drawn = True
            np.random.set_state(self._numpy)
        if random.getstate() != self._python:
            drawn = True
            random.setstate(self._python)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        if torch.get_default_dtype() != self._dtype:
            torch.set_default_dtype(self._dtype)
        if getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None) is not self._device:
            torch.set_default_device(self._device.device if self._device is not None else None)
        return drawn


@contextlib.contextmanager
def factory_state(seed: int) -> Iterator[None]:
    """While a user's factory runs: random state follows from ``seed`` and is put back, one factory at a time.

    torch's generators, numpy's and Python's, default dtype and device and the number of threads are as before
    afterwards, also where the factory raises.
    """
    with pinned():
        process = ProcessState()
        try:
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_initialized():
                torch.cuda.manual_seed_all(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            process.restore()
