"""Datasets that know their methods, several datasets in one call, and names that tell what differs."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import depprobe
from depprobe.errors import BadInput


@pytest.fixture(scope="module")
def ds():
    return depprobe.jacobian("rnn", n=20, d=4, targets="all")


def test_the_accessor_gives_what_the_functions_give(ds):
    xr.testing.assert_identical(ds.depprobe.distances(power=1), depprobe.distances(ds, power=1))
    xr.testing.assert_identical(ds.depprobe.decay(), depprobe.decay_curve(ds))
    line = depprobe.figures.decay(ds).lines[0]
    np.testing.assert_array_equal(ds.depprobe.plot(title="").lines[0].get_xydata(), line.get_xydata())
    np.testing.assert_array_equal(ds.depprobe.decay().depprobe.plot().lines[0].get_ydata(), line.get_ydata())
    assert len(depprobe.spectrum("rnn", d=4).depprobe.plot().axes) == 1
    with pytest.raises(BadInput, match="no figure for a dataset of time"):
        xr.Dataset({"time": 1.0}).depprobe.plot()


def test_the_lag_is_that_of_each_block(ds):
    lag = ds.depprobe.lag
    assert lag.dims == ("target", "source")
    np.testing.assert_array_equal(lag, np.subtract.outer(np.arange(20), np.arange(20)))
    assert lag.attrs["units"] == "positions"
    xr.testing.assert_identical(ds.lag, lag)
    last = ds.isel(target=-1)
    np.testing.assert_array_equal(last.log_norm.swap_dims(source="lag").sel(lag=3), ds.log_norm[-1, -4])
    band = xr.Dataset({"log_norm": (("target", "lag"), [[0.0, 0.0]])}, {"lag": [0, 1]})
    assert band.depprobe.lag.values.tolist() == [0, 1]
    with pytest.raises(BadInput, match="position and source"):
        ds.drop_vars(["position", "lag"]).depprobe.lag  # noqa: B018


def test_distances_of_several_datasets_stand_side_by_side(ds):
    two = depprobe.jacobian(["gru", "lstm"], n=20, d=4)
    found = depprobe.distances([ds, two], resamples=20)
    assert found["layer"].values.tolist() == ["rnn", "gru", "lstm"]
    for name, one in (("rnn", ds), ("gru", two.sel(layer="gru"))):
        alone = depprobe.distances(one, resamples=20)
        assert found["decay_rate"].sel(layer=name).item() == alone["decay_rate"].item()
        assert found["best_form"].sel(layer=name).item() == alone["best_form"].item()
    longer = depprobe.jacobian("rnn", n=30, d=4)
    assert depprobe.distances([ds, longer], resamples=20)["layer"].values.tolist() == [
        "rnn (n=20)",
        "rnn (n=30)",
    ]
    with pytest.raises(BadInput, match="not an empty list"):
        depprobe.distances([])
    with pytest.raises(BadInput, match="not a list with int"):
        depprobe.distances([ds, 3])
    with pytest.raises(BadInput, match="not str"):
        depprobe.distances("a.nc")


@pytest.mark.parametrize(
    "module", [nn.LSTM(3, 4), nn.Conv1d(3, 3, 3), nn.MultiheadAttention(3, 1), nn.Sequential(nn.Linear(3, 4))]
)
@pytest.mark.parametrize("method", ["auto", "probes", "autograd"])
def test_operators_say_what_they_are(module, method):
    operator = depprobe.temporal_jacobian(module, torch.randn(9, 3), method=method)
    assert repr(operator).startswith(f"{type(operator).__name__}(")
    assert " at 0x" not in repr(operator)


def test_every_public_name_is_there():
    assert set(depprobe.__all__) == set(dir(depprobe))
    for name in depprobe.__all__:
        assert getattr(depprobe, name) is not None
    for name in depprobe.figures.__all__:
        assert hasattr(depprobe.figures, name)


def test_every_name_that_pages_use_is_public():
    root = Path(depprobe.__file__).parents[1]
    pages = [
        root / "README.md",
        *sorted((root / "docs").glob("*.md")),
        *sorted((root / "studies").glob("*.py")),
    ]
    modules = {module.name for module in pkgutil.iter_modules(depprobe.__path__)}
    used = {}
    for page in pages:
        # ds.depprobe.x is the accessor's, depprobe/x and depprobe.toml are files
        found = re.findall(r"(?<![\w./\"-])depprobe\.(?!__)([A-Za-z_]\w*)", page.read_text(encoding="utf-8"))
        used |= dict.fromkeys(found, page.name)
    assert len(used) > 15
    assert {name: page for name, page in used.items() if name not in {*depprobe.__all__, *modules}} == {}


def test_the_table_of_layers_is_that_of_the_package_whatever_is_imported_first():
    code = "import depprobe.layers.attention; import depprobe; assert 'lstm' in depprobe.layers"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert depprobe.layers["lstm"].name == "lstm"
    assert "depprobe.layers.recurrent" in sys.modules


def test_datasets_know_their_methods_whatever_is_imported_first():
    for code in (
        "import xarray as xr, depprobe; xr.Dataset().depprobe",
        "import depprobe; depprobe.load; import xarray as xr; xr.Dataset().depprobe",
    ):
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    subprocess.run(
        [sys.executable, "-c", "import depprobe, sys; assert 'xarray' not in sys.modules"], check=True
    )
