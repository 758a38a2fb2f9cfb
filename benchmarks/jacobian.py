"""The LSTM row beside other programs: same weights, same input, one run, results compared.

    python benchmarks/jacobian.py [--d 64 512] [--limit 300] [--json FILE]

Each program runs in a process of its own, so that its peak memory is its own, one after the other. Times are
the best of its repetitions after a warm-up (JAX: compilation excluded). Absolute times depend on the machine;
the column to read is the ratio to depprobe.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

N = 1000


def depprobe_row(weights, x):
    import torch

    from depprobe.operators import temporal_jacobian

    module, x = _torch_lstm(weights), torch.from_numpy(x)
    return lambda: temporal_jacobian(module, x).log_norms([N - 1]).values[0]


def jax_jitted_jacrev(weights, x):
    import jax
    import jax.numpy as jnp

    hh, ih, bias, x = (jnp.asarray(a) for a in (*weights, x))

    def last(x):
        def step(state, z):
            h, c = state
            i, f, g, o = jnp.split(z + hh @ h, 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), None

        start = jnp.zeros(hh.shape[1], hh.dtype)
        return jax.lax.scan(step, (start, start), x @ ih.T + bias)[0][0]

    @jax.jit
    def norms(x):
        J = jax.jacrev(last)(x)
        peak = jnp.abs(J).max((0, 2))
        return peak, jnp.sqrt(((J / jnp.where(peak > 0, peak, 1)[:, None]) ** 2).sum((0, 2)))

    return lambda: _log(*map(np.asarray, jax.block_until_ready(norms(x))))


def torch_vectorized(weights, x):
    import torch

    module, x = _torch_lstm(weights), torch.from_numpy(x)

    def run():
        J = torch.autograd.functional.jacobian(lambda z: module(z[None])[0][0, -1], x, vectorize=True)
        return _log_norms(J)

    return run


def torch_func_jacrev(weights, x):
    import torch

    module, x = _torch_lstm(weights), torch.from_numpy(x)

    def run():
        # rows in chunks: all at once, the d = 512 case needs more memory than most machines have
        J = torch.func.jacrev(lambda z: module(z[None])[0][0, -1], chunk_size=16)(x)
        return _log_norms(J.detach())

    return run


PROGRAMS = {
    "depprobe": depprobe_row,
    "jitted JAX jacrev over scan": jax_jitted_jacrev,
    "torch.autograd.functional.jacobian(vectorize=True)": torch_vectorized,
    "torch.func.jacrev(chunk_size=16)": torch_func_jacrev,
}


def _log_norms(J):
    peak = J.abs().amax((0, 2))
    return _log(peak.numpy(), (J / peak.where(peak > 0, 1)[:, None]).norm(dim=(0, 2)).numpy())


def _log(peak, rest):
    """Logs of norms given as peak times rest: the squares of small entries would underflow before they do."""
    with np.errstate(divide="ignore"):
        return np.log(peak.astype(np.float64)) + np.log(np.maximum(rest, 1).astype(np.float64))


def _torch_lstm(weights):
    import torch

    hh, ih, bias = (torch.from_numpy(a) for a in weights)
    module = torch.nn.LSTM(ih.shape[1], hh.shape[1], batch_first=True)
    with torch.no_grad():
        module.weight_hh_l0.copy_(hh)
        module.weight_ih_l0.copy_(ih)
        module.bias_ih_l0.copy_(bias)
        module.bias_hh_l0.zero_()
    return module


def measure(program: str, d: int, repeat: int, out: str) -> None:
    """Run one program in this process and write its result."""
    import resource

    rng = np.random.default_rng(0)
    bound = d**-0.5
    weights = [
        rng.uniform(-bound, bound, shape).astype(np.float32) for shape in ((4 * d, d), (4 * d, d), (4 * d,))
    ]
    x = rng.standard_normal((N, d)).astype(np.float32)
    run = PROGRAMS[program](weights, x)
    if program.startswith(("depprobe", "jitted")) or d <= 64:
        run()  # compilation and first-call costs; plain torch at full width has none to speak of
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    np.savez(out, result=result, seconds=min(times), gigabytes=peak)


def whole_commands() -> list[tuple[str, float]]:
    """Seconds of whole commands, best of three."""
    rows = []
    for arguments in (["--help"], ["jacobian", "--layer", "lstm", "--n", "1000"]):
        times = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "depprobe", *arguments],
                    check=True,
                    capture_output=True,
                    cwd=folder,
                )
                times.append(time.perf_counter() - start)
        rows.append((" ".join(["depprobe", *arguments]), min(times)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--limit", type=float, default=300, help="seconds that one program may take")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure(given.one[0], int(given.one[1]), int(given.one[2]), given.one[3])
        return
    print(f"LSTM, n = {N}, float32, last target, all k; {os.cpu_count()} processors")
    record = []
    for d in given.d:
        base, truth = None, None
        for program in PROGRAMS:
            repeat = 5 if d <= 64 else 3 if program == "depprobe" else 1
            with tempfile.TemporaryDirectory() as folder:
                out = f"{folder}/out.npz"
                command = [sys.executable, __file__, "--one", program, str(d), str(repeat), out]
                try:
                    done = subprocess.run(command, timeout=given.limit, capture_output=True, text=True)
                except subprocess.TimeoutExpired:
                    print(f"d = {d:4}  {program:52} over {given.limit:.0f} s")
                    continue
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                    print(f"d = {d:4}  {program:52} failed: {reason}")
                    continue
                found = np.load(out)
                result, seconds, peak = found["result"], float(found["seconds"]), float(found["gigabytes"])
            base, truth = base or seconds, result if truth is None else truth
            # plain autodiff is right as long as nothing underflows: compare where it has its digits
            seen = np.isfinite(result) & (result > -70)
            gap = float(np.abs(result[seen] - truth[seen]).max())
            lost = int((~np.isfinite(result)).sum())
            record.append({"d": d, "program": program, "seconds": seconds, "gigabytes": peak, "zeros": lost})
            print(
                f"d = {d:4}  {program:52} {seconds:8.3f} s  {seconds / base:6.1f} x  {peak:5.2f} GB  "
                f"largest gap {gap:.0e}, zeros {lost}"
            )
    for command, seconds in whole_commands():
        record.append({"command": command, "seconds": seconds})
        print(f"{command:62} {seconds:8.3f} s")
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
