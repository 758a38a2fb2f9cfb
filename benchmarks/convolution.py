"""Convolutions: time of all norms beside one forward pass of the layer, and agreement with autodiff.

    python benchmarks/convolution.py [--d 64] [--threads 2]

``conv`` and the linear ``dilated-conv`` give the norms of all targets; the nonlinear ``dilated-conv``, whose
rows all differ, those of the last target. ``kernel`` is the time of one row on a short sequence, ``ratio``
that of the operator over forward and kernel together. ``difference`` is the largest difference of ln norm
from rows by batched reverse-mode autodiff on a shorter sequence, beside its edges and in the middle.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from depprobe.operators import temporal_jacobian
from depprobe.registry import Spec, layers

CASES = {
    "conv": "all",
    "conv:kernel=9,dilation=4,padding_mode=reflect": "all",
    "dilated-conv:nonlinearity=none": "all",
    "dilated-conv": "last",
}
#: long enough for a whole kernel, and for nothing more
SHORTEST = 160
CHECKED_LENGTH = 301


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def autodiff_row(module: nn.Module, x: torch.Tensor, t: int) -> np.ndarray:
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    cotangents = torch.zeros(y.shape[1], *y.shape, dtype=y.dtype)
    cotangents[range(y.shape[1]), t, range(y.shape[1])] = 1
    (row,) = torch.autograd.grad(y, leaf, cotangents, is_grads_batched=True)
    with np.errstate(divide="ignore"):
        return np.log(row.norm(dim=(0, 2), dtype=torch.float64).numpy())


def difference(module: nn.Module, d: int) -> float:
    x = torch.randn(CHECKED_LENGTH, d)
    targets = [0, 1, CHECKED_LENGTH // 2, CHECKED_LENGTH - 1]
    found = temporal_jacobian(module, x).log_norms(targets, range(CHECKED_LENGTH)).values
    expected = np.stack([autodiff_row(module, x, t) for t in targets])
    assert np.array_equal(np.isneginf(found), np.isneginf(expected)), "the supports differ"
    return float(np.abs(found[np.isfinite(expected)] - expected[np.isfinite(expected)]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--d", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1000, 10_000, 100_000])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    d = options.d
    print(f"torch {torch.__version__}, float32, d = {d}, {options.threads} threads; median of 5, seconds\n")
    header = f"{'layer':46} {'targets':>7} {'n':>7} {'forward':>9} {'kernel':>9} {'operator':>9}"
    header += f" {'ratio':>6} {'difference':>10}"
    print(header)
    print("-" * len(header))
    for text, targets in CASES.items():
        torch.manual_seed(0)
        spec = Spec.parse(text)
        module = layers[spec.name].build(d, **spec.options())
        gap = difference(module, d)
        for n in options.lengths:
            x = torch.randn(n, d)

            def forward(module: nn.Module = module, x: torch.Tensor = x) -> None:
                with torch.no_grad():
                    module(x)

            def operator(
                module: nn.Module = module, x: torch.Tensor = x, n: int = n, targets: str = targets
            ) -> None:
                chosen = range(n) if targets == "all" else [n - 1]
                temporal_jacobian(module, x).log_norms(chosen)

            def kernel(module: nn.Module = module, x: torch.Tensor = x[:SHORTEST]) -> None:
                temporal_jacobian(module, x).log_norms([len(x) - 1])

            base, norms, ours = seconds(forward), seconds(kernel), seconds(operator)
            ratio = ours / (base + norms)
            print(
                f"{text:46} {targets:>7} {n:7d} {base:9.4f} {norms:9.4f} {ours:9.4f} {ratio:6.2f} {gap:10.1e}"
            )


if __name__ == "__main__":
    main()
