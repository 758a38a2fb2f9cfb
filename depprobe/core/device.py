"""What differs from device to device: precision of products, memory, and work that is replayed, not called.

On CUDA a call of a small operation takes the host longer than the device. Work of many such calls whose
shapes recur is recorded once as a CUDA graph and replayed; elsewhere it is called as it stands, so that
all but the recording is the same everywhere.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.errors import BadInput

#: sizes between two powers of two to which sizes are rounded up where graphs are recorded
_SIZES = 8
#: bytes of rows on which a CPU works faster together than one after another
_CACHED = 1 << 18
#: rows pulled through a graph together: most, fewest, and bytes of their largest gradients, on a CPU, where
#: what exceeds 32 MiB is mapped anew each time (glibc), and on a device
_PULLED = {False: (64, 8, 1 << 24), True: (64, 16, 1 << 26)}

Work = Callable[[Sequence[Tensor]], list[Tensor]]


def device_of(name: str) -> torch.device:
    """A device that is there and holds values; raises ``BadInput`` naming those that are."""
    try:
        # reading a value back tells devices that hold none
        torch.zeros(1, device=(device := torch.device(name))).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        have = ", ".join(kind for kind, found in there.items() if found)
        raise BadInput(f"no device {name!r} here; there is {have}") from None
    return device


class _Precision:
    """Flags of reduced float32 precision, switched off while any call is under way.

    Torch has two sets of them, and refuses to read the older after a write to the newer alone: code of a
    user's that looks at them meets a state in which both agree.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._known: tuple[str | None, bool | None] = None, None
        self._parts: list[tuple[Any, str]] = []

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                backends: Any = torch.backends
                self._known = (
                    _read(torch.get_float32_matmul_precision),
                    _read(lambda: backends.cudnn.allow_tf32),
                )
                parts = []
                if hasattr(backends.cuda.matmul, "fp32_precision"):
                    parts = [
                        backends.cuda.matmul,
                        backends.cudnn.conv,
                        backends.cudnn.rnn,
                        backends.mkldnn.matmul,
                    ]
                self._parts = [(part, part.fp32_precision) for part in parts]
                torch.set_float32_matmul_precision("highest")
                backends.cudnn.allow_tf32 = False
                for part in parts:
                    if part.fp32_precision not in ("none", "ieee"):
                        part.fp32_precision = "ieee"
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                products, cudnn = self._known
                if products is not None:
                    torch.set_float32_matmul_precision(products)
                if cudnn is not None:
                    torch.backends.cudnn.allow_tf32 = cudnn
                for part, value in self._parts:
                    if part.fp32_precision != value:
                        part.fp32_precision = value


def _read(flag: Callable[[], Any]) -> Any:
    """A flag, or None where torch refuses to tell."""
    try:
        return flag()
    except RuntimeError:
        return None


