"""Zeros that are none, and numbers of what has no derivative."""

import math

import pytest
import torch
from torch import nn

import depprobe
from depprobe.operators.autograd.saturation import Saturation
from depprobe.vocabulary import STATUS

METHODS = ("auto", "autograd")


class Of(nn.Module):
    """A function of x, with a matrix of scores beside."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture
def x():
    return torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def measured(function, x, method):
    found = depprobe.jacobian(Of(function), x, layout="b n d", targets="all", method=method)
    return torch.from_numpy(found.log_norm.values), torch.from_numpy(found.log_norm_status.values)


@pytest.mark.parametrize("method", METHODS)
def test_a_backward_that_swallows_nan_proves_no_zero(x, method):
    values, _ = measured(lambda z: z.logcumsumexp(1), x, method)
    weights = torch.log_softmax(
        x.expand(9, 9, 4).masked_fill(~torch.ones(9, 9).tril().bool()[..., None], -math.inf), 1
    )
    torch.testing.assert_close(values, 0.5 * torch.logsumexp(2 * weights, -1))


@pytest.mark.parametrize("method", METHODS)
def test_attention_that_looks_away_from_an_input_is_not_blind_to_it(x, method):
    """Weights of exp(-1000) are 0 in floats, at x; of an input that scores high they are not."""

    matrix = torch.randn(4, 4, dtype=x.dtype, generator=torch.Generator().manual_seed(2))

    def peaked(z):
        hidden = ~torch.ones(9, 9, dtype=torch.bool).tril()
        return (1e4 * z @ matrix @ z.mT).masked_fill(hidden, -math.inf).softmax(-1) @ z

    _, status = measured(peaked, x, method)
    zero = status == STATUS["zero"]
    assert zero.triu(1).any()
    assert not zero.tril().any()


@pytest.mark.parametrize("method", METHODS)
def test_an_output_that_is_nan_has_no_derivative(x, method):
    values, status = measured(torch.log, x, method)
    nan = x.log().isnan().any(1)
    assert nan.any()
    assert not nan.all()
    assert values.diagonal()[nan].isnan().all()
    assert (status.diagonal()[nan] == STATUS["not_a_number"]).all()
    torch.testing.assert_close(values.diagonal()[~nan], (1 / x[~nan]).norm(dim=1).log())


def test_a_dtype_asked_of_a_sum_sets_the_floor(x):
    """float32 inside a float64 module, without a cast: norms below its range are no numbers."""

    def mixed(z):
        h = torch.zeros_like(z[:, 0])
        out = []
        for t in range(z.shape[1]):
            h = torch.sum(
                torch.stack([h.float() * 1e-9 if t else h, z[:, t]]), 0, dtype=torch.float32
            ).double()
            out.append(h)
        return torch.stack(out, 1)

    values, _ = measured(mixed, x, "autograd")
    lag = torch.arange(9)[:, None] - torch.arange(9)
    known = values.isfinite()
    truth = 0.5 * math.log(4) + lag * math.log(1e-9)
    torch.testing.assert_close(values[known], truth[known].double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_the_error_of_what_is_not_known_is_not_known(method):
    """A state that overflows: no norm, and no error of 0 beside it."""
    module = nn.RNN(1, 2, nonlinearity="relu", bias=False).double()
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.tensor([[3.0, -1], [0, 3]]))
        module.weight_ih_l0.fill_(1)
    ds = depprobe.jacobian(module, torch.ones(700, 1, dtype=torch.float64), method=method)
    assert ds["log_norm"].isnull().any()
    assert (ds["log_norm"].isnull() == ds["log_norm_error"].isnull()).all()


class Attending(nn.Module):
    """Causal attention whose additive mask holds some number, as a module, a call, or written out."""

    def __init__(self, kind, number):
        super().__init__()
        self.kind = kind
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        # a buffer that was made in float32
        self.register_buffer("mask", torch.zeros(9, 9).masked_fill(torch.ones(9, 9).triu(1) > 0, number))

    def forward(self, x):
        if self.kind == "module":
            return self.attention(x, x, x, attn_mask=self.mask)[0]
        if self.kind == "call":
            return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=self.mask)
        return (x @ x.mT + self.mask).softmax(-1) @ x


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [torch.finfo(torch.float32).min, -1e30], ids=["lowest", "-1e30"])
@pytest.mark.parametrize("kind", ["module", "call", "written out"])
def test_a_mask_of_float32_hides_in_float64_too(x, kind, number, method):
    module = Attending(kind, number).double()
    found = depprobe.jacobian(module, x, layout="b n d", targets="all", method=method)
    zero = torch.from_numpy(found.log_norm_status.values) == STATUS["zero"]
    torch.testing.assert_close(zero, torch.ones(9, 9).triu(1) > 0)


@pytest.mark.parametrize("number", [torch.finfo(torch.float64).min, torch.finfo(torch.float32).min])
def test_the_lowest_number_hides_from_attention_alone(x, number):
    """As it does inside a forward: norms of ln -1.8e308 would count as far dependencies."""
    module = nn.MultiheadAttention(4, 2, batch_first=True).double()
    mask = torch.zeros(9, 9, dtype=x.dtype).masked_fill(torch.ones(9, 9).triu(1) > 0, number)
    found = depprobe.jacobian(module, x, targets="all", forward={"attn_mask": mask})
    assert found.method == "attention"
    zero = torch.from_numpy(found.log_norm_status.values) == STATUS["zero"]
    torch.testing.assert_close(zero, torch.ones(9, 9).triu(1) > 0)


MASK = torch.tensor([1.0, 1, 0, 0, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("method", [*METHODS, "probes"])
def test_outputs_that_are_masked_read_nothing(x, method):
    """Times 0 and not filled with it: no structure shows it, and no norm of such an output is left."""

    def padded(z):
        return z.cumsum(1) * MASK[:, None]

    found = depprobe.jacobian(Of(padded), x, layout="b n d", targets="all", method=method)
    zero = torch.from_numpy(found.log_norm_status.values) == STATUS["zero"]
    torch.testing.assert_close(zero, (torch.ones(9, 9).tril() * MASK[:, None]) == 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("again", [False, True], ids=["", "that begins again"])
def test_a_product_that_fades_to_zero_is_not_masked(method, again):
    """exp(-9 t) as a product in float32: 0 from output 12 on, and none of these zeros is one."""
    x = torch.randn(18, 2, generator=torch.Generator().manual_seed(0))

    def fading(z):
        factors = 1e-4 * (1 + 0.1 * z.sin())
        if again:
            return torch.cat([factors[:, :15].cumprod(1), factors[:, 15:].cumprod(1)], 1)
        return factors.cumprod(1)

    _, status = measured(fading, x, method)
    first = torch.where(torch.arange(18) < (15 if again else 18), 0, 15)
    reached = (torch.arange(18) <= torch.arange(18)[:, None]) & (torch.arange(18) >= first[:, None])
    assert not (status[reached] == STATUS["zero"]).any()
    assert (status[~reached] == STATUS["zero"]).float().mean() > 0.5


def test_a_long_run_of_masked_outputs_takes_few_passes(x, monkeypatch):
    """Its ends are found by halves, and once for all of it."""
    taken = []
    gradient = Saturation._gradient

    def counted(self, t, raised=True):
        taken.append(t)
        return gradient(self, t, raised)

    monkeypatch.setattr(Saturation, "_gradient", counted)
    long = x.repeat(20, 1)
    mask = (torch.arange(180) < 40).to(x)[:, None]
    found = depprobe.jacobian(Of(lambda z: z.cumsum(1) * mask), long, layout="b n d", targets=[50, 100, 179])
    assert (found.log_norm_status == STATUS["zero"]).all()
    assert len(taken) < 30


#: factors that are not 0 in exact arithmetic, from numbers of a module: all are below 1e-330
SMALL = {
    "half of a gated linear unit": lambda one: nn.functional.glu(torch.cat([one, -800 * one])),
    "power": lambda one: (1e-4 * one) ** 120,
    "power of a number": lambda one: 0.1 ** (500 * one),
    "power of two": lambda one: torch.ldexp(one, torch.tensor([-1200])),
    "repeated square": lambda one: (1e-20 * one).square().square().square().square().square(),
    "quotient": lambda one: 1 / torch.cosh(800 * one),
    "product": lambda one: (1e-45 * one).expand(8).prod()[None],
    "cumulative product": lambda one: (1e-45 * one).expand(8).cumprod(0)[7:],
    "product in place": lambda one: (1e-200 * one).clone().mul_(1e-200 * one),
    "products of matrices": lambda one: torch.linalg.matrix_power(1e-9 * torch.eye(2).to(one), 50)[:1, 0],
    "exponential of a matrix": lambda one: torch.linalg.matrix_exp(-900 * torch.eye(2).to(one))[:1, 0],
    "distribution function": lambda one: torch.special.ndtr(-60 * one),
    "error function": lambda one: 1 - torch.erf(60 * one),
    "Bessel function": lambda one: torch.special.modified_bessel_k0(900 * one),
    "smaller dtype": lambda one: (1e-60 * one).float().to(one.dtype),
    "length": lambda one: (1e-200 * one).expand(4).norm(dim=0, keepdim=True),
    "convolution": lambda one: nn.functional.conv1d((1e-200 * one)[None], (1e-200 * one)[None, None])[0],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", SMALL)
def test_a_factor_that_only_rounds_to_zero_is_none(x, kind, method):
    class Fading(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, z):
            return z + SMALL[kind](self.one) * nn.functional.pad(z, (0, 0, 1, -1))

    found = depprobe.jacobian(Fading(), x, layout="b n d", targets="all", method=method)
    status = torch.from_numpy(found.log_norm_status.values)
    assert (status.diagonal(-1) == STATUS["undecided"]).all()
    assert (status.triu(1) + status.tril(-2)).unique().tolist() == [0, STATUS["zero"]]


@pytest.mark.parametrize("method", METHODS)
def test_factors_that_are_zero_stay_so(x, method):
    """Products by 0, powers of 0 and masks, among numbers that round to 0, are as they were."""
    step = torch.arange(9)[:, None] - torch.arange(9)

    def read(z):
        kept = torch.where(step >= 2, 0.1 ** (400.0 * step.clamp(min=0)), 0.0).to(z)
        return z + (kept @ z) * kept.sum(1, keepdim=True) + (0 * kept).mul_(kept) @ z.square()

    _, status = measured(read, x, method)
    assert (status.diagonal() == STATUS["finite"]).all()
    assert ((status == STATUS["undecided"]) == (step >= 2)).all()
    assert ((status == STATUS["zero"]) == ((step != 0) & (step < 2))).all()


@pytest.mark.parametrize("method", METHODS)
def test_products_by_masks_of_truth_values_are_looked_at(x, method):
    hidden = ~torch.ones(9, 9, dtype=torch.bool).tril()
    _, status = measured(
        lambda z: (1e-3 * torch.ones(9, 9).to(z) * ~hidden) @ z * hidden.any(1)[:, None], x, method
    )
    assert (status[:8][hidden[:8]] == STATUS["zero"]).all()
    assert (status[8] == STATUS["zero"]).all()
    assert (status[:8][~hidden[:8]] == STATUS["finite"]).all()


class CellLoop(nn.Module):
    """A loop over a cell of torch's."""

    def __init__(self):
        super().__init__()
        self.cell = nn.RNNCell(2, 3, nonlinearity="relu")

    def forward(self, x):
        h, out = torch.zeros(len(x), 3, dtype=x.dtype), []
        for step in x.unbind(1):
            h = self.cell(step, h)
            out.append(h)
        return torch.stack(out, 1)


