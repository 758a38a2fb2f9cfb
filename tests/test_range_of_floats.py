r"""Norms near the ends of the float range, and states beyond it.

    GRU    z = sigma(371 + ...):    J[t,k] carries sigma(-z), 1e-161
    LSTM   o = sigma(-371 + ...):   J[t,k] carries o, 1e-161
    RNN    h = tanh(185 + ...):     J[t,k] carries 1 - h^2, 1e-160 a step
    relu   h_t = W h_{t-1} + U x_t with all units on:  J[t,k] = W^(t-k) U

Squares of such entries underflow wholly or in part. The truth is a difference quotient in exact arithmetic.
"""

from __future__ import annotations

import functools
import math

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf
from torch import nn

from depprobe.operators import temporal_jacobian
from depprobe.vocabulary import STATUS

F64 = torch.float64
N = 3


def _sigmoid(z):
    return 1 / (1 + mpmath.exp(-z))


def _steps(module, x):
    """Outputs (n, d) of a recurrent layer at x (n, d_in), in arithmetic of many digits."""
    hh, ih, b_hh, b_ih = (
        mpmath.matrix(getattr(module, f"{name}_l0").tolist())
        for name in ("weight_hh", "weight_ih", "bias_hh", "bias_ih")
    )
    d = module.hidden_size
    h, c, out = mpmath.zeros(d, 1), mpmath.zeros(d, 1), []
    for row in x:
        read, kept = ih * mpmath.matrix(row) + b_ih, hh * h + b_hh
        gates = [(read[i : i + d], kept[i : i + d]) for i in range(0, len(read), d)]
        if isinstance(module, nn.GRU):
            (r, rh), (z, zh), (new, new_h) = gates
            r = [_sigmoid(a + b) for a, b in zip(r, rh, strict=True)]
            z = [a + b for a, b in zip(z, zh, strict=True)]
            new = [mpmath.tanh(a + b * s) for a, b, s in zip(new, new_h, r, strict=True)]
            h = mpmath.matrix([_sigmoid(-g) * a + _sigmoid(g) * b for g, a, b in zip(z, new, h, strict=True)])
        elif isinstance(module, nn.LSTM):
            i, f, g, o = ([a + b for a, b in zip(*gate, strict=True)] for gate in gates)
            c = [
                _sigmoid(q) * mpmath.tanh(v) + _sigmoid(p) * s for q, v, p, s in zip(i, g, f, c, strict=True)
            ]
            h = mpmath.matrix([_sigmoid(q) * mpmath.tanh(s) for q, s in zip(o, c, strict=True)])
        else:
            h = mpmath.matrix([mpmath.tanh(a + b) for a, b in zip(*gates[0], strict=True)])
        out.append(h)
    return out


def _true_log_norms(module, x) -> np.ndarray:
    """ln norms of the blocks of the last output, (n,)."""
    step = mpf(10) ** -100
    rows = [[mpf(number) for number in row] for row in x.tolist()]
    before, norms = _steps(module, rows)[-1], []
    for k in range(len(rows)):
        square = mpf(0)
        for i in range(len(rows[0])):
            rows[k][i] += step
            square += sum(number**2 for number in (_steps(module, rows)[-1] - before) / step)
            rows[k][i] -= step
        norms.append(float(mpmath.log(square) / 2))
    return np.array(norms)


@functools.cache
def _at(case: str, shift: float):
    """A module and its input, and the truth of it."""
    kind, gate, bias = CASES[case]
    torch.manual_seed(3)
    module = kind(4, 12, batch_first=True).to(F64)
    with torch.no_grad():
        module.bias_ih_l0[gate] = bias * (1 + shift)
        module.bias_hh_l0[gate] = 0.0
    x = torch.randn(N, 4, dtype=F64)
    with mpmath.workdps(750 if case == "RNN" else 320):
        return module, x, _true_log_norms(module, x)


CASES = {
    "GRU": (nn.GRU, slice(12, 24), 371.0),
    "LSTM": (nn.LSTM, slice(36, 48), -371.0),
    "RNN": (nn.RNN, slice(0, 12), 185.0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("shift", [-0.05, -0.02, 0.0])
def test_norms_of_entries_whose_squares_underflow(case, method, shift):
    module, x, true = _at(case, shift)
    found = temporal_jacobian(module, x, method=method).log_norms([N - 1])
    values = found.values[0]
    if method == "auto":
        np.testing.assert_allclose(values, true, rtol=0, atol=1e-9)
        spectral = temporal_jacobian(module, x).log_norms([N - 1], norm="spectral").values[0]
        assert ((spectral <= values + 1e-12) & (spectral >= values - 0.5 * math.log(4) - 1e-12)).all()
    else:
        # torch itself loses 1 - z and 1 - h^2; a norm that is told is right
        assert np.isfinite(values).any() == (case == "LSTM")
        np.testing.assert_allclose(values[np.isfinite(values)], true[np.isfinite(values)], rtol=0, atol=1e-9)
        assert not np.isneginf(values).any()


def _growing(rate: float, depth: int = 1, both: bool = False) -> nn.RNN:
    module = nn.RNN(1, 2, depth, "relu", bias=False, batch_first=True, bidirectional=both).to(F64)
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.tensor([[rate, -1.0], [0.0, rate]]))
        module.weight_ih_l0.copy_(torch.tensor([[1.0], [0.001]]))
    return module


def _powers(rate: float, t: int, n: int) -> np.ndarray:
    """ln norms of W^(t-k) U = rate^lag (1 - lag / (1000 rate), 1 / 1000), (n,)."""
    lag = t - np.arange(n)
    norms = lag * math.log(rate) + np.log(np.hypot(1 - lag / (1000 * rate), 1e-3))
    return np.where(lag >= 0, norms, -np.inf)


@pytest.mark.parametrize(
    ("method", "rate", "n", "before"), [("auto", 3, 700, 600), ("autograd", 30, 220, 150)]
)
def test_a_state_that_overflows_is_no_zero(method, rate, n, before):
    operator = temporal_jacobian(_growing(rate), torch.ones(n, 1, dtype=F64), method=method)
    last = operator.log_norms([n - 1])
    known = np.isfinite(last.values)
    assert (np.isnan(last.values) | known).all()
    np.testing.assert_allclose(last.values[known], _powers(rate, n - 1, n)[known[0]], rtol=0, atol=1e-6)
    if method == "auto":
        assert not known.any()
        assert (last.status == STATUS["overflow"]).all()
        both = operator.log_norms([n - 1, before]).status
        assert np.unique(both[1, : before + 1]).tolist() == [STATUS["finite"]]
        assert np.unique(both[1, before + 1 :]).tolist() == [STATUS["zero"]]
    found = operator.log_norms([before]).values[0]
    np.testing.assert_allclose(found, _powers(rate, before, n), rtol=0, atol=1e-6)


@pytest.mark.parametrize("deep", [1, 2])
def test_the_direction_that_overflows_is_told(deep):
    torch.manual_seed(0)
    module = _growing(3.0, deep, both=True)
    found = temporal_jacobian(module, torch.ones(700, 1, dtype=F64)).log_norms([690, 30])
    past = found.status[0, :691]
    assert (past == STATUS["overflow"]).all()
    assert np.isnan(found.values[0, :691]).all()
    if deep == 1:
        # the other direction, and what lies before the overflow, is known
        assert np.isfinite(found.values[1]).all()
        assert (found.status[1] == STATUS["finite"]).all()
    else:
        assert (found.status == STATUS["overflow"]).all()
