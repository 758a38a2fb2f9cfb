"""The figure of gates: curves are the data, whatever their size, and wrong datasets are refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from depprobe import figures
from depprobe.errors import BadInput

LN10 = np.log(10)


def dataset(n=101, units=7, per_step=-50.0, **coords):
    """An LSTM whose true norm falls by ``per_step`` decades a step, and its product twice as fast."""
    source = np.arange(n)
    lag = n - 1.0 - source
    values = np.random.default_rng(0).uniform(0.01, 0.99, (4, n, units))
    return xr.Dataset(
        {
            "log_norm_cc": ("source", per_step * LN10 * lag),
            "log_norm_hc": ("source", per_step * LN10 * lag - LN10),
            "log_norm_product": ("source", 2 * per_step * LN10 * lag),
            "gate_value": (("gate", "target", "unit"), values),
            "time_constant": ("unit", np.append(np.arange(1.0, units), np.inf)),
        },
        coords={"source": source, "gate": ["i", "f", "g", "o"]} | coords,
        attrs={"target": n - 1, "keeper": "f", "layer": "lstm", "n": n, "d": units, "seed": 0},
    )


def test_curves_hold_the_norms_far_beyond_floats():
    drawn = figures.gates(dataset())
    cc, hc, product = drawn.norms
    np.testing.assert_allclose(cc.get_xdata(), np.arange(100, -1, -1))
    np.testing.assert_allclose(cc.get_ydata(), -50.0 * cc.get_xdata())
    np.testing.assert_allclose(hc.get_ydata(), cc.get_ydata() - 1)
    np.testing.assert_allclose(product.get_ydata(), 2 * cc.get_ydata())
    low, high = drawn.axes[0].get_ylim()
    assert low < -10000 < 0 < high
    assert len(drawn.limits) == 2
    words = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert words == [r"$\partial c_t/\partial c_k$", r"$\partial h_t/\partial c_k$", "product of gates"]


def test_shares_of_gates_and_of_units_that_hold():
    ds = dataset()
    drawn = figures.gates(ds)
    assert [line.get_label() for line in drawn.values] == ["$f$", "$i$", "$o$"]
    for line in drawn.values:
        assert line.get_ydata()[:-1].sum() == pytest.approx(1)
    # half of the values of f lie below their median, and their bins below its log-odds
    median = float(ds.gate_value.sel(gate="f").median())
    x, y = drawn.values[0].get_data()
    below = x[:-1] < np.log(median / (1 - median))
    assert y[:-1][below].sum() == pytest.approx(0.5, abs=y.max())
    (held,) = drawn.holding
    lag, share = held.get_data()
    for limit in (0.9, 1.5, 3.5, 6.5):
        expected = float((ds.time_constant > limit).mean())
        assert share[np.searchsorted(lag, limit, side="right") - 1] == pytest.approx(expected)
    # one unit in seven never lets go
    assert share[-1] == pytest.approx(1 / 7)


def test_seeds_are_pooled_to_medians_and_layers_get_colours():
    several = xr.concat([dataset(per_step=-p) for p in (1.0, 2.0, 9.0)], "seed")
    drawn = figures.gates([several, dataset(per_step=-3.0)], labels=["a", "b"])
    assert len(drawn.norms) == 6
    assert drawn.norms[0].get_ydata()[0] == pytest.approx(-200)
    assert len({line.get_color() for line in drawn.norms}) == 2
    assert [line.get_label() for line in drawn.values] == ["$f$", "$f$"]


def test_what_is_unknown_or_zero_is_left_out():
    ds = dataset()
    ds["log_norm_cc"][:3] = [np.nan, -np.inf, np.nan]
    drawn = figures.gates(ds)
    assert np.isnan(drawn.norms[0].get_ydata()[:3]).all()
    assert np.isfinite(drawn.norms[0].get_ydata()[3:]).all()


def test_time_constants_can_be_read_where_they_span_little():
    axis = figures.gates(dataset()).axes[2].xaxis
    low, high = axis.get_view_interval()
    assert high / low < 100
    shown = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
    assert len(shown) >= 3


def test_axes_given_are_drawn_into_and_files_written(tmp_path):
    axes = Figure().subplots(1, 3)
    drawn = figures.gates(dataset(), ax=axes)
    assert drawn.axes == tuple(axes)
    for suffix in ("png", "pdf", "svg"):
        assert figures.save(drawn, tmp_path / f"a.{suffix}").stat().st_size > 1000


def test_wrong_datasets_are_refused():
    with pytest.raises(BadInput, match=r"takes datasets that depprobe\.gates gave"):
        figures.gates(dataset().drop_vars("gate_value"))
    with pytest.raises(BadInput, match="needs 3 axes, not 2"):
        figures.gates(dataset(), ax=Figure().subplots(1, 2))
    with pytest.raises(BadInput, match="2 labels were given for 1 layer"):
        figures.gates(dataset(), labels=["a", "b"])
    unknown = dataset()
    for name in ("log_norm_cc", "log_norm_hc", "log_norm_product"):
        unknown[name][:] = np.nan
    with pytest.raises(BadInput, match="every norm is exactly zero or unknown"):
        figures.gates(unknown)
