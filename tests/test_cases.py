"""What is measured, and what has no meaning in a call: modules, factories, mappings; weights of layers."""

from __future__ import annotations

import random
import threading
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import depprobe
from depprobe import store
from depprobe.cli.summaries import summary_of
from depprobe.errors import BadInput
from depprobe.registry import Spec, layers
from depprobe.runs.inputs import Source
from depprobe.runs.subject import drawn_from

F64 = torch.float64
X = np.random.default_rng(0).normal(size=(9, 3))
SPECS = [spec for name, entry in layers.items() for spec in (name, *entry.examples)]


class Around(nn.Module):
    """A class of its own around a GRU and a Linear."""

    def __init__(self, d_in=3, width=4, dtype=F64):
        super().__init__()
        self.inner = nn.GRU(d_in, width, batch_first=True, dtype=dtype)
        self.out = nn.Linear(width, 2, dtype=dtype)

    def forward(self, x):
        return self.out(self.inner(x)[0])


def values(ds):
    return ds["log_norm"].values


# what has no meaning is refused


def test_everything_that_a_built_module_would_ignore_is_named():
    with pytest.raises(BadInput) as caught:
        depprobe.jacobian(Around(), X, n=999, d=3, seeds=5, samples=7, dtype="float32", device="cuda")
    said = str(caught.value)
    for given in ("n=999", "samples=7", "d=3", "seeds=5", "dtype='float32'", "device='cuda'"):
        assert given in said
    assert "Around is a module that is already built" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("target", "x", "options", "said"),
    [
        (nn.GRU(3, 4), X, {"probes": 8}, r"probes=8 has no meaning.*only method='probes' draws any"),
        ("gru", None, {"forward": {"hx": 1}}, r"forward=.*\(it is for models; gru is a named layer\)"),
        ("gru", X, {"n": 9}, r"n=9 has no meaning in this call \(x is given and brings its own\)"),
        (lambda seed: Around(), X, {"d": 4}, "d=4 has no meaning in this call .*has its own width"),
        ({"a": Around(), "b": lambda seed: Around()}, X, {"seeds": 2}, r"seeds=2 .*\(a is a module that is"),
        ("gru", None, {"seeds": 0}, "samples and seeds must be at least 1, not 1 and 0"),
        ([], None, {}, "no layer was given"),
        ({}, X, {}, "the mapping is empty"),
        ({3: "gru"}, None, {}, "a label must be text, not 3"),
        (["gru", Around()], X, {}, "a list holds names of layers, not modules and factories"),
        (["gru", "gru"], None, {}, "a layer is given twice: gru, gru"),
        (7, X, {}, "int 7 is neither the name of a layer, nor an nn.Module, nor a factory"),
        (lambda d, width: Around(), X, {}, "needs the arguments d, width; a factory takes the seed alone"),
        (lambda seed: "gru", X, {}, "<lambda> was called as a factory seed -> nn.Module and returned str"),
        (
            lambda seed: 1 / 0,
            X,
            {},
            "called as a factory seed -> nn.Module and raised ZeroDivisionError: division",
        ),
        (Around(), None, {}, "a module needs its input"),
        ("gru", np.ma.masked_array(X, X > 1), {}, "masked entries"),
        ("gru", None, {"targets": "random:0", "n": 9}, "the number must lie between 1 and n = 9"),
    ],
)
def test_wrong_calls_are_one_line(target, x, options, said):
    with pytest.raises(BadInput, match=said) as caught:
        depprobe.jacobian(target, x, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("probe", "module"),
    [
        (depprobe.gates, nn.GRU(3, 4, dtype=F64)),
        (depprobe.lyapunov, nn.GRU(3, 4, dtype=F64)),
        (depprobe.cost, nn.GRU(3, 4, dtype=F64)),
    ],
)
def test_other_probes_refuse_alike(probe, module):
    with pytest.raises(BadInput, match=r"d=3.*GRU"):
        probe(module, X, d=3)
    with pytest.raises(BadInput, match=r"n=8 has no meaning in this call"):
        probe(module, X, n=8)


def test_spectrum_refuses_what_weights_do_not_need():
    with pytest.raises(BadInput, match=r"n=8 has no meaning.*read without an input"):
        depprobe.spectrum("gru", n=8, d=4)
    with pytest.raises(BadInput, match=r"x has no meaning without steps"):
        depprobe.spectrum("gru", X, d=4)
    with pytest.raises(BadInput, match=r"seeds=2 .*already built"):
        depprobe.spectrum(nn.RNN(3, 4), seeds=2)


# factories and mappings


