r"""Random cases in which rounding errors of structured operators are compared with 100-digit arithmetic.

    truth = ln ||J[t,k]|| in exact arithmetic at the states that the forward pass returned

Recurrences: non-normal, saturated, exploding and cancelling weights, gains 0.1 to 30, in float32 and float64.
Step Jacobians are written out in balls of python-flint, apart from the package's own code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import flint
import numpy as np
import torch
from flint import arb, arb_mat
from torch import Tensor, nn

from depprobe import temporal_jacobian

flint.ctx.dps = 100

#: kinds of recurrent weights
WEIGHTS = ("gaussian", "orthogonal", "nilpotent", "jordan", "rank one", "uncoupled", "positive", "graded")
CELLS = ("tanh", "relu", "gru", "lstm")


class Compared(NamedTuple):
    """Norms of one case at some sources: stated values, stated bounds and true errors, all (m,); the error is
    NaN where the value is.
    """

    name: str
    values: np.ndarray
    bound: np.ndarray
    error: np.ndarray
    undecided: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """Whether the truth lies within the bound, or the norm is said to be undecided."""
        return self.undecided | (np.abs(self.error) <= self.bound)

    @property
    def width(self) -> float:
        """Median ratio of bound to error, of the errors above 4 units in the last place; NaN if none is."""
        size = np.abs(self.error)
        least = 4 * np.finfo(np.float64).eps * np.maximum(1, np.abs(self.values))
        seen = ~self.undecided & np.isfinite(size) & (size > least)
        return float(np.median(self.bound[seen] / size[seen])) if seen.any() else np.nan


def _matrix(kind: str, d: int, gain: float) -> Tensor:
    G = torch.randn(d, d, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0]
    shift = torch.diag(torch.ones(d - 1, dtype=torch.float64), 1)
    if kind == "orthogonal":
        return gain * Q
    if kind == "nilpotent":
        return gain * Q @ shift @ Q.T
    if kind == "jordan":
        return gain * Q @ (0.5 * torch.eye(d, dtype=torch.float64) + shift) @ Q.T
    if kind == "rank one":
        return gain * torch.outer(Q[0], Q[-1]) + 1e-3 * G
    if kind == "uncoupled":
        half = torch.arange(d) < (d + 1) // 2
        return gain * G / d**0.5 * (half[:, None] == half)
    if kind == "positive":
        return gain * G.abs() / d
    if kind == "graded":
        sizes = torch.logspace(0, -8, d, dtype=torch.float64)
        return gain * sizes[:, None] * G / sizes
    return gain * G / d**0.5


def recurrent_case(seed: int, wide: bool = False) -> tuple[str, nn.RNNBase, Tensor]:
    """A recurrence and its input; widths to 16, or 64."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    cell, kind = CELLS[seed % 4], WEIGHTS[(seed // 4) % len(WEIGHTS)]
    dtype = (torch.float64, torch.float32)[(seed // 32) % 2]
    d, d_in = (64, 8) if wide else (int(rng.integers(1, 17)), int(rng.integers(1, 9)))
    n = 24 if wide else int(rng.integers(5, 41))
    gain = float(np.exp(rng.uniform(np.log(0.1), np.log(30))))
    make = {"tanh": nn.RNN, "relu": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell]
    module = make(d_in, d, **({"nonlinearity": "relu"} if cell == "relu" else {})).double()
    saturated = rng.random() < 0.3
    with torch.no_grad():
        for rows in module.weight_hh_l0.split(d):
            rows.copy_(_matrix(kind, d, gain))
        if saturated and cell in ("gru", "lstm"):
            for part in module.bias_ih_l0.split(d):
                part += float(rng.choice([-25, -8, 0, 8, 25]))
        elif saturated:
            module.bias_ih_l0 *= 20
    x = float(rng.choice([1e-9, 1, 1, 1, 10])) * torch.randn(n, d_in, dtype=torch.float64)
    if settled := rng.random() < 0.15:
        # equal steps make equal errors
        x = x[:1].repeat(n, 1)
    words = " saturated" * saturated + " settled" * settled
    name = f"{seed} {cell} {kind} {str(dtype)[6:]} d={d} n={n} gain={gain:.2g}{words}"
    return name, module.to(dtype), x.to(dtype)


def _exact(values: Tensor) -> arb_mat:
    values = values.detach().double()
    return arb_mat([[arb(v) for v in row] for row in values.tolist()])


def _scaled(slopes: list[arb], W: arb_mat) -> arb_mat:
    rows, columns = W.nrows(), W.ncols()
    return arb_mat(rows, columns, [slopes[i] * W[i, j] for i in range(rows) for j in range(columns)])


def _sigma(z: arb) -> arb:
    return 1 / (1 + (-z).exp())


def _slope(z: arb) -> arb:
    return 1 / ((1 + (-z).exp()) * (1 + z.exp()))


def _minus_tanh(h: arb, z: arb) -> arb:
    return h - 1 + 2 / ((2 * z).exp() + 1) if z > 0 else h + 1 - 2 / ((-2 * z).exp() + 1)


def recurrent_truth(module: nn.RNNBase, x: Tensor) -> list[arb]:
    """ln ||dh_{n-1} / dx_k|| for every k, exactly; -inf is a NaN ball."""
    with torch.no_grad():
        h = module(x)[0]
    hs = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
    d, n = h.shape[1], len(x)
    W, U = _exact(module.weight_ih_l0), _exact(module.weight_hh_l0)
    biases = (
        (module.bias_ih_l0, module.bias_hh_l0) if module.bias else [torch.zeros(len(module.weight_ih_l0))] * 2
    )
    b, a = (_exact(bias[:, None]) for bias in biases)
    gates = W.nrows() // d
    WU = [
        arb_mat([[part[g * d + i, j] for part in (U, W) for j in range(part.ncols())] for i in range(d)])
        for g in range(gates)
    ]
    c, steps = [arb(0)] * d, []
    for k in range(n):
        zx, zh = W * _exact(x[k][:, None]) + b, U * _exact(hs[k][:, None]) + a
        before = [arb(v) for v in hs[k].double().tolist()]
        zx, zh = ([part[i, 0] for i in range(gates * d)] for part in (zx, zh))
        z = [p + q for p, q in zip(zx, zh, strict=True)]
        if isinstance(module, nn.LSTM):
            i, f, g, o = (z[m * d : m * d + d] for m in range(4))
            new = [_sigma(f[m]) * c[m] + _sigma(i[m]) * g[m].tanh() for m in range(d)]
            M = (
                _scaled([_slope(i[m]) * g[m].tanh() for m in range(d)], WU[0])
                + _scaled([_slope(f[m]) * c[m] for m in range(d)], WU[1])
                + _scaled([_sigma(i[m]) * 4 * _slope(2 * g[m]) for m in range(d)], WU[2])
            )
            to_h = [_sigma(o[m]) * 4 * _slope(2 * new[m]) for m in range(d)]
            N = _scaled(to_h, M) + _scaled([_slope(o[m]) * new[m].tanh() for m in range(d)], WU[3])
            keep = [_sigma(v) for v in f]
            full = [[keep[m] if j == m else arb(0) for j in range(d)] for m in range(d)]
            full = [row + [M[m, j] for j in range(M.ncols())] for m, row in enumerate(full)]
            low = [[to_h[m] * keep[m] if j == m else arb(0) for j in range(d)] for m in range(d)]
            full += [row + [N[m, j] for j in range(N.ncols())] for m, row in enumerate(low)]
            c, step = new, arb_mat(full)
        elif isinstance(module, nn.GRU):
            r, u = z[:d], z[d : 2 * d]
            hn = zh[2 * d :]
            new = [zx[2 * d + m] + _sigma(r[m]) * hn[m] for m in range(d)]
            s = [_sigma(-u[m]) * 4 * _slope(2 * new[m]) for m in range(d)]
            step = _scaled([s[m] * hn[m] * _slope(r[m]) for m in range(d)], WU[0]) + _scaled(
                [_minus_tanh(before[m], new[m]) * _slope(u[m]) for m in range(d)], WU[1]
            )
            reset = [[_sigma(v)] * d + [arb(1)] * (WU[2].ncols() - d) for v in r]
            last = [[WU[2][m, j] * factor for j, factor in enumerate(row)] for m, row in enumerate(reset)]
            step += _scaled(s, arb_mat(last))
            direct = [[_sigma(u[m]) if j == m else arb(0) for j in range(step.ncols())] for m in range(d)]
            step += arb_mat(direct)
        elif module.mode == "RNN_RELU":
            step = _scaled([arb(1) if v > 0 else arb(0) for v in z], WU[0])
        else:
            step = _scaled([4 * _slope(2 * v) for v in z], WU[0])
        steps.append(step)
    return _norms(steps, d)


def _norms(steps: list[arb_mat], d: int) -> list[arb]:
    S, width = steps[0].nrows(), steps[0].ncols()
    R = arb_mat([[arb(int(j == S - d + i)) for j in range(S)] for i in range(d)])
    logs = []
    for step in reversed(steps):
        full = R * step
        parts = [full[i, j] for i in range(d) for j in range(S, width)]
        logs.append(sum((v * v for v in parts), arb(0)).log() / 2)
        R = arb_mat([[full[i, j] for j in range(S)] for i in range(d)])
    return logs[::-1]


def compared(name: str, truth: list[arb], values: np.ndarray, bound: np.ndarray) -> Compared:
    """Stated norms beside true ones; exact zeros on both sides agree."""
    error = np.full(len(values), np.nan)
    for k, (true, value) in enumerate(zip(truth, values.tolist(), strict=True)):
        if np.isneginf(value):
            error[k] = 0 if not true.is_finite() else np.inf
        elif np.isfinite(value):
            error[k] = float((arb(value) - true).mid()) if true.is_finite() else np.inf
    return Compared(name, values, bound, error, np.isnan(values))


def stated(module: nn.Module, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Norms of the last target's blocks and bounds on their errors."""
    found = temporal_jacobian(module, x, layout="n d").log_norms([len(x) - 1])
    assert found.error is not None
    return found.values[0], found.error[0]


def recurrent_cases(seeds: range, wide: bool = False) -> Iterator[Compared]:
    """Recurrences compared with the truth, at every source of the last target."""
    for seed in seeds:
        name, module, x = recurrent_case(seed, wide)
        yield compared(name, recurrent_truth(module, x), *stated(module, x))


def attention_case(seed: int, wide: bool = False) -> tuple[str, nn.MultiheadAttention, Tensor]:
    """Attention and its input: gains 0.1 to 30, nearly one-hot weights, duplicate keys; width to 16, 64."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    dtype = (torch.float64, torch.float32)[seed % 2]
    heads = int(rng.choice([1, 2, 4]))
    d = 64 if wide else heads * int(rng.integers(1, 16 // heads + 1))
    n, gain = int(rng.integers(2, 13)), float(np.exp(rng.uniform(np.log(0.1), np.log(30))))
    module = nn.MultiheadAttention(d, heads, bias=bool(rng.random() < 0.5), batch_first=True).double()
    with torch.no_grad():
        module.in_proj_weight[: 2 * d] = gain**0.5 * torch.randn(2 * d, d) / d**0.5
        if module.in_proj_bias is not None:
            module.in_proj_bias.normal_()
    x = float(rng.choice([1e-6, 1, 1, 3])) * torch.randn(n, d, dtype=torch.float64)
    twins = rng.random() < 0.3
    if twins:
        x[-1] = x[0]
        x[n // 2] = x[0]
    shifted = rng.random() < 0.3
    if shifted:
        x += 10
    words = " twins" * twins + " shifted" * shifted
    name = f"{seed} attention {str(dtype)[6:]} d={d} heads={heads} n={n} gain={gain:.2g}{words}"
    return name, module.to(dtype), x.to(dtype)


def attention_truth(module: nn.MultiheadAttention, x: Tensor) -> list[arb]:
    """ln ||dy_{n-1} / dx_k|| for every k, exactly: 500 digits for weights of 1e-300."""
    with flint.ctx.workdps(500):
        d, n, heads = x.shape[1], len(x), module.num_heads
        e, t = d // heads, n - 1
        X = _exact(x).transpose()
        W = [_exact(part) for part in module.in_proj_weight.chunk(3)]
        no_bias = torch.zeros(3 * d) if module.in_proj_bias is None else module.in_proj_bias
        ones = arb_mat([[arb(1)] * n])
        Q, K, V = (w * X + _exact(b[:, None]) * ones for w, b in zip(W, no_bias.chunk(3), strict=True))
        W_O, root = _exact(module.out_proj.weight), arb(e).sqrt()
        blocks = [arb_mat(d, d) for _ in range(n)]
        for h in range(heads):
            rows = range(h * e, h * e + e)
            s = [sum((Q[i, t] * K[i, j] for i in rows), arb(0)) / root for j in range(n)]
            w = [(v - s[0]).exp() for v in s]
            a = [v / sum(w, arb(0)) for v in w]
            o = [sum((a[j] * V[i, j] for j in range(n)), arb(0)) for i in rows]
            part = arb_mat([[W_O[i, j] for j in rows] for i in range(d)])
            WQ, WK, WV = (arb_mat([[w_[i, j] for j in range(d)] for i in rows]) for w_ in W)
            p = arb_mat([[Q[i, t] / root for i in rows]]) * WK
            for k in range(n):
                u = arb_mat([[V[i, k] - o[m]] for m, i in enumerate(rows)])
                inner = a[k] * (WV + u * p)
                if k == t:
                    for j in range(n):
                        apart = arb_mat([[V[i, j] - o[m]] for m, i in enumerate(rows)])
                        inner += a[j] / root * (apart * arb_mat([[K[i, j] for i in rows]]) * WQ)
                blocks[k] += part * inner
        return [sum((v * v for v in block.entries()), arb(0)).log() / 2 for block in blocks]


def attention_cases(seeds: range, wide: bool = False) -> Iterator[Compared]:
    """Attention compared with the truth, at every source of the last target."""
    for seed in seeds:
        name, module, x = attention_case(seed, wide)
        yield compared(name, attention_truth(module, x), *stated(module, x))


def convolution_case(seed: int) -> tuple[str, nn.Conv1d, Tensor]:
    """A convolution whose padding makes taps meet, some of which nearly cancel."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    dtype = (torch.float64, torch.float32)[seed % 2]
    mode = str(rng.choice(["circular", "replicate", "reflect"]))
    kernel, d_in, d_out = 2 * int(rng.integers(1, 5)) + 1, int(rng.integers(1, 17)), int(rng.integers(1, 17))
    n, nearly = int(rng.integers(kernel // 2 + 1, 12)), 10.0 ** -float(rng.integers(0, 16))
    conv = nn.Conv1d(d_in, d_out, kernel, padding=kernel // 2, padding_mode=mode).double()
    with torch.no_grad():
        conv.weight *= float(np.exp(rng.uniform(np.log(0.1), np.log(30))))
        conv.weight[:, :, 1::2] = -conv.weight[:, :, :-1:2] * (1 + nearly * torch.rand(1))
    name = f"{seed} convolution {str(dtype)[6:]} {mode} kernel={kernel} n={n} cancels to {nearly:.0e}"
    return name, conv.to(dtype), torch.zeros(n, d_in, dtype=dtype)


def convolution_truth(conv: nn.Conv1d, n: int) -> list[arb]:
    """ln norm of the blocks of the last output, from the positions that torch's own padding reads."""
    half = conv.kernel_size[0] // 2
    read = nn.functional.pad(
        torch.arange(n, dtype=torch.float64)[None, None], (half, half), mode=conv.padding_mode
    )
    source = read[0, 0, n - 1 : n + 2 * half].long().tolist()
    logs = []
    for k in range(n):
        taps = [_exact(conv.weight[:, :, i]) for i, at in enumerate(source) if at == k]
        total = sum(taps, arb_mat(conv.out_channels, conv.in_channels))
        logs.append(sum((v * v for v in total.entries()), arb(0)).log() / 2)
    return logs


def convolution_cases(seeds: range) -> Iterator[Compared]:
    """Convolutions compared with the truth, at every source of the last target."""
    for seed in seeds:
        name, conv, x = convolution_case(seed)
        found = temporal_jacobian(conv, x).log_norms([len(x) - 1])
        assert found.error is not None
        yield compared(name, convolution_truth(conv, len(x)), found.values[0], found.error[0])
