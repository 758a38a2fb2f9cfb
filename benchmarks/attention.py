"""Attention's Jacobian in closed form beside its own forward pass and batched autodiff, in one run.

Usage: python benchmarks/attention.py [--n 1000] [--d 512] [--heads 8] [--threads 2] [--no-autodiff]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from depprobe.layers.attention import Attention
from depprobe.layers.sparse_attention import SparseAttention, Window
from depprobe.operators import temporal_jacobian


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median wall time of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def peak_gib() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def line(name: str, seconds: float, forward: float | None = None, note: str = "") -> None:
    ratio = "" if forward is None else f"{seconds / forward:8.1f} forwards"
    print(f"{name:58s} {seconds:9.3f} s {ratio:18s} {peak_gib():6.2f} GiB so far  {note}", flush=True)


def full(n: int, d: int, heads: int, autodiff: bool) -> None:
    """All blocks of full attention; the rows that autodiff can afford are compared."""
    module, x = Attention(d, heads).eval(), torch.randn(n, d)
    with torch.no_grad():
        forward = median_seconds(lambda: module(x), 15)
    line(f"forward pass, n={n} d={d} heads={heads}", forward, forward)

    def measure(own: bool) -> np.ndarray:
        return temporal_jacobian(module, x).log_norms(range(n), own=own).values  # type: ignore[call-arg]

    line("closed form, n^2 - n blocks k != t", median_seconds(lambda: measure(False), 5), forward)
    line("closed form, all n^2 blocks", median_seconds(lambda: measure(True), 3), forward)
    if not autodiff:
        return
    values = measure(True)
    reference = temporal_jacobian(module, x, method="autograd")
    rows = [n // 3]
    start = time.perf_counter()
    found = reference.log_norms(rows).values
    seconds = time.perf_counter() - start
    error = np.abs(found - values[rows]).max()
    line(
        "batched autodiff, one row of n blocks",
        seconds,
        forward,
        f"largest difference in ln norm {error:.1e}",
    )


def long(n: int, d: int, heads: int) -> None:
    """Full attention at a length where n^2 matters: some chunks of targets, memory beside them."""
    module, x = Attention(d, heads, causal=True).eval(), torch.randn(n, d)
    before = peak_gib()
    start = time.perf_counter()
    J = temporal_jacobian(module, x)
    for first in (0, n // 2, n - 64):
        J.log_norms(range(first, first + 64))
    seconds = time.perf_counter() - start
    line(f"causal attention n={n} d={d}, 192 targets", seconds, None, f"{peak_gib() - before:.2f} GiB more")


def window(d: int, heads: int, width: int) -> None:
    """Sliding windows at growing length."""
    for n in (5000, 10_000, 20_000):
        module, x = SparseAttention(d, Window(width), heads).eval(), torch.randn(n, d)
        with torch.no_grad():
            forward = median_seconds(lambda module=module, x=x: module(x), 3)  # type: ignore[misc]
        start = time.perf_counter()
        J = temporal_jacobian(module, x)
        found = J.log_norms(range(n))
        seconds = time.perf_counter() - start
        assert found.lags is not None
        line(f"window {width}, n={n} d={d}, all {found.values.size} blocks", seconds, forward)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("n", 1000), ("d", 512), ("heads", 8), ("threads", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--no-autodiff", action="store_true")
    parser.add_argument("--only", choices=("full", "long", "window"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.only in (None, "window"):
        window(256, options.heads, 64)
    if options.only in (None, "long"):
        long(8192, options.d, options.heads)
    if options.only in (None, "full"):
        full(options.n, options.d, options.heads, not options.no_autodiff)


if __name__ == "__main__":
    main()
