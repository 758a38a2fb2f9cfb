r"""What the process must be like while a user's module runs, and what is put back behind it.

One lock serialises all calls of users' modules: default dtype, random generators and the module itself
belong to the process. Autocast, inference mode and anomaly mode are switched off and gradients on, whatever
the caller had; what the module itself draws or sets is put back.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

#: held while a user's code runs
LOCK = threading.RLock()


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Plain modes, in one thread at a time."""
    with LOCK, plain_modes():
        yield


@contextlib.contextmanager
def plain_modes() -> Iterator[None]:
    """Gradients on; autocast, inference mode and anomaly mode off, in this thread."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        yield


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
