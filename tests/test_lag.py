"""The coordinate ``lag``: where the one input that a delay line reads lies, however it is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import depprobe
from depprobe.curves.align import with_lag
from depprobe.store.sweeps.opening import open_sweep

DELAY = 3


class Delay(nn.Module):
    """y[i] = x[stride * i - DELAY]; with ``last``, the last output alone."""

    def __init__(self, stride: int = 1, last: bool = False) -> None:
        super().__init__()
        self.stride, self.last = stride, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([torch.zeros_like(x[:, :DELAY]), x[:, :-DELAY]], 1)[:, :: self.stride]
        return y[:, -1] if self.last else y


def seen(ds: xr.Dataset) -> list[int]:
    """The lags at which a block is not zero."""
    return np.unique(ds.lag.broadcast_like(ds.log_norm).values[np.isfinite(ds.log_norm.values)]).tolist()


def by_loop(ds: xr.Dataset) -> np.ndarray:
    if "layer" in ds.position.dims:
        return np.array([by_loop(ds.isel(layer=i)) for i in range(ds.sizes["layer"])])
    places = [int(np.floor(p + 0.5)) for p in ds.position.values]
    return np.array([[p - int(k) for k in ds.source.values] for p in places])


CASES = {
    "alike": (Delay(), {"targets": "all"}, DELAY),
    "strided": (Delay(2), {"targets": "all", "position": np.arange(0.0, 21.0, 2.0)}, DELAY),
    "pooled": (Delay(last=True), {}, DELAY),
    "forecast": (Delay(7), {"targets": "all", "position": "forecast"}, None),
    "between": (Delay(), {"targets": "all", "position": np.arange(21) + 0.5}, DELAY + 1),
}


@pytest.mark.parametrize("case", CASES)
def test_a_delay_line_is_seen_at_its_lag(case):
    module, how, expected = CASES[case]
    ds = depprobe.jacobian(module, torch.randn(1, 21, 2).double(), layout="b n d", **how)
    assert ds.lag.dims == ("target", "source")
    assert ds.lag.dtype == np.int32
    assert ds.lag.attrs["units"] == "positions"
    np.testing.assert_array_equal(ds.lag, by_loop(ds))
    if expected is not None:
        assert seen(ds) == [expected]
        curve = depprobe.decay_curve(ds)
        assert curve.lag.values[np.isfinite(curve.log_median.values)].tolist() == [expected]


def test_tokens_of_a_padded_input_have_the_lags_of_the_tokens():
    torch.manual_seed(0)

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.delay = nn.Embedding(9, 3), Delay()

        def forward(self, input_ids, attention_mask):
            return self.delay(self.embedding(input_ids) * attention_mask[..., None])

    x = {"input_ids": torch.arange(8)[None], "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])}
    ds = depprobe.jacobian(Reads(), x, targets="all")
    assert seen(ds) == [DELAY]
    assert int(ds.tokens) == 6


def test_the_banded_form_has_the_lags_of_the_dense_one():
    """Half positions too: an even kernel sits between two inputs."""
    even = nn.Conv1d(3, 3, 4)
    for subject, how in ((even, {"x": torch.randn(1, 400, 3)}), ("conv:kernel=5", {"n": 400, "d": 3})):
        banded = depprobe.jacobian(subject, targets="all", **how)
        assert "lag" in banded.dims
        dense = depprobe.dense(banded)
        np.testing.assert_array_equal(dense.lag, by_loop(dense))
        assert seen(dense) == seen(banded)


def test_layers_that_shorten_the_sequence_have_lags_of_their_own():
    ds = depprobe.jacobian(["rnn", "conv:stride=2,causal=true"], n=21, d=3, targets="all")
    if "layer" in ds.position.dims:
        assert ds.lag.dims == ("layer", "target", "source")
    for one in (ds.isel(layer=i) for i in range(2)):
        np.testing.assert_array_equal(one.lag.broadcast_like(one.log_norm), by_loop(one))
        assert one.lag.broadcast_like(one.log_norm).values[np.isfinite(one.log_norm.values)].min() >= 0


def test_no_lag_where_positions_are_not_known():
    ds = depprobe.jacobian(Delay(2), torch.randn(1, 21, 2), layout="b n d")
    assert "position" not in ds.coords
    assert "lag" not in ds.coords


def test_lags_come_back_from_files_and_are_in_them(tmp_path):
    ds = depprobe.jacobian(["gru", "rnn"], n=12, d=3, targets="every:5", seeds=2)
    file = depprobe.save(ds, tmp_path / "a.nc")
    xr.testing.assert_identical(depprobe.load(file), ds)
    with xr.open_dataset(file, engine="h5netcdf", driver_kwds={"locking": False}) as plain:
        np.testing.assert_array_equal(plain.lag, ds.lag)
        assert "lag" in plain.coords
    depprobe.save(ds.drop_vars("lag"), tmp_path / "old.nc")
    xr.testing.assert_identical(depprobe.load(tmp_path / "old.nc"), ds)
    # positions given afterwards are those that count
    late = ds.assign_coords(position=("target", ds.position.values + 2.0, ds.position.attrs))
    np.testing.assert_array_equal(depprobe.load(depprobe.save(late, file)).lag, ds.lag + 2)
    assert late.depprobe.lag.max() == ds.lag.max() + 2
    assert depprobe.decay_curve(late).lag.max() == ds.lag.max() + 2


def test_lags_of_joined_datasets_are_those_of_their_blocks(tmp_path):
    short, long = (depprobe.jacobian("gru", n=n, d=3, targets="last") for n in (9, 12))
    joined = depprobe.combine([short, long], labels=["short", "long"])
    np.testing.assert_array_equal(joined.lag, by_loop(joined))
    assert joined.lag.dtype == np.int32
    beside = xr.concat([short, long], "layer", join="outer", data_vars="all").assign_coords(layer=["a", "b"])
    back = depprobe.load(depprobe.save(beside, tmp_path / "joined.nc"))
    np.testing.assert_array_equal(back.lag, by_loop(back))


def test_the_lags_of_a_sweep_are_those_of_its_positions(tmp_path):
    from click.testing import CliRunner

    from depprobe.cli import cli

    plan = "[grid]\nlayer = ['rnn', 'conv:stride=2']\nn = [9, 12]\n[fixed]\nd = 3\ntargets = 'all'\n"
    (tmp_path / "grid.toml").write_text(plan)
    done = CliRunner().invoke(cli, ["sweep", str(tmp_path / "grid.toml"), "-o", str(tmp_path / "s"), "-q"])
    assert done.exit_code == 0, done.output
    ds = open_sweep(tmp_path / "s")
    expected = np.floor(ds.position + 0.5) - ds.source
    np.testing.assert_array_equal(ds.lag.transpose(*expected.dims), expected)
    assert set(ds.lag.dims) == {*ds.position.dims, "source"}


def test_what_is_right_already_stays_the_same_object():
    ds = depprobe.jacobian("rnn", n=9, d=3)
    assert with_lag(ds) is ds
    bare = ds.drop_vars("position")
    assert with_lag(bare) is bare
