"""Runs joined into one dataset: by ``combine``, and by xarray; saved, loaded, summarised and drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr

import depprobe
from depprobe.cli.summaries import summary_of
from depprobe.errors import BadInput
from depprobe.store import validate
from depprobe.vocabulary import STATUS


@pytest.fixture(scope="module")
def runs():
    return {
        "gru": depprobe.jacobian("gru", n=20, d=3, targets="all"),
        "other seed": depprobe.jacobian("gru", n=20, d=3, targets="all", seed=1),
        "by state": depprobe.jacobian("gru", n=20, d=3, targets="all", seed=2, wrt="h"),
        "short": depprobe.jacobian("gru", n=12, d=3, targets="all"),
        "seeds": depprobe.jacobian("lstm", n=30, d=5, targets="every:6", seeds=2),
        "banded": depprobe.jacobian("conv:kernel=3", n=25, d=3, targets="all"),
        "probed": depprobe.jacobian("gru", n=20, d=9, targets="every:4", method="probes"),
        "spectral": depprobe.jacobian("gru", n=20, d=3, norm="spectral"),
    }


def measured(ds):
    return ds["log_norm_status"] != STATUS["not_measured"]


def test_what_each_run_measured_stands_in_its_layer(runs):
    chosen = ["gru", "seeds", "banded", "probed"]
    ds = depprobe.combine([runs[name] for name in chosen], labels=chosen)
    validate(ds)
    assert dict(ds.log_norm.sizes) == {"layer": 4, "seed": 2, "target": 26, "source": 30}
    assert ds.n.values.tolist() == [20, 30, 25, 20]
    assert ds.d.values.tolist() == [3, 5, 3, 9]
    for name in chosen:
        own = depprobe.dense(runs[name])
        own = own if "seed" in own.dims else own.expand_dims(seed=[0])
        part = ds.sel(layer=name)
        inside = part.sel(seed=own.seed, target=own.target, source=own.source)
        np.testing.assert_array_equal(inside.log_norm, own.log_norm.transpose(*inside.log_norm.dims))
        np.testing.assert_array_equal(inside.log_norm_status, own.log_norm_status)
        assert int(measured(part).sum()) == own.log_norm.size
    assert json.loads(ds.provenance)["runs"][0]["command"] == "depprobe.jacobian(gru)"


def test_every_curve_and_distance_is_that_of_its_own_run(runs):
    chosen = ["gru", "short", "seeds"]
    ds = depprobe.combine([runs[name] for name in chosen], labels=chosen)
    together = depprobe.decay_curve(ds)
    far = depprobe.distances(ds)
    for name in chosen:
        own = depprobe.decay_curve(runs[name])
        np.testing.assert_allclose(together.sel(layer=name, lag=own.lag).log_rms, own.log_rms)
        assert float(far.mean_distance.sel(layer=name)) == float(depprobe.distances(runs[name]).mean_distance)


def test_one_label_joins_along_seeds(runs):
    ds = depprobe.combine([runs["other seed"], runs["gru"]], labels=["g", "g"])
    assert ds.log_norm.dims == ("seed", "target", "source")
    assert ds.seed.values.tolist() == [0, 1]
    both = depprobe.jacobian("gru", n=20, d=3, targets="all", seeds=2)
    np.testing.assert_array_equal(ds.log_norm, both.log_norm)


def test_several_lengths_under_one_label_are_each_stated():
    short, long, other = (
        depprobe.jacobian(layer, n=n, d=3, seed=seed)
        for layer, n, seed in (("gru", 9, 0), ("gru", 14, 1), ("lstm", 12, 0))
    )
    both = depprobe.combine([long, short])
    assert both.n.dims == ("seed",)
    assert both.n.values.tolist() == [9, 14]
    assert "n" not in both.attrs
    assert "n = 9 or 14, " in summary_of(both).title
    assert "$n$" not in depprobe.figures.decay(both).caption
    beside = depprobe.combine([both, other])
    assert beside.n.dims == ("layer", "seed")
    assert beside.sel(layer="lstm", seed=0).n == 12
    assert "n = 9 or 14 or 12, " in summary_of(beside).title
    again = depprobe.combine([both, depprobe.jacobian("gru", n=6, d=3, seed=2)])
    assert again.n.values.tolist() == [9, 14, 6]


def test_the_length_of_a_part_is_that_of_the_run(runs):
    assert depprobe.combine([runs["gru"].sel(source=[2, 3])]).attrs["n"] == runs["gru"].attrs["n"]


def test_an_exact_layer_beside_an_estimate_errs_by_nothing(runs):
    ds = depprobe.combine([runs["gru"], runs["probed"]], labels=["exact", "probed"])
    exact = ds.sel(layer="exact").where(measured(ds.sel(layer="exact")))
    assert float(exact.log_norm_stderr.max()) == 0
    np.testing.assert_array_equal(exact.log_norm_low, exact.log_norm)
    assert ds.probes.values.tolist() == [0, runs["probed"].probes]


def concatenated(runs):
    kwargs = {"join": "outer", "coords": "different", "compat": "equals"}
    two = [runs["gru"], runs["short"]]
    yield xr.concat([runs["gru"], runs["other seed"]], dim="seed", **kwargs)
    yield xr.concat(two, dim="layer", **kwargs)
    yield xr.concat(two, dim="layer", **kwargs).assign_coords(layer=["long", "short"])


def combined(runs):
    yield depprobe.combine([runs["gru"], runs["seeds"]], labels=["a", "b"])
    yield depprobe.combine([runs["gru"], runs["short"]], labels=["long", "short"])


@pytest.mark.parametrize("how", [concatenated, combined])
def test_results_joined_are_saved_shown_and_drawn(runs, how, run, tmp_path):
    for i, ds in enumerate(how(runs)):
        validate(ds)
        depprobe.decay_curve(ds)
        pictures = depprobe.figures.heatmap(ds).images
        assert all(np.unique(picture.get_array().reshape(-1, 4), axis=0).shape[0] > 3 for picture in pictures)
        path = depprobe.save(ds, tmp_path / f"{i}.nc")
        back = depprobe.load(path)
        np.testing.assert_array_equal(back.log_norm, ds.log_norm)
        assert back.log_norm_status.dtype == np.int8
    # the last of them by the command line
    for command in (["show", str(path)], ["plot", str(path), "--figure", str(tmp_path / "it.png")]):
        code, _, said = run(*command)
        assert code == 0, said


def test_one_bad_file_does_not_hide_the_others(runs, run, tmp_path):
    good = depprobe.save(runs["gru"], tmp_path / "good.nc")
    code, out, said = run("show", str(tmp_path / "none.nc"), str(good))
    assert code == 2
    assert "no such file" in said
    assert "norm at lag" in out


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (["gru", "spectral"], None, "differ in the norm cannot be combined: fro in number 1, spectral in"),
        (["gru", "gru"], None, "'gru' comes twice with seed 0; tell the runs apart with labels"),
        (["gru", "short"], ["a"], r"labels must be a list of 2 names, one a layer of each dataset"),
        (["gru", "other seed", "by state"], None, "runs of 'gru' differ in wrt: x, h; tell the runs apart"),
        (["gru", "short"], ["a", ""], "a label must be text, not ''"),
        (["gru", "short"], ["a", None], "a label must be text, not None"),
        ([], None, r"combine takes a list of datasets, \[a, b\], not an empty one"),
    ],
)
def test_what_cannot_be_joined_is_refused_in_one_line(runs, names, labels, said):
    with pytest.raises(BadInput, match=said) as error:
        depprobe.combine([runs[name] for name in names], labels=labels)
    assert "\n" not in str(error.value)


def test_a_run_without_positions_keeps_the_others(runs):
    class Valid(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv1d(3, 3, 3)

        def forward(self, x):
            return self.conv(x.transpose(1, 2)).transpose(1, 2)

    unknown = depprobe.jacobian(Valid(), torch.randn(20, 3), targets="all")
    ds = depprobe.combine([runs["gru"], unknown], labels=["gru", "valid"])
    validate(ds)
    np.testing.assert_array_equal(ds.position.sel(layer="gru"), range(20))
    assert ds.position.sel(layer="valid").isnull().all()
    with pytest.raises(BadInput, match="no coordinate 'position'"):
        depprobe.distances(ds)


def test_other_things_are_refused_by_number(runs):
    with pytest.raises(BadInput, match="number 2 is float"):
        depprobe.combine([runs["gru"], 1.0])
    with pytest.raises(BadInput, match="not one Dataset"):
        depprobe.combine(runs["gru"])
    spectrum = depprobe.spectrum("rnn", d=4)
    with pytest.raises(BadInput, match="with log_norm; number 1 is a dataset of spectrum"):
        depprobe.combine([spectrum])
