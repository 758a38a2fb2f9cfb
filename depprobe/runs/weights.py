"""Drawing weights from a seed without touching what belongs to the whole process.

A named layer is built of torch's own functions, which draw from the process's generator and make tensors of
its default dtype and device. While one is built, ``drawn_from`` hands these functions a generator of its own
and dtype and device by name: a mode of this thread alone. The numbers are those after ``torch.manual_seed``.

A user's factory may do anything, so that state is kept and put back, one factory at a time.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from depprobe.core.calling.environment import ProcessState, pinned

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
