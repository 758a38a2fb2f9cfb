"""Recurrences on a CUDA device beside jitted JAX in one run: same weights, same input, results compared.

Timed are the construction of the operator, the forward pass in it, and ``log_norms`` of the last target
(n = 1000, float32); JAX takes ``jacrev`` over ``scan``, and its norms. Best of several calls after the first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jacobian import _torch_lstm, jax_jitted_jacrev

from depprobe.operators import temporal_jacobian

N, TARGETS = 1000, 16
#: width, precision of JAX's products, and the largest ratio that is aimed at
CASES = ((512, "default", 0.8), (512, "highest", 0.4), (64, "default", 0.5), (1024, "highest", 0.25))


def seconds(call: Callable[[], Any], repeat: int = 7) -> tuple[float, float]:
    """Those of the first call, and the least of several others."""
    times = []
    for _ in range(1 + repeat):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times[0], min(times[2:])


def drawn(d: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Weights as torch draws them, W_hh, W_ih and the bias, and an input."""
    rng, bound = np.random.default_rng(0), d**-0.5
    shapes = (4 * d, d), (4 * d, d), (4 * d,)
    weights = [rng.uniform(-bound, bound, shape).astype(np.float32) for shape in shapes]
    return weights, rng.standard_normal((N, d)).astype(np.float32)


def rows() -> list[tuple[str, float, float, str]]:
    """Cases, limits, ratios, and what was seen."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    out, own = [], {}
    for d, precision, limit in CASES:
        weights, x = drawn(d)
        module, on_device = _torch_lstm(weights).cuda(), torch.from_numpy(x).cuda()
        if d not in own:
            found = temporal_jacobian(module, on_device).log_norms([N - 1])
            first, least = seconds(lambda m=module, x=on_device: temporal_jacobian(m, x).log_norms([N - 1]))
            own[d] = first, least, found
        first, least, found = own[d]
        try:
            import jax
        except ImportError:
            out.append((f"LSTM d = {d}, of JAX ({precision})", limit, float("nan"), "JAX is not installed"))
            continue
        with jax.default_matmul_precision(precision):
            run = jax_jitted_jacrev(weights, x)
            compiled, theirs = seconds(run, 4)
            other = run()
        seen = np.isfinite(other) & (other > -70)
        gap = np.abs(found.values[0] - other)[seen].max()
        note = (
            f"{least * 1e3:.1f} ms (second call {first * 1e3:.0f}); JAX {theirs * 1e3:.1f} ms (compiled in "
            f"{compiled:.1f} s); largest gap {gap:.0e}, stated {found.error.max():.0e}"
        )
        out.append((f"LSTM d = {d}, of JAX ({precision})", limit, least / theirs, note))
    weights, x = drawn(512)
    module, on_device = _torch_lstm(weights).cuda(), torch.from_numpy(x).cuda()
    targets = np.linspace(N / TARGETS - 1, N - 1, TARGETS).round().astype(int).tolist()
    first, many = seconds(lambda: temporal_jacobian(module, on_device).log_norms(targets), 4)
    note = f"{many * 1e3:.1f} ms (first call {first:.2f} s)"
    out.append((f"LSTM d = 512, {TARGETS} targets, of one", 8.0, many / own[512][1], note))
    return out


if __name__ == "__main__":
    for case, limit, ratio, note in rows():
        print(f"{case:40} {ratio:6.2f} (at most {limit:g})  {note}", flush=True)
