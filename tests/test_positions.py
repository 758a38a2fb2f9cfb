"""Where outputs sit: lags and distances of outputs that are fewer, later or other than the inputs.

The truths are one ``torch.autograd.grad`` for each output unit of the module called by itself, and their lags
written out.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe import store
from depprobe.errors import BadInput

F64 = torch.float64
N, D = 24, 3


def truth(module, x):
    """ln of the Frobenius norm of every block, (n_out, n), by plain autograd."""
    leaf = x.clone().requires_grad_()
    y = module(leaf[None])[0] if module(leaf[None]).ndim else module(leaf[None]).reshape(1, 1)
    y = y[None] if y.ndim == 1 else y
    rows = [torch.autograd.grad(u, leaf, retain_graph=True)[0] for u in y.reshape(-1)]
    J = torch.stack(rows).reshape(*y.shape, *x.shape)
    return J.pow(2).sum((1, 3)).sqrt().log().numpy()


def mean_distance(log_norm, lag):
    """Of one target, shares by squared norm, |lag| as distance."""
    share = np.exp(2 * (log_norm - log_norm.max()))
    return (share * np.abs(lag)).sum() / share.sum()


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.LSTM(D, 6, batch_first=True, dtype=F64)
        self.out = nn.Linear(6, 2, dtype=F64)

    def states(self, x):
        return self.out(self.inner(x)[0])

    def forward(self, x):
        return self.states(x)


class LastStep(Base):
    def forward(self, x):
        return self.states(x)[:, -1:]


class LastVector(Base):
    def forward(self, x):
        return self.states(x)[:, -1]


class Loss(Base):
    def forward(self, x):
        return (self.states(x) ** 2).mean()


class Packed(Base):
    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, [x.shape[1] - 4], batch_first=True)
        return self.out(nn.utils.rnn.pad_packed_sequence(self.inner(packed)[0], batch_first=True)[0])


class TokenFirst(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.token, self.out = nn.Parameter(torch.randn(1, 1, D, dtype=F64)), nn.Linear(D, 4, dtype=F64)

    def forward(self, x):
        return self.out(torch.cat([self.token.expand(len(x), 1, D), x], 1))


class Forecast(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.out = nn.Linear(D, 12 * 2, dtype=F64)

    def forward(self, x):
        return self.out(x[:, -1]).view(len(x), 12, 2)


class Unpadded(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv1d(D, 4, 5, dtype=F64)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


@pytest.fixture
def x():
    return torch.randn(N, D, dtype=F64)


def measured(module, x, **options):
    ds = depprobe.jacobian(module, x, layout="b n d", **options)
    store.validate(ds)
    return ds


@pytest.mark.parametrize("kind", [LastStep, LastVector])
def test_the_last_step_alone_is_the_last_target_of_the_whole(kind, x):
    whole, last = measured(Base(), x), measured(kind(), x)
    assert last["position"].values.tolist() == [N - 1]
    np.testing.assert_allclose(last["log_norm"].values, truth(kind(), x), atol=1e-10)
    np.testing.assert_allclose(last["log_norm"].values, whole["log_norm"].values, atol=1e-10)
    numbers = [depprobe.distances(ds) for ds in (whole, last)]
    for name in ("decay_rate", "mean_distance", "receptive_field"):
        assert float(numbers[1][name]) == pytest.approx(float(numbers[0][name]))
    expected = mean_distance(truth(kind(), x)[0], N - 1 - np.arange(N))
    assert float(numbers[1]["mean_distance"]) == pytest.approx(expected)


def test_a_loss_sits_at_the_end(x):
    ds = measured(Loss(), x)
    expected = truth(Loss(), x)
    np.testing.assert_allclose(ds["log_norm"].values, expected, atol=1e-10)
    assert ds["position"].values.tolist() == [N - 1]
    found = float(depprobe.distances(ds)["mean_distance"])
    assert found == pytest.approx(mean_distance(expected[0], N - 1 - np.arange(N)))


def test_a_packed_sequence_that_ends_early_needs_its_position(x):
    ds = measured(Packed(), x, targets="all")
    assert ds.sizes["target"] == N - 4
    assert "position" not in ds.coords
    with pytest.raises(BadInput, match=r"no coordinate 'position'.*measure with position="):
        depprobe.distances(ds)
    placed = measured(Packed(), x, position=np.arange(N - 4))
    expected = truth(Packed(), x)[-1]
    found = float(depprobe.distances(placed)["mean_distance"])
    assert found == pytest.approx(mean_distance(expected, N - 5 - np.arange(N)))


def test_outputs_beside_a_token_need_their_position(x):
    ds = measured(TokenFirst(), x, targets="all")
    assert "position" not in ds.coords
    for refuses in (
        depprobe.distances,
        depprobe.decay_curve,
        depprobe.figures.decay,
        depprobe.figures.heatmap,
    ):
        with pytest.raises(BadInput, match=r"no coordinate 'position'.*measure with position=") as caught:
            refuses(ds)
        assert "\n" not in str(caught.value)
    placed = measured(TokenFirst(), x, targets="all", position=np.arange(-1, N))
    found = depprobe.distances(placed)
    # every output reads the input at its own place, the token none
    assert (float(found["receptive_field"]), float(found["mean_distance"])) == (0, 0)


def test_a_forecast_looks_back_from_beyond_the_end(x):
    ds = measured(Forecast(), x, targets="all", position="forecast")
    curve = depprobe.decay_curve(ds)
    assert curve["lag"].values[np.isfinite(curve["log_rms"].values)].tolist() == [*range(1, 13)]
    # at lag L there are L blocks, all but one of them zero
    by_lag = truth(Forecast(), x)[:, -1] - 0.5 * np.log(np.arange(1, 13))
    np.testing.assert_allclose(curve["log_rms"].sel(lag=range(1, 13)).values, by_lag, atol=1e-10)
    assert float(depprobe.distances(ds)["mean_distance"]) == pytest.approx(6.5)
    with pytest.raises(BadInput, match="no coordinate 'position'"):
        depprobe.distances(measured(Forecast(), x, targets="all"))


def test_a_convolution_without_padding_sits_at_the_centre_of_what_it_reads(x):
    module = Unpadded()
    own, known = (
        depprobe.distances(ds)
        for ds in (
            measured(module, x, targets="all", position=np.arange(2, N - 2)),
            depprobe.jacobian(module.conv, x, targets="all"),
        )
    )
    taps = module.conv.weight.detach().pow(2).sum((0, 1)).numpy()
    expected = (taps * [2, 1, 0, 1, 2]).sum() / taps.sum()
    for found in (own, known):
        assert float(found["mean_distance"]) == pytest.approx(expected)
        assert float(found["receptive_field"]) == 2


def test_a_position_that_is_given_holds_for_known_layers_too(x):
    conv = Unpadded().conv
    moved = depprobe.jacobian(conv, x, targets="all", position=np.arange(4, N))
    assert moved["position"].values.tolist() == [*range(4, N)]
    curve = depprobe.decay_curve(moved)
    finite = np.isfinite(curve["log_rms"].values)
    assert curve["lag"].values[finite].tolist() == [0, 1, 2, 3, 4]
    taps = conv.weight.detach().pow(2).sum((0, 1)).sqrt().log().numpy()
    np.testing.assert_allclose(curve["log_rms"].values[finite], taps[::-1], atol=1e-10)


def test_layers_of_other_lengths_are_compared_by_position_or_not_at_all(x):
    kinds = {"whole": Base(), "last": LastStep(), "conv": Unpadded()}
    with pytest.raises(BadInput, match=r"conv gives 20 outputs for 24 inputs.*give position="):
        measured(kinds, x)
    ds = measured({name: kinds[name] for name in ("whole", "last")}, x)
    assert ds["target"].values.tolist() == [N - 1]
    np.testing.assert_allclose(*ds["log_norm"].values, atol=1e-10)


# numerators and denominators along depth


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.embed = nn.Embedding(11, D, dtype=F64)
        self.h = nn.ModuleList([nn.GRU(D, D, batch_first=True, dtype=F64) for _ in range(3)])

    def forward(self, ids):
        z = self.embed(ids)
        for layer in self.h:
            z = z + layer(z)[0]
        return z


def from_depth(module, ids, depth):
    """ln norms of the last output in the output of one GRU, which is replaced by a variable."""
    z = module.embed(ids[None])
    for i, layer in enumerate(module.h):
        inner = layer(z)[0]
        if i == depth:
            leaf = inner = inner.detach().requires_grad_()
        z = z + inner
    rows = [torch.autograd.grad(u, leaf, retain_graph=True)[0][0] for u in z[0, -1]]
    with np.errstate(divide="ignore"):
        return np.log(torch.stack(rows).pow(2).sum((0, 2)).sqrt().numpy())


def test_a_star_in_wrt_runs_along_depth():
    module, ids = Stack(), torch.randint(0, 11, (9,))
    ds = depprobe.jacobian(module, ids, wrt="h.*")
    store.validate(ds)
    assert ds["log_norm"].dims == ("depth", "target", "source")
    assert ds["submodule"].values.tolist() == ["h.0", "h.1", "h.2"]
    for depth in range(3):
        expected = from_depth(module, ids, depth)
        np.testing.assert_allclose(ds["log_norm"].values[depth, 0], expected, atol=1e-10)
        alone = depprobe.jacobian(module, ids, wrt=f"h.{depth}")
        np.testing.assert_array_equal(ds["log_norm"].values[depth], alone["log_norm"].values)
    assert depprobe.distances(ds)["mean_distance"].dims == ("depth",)
    assert len(depprobe.figures.decay(ds).lines) == 3


def test_a_star_in_of_runs_along_depth_over_samples():
    module, ids = Stack(), torch.randint(0, 11, (2, 9))
    ds = depprobe.jacobian(module, ids, of="h.*")
    assert ds["log_norm"].dims == ("sample", "depth", "target", "source")
    store.validate(ds)
    alone = depprobe.jacobian(module, ids[1], of="h.2")
    np.testing.assert_array_equal(ds["log_norm"].values[1, 2], alone["log_norm"].values)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"of": "h.*", "wrt": "h.*"}, "both run along depth; give one of them without a star"),
        ({"wrt": "g.*"}, r"unknown submodule 'g\.\*'"),
        ({"of": "nowhere"}, "unknown of 'nowhere'"),
        ({"position": "middle"}, "position must be one of same, end, forecast"),
    ],
)
def test_wrong_names_are_one_line(options, said):
    with pytest.raises(BadInput, match=said):
        depprobe.jacobian(Stack(), torch.randint(0, 11, (9,)), **options)


def test_stars_must_name_as_many_submodules_of_every_layer():
    shorter = Stack()
    del shorter.h[2]
    with pytest.raises(BadInput, match="names different numbers of submodules: 3 in long, 2 in short"):
        depprobe.jacobian({"long": Stack(), "short": shorter}, torch.randint(0, 11, (9,)), of="h.*")


def test_every_layer_names_its_own_submodules():
    other = nn.Sequential(OrderedDict(g=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))))
    one = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    ds = depprobe.jacobian({"a": one, "b": other}, torch.randn(6, 4), layout="b n d", of="*.*")
    assert ds.submodule.dims == ("layer", "depth")
    assert ds.submodule.values.tolist() == [["0.0", "0.1"], ["g.0", "g.1"]]
    alone = depprobe.jacobian(other, torch.randn(6, 4), layout="b n d", of="*.*")
    assert alone.submodule.values.tolist() == ["g.0", "g.1"]


def test_the_summary_has_a_row_for_every_depth():
    from depprobe.cli.summaries import summary_of

    ds = depprobe.jacobian(Stack(), torch.randint(0, 11, (9,)), wrt="h.*")
    assert [record["layer"] for record in summary_of(ds).records] == [f"Stack h.{i}" for i in range(3)]


@pytest.mark.parametrize(
    ("named", "formula"),
    [("of", r"\partial m_t / \partial x_k"), ("wrt", r"\partial h_t / \partial m_k")],
)
def test_figures_and_tables_name_the_submodules_along_depth(named, formula):
    from depprobe.cli.summaries import summary_of

    ds = depprobe.jacobian(Stack(), torch.randint(0, 11, (9,)), **{named: "h.*"})
    drawn = depprobe.figures.decay(ds)
    assert [line.get_label() for line in drawn.lines] == [f"Stack h.{i}" for i in range(3)]
    assert f"$J_{{t,k}} = {formula}$, $m$ = h.0 to h.2," in drawn.caption
    assert f"= {formula}$,  $m$ = h.0 to h.2," in drawn.figure.get_suptitle()
    alone = formula.replace("m_", r"\text{h.1}_")
    assert f"= {alone}$, $n$ = 9," in depprobe.figures.decay(ds.isel(depth=1)).caption
    assert [line.get_label() for line in depprobe.figures.decay(ds.isel(depth=1)).lines] == ["Stack h.1"]
    assert summary_of(ds).title.startswith({"of": "dh.*_t/dx_k", "wrt": "dh_t/dh.*_k"}[named])


def test_names_that_no_formula_can_hold_are_left_out_of_captions():
    ds = depprobe.jacobian(Stack(), torch.randint(0, 11, (9,)), of="embed")
    assert r"\text{embed}_t" in depprobe.figures.decay(ds).caption
    assert "partial" not in depprobe.figures.decay(ds.assign_attrs(of="a b")).caption
