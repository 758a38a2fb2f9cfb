"""Modules with a forward of their own beside batched autograd of the same rows, in one run, interleaved.

    loop       torch.autograd.grad(is_grads_batched=True), one call a chunk of rows, squared norms added up
    depprobe   depprobe.jacobian, checks and labels included

A ratio counts what is left after 15 ms of fixed cost. ``auto`` is the time of method="auto" over that of
method="autograd", where this knows every norm too; ``forecast`` the milliseconds of a call in which memory is
forecast, under a profiler, which slows it. Usage: python benchmarks/own_modules.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import depprobe

FIXED, CHUNK = 0.015, 48


class Tagger(nn.Module):
    """A recurrence and a read-out."""

    def __init__(self, kind: type[nn.Module], d_in: int, d: int, d_out: int | None) -> None:
        super().__init__()
        self.rnn = kind(d_in, d, batch_first=True)  # type: ignore[call-arg]
        self.out = nn.Identity() if d_out is None else nn.Linear(d, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """(1, n, d_in) to (1, n, d_out)."""
        y: Tensor = self.out(self.rnn(x)[0])
        return y


class GPT(nn.Module):
    """Causal pre-LN blocks, attention called as a function: GPT-2 without its embedding."""

    def __init__(self, d: int = 192, depth: int = 4, heads: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.LayerNorm(d),
                    nn.Linear(d, 3 * d),
                    nn.Linear(d, d),
                    nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)),
                ]
            )
            for _ in range(depth)
        )
        self.last = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        """(1, n, d) to the same."""
        for norm, qkv, out, mlp in self.blocks:  # type: ignore[misc]
            q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in qkv(norm(x)).chunk(3, -1))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(mixed.transpose(1, 2).flatten(2))
            x = x + mlp(x)
        y: Tensor = self.last(x)
        return y


class CellLoop(nn.Module):
    """A loop over an LSTMCell in Python."""

    def __init__(self, d_in: int, d: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(d_in, d)

    def forward(self, x: Tensor) -> Tensor:
        """(1, n, d_in) to (1, n, d)."""
        h = c = x.new_zeros(len(x), self.cell.hidden_size)
        out = []
        for x_t in x.unbind(1):
            h, c = self.cell(x_t, (h, c))
            out.append(h)
        return torch.stack(out, 1)


class Case(NamedTuple):
    """One comparison and the ratio that it should keep to."""

    name: str
    module: nn.Module
    x: Tensor
    targets: list[int]
    most: float


def cases() -> list[Case]:
    """The modules measured."""
    torch.manual_seed(0)
    every = list(range(39, 400, 40))
    found = []
    for dtype in (torch.float32, torch.float64):
        short, long = torch.randn(64, 4, dtype=dtype), torch.randn(400, 48, dtype=dtype)
        gru = Tagger(nn.GRU, 4, 16, None).to(dtype)
        lstm = Tagger(nn.LSTM, 48, 48, 48).to(dtype)
        kind = str(dtype).removeprefix("torch.")
        found += [
            Case(f"GRU(4, 16), n = 64, last, {kind}", gru, short, [63], 1.5),
            Case(f"LSTM(48) + Linear, n = 400, last, {kind}", lstm, long, [399], 1.5),
            Case(f"LSTM(48) + Linear, n = 400, every:40, {kind}", lstm, long, every, 1.5),
            Case(f"LSTMCell loop, n = 400, last, {kind}", CellLoop(6, 6).to(dtype), long[:, :6], [399], 10),
        ]
    gpt, x = GPT(), torch.randn(256, 192)
    return [*found, Case("GPT, 4 x 192, n = 256, 8 targets", gpt, x, list(range(31, 256, 32)), 1.2)]


def loop(case: Case) -> np.ndarray:
    """ln norms (targets, n) by batched autograd."""
    leaf = case.x.clone().requires_grad_()
    y = case.module(leaf[None])[0]
    rows = []
    for t in case.targets:
        squares = torch.zeros(len(leaf), dtype=torch.float64)
        for part in torch.eye(y.shape[1], dtype=y.dtype).split(CHUNK):
            v = torch.zeros(len(part), *y.shape, dtype=y.dtype)
            v[:, t] = part
            (grad,) = torch.autograd.grad(y, leaf, v, retain_graph=True, is_grads_batched=True)
            squares += grad.double().square().sum((0, 2))
        rows.append(0.5 * squares.log())
    return torch.stack(rows).numpy()


def ours(case: Case, method: str = "auto") -> np.ndarray:
    """The same by depprobe."""
    ds = depprobe.jacobian(case.module, case.x[None], targets=case.targets, layout="b n d", method=method)
    values: np.ndarray = ds.log_norm.values.squeeze()
    return values.reshape(len(case.targets), -1)


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds of a call, and what it returns."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def forecast(case: Case) -> float:
    """Seconds of a call in which the recorded graph is read for what a backward pass will need."""
    profile = cProfile.Profile()
    profile.runcall(ours, case)
    rows = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    return max(
        [row[3] for (_, _, name), row in rows if name in ("graph_facts", "backward_bytes")], default=0.0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{'case':50s} {'loop ms':>9s} {'depprobe':>9s} {'ratio':>6s} {'limit':>6s} {'auto':>5s}"
        f" {'forecast':>8s}  unknown: loop, ours"
    )
    for case in (case for case in cases() if options.only in case.name):
        loop(case), ours(case)  # torch loads what it needs with the first call
        pairs = [(timed(lambda: loop(case)), timed(lambda: ours(case))) for _ in range(options.repeats)]  # noqa: B023
        plain, own = (float(np.median([pair[side][0] for pair in pairs])) for side in (0, 1))
        (_, expected), (_, found) = pairs[-1]
        known = np.isfinite(expected) & np.isfinite(found)
        known[known] = expected[known] > -60
        assert np.abs(expected[known] - found[known]).max() < 1e-3, case.name
        by_autograd = [timed(lambda: ours(case, "autograd")) for _ in range(min(options.repeats, 3))]  # noqa: B023
        answers = not np.isnan(by_autograd[0][1]).any()
        other = f"{own / np.median([seconds for seconds, _ in by_autograd]):5.2f}" if answers else "    -"
        causal = np.arange(expected.shape[1]) <= np.array(case.targets)[:, None]
        lost = int((~np.isfinite(expected))[causal].sum()), int(np.isnan(found).sum())
        print(
            f"{case.name:50s} {1e3 * plain:9.1f} {1e3 * own:9.1f} {(own - FIXED) / plain:6.2f}"
            f" {case.most:6.1f} {other} {1e3 * forecast(case):8.1f}  {lost[0]}, {lost[1]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
