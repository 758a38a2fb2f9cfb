"""Lyapunov exponents of an LSTM beside the matrix products they need, and beside a plain torch.func loop.

    python benchmarks/lyapunov.py [--d 512] [--n 10000] [--exponents 64] [--plain 3]

The products are W_hh (4d, d) times the part of the frame on h (d, m), once a step: no way through
an LSTM needs less. The plain loop forms every step Jacobian (2d, 2d) with torch.func.jacrev and
orthonormalises after every step with torch.linalg.qr; it runs for a few steps and its time is given per step.
All in one process with the same weights; absolute times depend on the machine, the ratios are what to read.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import depprobe


def products(module, n: int, m: int) -> tuple[float, float]:
    """Seconds of n bare products: at the pace of their median run of 50, and of their best."""
    weight = module.weight_hh_l0.detach()
    frame = torch.randn(weight.shape[1], m, dtype=weight.dtype)
    out = weight @ frame
    times = []
    for _ in range(max(1, n // 50)):
        start = time.perf_counter()
        for _ in range(50):
            torch.mm(weight, frame, out=out)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * n / 50, min(times) * n / 50


def plain(module, x, m: int, steps: int) -> tuple[float, np.ndarray]:
    """Seconds of some steps by torch.func and torch.linalg, and the last ln |r_ii|."""
    hidden = module.hidden_size
    hh, ih = module.weight_hh_l0.detach(), module.weight_ih_l0.detach()
    bias = (module.bias_hh_l0 + module.bias_ih_l0).detach()

    def step(state, z):
        c, h = state[:hidden], state[hidden:]
        i, f, g, o = (hh @ h + ih @ z + bias).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat([c, torch.sigmoid(o) * torch.tanh(c)])

    state = torch.zeros(2 * hidden, dtype=x.dtype)
    frame = torch.linalg.qr(torch.randn(2 * hidden, m, dtype=x.dtype))[0]
    jacobian = torch.func.jacrev(step)
    jacobian(state, x[0])
    start = time.perf_counter()
    for z in x[:steps]:
        frame, upper = torch.linalg.qr(jacobian(state, z) @ frame)
        state = step(state, z)
    return time.perf_counter() - start, upper.diagonal().abs().log().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--n", type=int, default=10000)
    parser.add_argument("--exponents", type=int, default=64)
    parser.add_argument("--plain", type=int, default=3, help="steps of the plain loop")
    given = parser.parse_args()
    torch.manual_seed(0)
    module = torch.nn.LSTM(given.d, given.d, batch_first=True).double()
    x = torch.randn(given.n, given.d, dtype=torch.float64)
    before = products(module, given.n, given.exponents)
    start = time.perf_counter()
    ds = depprobe.lyapunov(module, x, exponents=given.exponents)
    seconds = time.perf_counter() - start
    # before and after, so that a machine that changes its pace is seen
    after = products(module, given.n, given.exponents)
    bare, best = (before[0] + after[0]) / 2, min(before[1], after[1])
    slow = plain(module, x, given.exponents, given.plain)[0] / given.plain
    print(
        f"LSTM, d = {given.d}, state {2 * given.d}, {given.exponents} exponents, n = {given.n}, float64, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"products alone           {bare:9.2f} s              ({best:.2f} s at their best pace)")
    print(f"depprobe.lyapunov        {seconds:9.2f} s   {seconds / bare:8.2f} x   ({seconds / best:.2f} x)")
    each = slow * given.n
    print(f"torch.func and qr        {each:9.0f} s   {each / bare:8.0f} x   (from {given.plain} steps)")
    print(
        f"first exponent {float(ds.exponent[0]):.5f} ± {float(ds.exponent_stderr[0]):.5f} nats a step; "
        f"orthonormalised every {float(ds.interval):.1f} steps"
    )


if __name__ == "__main__":
    main()
