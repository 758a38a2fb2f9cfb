"""Arguments of every operator's methods, checked once; negative positions count from the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.core.calling.positions import positions_of
from depprobe.errors import BadInput
from depprobe.operators import temporal_jacobian

N, D = 9, 4


class Wrapped(nn.Module):
    """Cut into a graph: a recurrence, and something of one's own."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(D, D, batch_first=True)

    def forward(self, x):
        return x + self.gru(x)[0].sin()


MODULES = {
    "chain": nn.GRU(D, D, batch_first=True),
    "attention": nn.MultiheadAttention(D, 2, batch_first=True),
    "toeplitz": nn.Conv1d(D, D, 3, padding=1),
    "stack": nn.Sequential(nn.Conv1d(D, D, 3, padding=1), nn.ReLU(), nn.Conv1d(D, D, 3, padding=1)),
    "graph": Wrapped(),
    "autograd": nn.Linear(D, D),
}


@pytest.fixture(params=MODULES)
def operator(request):
    method = "autograd" if request.param == "autograd" else "auto"
    module = MODULES[request.param].double()
    return temporal_jacobian(module, torch.randn(N, D, dtype=torch.float64), method=method)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda J: J.log_norms([99]), "target 99 lies outside the 9 positions; use -9 to 8"),
        (lambda J: J.log_norms([0], [99]), "source 99 lies outside the 9 positions; use -9 to 8"),
        (lambda J: J.log_norms("last"), "targets must be a list of whole numbers, not 'last'"),
        (lambda J: J.log_norms(3), "targets must be a list of whole numbers, not 3"),
        (lambda J: J.log_norms([]), "targets must be a list of whole numbers, not an empty list"),
        (lambda J: J.log_norms([0], []), "sources must be a list of whole numbers, not an empty list"),
        (lambda J: J.log_norms([1.5]), "target must be a whole number, not 1.5"),
        (lambda J: J.log_norms([0], norm="l1"), "unknown norm 'l1'"),
        (lambda J: J.row(99), "target 99 lies outside the 9 positions"),
        (lambda J: J.row(-10), "target -10 lies outside the 9 positions"),
        (lambda J: J.block(0, 99), "source 99 lies outside the 9 positions"),
        (lambda J: J.singular_values(0, 1.0), "source must be a whole number, not 1.0"),
        (lambda J: J.support("3"), "target must be a whole number, not '3'"),
        (
            lambda J: J.vjp(torch.ones(N, D + 1)),
            r"cotangent must be a floating tensor of shape \(9, 4\)",
        ),
        (lambda J: J.vjp(np.ones((N, D))), r"cotangent must be a floating tensor of shape \(9, 4\)"),
        (
            lambda J: J.jvp(torch.ones(D)),
            r"tangent must be a floating tensor of shape \(9, 4\)",
        ),
        (lambda J: J.jvp(torch.ones(N, D, dtype=torch.long)), r"tangent must be a floating tensor of shape"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(operator, call, said):
    with pytest.raises(BadInput, match=said) as caught:
        call(operator)
    assert "\n" not in str(caught.value)


def test_negative_positions_count_from_the_end(operator):
    dense = operator.log_norms([8, 2], [7, 0]).values
    np.testing.assert_array_equal(operator.log_norms([-1, np.int64(-7)], [-2, -9]).values, dense)
    assert torch.equal(operator.block(-1, -2).dense(), operator.block(8, 7).dense())
    assert torch.equal(operator.row(-4).dense(), operator.row(5).dense())


def test_products_take_other_dtypes(operator):
    cotangent = torch.ones(N, D)
    assert torch.equal(operator.vjp(cotangent), operator.vjp(cotangent.double()))
    assert torch.equal(operator.jvp(cotangent), operator.jvp(cotangent.double()))


def test_positions_too_large_to_count_lags_from_are_refused():
    with pytest.raises(BadInput, match=r"position holds 1e\+300"):
        positions_of([0.0, 1e300], 2, 5, True)


class Centred(nn.Module):
    """Writes into what it is given."""

    def forward(self, x):
        x -= x.mean(1, keepdim=True)
        return x.tanh()


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("module", [*MODULES.values(), Centred()], ids=[*MODULES, "in place"])
def test_an_input_may_change_after_it_was_copied(module, copy):
    layout = "b n d" if isinstance(module, Centred) else None
    # other tests share the modules, in the dtype that they like
    x = torch.randn(N, D, dtype=next((p.dtype for p in module.parameters()), torch.float64))
    given = x.clone()
    truth = temporal_jacobian(module, x.clone(), layout=layout).log_norms([N - 1]).values
    operator = temporal_jacobian(module, x, layout=layout, copy=copy)
    assert torch.equal(x, given)
    if copy:
        x.zero_()
    np.testing.assert_array_equal(operator.log_norms([N - 1]).values, truth)
    assert torch.equal(x, torch.zeros_like(x) if copy else given)


@pytest.mark.parametrize("method", ["autograd", "probes"])
@pytest.mark.parametrize("measure", [temporal_jacobian, depprobe.jacobian])
def test_a_tolerance_is_refused_where_nothing_is_compressed(method, measure):
    module, x = nn.GRU(D, D, batch_first=True), torch.randn(N, D)
    with pytest.raises(BadInput, match=f"tolerance has no meaning with method '{method}'"):
        measure(module, x, method=method, tolerance=1e-6)
    measure(module, x, method=method)
    measure(module, x, tolerance=1e-6)
