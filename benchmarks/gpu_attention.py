"""Attention on a GPU: norms of all pairs beside the fused forward pass, in one run on one card.

Usage: python benchmarks/gpu_attention.py
Times are medians of warm calls, the forward pass included; the first call is shown apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from depprobe.operators import temporal_jacobian

D, HEADS, DEVICE = 512, 8, "cuda"
#: n, whether the blocks k = t are among the pairs, and fused forward passes at most
CASES = ((1000, True, 110.0), (8192, True, 150.0), (8192, False, 25.0))
#: targets at which float32 on the GPU is compared with float64 on the CPU
COMPARED = 3


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call and all that it started on the device."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def median(run: Callable[[], Any], repeats: int) -> float:
    """Median time of calls, after one that is not counted."""
    run()
    return float(np.median([seconds(run) for _ in range(repeats)]))


def rows() -> list[tuple[str, float, float, str]]:
    """Case, ratio to the fused forward pass at most, ratio measured, and a note; for every case."""
    out = []
    for n, own, limit in CASES:
        torch.manual_seed(0)
        module, x = nn.MultiheadAttention(D, HEADS, batch_first=True).eval(), torch.randn(n, D)
        targets = np.linspace(0, n - 1, COMPARED).astype(int).tolist()
        exact = temporal_jacobian(module.double(), x.double()).log_norms(targets)
        module, x = module.float().to(DEVICE), x.to(DEVICE)
        batch = x[None]
        with torch.no_grad():
            forward = median(lambda z=batch, f=module: f(z, z, z, need_weights=False), 15)

        def norms(module: nn.Module = module, x: torch.Tensor = x, n: int = n, own: bool = own) -> Any:
            return temporal_jacobian(module, x).log_norms(range(n), own=own)  # type: ignore[call-arg]

        first = seconds(norms)
        taken = median(norms, 5)
        found = norms()
        apart = np.abs(found.values[targets] - exact.values)
        inside = bool((np.nan_to_num(apart) <= found.error[targets] + exact.error).all())
        note = (
            f"{1e3 * taken:.1f} ms, forward pass {1e3 * forward:.3f} ms, first call {1e3 * first:.0f} ms; "
            f"{np.nanmax(apart):.1e} from the CPU, {'within' if inside else 'OUTSIDE'} the stated error"
        )
        pairs = "all pairs" if own else "all pairs but k = t"
        out.append((f"attention n={n} d={D}, {HEADS} heads, {pairs}", limit, taken / forward, note))
        del found
    return out


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device, and torch finds none here")
    print(torch.cuda.get_device_name())
    for case, limit, ratio, note in rows():
        print(f"{case:55s} {ratio:7.1f} forward passes, at most {limit:.0f}  {note}", flush=True)


if __name__ == "__main__":
    main()