def test_a_factory_draws_its_weights_from_each_seed():
    def make(seed):
        torch.manual_seed(seed)
        return Around()

    def plain():
        return Around()

    given, forked = (depprobe.jacobian(one, X, seeds=3, seed=4) for one in (make, plain))
    assert given["seed"].values.tolist() == [4, 5, 6]
    np.testing.assert_array_equal(values(given), values(forked))
    for i, seed in enumerate((4, 5, 6)):
        np.testing.assert_array_equal(values(given)[i], values(depprobe.jacobian(make(seed), X)))
    assert len(np.unique(values(given)[:, 0, 0])) == 3


def test_a_factory_that_ignores_its_seed_gives_as_many_curves():
    module = Around()
    ds = depprobe.jacobian(lambda seed: module, X, seeds=5)
    assert ds.sizes["seed"] == 5
    assert (values(ds) == values(ds)[0]).all()


def test_dtype_of_a_factory():
    ds = depprobe.jacobian(lambda: Around(), X, dtype="float32")
    assert ds.attrs["dtype"] == "float32"
    assert depprobe.jacobian(lambda: Around(dtype=torch.float32), X).attrs["dtype"] == "float32"


def test_a_mapping_is_one_dataset():
    module = Around()
    kinds = {"named": "gru", "built": module, "made": lambda seed: Around(width=5)}
    ds = depprobe.jacobian(kinds, X, targets="every:4")
    store.validate(ds)
    assert ds["layer"].values.tolist() == ["named", "built", "made"]
    np.testing.assert_array_equal(
        values(ds.sel(layer="built")), values(depprobe.jacobian(module, X, targets="every:4"))
    )
    curves = depprobe.figures.decay(ds)
    assert [line.get_label() for line in curves.lines] == ["named", "built", "made"]


def test_bands_over_the_seeds_of_factories():
    make = {"GRU": lambda seed: Around(), "wide": lambda seed: Around(width=6)}
    ds = depprobe.jacobian(make, X, seeds=4)
    assert ds["log_norm"].dims == ("layer", "seed", "target", "source")
    assert all(band is not None for band in depprobe.figures.decay(ds).bands)
    assert depprobe.distances(ds)["mean_distance"].dims == ("layer",)


def test_several_datasets_are_refused_in_one_line():
    ds = depprobe.jacobian("gru", n=9, d=4)
    with pytest.raises(BadInput, match="a dataset is taken one at a time, a call for each; not list"):
        depprobe.decay_curve([ds, ds])


def test_random_targets_are_stratified_and_follow_the_seed():
    first, again, other = (
        depprobe.jacobian("gru", n=40, d=4, targets="random:5", seed=seed)["target"].values
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first // 8, np.arange(5))


def test_every_sample_and_seed_has_probes_of_its_own():
    module, x = nn.Linear(3, 4, dtype=F64), np.repeat(X[None], 6, 0)
    first, again, other = (
        values(depprobe.jacobian(module, x, method="probes", probes=2, targets="last", seed=seed))[:, 0, -1]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first)) == 6
    assert not np.isin(first, other).any()


# weights of named layers touch nothing of the process


def parameters(text, seed=3):
    spec = Spec.parse(text)
    with drawn_from(seed):
        module = layers[spec.name].build(8, **spec.options())
    return [*module.parameters(), *module.buffers()]


@pytest.mark.parametrize("text", SPECS)
def test_weights_are_those_of_torchs_own_generator(text):
    spec = Spec.parse(text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = layers[spec.name].build(8, **spec.options())
    expected = [*module.parameters(), *module.buffers()]
    before = torch.get_rng_state()
    found = parameters(text)
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, expected, found))


def modes():
    yield torch.no_grad()
    yield torch.inference_mode()
    yield torch.autocast("cpu", dtype=torch.bfloat16)
    yield torch.device("meta")


def measured():
    call = {"n": 10, "d": 8, "targets": "every:5"}
    return [values(depprobe.jacobian(text, **call)) for text in SPECS]


plain = cache(measured)


@pytest.mark.parametrize("mode", range(4))
def test_modes_of_the_caller_change_no_number(mode):
    plain()
    with list(modes())[mode]:
        inside = measured()
    for before, here in zip(plain(), inside, strict=True):
        np.testing.assert_array_equal(before, here)


def test_default_dtype_and_device_change_no_number():
    plain()
    try:
        torch.set_default_dtype(F64)
        torch.set_default_device("meta")
        inside = measured()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for before, here in zip(plain(), inside, strict=True):
        np.testing.assert_array_equal(before, here)


