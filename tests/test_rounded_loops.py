"""Errors of loops whose states are single numbers: products rounded one after another, and constants."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
import torch

import depprobe
from depprobe.core.scaled import Scaled
from depprobe.operators.composed.cotangents import Rows
from depprobe.operators.last_bits import Constants


class Loop(torch.nn.Module):
    """A loop by hand over a state of d numbers, in one of a few ways, without an activation."""

    def __init__(self, kind: str, d: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.kind, self.c = kind, 0.7 + 0.3 * float(torch.rand(()))
        self.a = torch.nn.Parameter(torch.rand(d) / 2 + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = before = torch.zeros_like(x[:, 0])
        out = []
        for u in x.unbind(1):
            if self.kind == "quotient":
                h = h / (1 + 0.3 * self.c) + u
            elif self.kind == "parameter":
                h = self.a * h + u
            elif self.kind == "two lags":
                h, before = 0.5 * h + 0.3 * self.c * before + u, h
            else:
                h, before = self.c * h - 0.37 * before + u, self.c * before + 0.37 * h
            out.append(h)
        return torch.stack(out, 1)


def covered(kind: str, d: int, seed: int, method: str) -> np.ndarray:
    """Whether each norm of a float32 loop, which is linear, lies within its error of the float64 loop's."""
    x = torch.randn(1, 80, d, generator=torch.Generator().manual_seed(seed))
    found = depprobe.jacobian(Loop(kind, d, seed), x, method=method, layout="b n d").squeeze()
    v = x.double().requires_grad_()
    y = Loop(kind, d, seed).double()(v)[0, -1]
    squares = [torch.autograd.grad(part, v, retain_graph=True)[0][0].square().sum(1) for part in y]
    gap = np.abs(found.log_norm.values - sum(squares).log().numpy() / 2)
    assert np.isfinite(gap).all()
    return gap <= found.log_norm_error.values


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("quotient", "auto"),
        ("parameter", "auto"),
        ("parameter", "autograd"),
        ("two lags", "autograd"),
        ("oscillator", "autograd"),
    ],
)
def test_errors_of_loops_of_single_numbers_cover_what_exact_arithmetic_finds(kind, method):
    shares = [covered(kind, d, seed, method).mean() for d, seed in itertools.product((1, 2), range(4))]
    assert np.mean(shares) >= 0.95


def test_constants_that_are_no_float32_change_on_the_way_back_alike_and_others_stay():
    def back(c: float, x: torch.Tensor, *modes: Constants) -> torch.Tensor:
        y = x
        for _ in range(20):
            y = y * c * 0.5
        with contextlib.ExitStack() as on:
            for mode in modes:
                on.enter_context(mode)
            return torch.autograd.grad(y.sum(), x)[0]

    x = torch.ones(3, requires_grad=True)
    apart = back(0.9, x, Constants()).double() / (float(np.float32(0.9)) / 2) ** 20 - 1
    assert (apart.abs() > 8 * torch.finfo(torch.float32).eps).all()
    assert torch.equal(back(0.75, x, Constants()), back(0.75, x))
    v = torch.ones(3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(back(0.9, v, Constants()), back(0.9, v))


@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 1e30), (torch.float64, 1e100)])
def test_rescaling_keeps_every_digit(dtype, far):
    """Of a single number over its own peak nothing would be left but 1."""
    values = torch.tensor([[0.7 / far, 0.03 / far], [1.3 * far, -0.009 * far]], dtype=dtype)
    log_scale = torch.zeros(2, 1, dtype=torch.float64)
    rows = Rows(
        Scaled(values, log_scale), torch.ones(1, 2, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    )
    for kept in (Scaled(values, log_scale).settled((1,)), rows.settled(0, 0.0).scaled):
        mantissas, _ = kept.values.frexp()
        torch.testing.assert_close(mantissas, values.frexp()[0], rtol=0, atol=0)
        assert (kept.log_scale != 0).all()
