"""What sel, isel and transpose leave of a result is named, drawn, saved, shown and combined as what it is."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import depprobe
from depprobe.cli.summaries import summary_of
from depprobe.errors import BadInput


@pytest.fixture(scope="module")
def ds():
    return depprobe.jacobian(["lstm", "gru"], n=12, d=3, seeds=3, samples=2, targets=[5, 11])


def labels(*datasets):
    return [line.get_label() for line in depprobe.figures.decay(list(datasets)).lines]


def test_a_layer_that_was_selected_is_named(ds):
    one = ds.sel(layer="gru")
    assert labels(one) == ["gru"]
    assert summary_of(one).records[0]["layer"] == "gru"
    found = depprobe.distances(one)
    assert (found.attrs["layer"], found.attrs["method"]) == ("gru", "chain")
    assert found.decay_rate.item() == depprobe.distances(ds).decay_rate.sel(layer="gru").item()


@pytest.mark.parametrize("seed", [1, [1]])
def test_the_seed_that_was_selected_is_stated(ds, seed):
    one = ds.isel(seed=seed)
    assert "seed 1," in summary_of(one).title
    assert "seed 1," in depprobe.figures.decay(one).caption
    assert "seed 1," in depprobe.figures.heatmap(one.sel(layer="lstm")).caption


def test_parts_of_one_result_are_told_apart(ds):
    gru = ds.sel(layer="gru")
    assert labels(gru.isel(seed=0), gru.isel(seed=2)) == ["gru (seed=0)", "gru (seed=2)"]
    assert labels(gru.isel(sample=0), gru.isel(sample=1)) == ["gru (sample=0)", "gru (sample=1)"]
    for first, last in ((0, 1), ([0], [1])):
        assert labels(gru.isel(target=first), gru.isel(target=last)) == ["gru (t=5)", "gru (t=11)"]


def test_distances_of_a_list_state_what_each_is_of(ds):
    found = depprobe.distances([ds.isel(seed=0), ds.isel(seed=2)])
    assert found.seed.dims == ("layer",)
    assert found.seed.values.tolist() == [0, 0, 2, 2]
    assert found.layer.values.tolist() == [
        f"{name} (seed={seed})" for seed in (0, 2) for name in ("lstm", "gru")
    ]


@pytest.mark.parametrize(
    "select",
    [
        lambda ds: ds.sel(layer="gru"),
        lambda ds: ds.sel(layer="gru").isel(seed=1, sample=0, target=-1),
        lambda ds: ds.isel(seed=1),
        lambda ds: ds.isel(target=1),
        lambda ds: ds.sel(source=3),
        lambda ds: ds.transpose(),
    ],
    ids=["layer", "one curve", "seed", "target", "source", "transposed"],
)
def test_what_is_selected_can_be_saved_shown_and_combined(ds, select, run, tmp_path):
    one = select(ds)
    depprobe.save(one, tmp_path / "one.nc")
    again = depprobe.load(tmp_path / "one.nc")
    assert depprobe.distances(again).equals(depprobe.distances(one))
    code, out, err = run("show", str(tmp_path / "one.nc"))
    assert code == 0, err
    assert out.splitlines()[0] == summary_of(one).title
    joined = depprobe.combine([one])
    np.testing.assert_array_equal(depprobe.distances(joined).decay_rate, depprobe.distances(one).decay_rate)
    assert summary_of(joined).title == summary_of(one).title


def test_results_in_chunks_are_shown_and_combined(ds):
    pytest.importorskip("dask")
    chunked = ds.chunk()
    assert summary_of(chunked).columns == summary_of(ds).columns
    xr.testing.assert_equal(depprobe.combine([chunked]), depprobe.combine([ds]))


def test_results_in_chunks_are_saved_whole(ds, tmp_path):
    pytest.importorskip("dask")
    depprobe.save(ds.chunk(), tmp_path / "chunked.nc")
    xr.testing.assert_identical(depprobe.load(tmp_path / "chunked.nc"), ds)


def test_without_attributes_what_is_not_known_is_left_out(ds):
    bare = ds.copy()
    bare.attrs = {}
    assert summary_of(bare).title == "dh_t/dx_k: 2 targets, 3 seeds, 2 samples, Frobenius norm"


def test_a_selection_of_nothing_is_refused(ds):
    for axis in ("layer", "target", "source"):
        with pytest.raises(BadInput, match="empty"):
            depprobe.combine([ds.isel({axis: []})])
