"""Gates and Lyapunov exponents of a recurrence in a model are those of the recurrence at what it reads."""

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.errors import BadInput


class Tagger(nn.Module):
    """An embedding, a convolution and a recurrence over time first; a second one on demand."""

    def __init__(self, calls: int = 1, start: bool = False, several: bool = False) -> None:
        super().__init__()
        self.calls, self.start = calls, start
        self.embed, self.conv = nn.Embedding(30, 4), nn.Conv1d(4, 3, 3, padding=1)
        self.rnn = nn.LSTM(3, 6)
        self.top = nn.LSTM(6, 5) if several else None

    def read(self, ids):
        return self.conv(self.embed(ids).transpose(1, 2)).permute(2, 0, 1)

    def forward(self, ids):
        x = self.read(ids)
        state = (torch.ones(1, len(ids), 6), torch.ones(1, len(ids), 6))
        for _ in range(self.calls):
            h, _ = self.rnn(x, state) if self.start else self.rnn(x)
        if self.top is not None:
            h, _ = self.top(h)
        return h.transpose(0, 1)


IDS = torch.arange(25) % 7


def test_gates_are_those_of_the_recurrence_at_what_it_reads():
    model = Tagger()
    x = model.read(IDS[None])[:, 0].detach()
    found, expected = depprobe.gates(model, IDS, target=20), depprobe.gates(model.rnn, x, target=20)
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))
    # and by the equations: f_t of the first step
    z = x[0] @ model.rnn.weight_ih_l0.T + model.rnn.bias_ih_l0 + model.rnn.bias_hh_l0
    np.testing.assert_allclose(found.gate_value.sel(gate="f")[0], torch.sigmoid(z[6:12]).detach(), atol=1e-6)


def test_lyapunov_exponents_too():
    model = Tagger()
    x = model.read(IDS[None])[:, 0].detach()
    found, expected = depprobe.lyapunov(model, IDS), depprobe.lyapunov(model.rnn, x)
    np.testing.assert_array_equal(found.exponent, expected.exponent)


def test_a_name_picks_one_of_several():
    model = Tagger(several=True)
    h = model.rnn(model.read(IDS[None]))[0][:, 0].detach()
    found, expected = depprobe.gates(model, IDS, part="top"), depprobe.gates(model.top, h)
    np.testing.assert_array_equal(found.log_norm_cc, expected.log_norm_cc)
    both = depprobe.gates({"a": model, "b": model}, IDS, part="top")
    np.testing.assert_array_equal(both.log_norm_cc[1], expected.log_norm_cc)


@pytest.mark.parametrize(
    ("options", "call", "said"),
    [
        ({"several": True}, {}, r"holds the recurrences rnn, top; name one with part= \(--part\)"),
        ({}, {"part": "rn"}, "unknown recurrence in Tagger 'rn'; did you mean 'rnn'"),
        ({"calls": 2}, {}, "rnn of Tagger is called 2 times"),
        ({"start": True}, {}, "handed a state to start from"),
    ],
)
def test_what_is_no_single_run_from_zero_is_refused(options, call, said):
    with pytest.raises(BadInput, match=said):
        depprobe.gates(Tagger(**options), IDS, **call)


@pytest.mark.parametrize("call", [depprobe.gates, depprobe.lyapunov])
def test_weights_that_the_model_puts_in_are_not_taken_for_those_that_are_held(call):
    class Tied(Tagger):
        """Its recurrence runs with twice the weights that it holds."""

        def __init__(self) -> None:
            super().__init__()
            self.raw = nn.Parameter(self.rnn.weight_hh_l0.detach().clone())
            del self.rnn._parameters["weight_hh_l0"]
            self.rnn.weight_hh_l0 = self.raw.detach().clone()

        def forward(self, ids):
            self.rnn.weight_hh_l0 = 2 * self.raw
            return super().forward(ids)

    with pytest.raises(BadInput, match="Tied replaces weight_hh_l0 of rnn in its forward"):
        call(Tied(), IDS)


def test_computed_weights_of_a_recurrence_in_a_model_are_those_in_effect():
    model = Tagger()
    nn.utils.parametrizations.weight_norm(model.rnn, "weight_hh_l0")
    with torch.no_grad():
        model.rnn.parametrizations.weight_hh_l0.original0.mul_(3)
    alone = nn.LSTM(3, 6)
    with torch.no_grad():
        for name in alone._flat_weights_names:
            getattr(alone, name).copy_(getattr(model.rnn, name))
    x = model.read(IDS[None])[:, 0].detach()
    found, expected = depprobe.gates(model, IDS), depprobe.gates(alone, x)
    np.testing.assert_allclose(found.log_norm_cc, expected.log_norm_cc, rtol=1e-6)


def test_without_input_there_is_nothing_that_a_model_hands_on():
    with pytest.raises(BadInput, match="part='rnn' is measured at what its model hands it"):
        depprobe.lyapunov(Tagger(), part="rnn", drive="none")


def test_a_name_in_a_named_layer_is_refused():
    with pytest.raises(BadInput, match=r"part='rnn' has no meaning .*inside a model of your own"):
        depprobe.gates("attention", n=8, d=8, part="rnn")


def test_step_spectra_are_those_of_the_recurrence_at_what_it_reads():
    model = Tagger(several=True)
    h = model.rnn(model.read(IDS[None]))[0][:, 0].detach()
    found = depprobe.spectrum(model, IDS, steps=[3, 24], part="top")
    expected = depprobe.spectrum(model.top, h, steps=[3, 24])
    np.testing.assert_array_equal(found.eigenvalue, expected.eigenvalue)

    def step(s):  # (c, h) of the top LSTM at position 24
        c, h_ = s[:5], s[5:]
        _, (h_after, c_after) = model.top(h[24][None, None], (h_[None, None], c[None, None]))
        return torch.cat([c_after[0, 0], h_after[0, 0]])

    before = model.top(h[:24, None])[1]
    state = torch.cat([before[1][0, 0], before[0][0, 0]]).detach()
    J = torch.autograd.functional.jacobian(step, state).numpy()
    radius = np.abs(np.linalg.eigvals(J)).max()
    np.testing.assert_allclose(found.spectral_radius[1], radius, rtol=1e-5)
    with pytest.raises(BadInput, match="part='top' has no meaning in this call"):
        depprobe.spectrum(model, part="top")
    with pytest.raises(BadInput, match="holds the recurrences rnn, top; name one"):
        depprobe.spectrum(model, IDS, steps="last")


def test_a_part_beside_named_layers_is_that_of_the_models():
    model = nn.Sequential(nn.LSTM(3, 4, batch_first=True), nn.Tanh())
    x = torch.randn(25, 3, generator=torch.Generator().manual_seed(0))
    both = depprobe.lyapunov({"own": model, "gru": "gru"}, x, d=3, part="0")
    alone = depprobe.lyapunov({"own": model}, x, part="0", exponents=both.sizes["mode"])
    np.testing.assert_array_equal(both.exponent.sel(layer="own"), alone.exponent)
    with pytest.raises(BadInput, match=r"part='0' has no meaning .*it names a recurrence inside"):
        depprobe.lyapunov("gru", x, d=3, part="0")
