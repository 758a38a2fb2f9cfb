"""Everything on one GPU: agreement of every layer with the CPU, and times as ratios within the run.

    python benchmarks/gpu.py

Needs a CUDA device, and JAX beside torch for the rows of recurrences. A part that fails says so, and the
others go on. Exit codes: 0 done, 1 a part failed, 2 no CUDA device.
"""

from __future__ import annotations

import importlib
import sys
import time

import numpy as np
import torch

import depprobe
from depprobe.registry import layers

#: modules beside this one, each with ``rows()``: (case, ratio at most, ratio measured, note); JAX keeps the
#: memory that it once took, so that its part comes last
PARTS = ("gpu_attention", "gpu_probes", "gpu_chain")
N, D = 67, 8


def agreement() -> float:
    """Print how far each named layer on the device is from the CPU, over what both state.

    In float32 their forward passes reach states that differ in the last places, of which stated errors say
    nothing: the share is taken of three times the errors.
    """
    worst = 0.0
    for text in (spec for name, entry in layers.items() for spec in (name, *entry.examples)):
        apart = []
        for dtype in ("float64", "float32"):
            asked = {"n": N, "d": D, "targets": "every:16", "tolerance": 0, "dtype": dtype}
            here, there = (depprobe.jacobian(text, device=device, **asked) for device in ("cpu", "cuda"))
            known = np.isfinite(here["log_norm"].values) & np.isfinite(there["log_norm"].values)
            gap = np.abs(
                np.where(known, here["log_norm"].values, 0) - np.where(known, there["log_norm"].values, 0)
            )
            errors = [ds["log_norm_error"].values for ds in (here, there) if "log_norm_error" in ds]
            stated = np.nan_to_num(sum(errors)) if errors else np.zeros_like(gap)
            floor = 1e-12 if dtype == "float64" else 1e-12 if errors else 1e-5
            stated = stated * (3 if dtype == "float32" else 1)
            ratio = float((gap / (stated + floor * (1 + np.abs(here["log_norm"].values)))[...])[known].max())
            worst = max(worst, ratio)
            apart.append(f"{dtype} {gap.max():.1e} ({ratio:.1e} of what is stated)")
        print(f"  {text:55s} {', '.join(apart)}", flush=True)
    return worst


def table(parts: tuple[str, ...] = PARTS) -> int:
    """Print the rows of all parts; how many parts failed."""
    failed = 0
    print(f"  {'case':60s} {'at most':>8s} {'measured':>9s}")
    for name in parts:
        start = time.perf_counter()
        try:
            found = importlib.import_module(name).rows()
        except Exception as error:  # whatever goes wrong in one part, the others are shown
            failed += 1
            print(f"  {name} failed: {type(error).__name__}: {str(error).splitlines()[:1]}", flush=True)
            continue
        for case, limit, ratio, note in found:
            print(
                f"  {case:60s} {limit:8.3g} {ratio:9.3g} {'met' if ratio <= limit else 'NOT MET':8s} {note}"
            )
        print(f"  ({name}: {time.perf_counter() - start:.0f} s in all)", flush=True)
    return failed


def main() -> int:
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device, and torch finds none here", file=sys.stderr)
        return 2
    start = time.perf_counter()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, depprobe {depprobe.__version__}")
    print(f"named layers, n = {N}, d = {D}: largest difference of ln norms between CUDA and the CPU")
    try:
        worst = agreement()
        print(f"  at most {worst:.1e} of what is allowed: {'agrees' if worst <= 1 else 'DOES NOT AGREE'}")
    except Exception as error:
        worst = np.inf
        print(f"  agreement failed: {type(error).__name__}: {error}", flush=True)
    print("times, as ratios")
    failed = table()
    print(f"{time.perf_counter() - start:.0f} s in all")
    return 1 if failed or worst > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