def test_layers_built_in_concurrent_threads_are_those_built_alone():
    texts = [f"{name}:gain={gain},orthogonal=true" for gain in (1, 2) for name in ("rnn", "gru", "lstm")] * 4
    alone = [parameters(text, seed) for seed, text in enumerate(texts)]
    found: list = [None] * len(texts)
    gate = threading.Barrier(len(texts))

    def build(seed, text):
        gate.wait()
        found[seed] = parameters(text, seed)

    before = torch.get_rng_state()
    threads = [threading.Thread(target=build, args=one) for one in enumerate(texts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(before, torch.get_rng_state())
    assert all(all(map(torch.equal, *pair)) for pair in zip(alone, found, strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_a_factory_leaves_the_process_as_it_was(fails):
    def make(seed):
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
        torch.set_default_dtype(F64)
        if fails:
            raise KeyboardInterrupt
        return Around()

    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    if fails:
        with pytest.raises(KeyboardInterrupt):
            depprobe.jacobian(make, X)
    else:
        depprobe.jacobian(make, X)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


# three classes of a user's own, side by side


class OwnLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return x + self.out(self.inner(x)[0])


class OwnTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.query, self.out = nn.LayerNorm(3), nn.Linear(3, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.query(self.norm(x)).split(4, -1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(mixed)


class OwnTCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv1d(3, 3, 2, dilation=2**i) for i in range(3)])

    def forward(self, x):
        z = x.transpose(1, 2)
        for i, conv in enumerate(self.convs):
            z = z + conv(nn.functional.pad(z, (2**i, 0))).relu()
        return z.transpose(1, 2)


def test_three_classes_of_ones_own_in_one_dataset_and_figure():
    kinds = {"LSTM": OwnLSTM, "Transformer": OwnTransformer, "TCN": OwnTCN}
    x = torch.randn(20, 3)
    ds = depprobe.jacobian(kinds, x, seeds=3, targets="every:5", layout="b n d")
    store.validate(ds)
    assert ds["log_norm"].dims == ("layer", "seed", "target", "source")
    for i, make in enumerate(kinds.values()):
        with torch.random.fork_rng():
            torch.manual_seed(2)
            module = make()
        for row, t in enumerate(ds["target"].values):
            leaf = x[None].clone().requires_grad_()
            units = module(leaf)[0, t]
            J = torch.stack([torch.autograd.grad(u, leaf, retain_graph=True)[0][0] for u in units])
            expected = J.double().pow(2).sum((0, 2)).sqrt().log().numpy()
            found = values(ds)[i, 2, row]
            zero = np.isneginf(expected)
            assert (np.isneginf(found) == zero).all()
            np.testing.assert_allclose(found[~zero], expected[~zero], atol=1e-4)
    drawn = depprobe.figures.decay(ds)
    assert [line.get_label() for line in drawn.lines] == list(kinds)
    assert all(band is not None for band in drawn.bands)


def test_probes_without_targets_take_many_with_one_probe_each():
    module, x = nn.Linear(3, 4, dtype=F64), np.random.default_rng(0).normal(size=(80, 3))
    ds = depprobe.jacobian(module, x, method="probes")
    assert ds.sizes["target"] == 64
    assert ds.attrs["probes"] == 1
    assert np.isfinite(ds["effective_rank"].values).sum() == 64
    assert depprobe.jacobian(module, x[:9], method="probes").sizes["target"] == 9
    given = depprobe.jacobian(module, x, method="probes", targets="last")
    assert (given.sizes["target"], given.attrs["probes"]) == (1, 4)
    assert depprobe.jacobian(module, x, method="autograd").sizes["target"] == 1


def test_a_summary_of_estimates_pools_their_squares():
    from depprobe.cli.summaries.jacobian import summary
    from depprobe.curves import decay_curve

    module, x = nn.Linear(3, 4, dtype=F64), np.random.default_rng(0).normal(size=(80, 3))
    ds = depprobe.jacobian(module, x, method="probes")
    curve = decay_curve(ds).sel(lag=0)
    assert summary(ds).records[0]["log_norm_near"] == float(curve["log_rms"])
    assert float(curve["log_rms"]) > float(curve["log_median"])


def test_probes_for_a_stated_error_bring_it_about():
    module, x = nn.Linear(40, 40, dtype=F64), np.random.default_rng(0).normal(size=(5, 40))
    exact = depprobe.jacobian(module, x, targets=[3], method="autograd")["log_norm"].values[0, 3]
    found = [
        depprobe.jacobian(module, x, targets=[3], method="probes", probes="20%", seed=seed)
        for seed in range(60)
    ]
    squares = np.exp(2 * (np.array([ds["log_norm"].values[0, 3] for ds in found]) - exact))
    assert 1 < np.median([ds.attrs["probes"] for ds in found]) < 5
    assert 0.1 < squares.std() < 0.25


@pytest.mark.parametrize(
    ("call", "given", "said"),
    [
        (depprobe.jacobian, {"progress": 3}, "progress must be a function, not 3"),
        (depprobe.jacobian, {"command": 3}, "command must be text, not 3"),
        (depprobe.jacobian, {"norm": []}, r"norm must be text, not \[\]"),
        (
            depprobe.jacobian,
            {"finished": 3},
            "finished must be a folder in which to keep finished cases, not 3",
        ),
        (depprobe.gates, {"depth": "top"}, "depth must be a whole number, not 'top'"),
        (depprobe.gates, {"lags": 3}, "lags must be a list, not 3"),
        (depprobe.gates, {"lags": ["a"]}, "lags must be whole numbers"),
        (depprobe.gates, {"tolerance": "small"}, "tolerance must be a number, not 'small'"),
        (depprobe.spectrum, {"n": None, "weight": 3}, "weight must be a list, not 3"),
        (depprobe.spectrum, {"n": None, "weight": [3]}, r"weight names no parameter: \[3\]"),
        (depprobe.spectrum, {"n": None, "powers": 1.5}, r"powers must be a whole number, not 1\.5"),
        (depprobe.lyapunov, {"exponents": 1.5}, r"exponents must be all, or between 1 and .*, not 1\.5"),
        (depprobe.lyapunov, {"warmup": "long"}, "warmup must be a whole number, not 'long'"),
        (depprobe.cost, {"phases": 3}, "phases must be a list, not 3"),
        (depprobe.cost, {"phases": []}, "no phase was given"),
        (depprobe.cost, {"seconds": "long"}, "seconds must be a number, not 'long'"),
        (depprobe.cost, {"n": 8.5}, r"n must be integers of at least 2, not 8\.5"),
    ],
)
def test_values_of_another_kind_are_refused_in_one_line(call, given, said):
    with pytest.raises(BadInput, match=said) as refused:
        call("lstm", **({"n": 30, "d": 4} | given))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"step": 3}, "step must be a function, not 3"),
        ({"state": "a"}, r"state must be a vector \(S,\) of floats, not 'a'"),
        ({"inputs": 3}, "inputs must hold one entry a step, not 3"),
        ({"name": 3}, "name must be text, not 3"),
    ],
)
def test_a_map_of_another_kind_is_refused_in_one_line(given, said):
    with pytest.raises(BadInput, match=said):
        depprobe.lyapunov_of_map(**({"step": torch.sin, "state": [0.3], "steps": 9} | given))


