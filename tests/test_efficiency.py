"""The efficiency table: ratios to a reference beside the article's, and the table as an image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr

import depprobe
from depprobe.errors import BadInput
from depprobe.ledger.costs import efficiency_figure
from depprobe.ledger.costs.efficiency_table import ARTICLE, efficiency


def costs(d=512, layers=tuple(ARTICLE), n=(1000, 5000)):
    rng = np.random.default_rng(0)
    shape = (len(layers), len(n))
    values = {name: rng.uniform(1e-3, 1, shape) for name in ("time", "peak_bytes", "parallelism", "flops")}
    values |= {name: rng.integers(1, 99, shape) for name in ("sequential_steps", "path_length")}
    return xr.Dataset(
        {name: (("layer", "n"), value) for name, value in values.items()},
        {"layer": list(layers), "n": list(n), "d": d},
    )


def test_ratios_here_and_in_the_article():
    ds = costs()
    found = efficiency(ds)
    assert (found.reference, found.reference_n) == ("lstm", 1000)
    at = ds.sel(layer="lstm", n=1000)
    np.testing.assert_allclose(found.time_ratio, ds.time / at.time.item())
    np.testing.assert_allclose(found.memory_ratio, ds.peak_bytes / at.peak_bytes.item())
    for layer in ("attention", "attention:fused=false"):
        row = found.sel(layer=layer)
        np.testing.assert_allclose(row.article_time_ratio, [42.3 / 38.5, np.nan])
        np.testing.assert_allclose(row.article_memory_ratio, [210 / 45, 500 / 45])
    np.testing.assert_allclose(found.article_time_ratio.sel(layer="conv"), [5.7 / 38.5, np.nan])
    assert all({"long_name", "units"} <= set(v.attrs) for v in found.variables.values())
    assert depprobe.efficiency is efficiency


def test_another_reference_width_or_length():
    found = efficiency(costs(), "conv")
    assert float(found.time_ratio.sel(layer="conv", n=1000)) == 1
    assert efficiency(costs(n=(5000, 1000))).reference_n == 1000, "the shortest, not the first"
    np.testing.assert_allclose(found.article_memory_ratio.sel(layer="lstm", n=1000), 3)
    for other in (costs(d=256), costs(n=(999, 4999))):
        assert np.isnan(efficiency(other).article_time).all()
        assert (efficiency(other).article_parallelism == "").all()


def test_times_are_those_with_the_most_threads():
    ds = costs()
    many = xr.concat([ds.time, 5 * ds.time], "threads").assign_coords(threads=[1, 2])
    np.testing.assert_allclose(efficiency(ds.assign(time=many)).time, 5 * ds.time)


def test_the_image_holds_the_table():
    ds = costs()
    ds.time[2, 1] = np.nan  # not measured: no row
    left = [name for i, name in enumerate(ARTICLE) if i != 2]
    drawn = efficiency_figure.efficiency(ds)
    cells = [[cell.get_text() for cell in row] for row in drawn.cells]
    assert [row[0] for row in cells] == ["layer", "$n$ = 1000", *ARTICLE, "$n$ = 5000", *left]
    assert cells[5][2] == "38.5 ms (1)"
    assert cells[4][4] == "15 MB (0.333)"
    assert min(cell.get_fontsize() for row in drawn.cells for cell in row) >= 6
    boxes = [[cell.get_window_extent() for cell in row] for row in drawn.cells]
    for row in boxes:
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(row))
    width = drawn.figure.get_window_extent().width
    assert all(box.x0 > 0 and box.x1 < width for row in boxes for box in row)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: efficiency(costs(), "gru"), "the reference must be one of .*, lstm, not 'gru'"),
        (lambda: efficiency(xr.Dataset({"log_norm": ("lag", [0.0])})), "not a dataset of costs"),
        (
            lambda: efficiency(xr.concat([costs(), costs(d=256)], "d")),
            "the efficiency table is for one d, not for 512, 256",
        ),
        (lambda: efficiency_figure.efficiency([costs(), costs()]), "shows one dataset, not 2"),
    ],
)
def test_wrong_calls(call, match):
    with pytest.raises(BadInput, match=match):
        call()
