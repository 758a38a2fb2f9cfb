"""What differs from device to device: precision of products, memory, and work that is replayed, not called.

On CUDA a call of a small operation takes the host longer than the device. Work of many such calls whose
shapes recur is recorded once as a CUDA graph and replayed; elsewhere it is called as it stands, so that
all but the recording is the same everywhere.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

#: recorded graphs that are kept
_KEPT = 96
#: sizes between two powers of two to which sizes are rounded up where graphs are recorded
_SIZES = 4
#: bytes of rows on which a CPU works faster together than one after another
_CACHED = 1 << 18

Work = Callable[[Sequence[Tensor]], list[Tensor]]


class _Precision:
    """Flags of reduced float32 precision, switched off while any call is under way."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, list[tuple[Any, str, Any]]()

    @staticmethod
    def _flags() -> list[tuple[Any, str, Any]]:
        backends: Any = torch.backends
        if hasattr(backends.cuda.matmul, "fp32_precision"):
            owners = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
            return [(owner, "fp32_precision", "ieee") for owner in owners]
        return [(backends.cuda.matmul, "allow_tf32", False), (backends.cudnn, "allow_tf32", False)]

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                flags = self._flags()
                self._before = [(owner, name, getattr(owner, name)) for owner, name, _ in flags]
                for owner, name, value in flags:
                    setattr(owner, name, value)
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for owner, name, value in self._before:
                    setattr(owner, name, value)


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


def to_host(*tensors: Tensor) -> list[Tensor]:
    """The tensors on the CPU, copied side by side through pinned memory."""
    if not any(tensor.is_cuda for tensor in tensors):
        return [tensor.cpu() for tensor in tensors]
    out = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for host, tensor in zip(out, tensors, strict=True):
        host.copy_(tensor, non_blocking=True)
    torch.cuda.synchronize()
    return out


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
    unit = 1 << max(0, (size - 1).bit_length() - 1 - _SIZES.bit_length() + 1)
    return -(-size // unit) * unit


class _Recorded:
    """Work as a CUDA graph, with the tensors that it reads and writes."""

    def __init__(self, work: Work, given: Sequence[Tensor], pool: Any) -> None:
        self._given = [torch.empty_like(tensor) for tensor in given]
        torch._foreach_copy_(self._given, list(given))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work(self._given)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._made = work(self._given)

    def __call__(self, given: Sequence[Tensor]) -> list[Tensor]:
        torch._foreach_copy_(self._given, list(given))
        self._graph.replay()
        return self._made


class Recorder:
    """Calls work, by replaying what it recorded for a key where there is a CUDA device.

    Work is a function of tensors alone, which reads no number on the host. What it returns is overwritten
    when the same key is called again.
    """

    def __init__(self) -> None:
        self._lock, self._pools = threading.RLock(), dict[torch.device, Any]()
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()

    def __call__(self, key: Hashable, work: Work, given: Sequence[Tensor]) -> list[Tensor]:
        device = given[0].device
        if device.type != "cuda":
            return work(given)
        shapes = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in given)
        key = (key, shapes, device)
        with self._lock, torch.cuda.device(device):
            found = self._recorded.get(key)
            if found is None:
                pool = self._pools.setdefault(device, torch.cuda.graph_pool_handle())
                self._recorded[key] = found = _Recorded(work, given, pool)
                if len(self._recorded) > _KEPT:
                    self._recorded.popitem(last=False)
            self._recorded.move_to_end(key)
            return found(given)