def test_widths_and_dtypes_are_said_of_each_layer():
    models = {
        "wide": nn.GRU(3, 5, batch_first=True),
        "deep": nn.GRU(3, 4, 2, batch_first=True).double(),
        "half": nn.Sequential(nn.Linear(3, 2)).bfloat16(),
    }

    def factory(module):
        return lambda: module

    make = {label: factory(module) for label, module in models.items()}
    ds = depprobe.jacobian(make, Source("noise"), n=9)
    assert ds["d"].values.tolist() == [5, 4, 2]
    assert ds["dtype"].values.tolist() == ["float32", "float64", "bfloat16"]
    assert not {"d", "dtype"} & ds.attrs.keys()
    assert "d = 5 or 4 or 2, t = 8, seed 0, float32 or float64 or bfloat16" in summary_of(ds).title
    assert depprobe.jacobian({"a": make["wide"], "b": make["wide"]}, Source("noise"), n=9).d == 5
    del make["half"]
    ds = depprobe.lyapunov(make, Source("noise"), n=9, exponents=2)
    assert ds["d"].values.tolist() == [5, 4]
    assert "d = 5 or 4, seed 0, float32 or float64" in summary_of(ds).title
    ds = depprobe.spectrum(make, grid=0)
    assert "4 to 5 wide, seed 0, float32, float64" in summary_of(ds).title


def test_a_layout_beside_named_layers_is_that_of_the_models():
    module = nn.Sequential(nn.GRU(3, 4), nn.Tanh()).double()
    both = depprobe.jacobian({"own": module, "gru": "gru"}, X, d=3, layout="n b d")
    xr.testing.assert_equal(
        both.log_norm.sel(layer="own", drop=True), depprobe.jacobian(module, X, layout="n b d").log_norm
    )
    xr.testing.assert_equal(
        both.log_norm.sel(layer="gru", drop=True), depprobe.jacobian("gru", X, d=3).log_norm
    )
    with pytest.raises(
        BadInput, match=r"layout='n b d' has no meaning in this call .it is for models; gru is"
    ):
        depprobe.jacobian("gru", X, d=3, layout="n b d")