_precision = _Precision()


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Products in float32 keep the digits of float32, whatever the user's flags, which come back after.

    Examples
    --------
    >>> with full_precision():
    ...     product = torch.randn(3, 4) @ torch.randn(4, 2)
    """
    _precision.enter()
    try:
        yield
    finally:
        _precision.leave()


def memory_of(device: torch.device) -> int | None:
    """Bytes that are free on a device of its own; None on the CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def rows_at_once(size: int, device: torch.device) -> int:
    """How many rows of so many bytes gain from being taken together: on a CPU those that stay in cache."""
    return 1 << 30 if waits(device) else max(1, _CACHED // max(1, size))


def pulled_at_once(size: int, device: torch.device) -> int:
    """How many rows gain from being pulled through a graph together, where the largest gradient of each takes
    so many bytes: on a CPU, those that need no more than the allocator keeps for the next."""
    most, fewest, together = _PULLED[waits(device)]
    return min(most, max(fewest, together // max(1, size)))


class HostArray:
    """Float64 numbers on the host, filled from a device while that goes on with its work."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        pinned = self._stream is not None
        # the user's default device may be another
        self._host = torch.empty(shape, dtype=torch.float64, device="cpu", pin_memory=pinned)

    def put(self, at: slice, part: Tensor) -> None:
        """Copy what the device will have computed into some rows."""
        if self._stream is None:
            self._host[at] = part
            return
        self._stream.wait_stream(torch.cuda.current_stream(part.device))
        with torch.cuda.stream(self._stream):
            self._host[at].copy_(part, non_blocking=True)
        part.record_stream(self._stream)

    def array(self) -> NDArray[np.float64]:
        """The numbers, once all have come."""
        if self._stream is not None:
            self._stream.synchronize()
        return self._host.numpy()


def at_once(tensors: Iterable[Tensor]) -> list[NDArray[np.float64]]:
    """Float64 tensors as arrays, fetched from a device by one copy."""
    tensors = list(tensors)
    if not tensors or not tensors[0].is_cuda:
        return [tensor.numpy() for tensor in tensors]
    whole = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
    parts = whole.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).numpy() for part, tensor in zip(parts, tensors, strict=True)]


def waits(device: torch.device) -> bool:
    """Whether the host, to look at a number, has to wait for work that it handed over."""
    return device.type == "cuda"


def may(flag: Tensor) -> bool:
    """Whether a condition may hold: looked up where that takes no time, else taken to."""
    return waits(flag.device) or bool(flag)


def rounded_up(size: int, device: torch.device) -> int:
    """A size for ``size`` rows: as it is, or one of few where work is recorded for each."""
    if not waits(device) or size < _SIZES:
        return size
    unit = 1 << max(0, (size - 1).bit_length() - _SIZES.bit_length())
    return -(-size // unit) * unit


@functools.cache
def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def compiled(name: str, device: torch.device) -> ModuleType | None:
    """The module of this name with kernels, for CUDA devices; None elsewhere, or if nothing compiles it."""
    return _module(name) if device.type == "cuda" else None


class _Inputs:
    """Tensors that recorded work reads, one a place, shape and dtype, and what was last copied there.

    They live as long as what was recorded with them.
    """

    def __init__(self) -> None:
        self._found: weakref.WeakValueDictionary[Hashable, Tensor] = weakref.WeakValueDictionary()
        self._last: dict[int, weakref.ref[Tensor]] = {}

    def at(self, places: Sequence[Hashable], given: Sequence[Tensor]) -> list[Tensor]:
        """The tensors at these places, holding what is given."""
        out = []
        for place, tensor in zip(places, given, strict=True):
            into = self._found.get(place)
            if into is None:
                into = self._found[place] = torch.empty_like(tensor, memory_format=torch.contiguous_format)
                self._last.pop(id(into), None)
            last = self._last.get(id(into))
            if last is None or last() is not tensor:
                into.copy_(tensor)
                self._last[id(into)] = weakref.ref(tensor)
            out.append(into)
        return out

    def hold(self, into: Tensor, tensor: Tensor) -> None:
        """Take note that one of them holds what a tensor does."""
        self._last[id(into)] = weakref.ref(tensor)


class _Recorded:
    """Work as a CUDA graph; the first ``carried`` tensors that it makes stand where it reads first, too."""

    def __init__(self, work: Work, given: Sequence[Tensor], carried: int, pool: Any) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work(given)
        torch.cuda.current_stream().wait_stream(stream)
        self.given, self.graph = given, torch.cuda.CUDAGraph()
        # other threads of the process may use the device meanwhile
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.made = work(given)
            for into, made in zip(given, self.made[:carried], strict=False):
                into.copy_(made)


class Recorder:
    """Calls work, by replaying what it recorded for a key where there is a CUDA device.

    Work is a function of tensors alone, which reads no number on the host. What it returns is overwritten at
    the next call, of whichever key: recorded work shares its memory. What it is given is not to be written
    between two calls. ``kept`` keys are kept.
    """

    def __init__(self, kept: int) -> None:
        self._kept, self._lock, self._pools = kept, threading.RLock(), dict[torch.device, Any]()
        self._recorded: OrderedDict[Hashable, _Recorded | None] = OrderedDict()
        self._inputs = _Inputs()

    def held(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """For one thread alone, where what is returned stands in memory that others would write."""
        return self._lock if device.type == "cuda" else contextlib.nullcontext()

    def __call__(
        self, key: Hashable, work: Work, given: Sequence[Tensor], carried: int = 0, *, at_first: bool = True
    ) -> list[Tensor]:
        """What ``work(given)`` returns; called as it stands for the first time unless ``at_first``."""
        device = given[0].device
        if device.type != "cuda":
            return work(given)
        places = [(place, part.shape, part.dtype, device) for place, part in enumerate(given)]
        key = (key, *places)
        with self._lock, torch.cuda.device(device):
            if key not in self._recorded and not at_first:
                self._recorded[key] = None
                return work(given)
            inputs, found = self._inputs.at(places, given), self._recorded.get(key)
            if found is None:
                if device not in self._pools:
                    self._pools[device] = torch.cuda.graph_pool_handle()
                found = self._recorded[key] = _Recorded(work, inputs, carried, self._pools[device])
                if len(self._recorded) > self._kept:
                    self._recorded.popitem(last=False)
            self._recorded.move_to_end(key)
            found.graph.replay()
            for into, made in zip(inputs, found.made[:carried], strict=False):
                self._inputs.hold(into, made)
            return found.made
