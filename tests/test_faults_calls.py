"""What users call it with: modules and arguments that once ended in a traceback or in another's values."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import depprobe
from depprobe.vocabulary import STATUS


def norms_by_autograd(call, x):
    """ln norms (n_out, n_in), one ``autograd.grad`` for each output unit."""
    leaf = x.clone().requires_grad_()
    y = call(leaf[None])[0]
    rows = [[torch.autograd.grad(unit, leaf, retain_graph=True)[0] for unit in units] for units in y]
    return torch.stack([torch.stack(row).norm(dim=(0, 2)).log() for row in rows])


def measured(module, x, **options):
    found = depprobe.temporal_jacobian(module, x, layout="b n d", **options)
    return torch.from_numpy(found.log_norms(range(found.shape[0])).values)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.reentrant = nn.GRU(3, 3, batch_first=True), reentrant

    def forward(self, x):
        return checkpoint(lambda z: self.inner(z)[0].tanh(), x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_a_reentrant_checkpoint_is_measured_and_leaves_no_gradients(x_small, method):
    module = Checkpointed(True).double()
    plain = copy.deepcopy(module)
    plain.reentrant = False
    torch.testing.assert_close(measured(module, x_small, method=method), norms_by_autograd(plain, x_small))
    assert all(p.grad is None for p in module.parameters())


class OneSample(nn.Module):
    """Takes one sequence and hands on one, by whatever way a batch of one is taken off."""

    def __init__(self, take):
        super().__init__()
        self.take, self.mix = take, torch.randn(7, 7, dtype=torch.float64).to_sparse()

    def forward(self, x):
        z = self.take(x)
        return (
            (self.mix @ z.tanh())[None] if z.ndim == 2 else torch.stack([self.mix @ one for one in z])[None]
        )


@pytest.mark.parametrize("take", [lambda x: x[0], lambda x: x.squeeze(0)], ids=["first", "squeezed"])
def test_a_module_of_one_sample_is_measured(x_small, take):
    module = OneSample(take)
    torch.testing.assert_close(measured(module, x_small), norms_by_autograd(module, x_small))


def test_the_last_position_time_first_is_still_refused_as_a_batch(x_small):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4)

        def forward(self, x):
            return self.rnn(x)[0][-1:]

    with pytest.raises(depprobe.BadInput, match="is no batch to it"):
        measured(Last().double(), x_small)


class Refined(nn.Module):
    """As many steps as the largest sample of the batch asks for."""

    def __init__(self, shared):
        super().__init__()
        self.W, self.shared = nn.Linear(3, 3).double(), shared

    def forward(self, x):
        states = x
        for _ in range(2 + int(x.detach().sum((1, 2)).max().clamp(0, 30))):
            rest = states.mean(0) if self.shared else 0.0
            states = torch.tanh(self.W(states.cumsum(1) / 3) + rest) + x
        return states


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
def test_samples_that_only_decide_together_how_far_to_go_are_no_time(x_small, method):
    module = Refined(False)
    alone, beside = module(x_small[None])[0], module(torch.stack([x_small + 1, x_small]))[1]
    assert not torch.allclose(alone, beside, rtol=1e-3)
    more = {"probes": 3} if method == "probes" else {}
    torch.testing.assert_close(
        measured(module, x_small, method=method, **more), norms_by_autograd(module, x_small)
    )
    with pytest.raises(depprobe.BadInput, match=r"is no batch to it.*state another layout"):
        measured(Refined(True), x_small)
    # time could come first as well, and the state be detached from step to step
    with pytest.raises(depprobe.BadInput, match="state layout='b n d' if it is one, or another layout"):
        depprobe.temporal_jacobian(module, x_small)


def test_one_number_for_each_position_is_told_from_one_vector(x_small):
    class Score(nn.Module):
        def forward(self, x):
            return x.cumsum(1)[..., 0]

    with pytest.raises(depprobe.BadInput, match=r"\(1, 7\), may be a number for each of the 7 positions"):
        measured(Score(), x_small)
    assert measured(Score(), x_small, position="same").shape == (7, 7)
    assert measured(Score(), x_small, position="end").shape == (1, 7)


def test_a_forward_that_differentiates_inside_itself_is_measured(x_small):
    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 3, batch_first=True).double()

        def forward(self, x):
            return torch.autograd.grad((self.rnn(x)[0] ** 2).sum(), x, create_graph=True)[0]

    energy = Energy()
    torch.testing.assert_close(measured(energy, x_small), norms_by_autograd(energy, x_small))


class Halved(nn.Module):
    calls = 0

    def forward(self, weight):
        Halved.calls += 1
        return weight * 0.5 ** min(Halved.calls, 9)


@pytest.mark.parametrize("own", [False, True])
def test_a_weight_made_anew_at_each_use_is_left_as_it_was(x_small, own):
    parametrize = nn.utils.parametrize.register_parametrization
    linear = nn.Linear(3, 3).double()
    if own:
        Halved.calls = 0
        parametrize(linear, "weight", Halved(), unsafe=True)
        Halved.calls = 2
    else:
        nn.utils.parametrizations.spectral_norm(linear)
    module = nn.Sequential(linear, nn.Tanh())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    copied, calls = copy.deepcopy(module), Halved.calls
    values = depprobe.jacobian(module, x_small).log_norm.values[-1, -1]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert Halved.calls == calls
    assert values == pytest.approx(float(norms_by_autograd(copied, x_small)[-1, -1]), abs=1e-12)


def test_the_default_device_is_not_where_we_compute():
    with torch.device("meta"):
        found = depprobe.jacobian("transformer", n=9, d=8)
    assert found.equals(depprobe.jacobian("transformer", n=9, d=8))


def test_a_state_that_overflows_inside_an_own_forward_is_said_to():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(1, 2, nonlinearity="relu", bias=False, batch_first=True).double()
            self.rnn.weight_hh_l0.data = torch.tensor([[3.0, -1.0], [0.0, 3.0]], dtype=torch.float64)
            self.rnn.weight_ih_l0.data = torch.tensor([[1.0], [0.001]], dtype=torch.float64)

        def forward(self, x):
            return 1.0 * self.rnn(x)[0]

    x = torch.ones(700, 1, dtype=torch.float64)
    # a difference of two infinities
    assert Own()(x[None])[0, -1].isnan().any()
    assert (depprobe.jacobian(Own(), x).log_norm_status == STATUS["not_a_number"]).all()


@pytest.mark.parametrize(
    "options",
    [
        *({"seed": 1.5}, {"seed": None}, {"memory": None}, {"tolerance": "a"}),
        *({"targets": 2.5}, {"targets": [1.5]}, {"targets": [True]}, {"forward": 3}),
        *({"of": 3}, {"wrt": None}, {"norm": None}, {"method": None}, {"layout": 3}),
        {"method": "probes", "probes": 2.5},
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_refused_by_name(x_small, options):
    name = list(options)[-1]
    with pytest.raises(depprobe.BadInput, match=name.removesuffix("s")):
        depprobe.jacobian(nn.GRU(3, 4).double(), x_small, **options)


def test_an_input_that_is_no_array_is_refused():
    with pytest.raises(depprobe.BadInput, match="x is no array of numbers"):
        depprobe.jacobian(nn.GRU(3, 4), [[1.0, 2.0], [3.0]])


def test_a_sparse_input_is_read_as_its_values():
    module, x = nn.GRU(3, 4, batch_first=True), torch.eye(3)
    found = depprobe.jacobian(module, x.to_sparse())
    assert found.log_norm.equals(depprobe.jacobian(module, x).log_norm)


@pytest.fixture
def x_small():
    return torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Chaotic(nn.Module):
    """A recurrence far above its edge of chaos: in a batch of two rounding sends it elsewhere."""

    def __init__(self, over_batch):
        super().__init__()
        self.recurrent, self.over_batch = nn.RNN(3, 64, batch_first=True), over_batch
        with torch.no_grad():
            self.recurrent.weight_hh_l0.copy_(30 * torch.randn(64, 64) / 8)

    def forward(self, x):
        y = self.recurrent(x)[0][..., :5]
        return y + y.mean(0) if self.over_batch else y


def test_a_chaotic_forward_is_no_mixing_of_samples():
    torch.manual_seed(0)
    x = torch.randn(120, 3)
    module = Chaotic(False)
    alone, beside = module(x[None])[0], module(torch.stack([x + 1, x]))[1]
    assert not torch.allclose(alone, beside, atol=0.1)
    assert depprobe.jacobian(module, x[None])["log_norm"].sizes["source"] == 120
    with pytest.raises(depprobe.BadInput, match=r"does not take \(batch, n, d\)"):
        depprobe.jacobian(Chaotic(True), x[None], layout="b n d")
