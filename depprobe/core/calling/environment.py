"""What the process is like while a user's code runs, and what is put back behind it.

Default dtype, random generators, number of threads: they belong to the process, so one thread at a time
runs a user's code (``options.pinned``), and what that draws or sets is put back.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from depprobe.core.options import pinned

#: reads the node of a tensor, on which hooks can be registered too: that it holds some does not show
_NODE_OF = vars(torch._C.TensorBase)["grad_fn"].__get__
_RECURRENT = frozenset({torch._VF.lstm, torch._VF.gru, torch._VF.rnn_tanh, torch._VF.rnn_relu})


class ProcessState:
    """Random generators, thread count and default dtype and device, as they are now."""

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
        self._numpy: Any = np.random.get_state(legacy=False)
        self._bits = _numpy_bits()
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
        if np.random.get_bit_generator() is not self._generator:  # type: ignore[attr-defined]
            drawn = True
            np.random.set_bit_generator(self._generator)  # type: ignore[attr-defined]
            np.random.set_state(self._numpy)
        # a normal number that is in store is drawn without a trace in the bits
        if self._bits is None or self._numpy["has_gauss"] or _numpy_bits() != self._bits:
            now: Any = np.random.get_state(legacy=False)
            if not same_state(now, self._numpy):
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


def _numpy_bits() -> bytes | None:
    """Numbers and position of numpy's generator, which takes a hundred times longer to tell of them itself;
    None where it is one of another kind.
    """
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if type(generator) is not np.random.MT19937:
        return None
    return ctypes.string_at(generator.ctypes.state_address, 4 * 624 + 4)


class WatchingMode(TorchDispatchMode):
    """Sees or changes what each operation returns, and is itself no part of what torch compiles.

    Operations of higher order (``torch.cond``, ``scan``, ``flex_attention``) are taken apart: it sees those
    inside.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        kind = type(self)
        if "torch._dynamo" in sys.modules and "_apart" not in vars(kind):
            kind.__torch_dispatch__ = torch.compiler.disable(kind.__torch_dispatch__)  # type: ignore[method-assign]
            kind._apart = True  # type: ignore[attr-defined]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would load its compiler for it at the first operation, which takes seconds
        return False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        # what is compiled for an operation of higher order runs as it was written; torch, which compiles
        # nothing else under a mode, could run none of them afterwards
        higher = sys.modules.get("torch._higher_order_ops.utils")
        return bool(getattr(getattr(higher, "_hop_compile_tls", None), "in_hop_compile", False))

    def ran(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation returns."""
        if isinstance(func, HigherOrderOperator):
            # torch runs it under no mode, which is on again in the functions that it calls
            args, kwargs = tree_map(self._within, (args, kwargs))
        return func(*args, **(kwargs or {}))

    def _within(self, given: Any) -> Any:
        if not callable(given) or isinstance(given, Tensor):
            return given

        def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                return given(*args, **kwargs)

        return run


class Compiler:
    """What torch compiled runs as it was written, so that every operation shows.

    Operations of higher order are the exception: torch compiles them or does not run them.

    Attributes
    ----------
    needed : whether the module calls such an operation.
    """

    needed = False

    def asleep(self) -> AbstractContextManager[Any]:
        """While the module runs."""
        if self.needed or "torch._dynamo" not in sys.modules:  # nothing was compiled
            return contextlib.nullcontext()
        return torch.compiler.set_stance("force_eager")

    def wakes(self, error: BaseException) -> bool:
        """Whether an error shows that it is needed, which was not known."""
        known, trace = self.needed, error.__traceback__
        while trace is not None:
            self.needed |= "_higher_order_ops" in trace.tb_frame.f_code.co_filename
            trace = trace.tb_next
        return self.needed and not known


def lets_in(func: Any) -> bool:
    """Whether a call of torch lets code in on the way back from its first argument."""
    return func is Tensor.register_hook or func == _NODE_OF


class GradientCode(TorchFunctionMode):
    """Sees whether a forward pass lets code in.

    Attributes
    ----------
    seen : whether it did.
    """

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or lets_in(func)
        return func(*args, **(kwargs or {}))


class RecordedRecurrences(TorchFunctionMode):
    """Recurrences outside training keep what a backward pass needs, as on a CPU.

    cuDNN takes a backward pass only through calls in training; without dropout these compute the same.
    Entered outside a tracer, so that what that runs is recorded too.
    """

    @staticmethod
    def needed(module: nn.Module, given: Tensor) -> bool:
        """Whether calls of a module may reach cuDNN's recurrences."""
        return given.is_cuda and any(isinstance(part, nn.RNNBase) for part in module.modules())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _RECURRENT and torch.is_grad_enabled():
            args = in_training(args)
        return func(*args, **(kwargs or {}))


def in_training(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments (..., weights, biased, layers, dropout, training, ...) as in training without dropout.

    Those of a call in training stay as they are.

    Examples
    --------
    >>> in_training(("x", "h", ["w"], True, 2, 0.5, False, False, True))
    ('x', 'h', ['w'], True, 2, 0.0, True, False, True)
    """
    biased = next(at for at, given in enumerate(args) if isinstance(given, bool))
    if args[biased + 3]:
        return args
    return (*args[: biased + 2], 0.0, True, *args[biased + 4 :])


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


def state_of(generator: Any) -> Any:
    """The state of a random generator of torch's, numpy's or Python's."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state(legacy=False) if hasattr(generator, "get_state") else generator.getstate()


def same_state(state: Any, other: Any) -> bool:
    """Whether two states are one."""
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(same_state(state[key], other[key]) for key in state)
    if isinstance(state, Tensor):
        return torch.equal(state, other)
    return bool(np.array_equal(state, other)) if isinstance(state, np.ndarray) else bool(state == other)


def set_state(generator: Any, state: Any) -> None:
    """Put a generator back into a state."""
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
