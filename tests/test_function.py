"""A module at one input: what is differentiated in what, ids and mappings, positions, proofs, floors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from corpus_modules import Narrow, Tagger
from torch import nn

import depprobe
from depprobe.core.calling.outputs import depths
from depprobe.core.function import SequenceFunction
from depprobe.core.scaled import Scaled
from depprobe.core.snapshot import held_tensors, snapshot
from depprobe.errors import BadInput
from depprobe.operators import temporal_jacobian
from depprobe.vocabulary import STATUS

F64 = torch.float64
N, D = 9, 4


class Language(nn.Module):
    """Token and position embeddings, blocks, a head; outputs by name; a loss where labels are given."""

    def __init__(self, blocks=3):
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, D), nn.Embedding(32, D)
        self.h = nn.ModuleList(nn.GRU(D, D, batch_first=True) for _ in range(blocks))
        self.head = nn.Linear(D, 11)

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None, labels=None):
        x = self.tokens(input_ids) if inputs_embeds is None else inputs_embeds
        x = x + self.places(torch.arange(x.shape[1]))
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        for block in self.h:
            x = x + block(x)[0]
        out = {"logits": self.head(x), "last_hidden_state": x}
        if labels is not None:
            out["loss"] = nn.functional.cross_entropy(out["logits"].flatten(0, 1), labels.flatten())
        return out


@pytest.fixture
def model():
    return Language().double()


IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 10])


def jacobian_of(f, x):
    return torch.autograd.functional.jacobian(f, x)


def rows(J):
    return torch.stack([J.row(t).dense() for t in range(J.shape[0])])


def test_ids_are_differentiated_through_their_embedding(model):
    e = model.tokens(IDS).detach()
    truth = jacobian_of(lambda z: model(inputs_embeds=z[None])["last_hidden_state"][0], e)
    for x in (
        IDS,
        {"input_ids": IDS},
        {"input_ids": IDS[None], "attention_mask": torch.ones(1, N)},
        IDS.numpy(),
    ):
        torch.testing.assert_close(rows(temporal_jacobian(model, x)), truth)
    torch.testing.assert_close(rows(temporal_jacobian(model, {"inputs_embeds": e})), truth)
    torch.testing.assert_close(SequenceFunction(model, IDS).x, e)


def test_loss_and_logits_of_a_mapping(model):
    e, labels = model.tokens(IDS).detach(), IDS.roll(-1)
    x = {"input_ids": IDS[None], "labels": labels[None]}
    truth = jacobian_of(lambda z: model(inputs_embeds=z[None], labels=labels[None])["loss"], e)
    J = temporal_jacobian(model, x, of="loss")
    assert (J.shape, J.position.tolist()) == ((1, 1, N, D), [N - 1])
    torch.testing.assert_close(rows(J)[0, 0], truth)
    logits = jacobian_of(lambda z: model(inputs_embeds=z[None])["logits"][0], e)
    torch.testing.assert_close(rows(temporal_jacobian(model, x, of="logits")), logits)
    with pytest.raises(BadInput, match="no 'loss'"):
        temporal_jacobian(model, IDS, of="loss")


def test_submodules_above_and_below(model):
    with torch.no_grad():
        x0 = (model.tokens(IDS) + model.places(torch.arange(N)))[None]
        out0 = model.h[0](x0)[0]
        x1 = x0 + out0

    def above(z):
        h = x0 + z[None]
        for block in list(model.h)[1:]:
            h = h + block(h)[0]
        return h[0]

    torch.testing.assert_close(rows(temporal_jacobian(model, IDS, wrt="h.0")), jacobian_of(above, out0[0]))
    middle = jacobian_of(lambda z: model.h[1](x0 + z[None])[0][0], out0[0])
    torch.testing.assert_close(rows(temporal_jacobian(model, IDS, of="h.1", wrt="h.0")), middle)
    assert torch.isfinite(x1).all()
    with pytest.raises(BadInput, match=r"output of 'h\.0' does not depend on 'h\.1' through"):
        temporal_jacobian(model, IDS, of="h.0", wrt="h.1")


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
def test_an_output_that_is_cut_off_is_refused_by_every_method(method):
    """Parameters behind the cut have gradients; norms of zero would say that the output ignores x."""

    class CutOff(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(D, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.second(self.first(x).detach())

    with pytest.raises(BadInput, match="of CutOff does not depend on the input"):
        temporal_jacobian(CutOff(), torch.randn(N, D), method=method)


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_what_is_written_into_an_output_afterwards_does_not_count(method):
    module = nn.Sequential(nn.Linear(D, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    x = torch.randn(N, D, dtype=torch.float64)
    found = rows(temporal_jacobian(module, x, of="0", layout="b n d", method=method))
    torch.testing.assert_close(found, jacobian_of(lambda z: module[0](z), x))


def test_globs_name_one_level_a_star(model):
    assert depths(model, "h.*") == ["h.0", "h.1", "h.2"]
    assert depths(model, "module:h.1") == ["h.1"]
    with pytest.raises(BadInput, match=r"unknown submodule 'g\.\*'"):
        depths(model, "g.*")


def test_words_come_before_submodules_of_such_a_name():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.h, self.unused = nn.Linear(D, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.h(x).cumsum(-2).tanh()

    module, x = Odd().double(), torch.randn(N, D, dtype=F64)
    with pytest.raises(BadInput, match=r"needs the chain operator.* use module:h for"):
        temporal_jacobian(module, x, wrt="h")
    J = temporal_jacobian(module, x, wrt="module:h")
    z = module.h(x).detach()
    torch.testing.assert_close(rows(J), jacobian_of(lambda z: z.cumsum(-2).tanh(), z))
    with pytest.raises(BadInput, match="'unused' does not run"):
        temporal_jacobian(module, x, of="unused")


def test_a_submodule_that_runs_twice_is_refused():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Linear(D, D)

        def forward(self, x):
            return self.block(self.block(x))

    for names in ({"of": "block"}, {"wrt": "block"}):
        with pytest.raises(BadInput, match="'block' runs 2 times"):
            temporal_jacobian(Tied().double(), torch.randn(N, D, dtype=F64), **names)


def test_which_entry_of_a_mapping_is_meant():
    class Two(nn.Module):
        def forward(self, a, b=None, c=None):
            return a.cumsum(-2) if b is None else a * b

    a, b = torch.randn(N, D, dtype=F64), torch.randn(1, N, D, dtype=F64)
    with pytest.raises(BadInput, match=r"'a', 'b' could each be.*forward="):
        temporal_jacobian(Two(), {"a": a, "b": b})
    with pytest.raises(BadInput, match=r"none of .* is a sequence"):
        temporal_jacobian(Two(), {"c": 3})
    J = temporal_jacobian(Two(), {"a": a, "c": 3}, forward={"b": b})
    torch.testing.assert_close(J.row(2).dense()[:, 2], b[0, 2].diag())


def test_two_embeddings_that_read_the_ids_must_be_named():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Embedding(11, D), nn.Embedding(11, D)

        def forward(self, ids):
            return (self.one(ids) + self.two(ids)).cumsum(-2).tanh()

    with pytest.raises(BadInput, match=r"several embeddings read the ids: \['one', 'two'\]"):
        temporal_jacobian(Both().double(), IDS)
    assert temporal_jacobian(Both().double(), IDS, wrt="one").shape == (N, D, N, D)


@pytest.mark.parametrize(
    ("make", "same"),
    [
        (lambda a: a.astype(">f8"), True),
        (lambda a: a[::-1][::-1], True),
        (lambda a: np.flip(np.flip(a, 1), 1), True),
        (lambda a: a.astype(np.longdouble), True),
        (lambda a: np.ma.masked_array(a), True),
        (lambda a: np.ma.masked_array(a, mask=a > 1), False),
        (lambda a: a.astype(object), False),
    ],
)
def test_arrays_as_they_come(make, same):
    module, a = Tagger(D, 5, 3).double(), np.random.default_rng(0).standard_normal((N, D))
    if not same:
        with pytest.raises(BadInput, match=r"masked|must hold real numbers"):
            temporal_jacobian(module, make(a))
        return
    found, plain = (temporal_jacobian(module, given) for given in (make(a), torch.from_numpy(a)))
    torch.testing.assert_close(found.row(5).dense(), plain.row(5).dense())


def test_positions():
    class Pads(nn.Module):
        def forward(self, x):
            return torch.cat([x[:, :1], x.cumsum(1)], 1)

    x, module = torch.randn(N, D, dtype=F64), Pads()
    given = {"layout": "b n d"}
    assert temporal_jacobian(module, x, **given).position is None
    assert temporal_jacobian(module, x, position=range(-1, N), **given).position.tolist() == list(
        range(-1, N)
    )
    assert temporal_jacobian(module, x, position="forecast", **given).position[0] == N
    with pytest.raises(BadInput, match="'same' needs as many outputs as inputs, not 10 and 9"):
        temporal_jacobian(module, x, position="same", **given)
    with pytest.raises(BadInput, match="position must be one of same, end, forecast"):
        temporal_jacobian(module, x, position="middle", **given)


def test_seeds_draw_probes_anew_for_targets_and_samples():
    module = nn.Sequential(nn.Linear(6, 6)).double()
    x = torch.randn(3, 20, 6, dtype=F64)
    options = {"method": "probes", "probes": 2}
    found = [
        temporal_jacobian(module, one, seed=seed, **options).log_norms(range(20)).values.diagonal()
        for seed in (0, 1)
        for one in x
    ]
    values = np.concatenate(found)
    assert len(set(values.round(12))) == len(values)
    again = temporal_jacobian(module, x[0], seed=0, **options).log_norms(range(20)).values.diagonal()
    np.testing.assert_array_equal(again, found[0])


def test_a_float32_recurrence_inside_float64_sets_the_floor():
    class Recurrence32(nn.Module):
        def forward(self, x):
            h, out = torch.zeros_like(x[..., 0, :]).float(), []
            for step in (x * 1e6).float().unbind(-2):
                h = 0.7 * h + step
                out.append(h)
            return torch.stack(out, -2).double()

    x = torch.randn(360, 1, dtype=F64)
    J = temporal_jacobian(Recurrence32(), x, method="autograd")
    norms = J.log_norms([359])
    lags = np.arange(360)[::-1]
    exact = lags * np.log(np.float32(0.7)) + np.log(1e6)
    known = norms.status[0] == STATUS["finite"]
    np.testing.assert_allclose(norms.values[0][known], exact[known], atol=1e-3)
    assert known[lags < 236].all()
    assert not known[lags > 290].any()
    assert not (norms.status == STATUS["zero"]).any()


def test_overflow_has_its_own_word():
    class Grows(nn.Module):
        def forward(self, x):
            h, out = torch.zeros_like(x[..., 0, :]), []
            for step in x.unbind(-2):
                h = 1e3 * h.relu() + step
                out.append(h)
            return torch.stack(out, -2)

    norms = temporal_jacobian(Grows(), torch.ones(150, 1, dtype=F64), method="autograd").log_norms([149])
    assert (norms.status[0, :30] == STATUS["overflow"]).all()
    assert np.isnan(norms.values[0, :30]).all()
    assert (norms.status[0, -30:] == STATUS["finite"]).all()


def test_pull_and_support_of_any_operator():
    module = Tagger(D, 5, 3).double()
    J = temporal_jacobian(module, torch.randn(N, D, dtype=F64), method="autograd")
    assert J.support(3).tolist() == [True] * 4 + [False] * 5
    values = torch.randn(2, N, 3, dtype=F64)
    log_scale = torch.linspace(-900, 0, N, dtype=F64)[None, :, None].expand(2, N, 1)
    pulled = J.pull(Scaled(values, log_scale))
    near = Scaled(values, log_scale).dense()
    truth = torch.stack([J.vjp(one) for one in near])
    torch.testing.assert_close(pulled.dense(), truth, rtol=1e-10, atol=1e-300)
    far = J.pull(Scaled(values, log_scale - 5000))
    torch.testing.assert_close(far.log_norm((1, 2)), pulled.log_norm((1, 2)) - 5000, rtol=1e-13, atol=1e-9)


def test_registered_operators_serve_plain_instances_alone():
    class Doubles(nn.Module):
        def forward(self, x):
            return 2 * x

    class Triples(Doubles):
        def forward(self, x):
            return 3 * x

    asked = []

    @depprobe.register_jacobian(Doubles)
    def doubles(module, x, options):
        asked.append(type(module))
        assert not x.requires_grad

    x = torch.randn(N, D, dtype=F64)
    temporal_jacobian(Doubles(), x)
    temporal_jacobian(Triples(), x)
    hooked = Doubles()
    hooked.register_forward_hook(lambda m, a, y: 5 * y)
    temporal_jacobian(hooked, x)
    temporal_jacobian(Doubles(), x, of="output", layout="n b d")
    assert asked == [Doubles, Doubles]
    with pytest.raises(BadInput, match="no structured operator serves Doubles"):
        temporal_jacobian(Doubles(), x, method="structured")


def test_narrow_floats_are_seen_in_the_graph():
    J = temporal_jacobian(Narrow(D).double(), torch.randn(N, D, dtype=F64), method="autograd")
    assert J._products.narrowest is torch.float32


def test_operators_and_functions_travel_by_pickle():
    import pickle

    J = temporal_jacobian(Tagger(D, 5, 3).double(), torch.randn(N, D, dtype=F64), method="autograd")
    there = pickle.loads(pickle.dumps(J))
    np.testing.assert_array_equal(there.log_norms([5]).values, J.log_norms([5]).values)
    assert repr(J) == "AutogradJacobian(Tagger, shape=(9, 3, 9, 4))"


def test_a_default_device_of_the_caller_does_not_reach_what_is_measured():
    module, x = Tagger(D, 5, 3).double(), torch.randn(N, D, dtype=F64)
    plain = temporal_jacobian(module, x, method="autograd").log_norms([5]).values
    with torch.device("meta"):
        found = temporal_jacobian(module, x, method="autograd").log_norms([5]).values
    np.testing.assert_array_equal(found, plain)


def test_an_output_without_positions_is_refused():
    class Nothing(nn.Module):
        def forward(self, x):
            return x[:, x.shape[1] :]

    with pytest.raises(BadInput, match=r"output of Nothing has shape \(1, 0, 3\), which is empty"):
        depprobe.temporal_jacobian(Nothing(), torch.randn(5, 3), layout="b n d")


class _Kept(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(2, dtype=torch.long))
        self.register_buffer("short", torch.ones(2, dtype=torch.float16))
        self.strided = torch.full((4, 4), torch.nan)[:, ::2]


@pytest.mark.parametrize("wait", [False, True])
def test_a_snapshot_puts_back_whatever_was_written(wait, monkeypatch):
    """One tensor at a time, or all of those at once where the host would wait for each."""
    monkeypatch.setattr(held_tensors, "waits", lambda device: wait)
    module = _Kept()
    kept = snapshot.Snapshot(module)
    assert bool(held_tensors.same_at_once(kept._tensors.values())) == wait
    assert kept.restore() == []
    before = module.inner.weight.detach().clone()
    module.inner.weight.data[0, 0] += 1
    assert [tensor is module.inner.weight for tensor in kept.restore()] == [True]
    assert torch.equal(module.inner.weight, before)
    module.count += 1
    assert len(kept.restore()) == 1
    assert not module.count.any()
    module.strided.data[0, 0] = 3
    assert len(kept.restore()) == 1
    assert module.strided.isnan().all()
    module.short.data[0] = 2
    assert not kept._is_as_it_was()
    kept.refresh()
    assert kept.restore() == []
    assert module.short[0] == 2


def test_within_another_hold_only_writes_that_torch_counts_are_put_back_at_once():
    module = _Kept()
    kept = snapshot.Snapshot(module)
    kept.depth = 2
    module.inner.weight.data[0, 0] += 1
    with torch.no_grad():
        module.inner.bias[0] += 1
    assert [tensor is module.inner.bias for tensor in kept.restore()] == [True]
    kept.depth = 0
    assert [tensor is module.inner.weight for tensor in kept.restore()] == [True]


@pytest.mark.parametrize("stored", [False, True])
def test_numbers_drawn_from_numpy_are_drawn_again_afterwards(stored):
    """Also a normal number that was in store, which leaves no trace in the bits of the generator."""

    class Drawing(nn.Module):
        def forward(self, x):
            return x * float(np.random.randn())

    np.random.seed(0)
    if stored:
        np.random.randn()
    before = np.random.get_state()
    with pytest.raises(BadInput, match="draws random numbers"):
        temporal_jacobian(Drawing(), torch.randn(5, 2), layout="b n d")
    now = np.random.get_state()
    assert now[1].tobytes() == before[1].tobytes()
    assert now[2:] == before[2:]


class Truncated(nn.Module):
    """Detached where that depends on how long the input is: before its last steps, or behind its middle."""

    def __init__(self, behind):
        super().__init__()
        self.rnn, self.behind = nn.GRU(3, 3, batch_first=True), behind

    def forward(self, x):
        y, at = self.rnn(x)[0], x.shape[1] // 2 if self.behind else x.shape[1] - 4
        first, last = y[:, :at], y[:, at:]
        return torch.cat([first, last.detach()] if self.behind else [first.detach(), last], 1)


class OfOneLength(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0].masked_fill(torch.arange(20)[None, :, None] > 15, 0.0)


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
@pytest.mark.parametrize("make", [lambda: Truncated(False), lambda: Truncated(True), OfOneLength])
def test_first_positions_alone_are_not_taken_for_the_whole(make, method):
    torch.manual_seed(0)
    module, x = make().double(), torch.randn(20, 3, dtype=F64)
    leaf = x.clone().requires_grad_()
    y = module(leaf[None])[0]
    truth = torch.stack([torch.autograd.grad(y[5].sum(), leaf, retain_graph=True, materialize_grads=True)[0]])
    for targets in ([5], [2, 5, 11]):
        jacobian = temporal_jacobian(module, x, layout="b n d", method=method)
        status = jacobian.log_norms(targets).status[targets.index(5)]
        np.testing.assert_array_equal(status == STATUS["finite"], truth[0].abs().sum(1) > 0)
        assert ((status == STATUS["finite"]) | (status == STATUS["zero"])).all()


class ScalesGradients(nn.Module):
    """The same outputs at all lengths, gradients in proportion to them."""

    def forward(self, x):
        y, share = x.cumsum(1), x.shape[1] / 20
        return share * y + ((1 - share) * y).detach()


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
@pytest.mark.parametrize("targets", [[3], [0, 10], [1, 2, 5], [12, 15]])
def test_gradients_that_grow_with_the_length_are_those_of_the_whole(targets, method):
    x = torch.randn(20, 3, dtype=F64)
    jacobian = temporal_jacobian(ScalesGradients(), x, layout="b n d", method=method, probes=3)
    found = jacobian.log_norms(targets).values
    read = np.arange(20) <= np.array(targets)[:, None]
    np.testing.assert_allclose(found[read], np.log(3) / 2, atol=1e-12)
    assert np.isneginf(found[~read]).all()


class ReadsAThird(nn.Module):
    """Gradients of the last third of what an input holds: at a single position nothing is missing."""

    def forward(self, x):
        kept = x.shape[1] // 3
        sums = [
            x[:, : max(0, t - kept)].detach().sum(1) + x[:, max(0, t - kept) : t + 1].sum(1)
            for t in range(x.shape[1])
        ]
        return torch.stack(sums, 1)


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
def test_a_pass_too_short_to_show_what_it_loses_is_not_taken_for_longer_ones(method):
    x = torch.randn(20, 3, dtype=F64)
    jacobian = temporal_jacobian(ReadsAThird(), x, layout="b n d", method=method)
    status = jacobian.log_norms(range(20)).status
    lag = np.arange(20)[:, None] - np.arange(20)
    np.testing.assert_array_equal(status == STATUS["finite"], (lag >= 0) & (lag <= 6))


@pytest.mark.parametrize("hook", [torch.nan_to_num, lambda g: torch.where(g.isfinite(), g, 0)])
def test_hooks_on_gradients_prove_no_zeros(hook):
    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 3, batch_first=True)

        def forward(self, x):
            y = self.rnn(x)[0]
            if y.requires_grad:
                y.register_hook(hook)
            return y.relu()

    torch.manual_seed(0)
    module, x = Hooked().double(), torch.randn(6, 3, dtype=F64)
    exact = temporal_jacobian(module, x, layout="b n d", method="autograd").log_norms(range(6)).values
    found = temporal_jacobian(module, x, layout="b n d").log_norms(range(6)).values
    np.testing.assert_allclose(np.tril(found), np.tril(exact), rtol=1e-10)
    assert np.isfinite(found[np.tril_indices(6)]).all()


def test_a_generator_put_in_the_place_of_numpys_is_taken_away_again():
    class Swaps(nn.Module):
        def forward(self, x):
            torch.set_default_dtype(torch.float64)
            np.random.set_bit_generator(np.random.PCG64(9))
            return 2 * x

    generator, state = np.random.get_bit_generator(), np.random.get_state()
    with pytest.raises(BadInput, match="draws random numbers"):
        temporal_jacobian(Swaps(), torch.randn(5, 2), layout="b n d")
    assert np.random.get_bit_generator() is generator
    assert np.random.get_state()[1].tobytes() == state[1].tobytes()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_a_forward_that_switches_gradients_off_in_the_end_is_measured(method):
    class SwitchesOff(nn.Module):
        def forward(self, x):
            y = x.cumsum(1)
            torch.set_grad_enabled(False)
            return y

    x = torch.randn(6, 3, dtype=F64)
    found = temporal_jacobian(SwitchesOff(), x, layout="b n d", method=method).log_norms([2])
    np.testing.assert_allclose(found.values[0, :3], np.log(3) / 2)
    assert (found.status[0, 3:] == STATUS["zero"]).all()
    assert torch.is_grad_enabled()


class Recorder:
    """Keeps what a hook sees."""

    def __init__(self):
        self.seen, self.calls = [], 0

    def hook(self, module, given, output):
        self.seen.append(output)
        self.calls += 1


class KeepsElsewhere(nn.Module):
    """A forward that keeps things in a namespace, in a default argument, and, by a hook, in a closure."""

    def __init__(self):
        super().__init__()
        self.linear, self.state = nn.Linear(3, 4), SimpleNamespace(last=None)
        self.recorder, calls, total = Recorder(), 0, torch.zeros(4)

        def counts(module, given, output):
            nonlocal calls
            calls += 1
            total.add_(output.detach().sum((0, 1)))
            return output + 0 * calls

        self.counted = lambda: (calls, total.tolist())
        self.linear.register_forward_hook(counts)
        self.linear.register_forward_hook(Recorder.hook.__get__(self.recorder))
        del self.recorder

    def forward(self, x, cache={}):  # noqa: B006
        self.state.last = cache["last"] = self.linear(x).cumsum(1)
        return self.state.last


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
def test_what_a_forward_keeps_outside_its_attributes_is_put_back(method):
    module = KeepsElsewhere()
    (recorder,) = [
        hook.__self__ for hook in module.linear._forward_hooks.values() if hasattr(hook, "__self__")
    ]
    depprobe.jacobian(module, torch.randn(9, 3), layout="b n d", method=method)
    assert module.counted() == (0, [0.0] * 4)
    assert (recorder.seen, recorder.calls) == ([], 0)
    assert module.state.last is None
    assert KeepsElsewhere.forward.__defaults__ == ({},)
