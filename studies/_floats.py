r"""Truths about products below the floats: many digits, exact powers, and what real multiplication gives.

    f^m < 2^-149 (float32), 2^-1074 (float64), 2^-126 (float32 with subnormals flushed)

A small LSTM is multiplied out backwards with 40 digits:
    to_s += to_h B,  to_a = to_s A + to_h C,  to_h' = to_a U,  to_s' = to_s F
where ds = F ds' + A da and dh = B ds + C da; s the cell state, a = W x + U h' + b the arguments of the gates.
Source: IEEE 754; the equations of the cell as torch.nn.LSTM documents them.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import torch
import xarray as xr
from torch import nn

import depprobe

#: (n, d) of the LSTM that is multiplied out in many digits
MANY_DIGITS = (1000, 3)
#: constant factors -> lags from which the exact power is below float32, below float64, and below float32 with
#: subnormals flushed to zero (known apart from this program)
FACTORS = {
    "0.5": (150, 1075, 127),
    "1/sqrt(3)": (189, 1356, 159),
    "sigma(1)": (330, 2377, 279),
    "0.9": (981, 7066, 829),
    "0.99": (10277, 74072, 8690),
}
VALUES = (0.5, 1 / math.sqrt(3), 1 / (1 + math.exp(-1)), 0.9, 0.99)


def many_digits() -> xr.Dataset:
    """A small LSTM multiplied out with 40 digits, as the chain's second truth."""
    n, d = MANY_DIGITS
    torch.manual_seed(0)
    module, x = nn.LSTM(d, d, batch_first=True).double(), torch.randn(n, d, dtype=torch.float64)
    chain = depprobe.jacobian(module, x).log_norm.values[0, ::-1]
    exact = np.vectorize(mpmath.mpf, otypes=[object])
    sigma = np.vectorize(lambda a: 1 / (1 + mpmath.exp(-a)), otypes=[object])
    tanh = np.vectorize(mpmath.tanh, otypes=[object])
    with mpmath.workdps(40):
        W, U, b, c = (exact(p.detach().numpy()) for p in module.parameters())
        h = s = exact(np.zeros(d))
        steps = []
        for u in exact(x.numpy()):
            i, f, g, o = np.split(W @ u + U @ h + b + c, 4)
            i, f, g, o = sigma(i), sigma(f), tanh(g), sigma(o)
            kept, s = s, f * s + i * g
            t, h = tanh(s), o * tanh(s)
            zero = np.diag(exact(np.zeros(d)))
            A = np.hstack(
                [np.diag(g * i * (1 - i)), np.diag(kept * f * (1 - f)), np.diag(i * (1 - g**2)), zero]
            )
            B, C = np.diag(o * (1 - t**2)), np.hstack([zero] * 3 + [np.diag(t * o * (1 - o))])
            steps.append((A, B, C, np.diag(f)))
        found = []
        to_h, to_s = np.diag(exact(np.ones(d))), np.diag(exact(np.zeros(d)))
        for A, B, C, F in reversed(steps):
            to_s = to_s + to_h @ B
            to_a = to_s @ A + to_h @ C
            found.append(float(mpmath.log(mpmath.sqrt(sum(v**2 for v in (to_a @ W).ravel())))))
            to_h, to_s = to_a @ U, to_s @ F
    words = {"long_name": "chain minus 40 digits, natural log of the norm", "units": "ln 1"}
    gap = xr.DataArray(chain - np.array(found), dims="lag_small", attrs=words)
    return xr.Dataset({"gap_many_digits": gap, "log_many_digits": ("lag_small", found)})


def powers() -> xr.Dataset:
    """Powers of constant factors: where the exact value and where real products leave the floats."""
    length = 1101
    running = np.empty((len(VALUES), length))
    rows = []
    for index, factor in enumerate(VALUES):
        exact = [_exact_lag(factor, bits) for bits in (149, 1074, 126)]
        product, values = np.float32(1), [np.float32(1)]
        while product > 0 and (after := product * np.float32(factor)) != product:
            product = after
            values.append(product)
        with np.errstate(divide="ignore"):
            logs = np.log(np.array(values, dtype=np.float64))
        running[index] = logs[np.minimum(np.arange(length), len(logs) - 1)]
        stops = len(values) - 1
        rows.append((*exact, _flushed_lag(factor), stops, float(product)))
    names = ("lag_float32", "lag_float64", "lag_normal", "lag_flushed", "lag_stops", "sticks_at")
    words = (
        "lag from which the exact power is below the smallest float32",
        "lag from which the exact power is below the smallest float64",
        "lag from which the exact power is below the smallest normal float32",
        "lag from which the product is 0 with subnormals flushed; NaN where the processor cannot",
        "lag from which the float32 product stays as it is",
        "value at which it stays",
    )
    table = zip(names, words, np.array(rows).T, strict=True)
    variables = {
        name: ("factor", column, {"long_name": text, "units": "1" if name == "sticks_at" else "steps"})
        for name, text, column in table
    }
    words_of_power = {"long_name": "natural log of the product in float32", "units": "ln 1"}
    return xr.Dataset(
        variables | {"log_power": (("factor", "power"), running, words_of_power)},
        {"factor": list(FACTORS), "power": np.arange(length)},
    )


def _exact_lag(factor: float, bits: int) -> int:
    """First m with factor^m < 2^-bits."""
    with mpmath.workdps(40):
        m = int(mpmath.floor(bits * mpmath.log(2) / -mpmath.log(mpmath.mpf(factor)))) + 1
        assert mpmath.mpf(factor) ** m < mpmath.mpf(2) ** -bits <= mpmath.mpf(factor) ** (m - 1)
    return m


def _flushed_lag(factor: float) -> float:
    """Steps until the float32 product is 0 where subnormals are flushed; NaN where the processor cannot."""
    if not torch.set_flush_denormal(True):
        return math.nan
    try:
        product, by, lag = torch.ones(1), torch.full((1,), factor), 0
        while product.item() > 0:
            product, lag = product * by, lag + 1
    finally:
        torch.set_flush_denormal(False)
    return lag
