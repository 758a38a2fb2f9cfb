"""Rounding that rows or sources share, or that one repeat of a row may miss, is stated all the same."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid, softplus

import depprobe
from depprobe.operators.autograd.rounding import Rounding, Row
from depprobe.vocabulary import STATUS

N, D, H = 17, 3, 4


def blocks(module, x):
    """Norms (n_out, n_in), one ``autograd.grad`` for each output unit."""
    leaf = x.clone().requires_grad_()
    y = module(leaf[None])[0]
    rows = [[torch.autograd.grad(unit, leaf, retain_graph=True)[0] for unit in units] for units in y]
    return torch.stack([torch.stack(row).norm(dim=(0, 2)) for row in rows]).numpy()


def both(make, seed, scale=1.0, **options):
    """Norms in float32, and the truth in float64."""
    torch.manual_seed(seed)
    module, x = make(), scale * torch.randn(N, D)
    truth = blocks(copy.deepcopy(module).double(), x.double())
    return depprobe.temporal_jacobian(module, x, layout="b n d", **options), truth


class Decays(nn.Module):
    """Sum over s of exp(c_t - c_s) v_s, c the sum of log gates: far gates see differences of sums."""

    def __init__(self):
        super().__init__()
        self.gate, self.value = nn.Linear(D, 1), nn.Linear(D, H)

    def forward(self, x):
        c = logsigmoid(self.gate(x)).cumsum(1)
        weights = (c - c.mT).exp().tril()
        return weights / weights.sum(-1, keepdim=True) @ self.value(x)


class Scan(nn.Module):
    """h_t = (1 - z_t) h_(t-1) + z_t g_t as sums of logarithms."""

    def __init__(self):
        super().__init__()
        self.z, self.g = nn.Linear(D, H), nn.Linear(D, H)

    def forward(self, x):
        z = self.z(x)
        kept = -softplus(z).cumsum(1)
        return (kept + torch.logcumsumexp(-softplus(-z) + logsigmoid(self.g(x)) - kept, 1)).exp()


class Forward(nn.Module):
    """Probabilities of a chain of hidden states, of which far inputs change less and less."""

    def __init__(self):
        super().__init__()
        self.read, self.moves = nn.Linear(D, H), nn.Parameter(torch.randn(H, H))

    def forward(self, x):
        seen, moves = self.read(x).log_softmax(-1), self.moves.log_softmax(-1)
        states = [seen[:, 0]]
        for one in seen.unbind(1)[1:]:
            states.append(torch.logsumexp(states[-1][..., None] + moves, 1) + one)
        return torch.stack(states, 1).softmax(-1)


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Linear(D, H)

    def forward(self, x):
        mixing = (torch.eye(N) + torch.eye(N).roll(1, 0)).to(x).to_sparse_csr()
        return torch.stack([torch.sparse.mm(mixing, z) for z in self.read(x)]).tanh()


def test_one_rounding_that_reaches_all_sources_is_not_missed():
    missed = []
    for seed in range(24):
        found, truth = both(Decays, seed, 3.0)
        norms = found.log_norms([N - 1])
        known = norms.status[0] == STATUS["finite"]
        apart = np.abs(norms.values[0] - np.log(truth[-1]))[known]
        missed.append((apart > 8 * norms.error[0][known] + 1e-6).any())
    assert np.mean(missed) <= 0.05


def test_rows_that_are_rounded_anew_by_any_factor_are_no_underflow():
    """The derivative of logcumsumexp takes logarithms of gradients, so that no factor leaves its digits."""
    found, truth = both(Scan, 0, 3.0, method="autograd")
    norms = found.log_norms(range(N))
    some = norms.status == STATUS["finite"]
    assert some[truth > 0].mean() > 0.9
    assert np.mean(np.abs(norms.values[some] - np.log(truth[some])) <= norms.error[some]) > 0.9


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_rows_with_fewer_lags_do_not_stand_for_rows_with_more(method):
    held = []
    for seed in range(4):
        found, truth = both(Forward, seed, 3.0, method=method)
        norms = found.log_norms(range(N))
        known = norms.status == STATUS["finite"]
        held += list(np.abs(norms.values[known] - np.log(truth[known])) <= norms.error[known])
    assert np.mean(held) > 0.93


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_matrices_in_rows_state_an_error(method):
    found, truth = both(Sparse, 0, method=method)
    norms = found.log_norms(range(N))
    some = norms.status == STATUS["finite"]
    assert (some == (truth > 0)).all()
    assert np.mean(np.abs(norms.values[some] - np.log(truth[some])) <= norms.error[some]) > 0.9


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_whole_numbers_stay_whole_on_their_way_to_indices(method):
    class Between(nn.Module):
        def forward(self, x):
            at = torch.arange(N, dtype=x.dtype) - 3 * x[..., 0].sigmoid()
            low = at.clamp(0).floor()
            above = x.gather(1, low.long()[..., None].expand_as(x))
            return above * (at.clamp(0) - low)[..., None]

    found, truth = both(Between, 0, method=method)
    norms = found.log_norms(range(N))
    assert (norms.status[truth > 0] == STATUS["finite"]).all()
    assert norms.error.max() < 1e-3


def picked(x, at):
    return x.gather(1, at.long().clamp(0, N - 1)[..., None].expand_as(x)) * x.cumsum(1)


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize(
    "forward",
    [
        lambda x: picked(x, (torch.arange(N).to(x) * 0.5).expand(1, N).clone().ceil_()),
        lambda x: picked(x, (x[..., 0] > 0).to(x).cumsum(1)),
        lambda x: picked(x, torch.stack([torch.tensor(0.5 * t).floor() for t in range(N)])[None]),
        lambda x: torch.where((torch.arange(N).to(x) % 3 == 0)[:, None], x, x.roll(1, 1)).cumsum(1),
        lambda x: torch.stack([x[:, : t + 1].quantile(0.3, dim=1) for t in range(N)], 1),
    ],
    ids=["in place", "counts", "stacked", "compared", "quantile"],
)
def test_whole_numbers_that_are_no_functions_of_the_input_stay_whole(forward, method):
    class Picks(nn.Module):
        def forward(self, x):
            return forward(x)

    found, truth = both(Picks, 0, method=method)
    norms = found.log_norms(range(N))
    some = truth > 0
    assert (norms.status[some] == STATUS["finite"]).all()
    assert (norms.error[some] < 1e-4).all()
    assert np.mean(np.abs(norms.values[some] - np.log(truth[some])) <= norms.error[some]) > 0.9


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_numbers_up_to_one_stay_within_it(method):
    class Likelihood(nn.Module):
        def forward(self, x):
            p = torch.sigmoid(9 * x.cumsum(1))
            return nn.functional.binary_cross_entropy(p, (x > 0).to(x), reduction="none")

    torch.manual_seed(0)
    x = torch.randn(N, D).double()
    assert float(torch.sigmoid(9 * x.cumsum(0)).max()) == 1
    norms = depprobe.temporal_jacobian(Likelihood(), x, layout="b n d", method=method).log_norms(range(N))
    truth = blocks(Likelihood(), x)
    some = norms.status == STATUS["finite"]
    assert some[truth > 1e-3].all()
    assert (np.abs(norms.values[some] - np.log(truth[some])) <= norms.error[some] + 1e-12).all()


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
def test_a_forward_that_takes_no_changed_numbers_is_measured_without_an_error(method):
    class Minds(nn.Module):
        def forward(self, x):
            if not torch.equal(x + x, 2 * x):
                raise ValueError("not twice")
            return x.cumsum(1)

    x, more = torch.randn(N, D).double(), {"probes": D} if method == "probes" else {}
    found = depprobe.temporal_jacobian(Minds(), x, layout="b n d", method=method, **more)
    norms = found.log_norms([3, N - 1])
    assert np.isnan(norms.error[norms.status == STATUS["finite"]]).all()
    np.testing.assert_allclose(norms.values[1], 0.5 * np.log(D), atol=1e-12)


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_rows_of_which_nothing_is_known_do_not_stand_for_others(method):
    """A causal convolution with the kernel 0.5^lag, by FFT, of which the last output is dropped."""

    class Fourier(nn.Module):
        def forward(self, x):
            kernel = torch.fft.rfft(0.5 ** torch.arange(40).to(x), 80)[:, None]
            y = torch.fft.irfft(torch.fft.rfft(x, 80, dim=1) * kernel, 80, dim=1)[:, :40]
            return y * (torch.arange(40) < 39)[:, None]

    torch.manual_seed(1)
    found = depprobe.temporal_jacobian(Fourier(), torch.randn(40, D), layout="b n d", method=method)
    norms = found.log_norms(range(40))
    lags = np.subtract.outer(np.arange(40), np.arange(40))
    some = (norms.status == STATUS["finite"]) & (lags >= 0)
    assert some[lags == 3][:-1].all()
    truth = lags * np.log(0.5) + 0.5 * np.log(D)
    assert np.mean(np.abs(norms.values[some] - truth[some]) <= norms.error[some]) > 0.9


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("kind", ["scatter", "length", "distance"])
def test_the_largest_of_some_numbers_stays_one_of_them(kind, method):
    """Its gradient goes to what is equal to it: to nothing, if it were changed."""

    class Largest(nn.Module):
        def forward(self, x):
            if kind == "scatter":
                at = (torch.arange(N) // 2)[None, :, None].expand_as(x)
                z = torch.zeros_like(x[:, ::2]).scatter_reduce(1, at, x, "amax", include_self=False)
            elif kind == "length":
                z = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True) * x
            else:
                z = torch.cdist(x, x.roll(1, 1), p=torch.inf) @ x
            return z.sin()

    found, truth = both(Largest, 0, method=method)
    norms = found.log_norms(range(len(truth)))
    some = norms.status == STATUS["finite"]
    assert (some == (truth > 0)).all()
    assert (np.abs(norms.values[some] - np.log(truth[some])) <= norms.error[some]).mean() > 0.95
    assert norms.error[some].max() < 1e-4


class LargestTakenOff(nn.Module):
    """A running mean by weights exp(s - max s), of which the largest score leaves quotients as they are."""

    def __init__(self):
        super().__init__()
        self.score, self.value = nn.Linear(D, H), nn.Linear(D, H)

    def forward(self, x):
        weights = (self.score(x) - self.score(x).amax(1, keepdim=True)).exp()
        return (weights * self.value(x)).cumsum(1) / weights.cumsum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_what_rounding_leaves_of_one_source_is_told_in_every_row(method, dtype):
    """The derivative in the largest score cancels: what is left of it, behind all targets, is rounding."""
    for seed in range(3):
        torch.manual_seed(seed)
        module, x = LargestTakenOff().to(dtype), torch.randn(N, D, dtype=dtype)
        found = depprobe.jacobian(module, x, layout="b n d", targets="all", method=method)
        future = ~np.tri(N, dtype=bool)
        known = found.log_norm_status.values == STATUS["finite"]
        assert not (known & future & (found.log_norm_error.values < 0.1)).any()
        # of the first output, which is one value, the derivatives in its weight cancel too
        assert known[~future].mean() > 0.98


class FirstLost(nn.Module):
    """A product whose derivative in its own position cancels at every third output."""

    def forward(self, x):
        kept = torch.arange(x.shape[1])[:, None] % 3 != 2
        own = x.sin() - torch.where(kept, 0.0, 1.0).to(x) * (x.sin() ** 2 + x.cos() ** 2) * x.sin()
        return own + x.cumsum(1).roll(1, 1) * (torch.arange(x.shape[1])[:, None] > 0)


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_rows_that_lost_a_norm_do_not_spoil_those_that_have_it(method):
    """Of a row repeated, the norm at lag 0 is rounding; that of others is not."""
    x = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = depprobe.jacobian(FirstLost(), x, layout="b n d", targets="all", method=method)
    own = found.log_norm_status.values.diagonal() == STATUS["finite"]
    assert own.tolist() == [t % 3 != 2 for t in range(N)]


class Saturated(nn.Module):
    """Saturated layers before a GRU, behind it, or before a sum: each row loses slopes of its own."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.below, self.above = kind, nn.Linear(D, D), nn.Linear(D, H)
        self.recurrence = nn.GRU(D, D, batch_first=True)

    def forward(self, x):
        if self.kind == "sum":
            return self.above((30 * self.below(x)).tanh().cumsum(1))
        x = (30 * self.below(x)).sigmoid() if self.kind == "before" else x
        y = self.above(self.recurrence(x)[0])
        return (20 * y).tanh() if self.kind == "behind" else y


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("kind", ["before", "behind", "sum"])
def test_where_rows_lose_digits_of_their_own_each_is_repeated(kind, method):
    held = []
    for seed in range(6):
        found, truth = both(lambda: Saturated(kind), seed, method=method)
        norms = found.log_norms(range(N))
        some = norms.status == STATUS["finite"]
        held.append(np.abs(norms.values[some] - np.log(truth[some])) <= norms.error[some])
    assert np.concatenate(held).mean() > 0.95


