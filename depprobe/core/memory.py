"""What a computation takes, counted by storages as they come and go; or would take, found on fake tensors.

On fake tensors shapes flow through it, no numbers, no memory. What was freed and the allocator keeps is part
of what the process takes: glibc serves buffers of up to 32 MiB from a heap that later, larger ones do not fit
in, and may keep three times what is in use. Near a budget such buffers are mapped one by one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import math
import mmap
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator

from depprobe.core.calling.environment import WatchingMode
from depprobe.core.options import require
from depprobe.units import readable

#: share of a budget from which freed memory goes back to the system before more is taken, and by which the
#: process grows before garbage, which graphs leave, is collected once more
_NEARLY, _GROWN = 0.75, 0.1
#: parameters of glibc's mallopt: free bytes that it keeps at the top of its heap, bytes from which it maps a
#: buffer by itself; both grow with what is freed, up to the values given here, until one is set
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_FREE_ON_TOP, _IN_HEAP = 64 << 20, 32 << 20
#: bytes from which a buffer is mapped by itself near a budget, and what the heap may take of one besides
_APART, _SCATTERED = 128 << 10, 16 << 20
#: budgets of which a few buffers that the heap keeps are a large share: they are mapped from the start
_SMALL = 64 << 20
#: bytes that libraries keep of a recurrence for each length (kernels, weights as these read them), the share
#: of the memory, one over this, that they may take, and the fewest lengths
_OF_A_LENGTH, _FOR_LENGTHS, _FEWEST = 200 << 10, 16, 8
#: bytes that a module of one's own takes besides tensors: objects of graphs, and what the allocator keeps
OWN = 12 << 20
#: bytes that a tensor or a node of a recorded pass takes besides its numbers: what autograd keeps of it
EACH = 4 << 10


class StorageTracker(WatchingMode):
    """Counts the bytes of live storages made while it is on; ``peak`` is the most there were at once.

    A storage counts once, by what is allocated, whatever views there are of it; one that grows in place
    counts by its new size. What a kernel allocates and frees inside itself is not seen.

    Parameters
    ----------
    outside : tensors whose storages were there before and do not count, views of them included.
    """

    def __init__(self, outside: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._outside = {storage._cdata for tensor in outside for storage in storages_of(tensor)}

    def _release(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = self.ran(func, args, kwargs)
        tensors = (leaf for leaf in torch.utils._pytree.tree_leaves(out) if isinstance(leaf, Tensor))
        for tensor in tensors:
            for storage in storages_of(tensor):
                key, size = storage._cdata, storage.nbytes()
                if key in self._outside:
                    continue
                if key not in self._sizes:
                    weakref.finalize(storage, self._release, key)
                self.live += size - self._sizes.get(key, 0)
                self._sizes[key] = size
        self.peak = max(self.peak, self.live)
        return out


def storages_of(tensor: Tensor) -> list[torch.UntypedStorage]:
    """The storages of a tensor; of a sparse one those of its indices and values."""
    if tensor.layout is torch.strided:
        return [tensor.untyped_storage()]
    if tensor.layout is torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    else:  # layouts of a library's own, whose bytes are not told
        parts = []
    return [part.untyped_storage() for part in parts]


def less_or(enough: float) -> str:
    """What to do where a budget does not do, and so many bytes would.

    Examples
    --------
    >>> less_or(3 << 20)
    'use a smaller n or d, --dtype float32, or --memory 3MiB'
    """
    return f"use a smaller n or d, --dtype float32, or --memory {readable(enough).replace(' ', '')}"


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the numbers of some tensors.

    Examples
    --------
    >>> bytes_of([torch.zeros(2, 3), torch.zeros(2, dtype=torch.float64)])
    40
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def cut_behind(last: int, n: int, memory: int) -> int:
    """Positions of a pass over first positions that holds an output, in (last, n]; few different ones where
    the memory is small.

    Examples
    --------
    >>> cut_behind(30, 100, 4 << 30), cut_behind(30, 100, 24 << 20)
    (31, 36)
    """
    step = max(1, n // max(_FEWEST, memory // (_FOR_LENGTHS * _OF_A_LENGTH)))
    return min(n, (last // step + 1) * step)


class Growth:
    """What the process has grown by since this was made, held below a budget as far as it is freed memory.

    ``taken`` are bytes from before that count. Once the process came near the budget, large buffers leave it
    where they are freed, as long as this lives.
    """

    #: of these objects, how many came near their budgets
    _near = 0

    def __init__(self, budget: float, taken: float = 0) -> None:
        self._budget, self._before, self._collected = budget, resident() - taken, 0.0
        self._apart = budget <= _SMALL
        if self._apart:
            self._keep_apart()

    def settle(self, announced: float = 0) -> None:
        """Give back what was freed where with some more bytes the process would come near the budget."""
        now = resident()
        soon = now - self._before + announced
        if not self._apart and soon > min(_NEARLY * self._budget, self._budget - _SCATTERED):
            self._apart = True
            self._keep_apart()
        if soon <= _NEARLY * self._budget:
            return
        if now > self._collected + _GROWN * self._budget:
            gc.collect()
            give_back()
            self._collected = resident()
        else:
            give_back()

    def _keep_apart(self) -> None:
        Growth._near += 1
        _set_allocator(_MMAP_THRESHOLD, _APART)
        weakref.finalize(self, self._share_again).atexit = False

    @staticmethod
    def _share_again() -> None:
        Growth._near -= 1
        if not Growth._near:
            _set_allocator(_MMAP_THRESHOLD, _IN_HEAP)
            _set_allocator(_TRIM_THRESHOLD, _FREE_ON_TOP)


class Settling(WatchingMode):
    """Gives back what was freed where an operation on large buffers would bring the process near a budget."""

    def __init__(self, growth: Growth) -> None:
        super().__init__()
        self._growth = growth

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        soon = max((bytes_of([arg]) for arg in args if isinstance(arg, Tensor)), default=0)
        if soon > _APART:
            self._growth.settle(soon)
        return self.ran(func, args, kwargs)


class BudgetGuard(StorageTracker):
    """Raises ``OverBudget`` before tensors made while it is on take more than a budget.

    What a product, a convolution or a broadcast will take is known from its shapes before it runs; what other
    kernels put out, after. Freed memory is given back where with it the process would come near the budget.
    ``held`` are tensors from before, which count, as do some bytes ``beside`` them: by default of objects.
    """

    def __init__(self, budget: int, what: str, held: Iterable[Tensor] = (), beside: int = OWN // 4) -> None:
        held = list(held)
        super().__init__(held)
        self._budget, self._what = budget, what
        self.live = beside + bytes_of(held)
        self._growth = Growth(budget, self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        announced = _announced(func, args)
        self._require(self.live + announced)
        if announced > mmap.PAGESIZE:
            self._growth.settle(announced)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self._require(self.live)
        return out

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._growth.settle()

    def _require(self, needed: int) -> None:
        needed += EACH * len(self._sizes)
        require(needed, self._budget, self._what, less_or(2.0 * needed))


def _announced(func: Any, args: Any) -> int:
    """Bytes of what a product, a convolution or an operation on broadcast shapes will take."""
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if not tensors or isinstance(func, HigherOrderOperator) or func.is_view:
        return 0
    name = func.overloadpacket.__name__
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        a, b = tensors[-2:]
        return int(a.numel() // max(1, a.shape[-1]) * b.shape[-1] * a.element_size())
    if name == "convolution":
        x, weight = tensors[:2]
        # of doubles torch unfolds the input and copies it; what it frees then, the process keeps for a while
        unfolded = 2 * weight[0].numel() + x.shape[1] if x.dtype == torch.float64 else 0
        return int((len(weight) + unfolded) * x.numel() // max(1, x.shape[1]) * x.element_size())
    if name.endswith("_") or len(tensors) < 2:
        return 0
    try:
        return int(math.prod(torch.broadcast_shapes(*(t.shape for t in tensors))) * tensors[0].element_size())
    except RuntimeError:
        return 0


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not tell (Linux does)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def give_back() -> None:
    """Return memory that was freed to the system, where the allocator can (glibc)."""
    _allocator("malloc_trim")(0)


def _set_allocator(parameter: int, value: int) -> None:
    _allocator("mallopt")(parameter, value)


@cache
def _allocator(name: str) -> Callable[..., Any]:
    """A function of glibc's allocator; elsewhere one that does nothing."""
    nothing: Callable[..., Any] = lambda *_: 0  # noqa: E731
    return getattr(ctypes.CDLL(None), name, nothing) if sys.platform == "linux" else nothing


@contextlib.contextmanager
def fake_tensors() -> Iterator[Any]:
    """A mode in which tensors have shapes and no memory; real ones that come in are taken as fake."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # slow to import, and only this needs it

    # it logs what fails at the level of errors; here a failure is an answer
    logger = logging.getLogger(FakeTensorMode.__module__)
    before, logger.disabled = logger.disabled, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        logger.disabled = before
