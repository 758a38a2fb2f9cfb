"""Forwards composed at random, block by block against plain autograd."""

from __future__ import annotations

import math

import numpy as np
import torch
from forward_parts import POSITIVE, UNTOLD
from generated_forwards import Composed, Step, forwards
from hypothesis import HealthCheck, example, given, settings
from known_parts import F64

import depprobe
from depprobe.vocabulary import STATUS

#: relative to the block; and to the largest block, below which blocks are rounding
_RELATIVE, _FLOOR = 1e-9, 1e-13
#: ln of what float64 holds with all digits on the way
_LEAST = math.log(1e-280)


def laid_out(x, layout):
    """(n, d) as the module takes it."""
    return {"b n d": x[None], "n b d": x[:, None], "b d n": x.mT[None], "n d": x}[layout]


def time_first(y, layout):
    """What the module returned as (n, d)."""
    y = next(iter(y.values())) if isinstance(y, dict) else y[0] if isinstance(y, tuple) else y
    return {"b n d": lambda: y[0], "n b d": lambda: y[:, 0], "b d n": lambda: y[0].mT, "n d": lambda: y}[
        layout
    ]()


def truth(module, x, t):
    """Blocks of one row by one autograd.grad an output unit: (d_out, n, d)."""
    leaf = x.clone().requires_grad_()
    y = time_first(module(laid_out(leaf, module.layout)), module.layout)
    if not y.requires_grad:
        return x.new_zeros(y.shape[1], *x.shape)
    return torch.stack(
        [torch.autograd.grad(unit, leaf, retain_graph=True, materialize_grads=True)[0] for unit in y[t]]
    )


def sizes_of(row):
    """Frobenius norms (n,) of the blocks of a row (d_out, n, d), whose squares may underflow."""
    peak = row.abs().amax((0, 2))
    unit = torch.where(peak > 0, peak, 1)
    return peak * (row / unit[:, None]).norm(dim=(0, 2))


def checked(drawn):
    """Compare one forward with plain autograd; how many of its blocks have each status."""
    steps, n, d, layout, *_ = drawn
    module = Composed(*drawn)
    x = torch.randn(n, d, dtype=F64)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    J = depprobe.temporal_jacobian(module, x, layout=layout)
    assert J.method == "composed"
    n_out = J.shape[0]
    targets = sorted({0, n_out // 2, n_out - 1})
    norms = J.log_norms(targets)
    reason = any({step.joint, step.part, step.other} & UNTOLD for step in steps)
    count = dict.fromkeys(STATUS, 0)
    for i, t in enumerate(targets):
        expected, found = truth(module, x, t), J.row(t).dense()
        assert expected.shape == found.shape == (J.shape[1], n, d)
        sizes = sizes_of(expected)
        floor = _FLOOR * sizes.max()
        gap = sizes_of(found - expected)
        assert (gap <= _RELATIVE * sizes + floor).all(), (t, gap, sizes)
        values, status = norms.values[i], norms.status[i]
        for name, code in STATUS.items():
            count[name] += int((status == code).sum())
        size = sizes.numpy()
        zero, finite = status == STATUS["zero"], status == STATUS["finite"]
        assert (size[zero] <= float(floor)).all(), (t, size, status)
        close = np.abs(np.exp(values) - size) <= _RELATIVE * size + float(floor)
        assert close[finite].all(), (t, values, size)
        # what is neither is exactly zero in autograd, and there is a reason why it cannot be told
        undecided = status == STATUS["undecided"]
        assert (zero | finite | undecided).all(), (t, status)
        assert (size[undecided] == 0).all(), (t, size, status)
        assert not undecided.any() or reason or not size.any(), (t, size, status)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    return count


DRAWS = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=200, **DRAWS)
@given(forwards())
def test_blocks_of_composed_forwards_are_those_of_plain_autograd(drawn):
    checked(drawn)


def _between_recurrences() -> tuple:
    """Rows 1e-250 apart between positions, which a mean over neighbours then mixes."""
    parts = [("moving average", 0), ("relu RNN", 0), ("faded", 6), ("relu RNN", 0)]
    return [Step("then", part, part, seed) for part, seed in parts], 11, 2, "b n d", "tensor", 0


@settings(max_examples=100, **DRAWS)
@example(_between_recurrences())
@given(forwards(POSITIVE, ("then", "then", "residual", "in place", "cat", "tied")))
def test_where_nothing_cancels_the_smallest_block_has_its_digits(drawn):
    """Blocks 1e-280 below others of their row are compared digit by digit, without a floor."""
    _, n, d, layout, *_ = drawn
    module = Composed(*drawn)
    with torch.no_grad():
        for weight in module.parameters():
            weight.abs_()
    x = torch.rand(n, d, dtype=F64)
    J = depprobe.temporal_jacobian(module, x, layout=layout)
    targets = sorted({0, J.shape[0] // 2, J.shape[0] - 1})
    norms = J.log_norms(targets)
    for i, t in enumerate(targets):
        size = sizes_of(truth(module, x, t)).log().numpy()
        values, status = norms.values[i], norms.status[i]
        held = size > _LEAST
        assert (status[held] == STATUS["finite"]).all(), (t, values, size)
        np.testing.assert_allclose(values[held], size[held], rtol=0, atol=_RELATIVE)
        assert not (values[~held] > _LEAST).any(), (t, values, size)