@pytest.mark.parametrize("kind", ["before", "sum"])
def test_random_rows_that_lose_digits_are_each_repeated_once_errors_are_large(kind):
    held = []
    for seed in range(6):
        found, truth = both(lambda: Saturated(kind), seed, method="probes", probes=H)
        norms = found.log_norms(range(N))
        some = norms.status == STATUS["finite"]
        held.append(np.abs(norms.values[some] - np.log(truth[some])) <= norms.error[some])
    assert np.concatenate(held).mean() > 0.9


class ClosedAtTimes(nn.Module):
    """A mean that a sigmoid closes over at three of the outputs: 1 - y keeps few digits there."""

    def forward(self, x):
        closed = torch.isin(torch.arange(x.shape[1]), torch.tensor([4, 8, 11]))[:, None]
        return (x.tanh().cumsum(1) / 9 + torch.where(closed, 12.5, 0.0)).sigmoid()


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_rows_that_are_closed_do_not_take_the_errors_of_open_ones(method):
    module, x = ClosedAtTimes(), torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    truth = blocks(module, x.double())
    found = depprobe.jacobian(module, x, layout="b n d", targets="all", method=method)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.abs(found.log_norm.values - np.log(truth))
    known = found.log_norm_status.values == STATUS["finite"]
    assert apart[known].max() > 1e-3
    assert (apart <= found.log_norm_error.values)[known].mean() > 0.95