class Around(nn.Module):
    """A recurrence inside a class of one's own; the sequence, or its last state."""

    def __init__(self, inner, state=False):
        super().__init__()
        self.inner, self.state = inner, state

    def forward(self, x):
        found = self.inner(x)
        if isinstance(found, tuple):
            return 2 * (found[1][-1] if self.state else found[0])
        return 2 * found


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda: nn.RNN(2, 3, 1, "relu", batch_first=True), False),
        (lambda: nn.RNN(2, 3, 1, "relu", batch_first=True), True),
        (lambda: nn.RNN(2, 3, 2, "relu", batch_first=True), False),
        (lambda: nn.RNN(2, 3, 1, "relu", batch_first=True, bidirectional=True), False),
        (lambda: nn.RNN(2, 3, 1, "relu", batch_first=True, bidirectional=True), True),
        (lambda: nn.RNN(2, 3, 2, "relu", batch_first=True, bidirectional=True), False),
        (CellLoop, False),
    ],
)
def test_nothing_passes_a_step_whose_units_are_all_off(make, state):
    """As the layer by itself: zeros are exactly those of autograd, which has no other zeros here."""
    torch.manual_seed(0)
    module = Around(make(), state).double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.abs_().add_(0.05)
    x = torch.rand(9, 2, dtype=torch.float64)
    x[[3, 6]] = -50
    exact = torch.autograd.functional.jacobian(lambda z: module(z[None])[0], x)
    exact = (exact[None] if state else exact).norm(dim=(1, 3))
    targets = None if state else "all"
    found = depprobe.jacobian(module, x, layout="b n d", **({} if state else {"targets": targets}))
    zero = torch.from_numpy(found.log_norm_status.values == STATUS["zero"])
    assert (zero == (exact == 0)).all()
    assert zero.any()
    assert (found.log_norm_status.values[~zero.numpy()] == STATUS["finite"]).all()
    torch.testing.assert_close(torch.from_numpy(found.log_norm.values), exact.log())
