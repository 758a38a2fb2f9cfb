"""Bytes a layer takes: by storages as they come and go, and by what the system gave the process.

The tracker counts every storage that an operation returns, once, by its allocation. Parameters, buffers and
the input were there before and do not count. What a kernel allocates and frees inside itself it cannot see:
scratch space of convolutions, packed copies of matrices, gates of a fused LSTM, blocks of fused attention.
The peak of the resident set sees those, and freed pages that were not given back besides.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from depprobe.core.calling.passes import call_once
from depprobe.core.memory import StorageTracker, fake_tensors, give_back, storages_of
from depprobe.costs.passes import BACKWARD, one_pass

#: least and most positions from which the peak of a recurrence is extrapolated
_SHORTEST, _LONGEST = 256, 512


class Bytes(NamedTuple):
    """What one pass takes: ``peak``, the most at once; ``kept``, after the forward pass, for the backward.

    ``kept`` counts the output, and is 0 where no backward pass follows.
    """

    peak: int
    kept: int


def tensor_bytes(module: nn.Module, x: Tensor, phase: str, layout: str | None = None) -> Bytes:
    """Bytes of the tensors that one pass makes, parameters and input apart; see ``one_pass``.

    Examples
    --------
    >>> tensor_bytes(nn.Tanh(), torch.zeros(10, 4), "forward+backward")  # y, dy, dx, a scalar
    Bytes(peak=488, kept=160)
    """
    run = one_pass(module, x, phase, layout)
    outside = [x, *module.parameters(), *module.buffers()]
    # cycles that the pass makes are freed when as many objects were made as ever, whatever was made before;
    # older ones hold nothing that counts, and to go through all objects of a process takes longer than passes
    gc.collect(1)
    with StorageTracker(outside) as tracker:
        run()
    if phase != BACKWARD:
        return Bytes(tracker.peak, 0)
    leaf = x.detach().requires_grad_()
    with StorageTracker(outside) as forward, torch.enable_grad():
        y = call_once(module, leaf, layout)
        kept = forward.live
    del y
    return Bytes(tracker.peak, kept)


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers, each storage once."""
    tensors = (*module.parameters(), *module.buffers())
    return sum({one._cdata: one.nbytes() for tensor in tensors for one in storages_of(tensor)}.values())


def predicted_bytes(
    build: Callable[[], nn.Module], n: int, d_in: int, dtype: torch.dtype, phase: str
) -> float | None:
    """Bytes one pass would take with parameters and input, found without allocating what it takes.

    Shapes flow through fake tensors. A recurrence would take its n steps even so: its peak is taken at two
    lengths, the longer up to four times its width, and continued in a straight line, which falls short where
    gradients of the weights outweigh activations at these lengths still. None where the module, as ``build``
    makes it in torch's default dtype, cannot run on fake tensors (a data-dependent shape, say).

    Examples
    --------
    >>> predicted_bytes(lambda: nn.Linear(4, 4), 100, 4, torch.float32, "forward")
    3280.0
    """
    found = predicted_bytes_at(build, [n], d_in, dtype, phase)
    return None if found is None else found[0]


def predicted_bytes_at(
    build: Callable[[], nn.Module], lengths: Sequence[int], d_in: int, dtype: torch.dtype, phase: str
) -> list[float] | None:
    """``predicted_bytes`` at several lengths, for which a recurrence runs no oftener than for one or two."""

    def peak(module: nn.Module, length: int) -> float:
        return tensor_bytes(module.eval(), torch.zeros(length, d_in, dtype=dtype), phase).peak

    try:
        with fake_tensors(), _default_dtype(dtype):
            module = build()
            weights = sum(p.nbytes for p in (*module.parameters(), *module.buffers()))
            stepwise = any(isinstance(part, nn.RNNBase) for part in module.modules())
            most = {} if stepwise else {n: peak(module, n) for n in lengths}
    except Exception:  # whatever goes wrong on fake tensors says nothing about real ones
        return None
    if stepwise:
        module, longest = build().to(dtype), min(max(4 * d_in, _SHORTEST), _LONGEST)
        short = longest // 4 * 3
        taken = {n for n in lengths if n <= longest} | ({short, longest} if max(lengths) > longest else set())
        most = {n: peak(module, n) for n in taken}
        for n in set(lengths) - taken:
            most[n] = most[longest] + (most[longest] - most[short]) / (longest - short) * (n - longest)
    return [most[n] + weights + float(n * d_in * dtype.itemsize) for n in lengths]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def process_peak(run: Callable[[], object]) -> float:
    """Bytes by which the resident set of this process exceeded, while ``run`` ran, what it was before.

    NaN where the system keeps no peak that can be reset (Linux does).
    """
    try:
        gc.collect()
        give_back()  # or freed pages would count as there before
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = _entry("VmRSS")
        run()
        return max(0.0, _entry("VmHWM") - before)
    except OSError:
        return math.nan


def _entry(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    if not found:
        raise OSError(f"no {name} in it")
    return 1024.0 * int(found[1])