@pytest.mark.parametrize("at_once", [True, False])
def test_what_rounding_leaves_in_some_random_rows_is_undecided(at_once):
    """The length of the analytic signal: its kernel is zero at even lags and at 5, where all is round-off."""

    class Envelope(nn.Module):
        def forward(self, x):
            keep = torch.tensor([1.0, 2, 2, 2, 2, 1, 0, 0, 0, 0]).to(x)[:, None]
            return torch.fft.ifft(torch.fft.fft(x, dim=1) * keep, dim=1).abs()

    torch.manual_seed(0)
    x, rows = torch.randn(10, 4).double(), np.arange(10)
    found = depprobe.temporal_jacobian(Envelope(), x, layout="b n d", method="probes", probes=4)
    norms = [found.log_norms(rows)] if at_once else [found.log_norms([t]) for t in rows]
    status, values = (np.concatenate([getattr(one, name) for one in norms]) for name in ("status", "values"))
    lag = np.subtract.outer(rows, rows)
    vanish = (lag % 2 == 0) & (lag != 0) | (abs(lag) == 5)
    assert not (status[vanish] == STATUS["finite"]).any()
    assert (status[~vanish] == STATUS["finite"]).all()
    assert values[~vanish].min() > -3


def test_random_rows_beside_lags_that_are_lost_are_repeated_themselves():
    """Complex products along time, of which the last is zero: so is what the first row tells of far lags."""

    class Products(nn.Module):
        def forward(self, x):
            return torch.complex(x, x.flip(1)).cumprod(1).real

    torch.manual_seed(0)
    x = torch.randn(10, 4).double()
    found = depprobe.temporal_jacobian(Products(), x, layout="b n d", method="probes", probes=4)
    norms, truth = found.log_norms(range(10)), blocks(Products(), x)
    some = truth > 1e-9
    assert (norms.status[some] == STATUS["finite"]).all()
    np.testing.assert_allclose(norms.values[some], np.log(truth[some]), atol=1e-9)


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("least", [-1e9, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_without_keys_attends_evenly_whatever_the_last_bit_of_its_mask(dtype, least, method):
    class Masked(nn.Module):
        def forward(self, x):
            beyond = torch.ones(N, N, dtype=torch.bool).triu(1)
            beyond[:, :3] = True
            low = torch.finfo(x.dtype).min if least is None else least
            scores = (x @ x.mT).masked_fill(beyond, low)
            return (scores + 0 if least is None else scores).softmax(-1) @ x

    torch.manual_seed(0)
    x = torch.randn(N, D).to(dtype)
    norms = depprobe.temporal_jacobian(Masked(), x, layout="b n d", method=method).log_norms(range(3))
    assert (norms.status == STATUS["finite"]).all()
    np.testing.assert_allclose(norms.values, np.log(D**0.5 / N), atol=1e-5)
    assert norms.error.max() < 1e-5


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_a_gradient_inside_a_forward_keeps_its_numbers_where_the_lowest_float_stands_for_none(method):
    """Of a running logsumexp, whose second derivative has that number in it."""

    class Energy(nn.Module):
        def forward(self, x):
            return torch.func.grad(lambda z: z.logcumsumexp(1).sum())(x)

    torch.manual_seed(0)
    x = torch.randn(8, 2).double()
    norms = depprobe.temporal_jacobian(Energy(), x, layout="b n d", method=method).log_norms(range(8))
    assert (norms.status == STATUS["finite"]).all()
    np.testing.assert_allclose(norms.values, np.log(blocks(Energy(), x)), atol=1e-9)


def test_a_repeat_that_tells_nothing_of_a_source_leaves_what_others_told():
    """A gradient of 0 that the first repeat made a number and the second did not: 0 over 0."""

    class Products:
        narrowest = torch.float64

    rounding, lags = Rounding(None, Products()), np.arange(4, -1, -1)
    first, second = np.array([1e-15, np.exp(50), 1e-15, 1e-15, 1e-15]), np.full(5, 2e-15)
    second[1] = np.nan
    row = Row(4, lags, np.array([0, np.nan, 0, 0, 0]), torch.ones(1))
    rounding._conclude(row, [first, second], np.ones(5, dtype=bool))
    errors = rounding.stated(4, lags, np.isfinite(row.log_norm))
    assert np.isfinite(errors).all()
    assert (errors[[0, 2, 3, 4]] < 1e-12).all()
