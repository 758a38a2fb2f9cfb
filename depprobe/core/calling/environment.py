r"""What the process must be like while a user's module runs, and what is put back behind it.

One lock serialises all calls of users' modules: default dtype, random generators and the module itself
belong to the process. Autocast, inference mode and anomaly mode are switched off and gradients on, whatever
the caller had; what the module itself draws or sets is put back.

A named layer is built of torch's own functions, which draw from the process's generator and make tensors of
its default dtype and device. While one is built, ``drawn_from`` hands these functions a generator of its own
and dtype and device by name: a mode of this thread alone. The numbers are those after ``torch.manual_seed``.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from depprobe.core.options import plain_modes

#: held while a user's code runs
LOCK = threading.RLock()


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Plain modes, in one thread at a time."""
    with LOCK, plain_modes():
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


#: functions that draw; those of ``torch.nn.init`` name their generator when they come here
_DRAWING = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli}
_DRAWING |= {torch.multinomial, torch.poisson, Tensor.multinomial, Tensor.bernoulli}
_DRAWING |= {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.exponential_, Tensor.cauchy_}
_DRAWING |= {Tensor.log_normal_, Tensor.geometric_, Tensor.random_}
#: functions that make floats of the default dtype unless told otherwise
_FLOATS = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.eye, torch.linspace}
_FLOATS |= {torch.logspace, torch.hann_window, torch.hamming_window, torch.empty_strided}
#: functions that do so where their arguments are floats
_VALUES = {torch.tensor, torch.as_tensor, torch.full, torch.arange, torch.scalar_tensor}
_PLACED = _FLOATS | _VALUES | {torch.randint, torch.randperm}


class _Drawn(TorchFunctionMode):
    """Random functions draw from ``generator``; new tensors are float32 on the CPU unless named otherwise."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if (func in _DRAWING or "generator" in kwargs) and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
        if func in _PLACED and kwargs.get("device") is None and not any(isinstance(a, Tensor) for a in args):
            kwargs["device"] = "cpu"
        if func in _FLOATS and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float32
        made = func(*args, **kwargs)
        if func in _VALUES and kwargs.get("dtype") is None and made.dtype is torch.float64:
            # numpy brings its own dtype, a Python float the process's
            own = any(isinstance(value, np.ndarray | np.generic | Tensor) for value in args)
            made = made if own else func(*args, **kwargs, dtype=torch.float32)
        return made


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """While a named layer is built: weights follow from ``seed`` alone, in float32 on the CPU.

    Examples
    --------
    >>> with drawn_from(3):
    ...     first = torch.nn.Linear(2, 2).weight
    >>> _ = torch.manual_seed(3)
    >>> bool((first == torch.nn.Linear(2, 2).weight).all())
    True
    """
    generator = torch.Generator().manual_seed(seed)
    with pinned(), _Drawn(generator):
        yield


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
