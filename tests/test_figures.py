"""Figures hold the numbers they are given, read well far outside the range of floats, and are saved whole."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import xarray as xr
from curve_cases import band, dataset, last_row
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

import depprobe
from depprobe import figures
from depprobe.curves import decay_curve
from depprobe.errors import BadInput, DepprobeError
from depprobe.figures import heatmap as draw_heatmap
from depprobe.figures.drawing import style
from depprobe.figures.drawing.float_limits import LIMITS
from depprobe.figures.drawing.log_axis import LN10, BetweenDecades, DecadeLocator, PowerOfTen
from depprobe.figures.drawing.style import line_style, styled
from depprobe.figures.heatmap import GAP, UNKNOWN, ZERO
from depprobe.vocabulary import STATUS, status_of

N = 40


def falling(rate=1.0, n=N, targets=None, causal=True, layer="lstm", **attrs):
    """Blocks whose log10 is -rate times the distance."""
    targets = np.arange(n) if targets is None else np.asarray(targets)
    lag = targets[:, None] - np.arange(n)
    values = -rate * LN10 * np.abs(lag)
    ds = dataset(np.where(lag < 0, -np.inf, values) if causal else values, targets)
    ds["target"] = targets
    return ds.assign_attrs({"layer": layer, "norm": "fro", "wrt": "x", "n": n, "d": 8, "seed": 0} | attrs)


def window(width, layer="conv", n=N, **kwargs):
    """Blocks of norm 1/10 within a distance, exactly zero beyond."""
    ds = falling(0.0, n, causal=False, layer=layer, **kwargs)
    lag = ds["position"].values[:, None] - np.arange(n)
    ds["log_norm"] = ds["log_norm"].copy(data=np.where(np.abs(lag) < width, -LN10, -np.inf))
    return ds


def stacked(*parts):
    names = xr.DataArray([part.attrs["layer"] for part in parts], dims="layer", name="layer")
    return xr.concat(parts, dim=names, combine_attrs="override", join="outer")


def eight():
    """As many layers as one figure has to bear."""
    return stacked(
        falling(0.0, causal=False, layer="attention"),
        window(6, "sliding-window:window=11"),
        window(3, "dilated-attention"),
        window(9, "block-attention"),
        window(2, "conv"),
        window(12, "dilated-conv:kernel=3,depth=6"),
        window(5, "conv-attention:attention=sliding-window,window=32,heads=8"),
        falling(125.0),
    )


def rendered(drawn):
    canvas = FigureCanvasAgg(drawn.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def placed(figure):
    """The figure, laid out as a draw does it, without a picture."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    return figure


def tick_labels(axis):
    placed(axis.figure)
    low, high = sorted(axis.get_view_interval())
    return [
        (tick.get_loc(), tick.label1.get_text() or tick.label2.get_text())
        for tick in axis.get_major_ticks()
        if low <= tick.get_loc() <= high
    ]


def legend_texts(drawn):
    legends = [*drawn.figure.legends, *filter(None, (ax.get_legend() for ax in drawn.figure.axes))]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def texts(figure):
    """Every text that is visible and says something, with its box in pixels."""
    placed(figure)
    # matplotlib keeps labels of ticks out of view
    hidden = {
        label
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        for label in (tick.label1, tick.label2)
    }
    return [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


# an axis beyond floats


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (-5000, 0, range(-5000, 1, 1000)),
        (-214, 0, range(-200, 1, 50)),
        (0, 700, range(0, 701, 100)),
        (-3.2, 0.1, range(-3, 1)),
        (-1e5, 10, range(-100000, 1, 20000)),
    ],
)
def test_ticks_stand_at_round_powers(low, high, ticks):
    assert DecadeLocator().tick_values(low, high) == pytest.approx(list(ticks))
    assert DecadeLocator().tick_values(high, low) == pytest.approx(list(ticks))


def test_tick_labels_read_as_powers():
    label = PowerOfTen()
    assert [label(x) for x in (-5000.0, -300.0, 0.0, 7.0, -0.5)] == [
        "$10^{-5000}$",
        "$10^{-300}$",
        "$10^{0}$",
        "$10^{7}$",
        "",
    ]
    assert label.format_data(-5000.25) == "1e-5000.25"


@pytest.mark.parametrize(("low", "high"), [(-5000, 0), (-214, 3), (-6, 0), (-30, 1), (-1000, 1000)])
def test_small_ticks_divide_the_steps_evenly(low, high):
    large, small = DecadeLocator().tick_values(low, high), np.array(BetweenDecades().tick_values(low, high))
    step = large[1] - large[0]
    assert ((small >= low) & (small <= high)).all()
    if step == 1:
        # 2 to 9 times each power
        parts = np.sort(np.round(10 ** (small - np.floor(small)), 9))
        assert set(parts) == set(range(2, 10))
    else:
        gaps = np.diff(np.union1d(large, small))
        assert gaps == pytest.approx(gaps[0])
        assert gaps[0] >= 1


@pytest.mark.parametrize("rate", [214 / 39, 5000 / 39, -700 / 39, 1e5 / 39])
def test_decay_axis_is_labelled_wherever_it_goes(rate):
    drawn = figures.decay(falling(rate))
    labels = tick_labels(drawn.ax.yaxis)
    assert 2 <= len(labels) <= 9
    assert [text for _, text in labels] == [f"$10^{{{loc:.0f}}}$" for loc, _ in labels]
    span = rate * (N - 1)
    low, high = drawn.ax.get_ylim()
    assert low < min(0, -span)
    assert high > max(0, -span)


@pytest.mark.parametrize("span", [0.0, 0.4, 1.2, 1.9])
def test_decay_axis_hugs_a_curve_that_spans_little(span):
    ax = figures.decay(falling(span / (N - 1))).ax
    low, high = ax.get_ylim()
    assert low < -span - 0.05
    assert high > 0.05
    assert high - low < max(span + 0.5, 1.0)
    FigureCanvasAgg(ax.figure).draw()
    ticks = [*ax.yaxis.get_major_ticks(), *ax.yaxis.get_minor_ticks()]
    said = [tick for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_text()]
    assert 2 <= len(said) <= 6
    for tick in said:
        digit, power = re.fullmatch(r"\$(?:(\d)\\times )?10\^\{(-?\d+)\}\$", tick.label1.get_text()).groups()
        assert tick.get_loc() == pytest.approx(np.log10(int(digit or 1)) + int(power))


# decay curves


def test_curve_and_band_are_the_quantiles_of_the_norms():
    rng = np.random.default_rng(0)
    x = rng.normal(scale=2, size=(3, 2, N, N))
    x[rng.random(x.shape) < 0.02] = np.nan
    ds = dataset(x, dims="seed sample")
    drawn = figures.decay(ds)
    lag = np.arange(N)[:, None] - np.arange(N)
    expected = {}
    for distance in range(-N + 1, N):
        pool = np.exp(x[:, :, lag == distance])
        expected[distance] = np.log10(np.quantile(pool[~np.isnan(pool)], [0.05, 0.5, 0.95]))
    line = dict(zip(*drawn.lines[0].get_data(), strict=True))
    assert line == pytest.approx({distance: values[1] for distance, values in expected.items()})
    vertices = drawn.bands[0].get_paths()[0].vertices
    for distance, (low, _, high) in expected.items():
        heights = vertices[vertices[:, 0] == distance, 1]
        assert [heights.min(), heights.max()] == pytest.approx([low, high])
    assert f"{np.isnan(x).sum()} undecided, left out" in legend_texts(drawn)


def test_pooled_curve_and_jacobian_give_the_same_lines():
    ds = eight()
    for one, other in zip(figures.decay(ds).lines, figures.decay(decay_curve(ds)).lines, strict=True):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_norms_far_below_floats_are_drawn_where_they_are():
    (line,) = figures.decay(falling(200.0)).lines
    assert line.get_ydata()[-1] == pytest.approx(-200.0 * (N - 1))


def test_single_target_has_no_band():
    drawn = figures.decay(last_row(-np.arange(5.0)))
    assert drawn.bands == [None]
    assert "5 to 95 %" not in legend_texts(drawn)
    assert "5 to 95 %" in legend_texts(figures.decay(falling()))


def test_lags_are_whole_numbers():
    drawn = figures.decay(depprobe.jacobian("gru", n=2, d=3))
    assert {tick for tick in drawn.ax.get_xticks() if -0.1 < tick < 1.1} == {0, 1}


def test_future_is_shown_where_there_is_one():
    both, past = figures.decay(falling(causal=False)), figures.decay(falling())
    assert both.lines[0].get_xdata().min() == 1 - N
    assert "negative in the future" in both.ax.get_xlabel()
    assert past.lines[0].get_xdata().min() == 0
    assert "future" not in past.ax.get_xlabel()
    assert past.ax.get_xlim()[0] > -3
    # a line parts the future from the past
    assert [[0, 0] in [list(line.get_xdata()) for line in drawn.ax.lines] for drawn in (both, past)] == [
        True,
        False,
    ]


def test_compact_support_ends_in_open_markers():
    drawn = figures.decay(window(4))
    assert [end.get_xydata().tolist() for end in drawn.ends] == [[[-3, -1]], [[3, -1]]]
    assert {end.get_markerfacecolor() for end in drawn.ends} == {"white"}
    assert "exactly zero beyond" in legend_texts(drawn)
    # the zeros themselves take no room
    assert drawn.ax.get_xlim()[1] < 5


def test_curve_that_ends_with_the_sequence_has_no_end_marker():
    drawn = figures.decay(falling())
    assert drawn.ends == []
    assert not any("zero" in text for text in legend_texts(drawn))


def test_unknown_blocks_are_not_an_end():
    ds = falling()
    ds["log_norm"] = ds["log_norm"].where((ds["log_norm"] > -10 * LN10) | np.isneginf(ds["log_norm"]))
    drawn = figures.decay(ds)
    assert drawn.ends == []
    assert np.isnan(drawn.lines[0].get_ydata()[10:]).all()
    assert np.isfinite(drawn.lines[0].get_ydata()[:10]).all()


def test_median_at_zero_is_told_from_an_end_of_the_support():
    row = np.full((5, 30), -np.inf)
    row[:, -4:] = 0.0
    row[:2, :-4] = -LN10
    drawn = figures.decay(dataset(row, [29] * 5))
    assert [end.get_xydata().tolist() for end in drawn.ends] == [[[3, 0]]]
    assert "median exactly zero beyond" in legend_texts(drawn)
    # what is left of the band is its upper edge, and it is in view
    assert drawn.edges[0].get_ydata()[4:] == pytest.approx(np.full(26, -1.0))
    assert "95 %, the 5 % exactly zero" in legend_texts(drawn)
    assert drawn.ax.get_xlim()[1] > 29


def test_unknowns_among_the_zeros_leave_the_end_open():
    row = np.full((3, 30), -np.inf)
    row[:, -4:] = 0.0
    row[0, 5] = np.nan
    drawn = figures.decay(dataset(row, [29] * 3))
    assert [end.get_xydata().tolist() for end in drawn.ends] == [[[3, 0]]]
    assert "exactly zero beyond" not in legend_texts(drawn)


def test_points_between_zeros_are_visible():
    values = np.full(20, -np.inf)
    values[[0, 1, 2, 4, 8, 16]] = 0.0
    for several in (False, True):
        ds = last_row(values)
        drawn = figures.decay([ds, last_row(np.zeros(20))] if several else ds)
        line = drawn.lines[0]
        assert line.get_marker() != "None"
        assert {4, 8, 16} <= set(np.array(line.get_markevery()))


def test_lags_that_one_layer_lacks_do_not_cut_its_line():
    every = decay_curve(falling()).assign_attrs(layer="a")
    even = every.isel(lag=slice(None, None, 2)).assign_attrs(layer="b")
    joined = stacked(every, even)
    for name in ("count", "zeros", "unknown"):
        joined[name] = joined[name].fillna(0).astype(int)
    first, second = figures.decay(joined).lines
    assert np.isfinite(first.get_ydata()).all()
    assert first.get_xdata().tolist() == list(range(N))
    assert np.isfinite(second.get_ydata()).all()
    assert second.get_xdata().tolist() == list(range(0, N, 2))


@pytest.mark.parametrize(
    ("rate", "names"),
    [
        (0.1, []),
        (214 / 39, ["float32 underflow"]),
        (5000 / 39, ["float32 underflow", "float64 underflow"]),
        (-100 / 39, ["float32 overflow"]),
        (-700 / 39, ["float32 overflow", "float64 overflow"]),
    ],
)
def test_limits_of_floats_where_curves_cross_them(rate, names):
    drawn = figures.decay(falling(rate))
    shown = [text for text in drawn.ax.texts if text.get_text() in LIMITS]
    assert [text.get_text().split(",")[0] for text in shown] == names
    assert [line.get_ydata()[0] for line in drawn.limits] == [LIMITS[text.get_text()] for text in shown]


def test_limits_are_those_of_numpy():
    smallest32, smallest64, past32, past64 = LIMITS.values()
    assert smallest32 == pytest.approx(np.log10(float(np.finfo(np.float32).smallest_subnormal)))
    assert 10**smallest64 == 5e-324
    assert past32 == pytest.approx(np.log10(float(np.finfo(np.float32).max)))
    assert past64 == pytest.approx(np.log10(np.finfo(np.float64).max))


def test_labels_of_limits_keep_apart():
    for rate in (5000 / 39, 30000 / 39):
        drawn = figures.decay(falling(rate))
        figures_texts = [box for text, box in texts(drawn.figure) if "flow" in text]
        assert len(figures_texts) == 2
        assert not figures_texts[0].overlaps(figures_texts[1])


@pytest.mark.parametrize("more", [(), (1, 1.3, 1.8, 2.5, 4)])
def test_labels_of_limits_keep_clear_of_curves(more):
    # both ends of the line are crossed, above it and below; with more curves no place is left
    rates = [60 / 39, 44.9 / 39, *(1.2 * rate for rate in more)]
    drawn = figures.decay([*map(falling, rates), falling(80 / 5, n=6)], xscale="linear")
    (box,) = (box for text, box in texts(drawn.figure) if text.replace("\n", " ") in LIMITS)
    assert (box.x0 > drawn.ax.get_window_extent().x1) == bool(more)
    assert box.x1 <= drawn.figure.bbox.x1
    for line in drawn.lines:
        x, y = line.get_data()
        fine = np.linspace(x[0], x[-1], 2000)
        points = drawn.ax.transData.transform(np.column_stack([fine, np.interp(fine, x, y)]))
        assert not box.count_contains(points)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (130.0, 260.0, ["150", "200", "250"]),
        (150.0, 190.0, ["150", "160", "170", "180", "190"]),
        (3.0, 90.0, ["5", "10", "20", "50"]),
        (2e-8, 6e-7, ["$5\\times 10^{-8}$", "$10^{-7}$", "$2\\times 10^{-7}$", "$5\\times 10^{-7}$"]),
    ],
)
def test_axis_of_costs_can_be_read_where_it_spans_little(low, high, labels):
    ds = xr.Dataset({"flops": (("layer", "n"), [[low, high]])}, {"layer": ["a"], "n": [8, 16]})
    ax = figures.cost(ds).axes[2]
    shown = [text for _, text in tick_labels(ax.yaxis)]
    assert [text for text in shown if text in labels] == labels
    assert 3 <= len(shown) <= 9


def test_short_supports_beside_long_ones_choose_the_log_scale():
    wide = falling(0.0, 200, causal=False)
    assert figures.decay([wide, window(3, n=200)]).ax.get_xscale() == "symlog"
    assert figures.decay([wide, falling(1, 200)]).ax.get_xscale() == "linear"
    drawn = figures.decay([wide, window(3, n=200)], xscale="log")
    labels = dict(tick_labels(drawn.ax.xaxis))
    assert labels[0] == "0"
    assert labels[100] == "100"
    assert labels[-1] == "\N{MINUS SIGN}1"
    assert figures.decay(window(3), xscale="linear").ax.get_xscale() == "linear"


def test_one_deep_layer_does_not_flatten_the_others():
    drawn = figures.decay(eight())
    assert -10 < drawn.ax.get_ylim()[0] < -1
    assert f"axis cut; lowest norm $10^{{{-125 * (N - 1)}}}$" in legend_texts(drawn)
    whole = figures.decay(eight(), floor=-np.inf)
    assert whole.ax.get_ylim()[0] < -125 * (N - 1)
    assert not any("cut" in text for text in legend_texts(whole))
    assert figures.decay(falling(), floor=-5).ax.get_ylim()[0] == -5


def test_deep_layers_among_themselves_are_shown_whole():
    ds = stacked(falling(100.0, layer="a"), falling(120.0, layer="b"), falling(300.0, layer="c"))
    assert figures.decay(ds).ax.get_ylim()[0] < -300 * (N - 1)


def test_layers_differ_in_colour_and_without_it():
    lines = figures.decay(eight()).lines
    grey = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(grey) == len({line.get_color() for line in lines} | {"blue again"}) == 8
    with styled():
        assert len({tuple(map(str, line_style(i).values())) for i in range(280)}) == 280


def test_lines_are_named_by_layer():
    drawn = figures.decay(stacked(falling(layer="lstm:forget_bias=2"), falling(layer="gru")))
    assert legend_texts(drawn)[:2] == ["lstm:forget_bias=2", "gru"]
    assert legend_texts(figures.decay(falling(), labels=["mine"]))[0] == "mine"
    with pytest.raises(BadInput, match="1 label was given for 2 layers"):
        figures.decay([falling(), falling()], labels=["mine"])


def test_same_layer_twice_is_told_apart():
    short, long = falling(n=20), falling(n=30)
    assert legend_texts(figures.decay([short, long]))[:2] == ["lstm (n=20)", "lstm (n=30)"]
    assert legend_texts(figures.decay([short, short]))[:2] == ["lstm (1)", "lstm (2)"]
    # of three, two agree in what tells the third
    assert legend_texts(figures.decay([short, long, short]))[:3] == [
        "lstm (n=20, 1)",
        "lstm (n=30)",
        "lstm (n=20, 2)",
    ]


def test_datasets_that_differ_in_nothing_are_told_apart_by_their_files(tmp_path):
    ds = falling()
    files = [tmp_path / name for name in ("before.nc", "jacobian_lstm_0123abcd.nc", "b/same.nc", "c/same.nc")]
    held = [depprobe.load(depprobe.save(ds, file)) for file in files]
    names = ["lstm (before)", "lstm (jacobian_lstm)"]
    assert legend_texts(figures.decay(held[:2]))[:2] == names
    assert [ax.get_title() for ax in figures.heatmap(held[:2]).axes] == names
    assert depprobe.distances(held[2:]).layer.values.tolist() == ["lstm (b/same)", "lstm (c/same)"]


def test_a_style_in_force_leaves_a_figure_of_the_house_as_it_is(tmp_path):
    def saved(name):
        return figures.save(figures.decay(falling()), tmp_path / name, dpi=40).read_bytes()

    plain = saved("plain.png")
    with matplotlib.rc_context({"text.color": "white", "axes.edgecolor": "white", "axes.grid": True}):
        assert saved("dark.png") == plain


def test_a_colour_bar_is_as_tall_as_its_panel_in_a_part_of_a_figure_too():
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subfigures(1, 2)[1].subplots()
    drawn = figures.heatmap(falling(), ax=ax)
    rendered(drawn)
    panel, bar = ax.get_window_extent(), drawn.colorbar.ax.get_window_extent()
    assert (bar.y0, bar.y1) == pytest.approx((panel.y0, panel.y1), abs=0.5)


def test_long_tokens_leave_room_for_the_picture():
    words = ["antidisestablishmentarianism" * 3, *"bcdefgh"]
    ds = falling(n=8).assign_coords(source_token=("source", words), target_token=("target", words))
    drawn = figures.heatmap(ds)
    rendered(drawn)
    assert next(text for _, text in tick_labels(drawn.axes[0].yaxis)) == "antidisestabl\u2026"
    assert drawn.axes[0].get_window_extent().width > 0.5 * drawn.figure.get_figwidth() * drawn.figure.dpi


def test_formulas_in_labels_are_set_and_other_dollars_drawn():
    for label, drawn in (
        ("LSTM, $d_1=64$", "LSTM, $d_1=64$"),
        (r"$\nothing{x}$", r"\$\nothing{x}\$"),
        ("$5 or $6", r"\$5 or \$6"),
    ):
        made = figures.decay(falling(), labels=[label])
        rendered(made)
        assert legend_texts(made)[0] == drawn


def test_characters_that_no_font_has_are_named_once(tmp_path, monkeypatch):
    ds = falling(n=9).assign_coords(source_token=("source", list("ab\u4f60\u597d\u4f60cdef")))
    with pytest.warns(UserWarning, match="drawn as boxes: \u4f60 \u597d; install") as said:
        figures.save(figures.heatmap(ds), tmp_path / "a.png")
    assert len(said) == 1
    # a sign that STIX lacks comes from DejaVu
    with figures.venue("icml"):
        figures.save(figures.decay(falling(), labels=["a \u2423 \U0001f600"]), tmp_path / "b.pdf")


def test_other_scripts_are_drawn_in_fonts_that_are_installed(monkeypatch):
    names = ["DejaVu Sans", "Malgun Gothic", "WenQuanYi Micro Hei", "Noto Sans CJK JP"]
    monkeypatch.setattr(
        style, "fontManager", SimpleNamespace(ttflist=[SimpleNamespace(name=n) for n in names])
    )
    style._others.cache_clear()
    try:
        assert style._others() == ["Noto Sans CJK JP", "Malgun Gothic"]
    finally:
        style._others.cache_clear()


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("name", ["_Net", "cost $x$ and $y", "a_b^c\\d", "x" * 90, "a:" + "b=1," * 30])
def test_any_name_can_be_drawn(name):
    for draw in (figures.decay, figures.heatmap):
        drawn = draw(falling(layer=name))
        rendered(drawn)
    # a dollar starts mathematics unless it is escaped
    assert legend_texts(figures.decay(falling(layer=name)))[0].replace("\n", "") == name.replace("$", r"\$")


def test_axes_say_what_they_hold():
    ax = figures.decay(falling(norm="spectral", wrt="c")).ax
    assert ax.get_xlabel() == "lag $t - k$ (positions)"
    assert ax.get_ylabel() == r"norm $\Vert J_{t,k}\Vert_2$ (dimensionless)"
    said = ax.figure.get_suptitle()
    assert said.startswith(r"$J_{t,k} = \partial h_t / \partial c_k$,  $n$ = 40,  $d$ = 8")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ([], "no dataset was given"),
        ([3], "takes datasets, not int"),
        (dataset(np.full((3, 3), -np.inf)), "exactly zero or unknown"),
        (xr.Dataset({"log_norm": ("n", [1.0])}), "log_norm has dimensions"),
        (decay_curve(falling()).drop_vars("zeros"), "not a decay curve: it lacks zeros"),
        (decay_curve(falling()).expand_dims(seed=2), r"a decay curve is over \(lag\) or \(layer, lag\)"),
    ],
)
def test_decay_refuses(given, fault):
    with pytest.raises(BadInput, match=fault):
        figures.decay(given)


def test_decay_refuses_options():
    with pytest.raises(BadInput, match="unknown xscale 'lin'; did you mean 'linear'"):
        figures.decay(falling(), xscale="lin")
    with pytest.raises(BadInput, match=r"nothing to draw above floor 3: the largest norm is 1e0\.0"):
        figures.decay(falling(), floor=3)


# heat maps


def colours_off_the_scale(image):
    """Where an image shows exactly the colours of a zero and of an unknown."""
    rgba = np.asarray(image.get_array())
    zero, unknown = (np.round(255 * np.array(to_rgba(colour))).astype(np.uint8) for colour in (ZERO, UNKNOWN))
    return (rgba == zero).all(-1), (rgba == unknown).all(-1)


def spotted():
    """Blocks of which some are zero, some unknown, some below the scale."""
    rng = np.random.default_rng(0)
    x = rng.normal(-50, 10, (N, N))
    x[rng.random(x.shape) < 0.2] = -np.inf
    x[rng.random(x.shape) < 0.2] = np.nan
    x[0, :3] = -1e5, 0.0, -1e4
    return dataset(x)


def test_zeros_and_unknowns_have_colours_of_their_own():
    ds = spotted()
    drawn = figures.heatmap(ds, floor=-20, ceiling=0)
    zero, unknown = colours_off_the_scale(drawn.images[0])
    np.testing.assert_array_equal(zero, np.isneginf(ds["log_norm"].values))
    np.testing.assert_array_equal(unknown, np.isnan(ds["log_norm"].values))
    assert legend_texts(drawn) == ["exactly zero", "unknown"]
    assert [patch.get_facecolor() for patch in drawn.legend.get_patches()] == [
        to_rgba(ZERO),
        to_rgba(UNKNOWN),
    ]
    scale = drawn.colorbar.cmap(np.linspace(0, 1, 1000))[:, :3]
    for colour in (ZERO, UNKNOWN):
        assert np.abs(scale - to_rgba(colour)[:3]).max(1).min() > 0.2


def test_what_is_printed_is_the_image():
    ds = spotted()
    drawn = figures.heatmap(ds)
    pixels = rendered(drawn)
    to_pixels = drawn.axes[0].transData.transform
    t, k = np.mgrid[:N, :N]
    x, y = to_pixels(np.column_stack([k.ravel(), t.ravel()])).T
    seen = pixels[pixels.shape[0] - 1 - y.astype(int), x.astype(int)].reshape(N, N, 4)
    np.testing.assert_array_equal(seen, drawn.images[0].get_array())


def test_colour_is_linear_in_the_log():
    drawn = figures.heatmap(falling(100.0), floor=-3900, ceiling=0)
    rgba = np.asarray(drawn.images[0].get_array())
    expected = drawn.colorbar.cmap(1 - np.arange(N) / (N - 1), bytes=True)
    np.testing.assert_array_equal(rgba[-1, ::-1], expected)
    assert [text for _, text in tick_labels(drawn.colorbar.ax.yaxis)] == [
        f"$10^{{{power}}}$" for power in range(-3500, 1, 500)
    ]
    assert drawn.colorbar.extend == "neither"


def test_only_zeros_and_unknowns():
    drawn = figures.heatmap(dataset([[-np.inf, np.nan], [np.nan, -np.inf]]))
    rendered(drawn)
    assert drawn.colorbar is None
    assert legend_texts(drawn) == ["exactly zero", "unknown"]


def test_no_legend_without_zeros():
    assert figures.heatmap(falling(causal=False)).legend is None


def test_unknowns_say_below_what():
    drawn = figures.heatmap(spotted().assign_attrs(log_floor=-103.28))
    assert "unknown, below $10^{-45}$" in legend_texts(drawn)


def test_kinds_of_unknown_norms_are_named():
    ds = spotted()
    status = status_of(ds["log_norm"].values)
    unknown = np.flatnonzero(status.ravel() == STATUS["undecided"])
    status.ravel()[unknown[0]], status.ravel()[unknown[1:]] = STATUS["overflow"], STATUS["underflow"]
    ds["log_norm_status"] = (ds["log_norm"].dims, status)
    assert "underflow, overflow" in legend_texts(figures.heatmap(ds))
    assert f"{len(unknown) - 1} underflow, 1 overflow, left out" in legend_texts(figures.decay(ds))


def test_each_axis_of_a_small_heat_map_has_two_numbers():
    layers = [f"lstm:forget_bias={i}" for i in range(4)]
    with figures.venue(None, 3.3):
        drawn = figures.heatmap(depprobe.jacobian(layers, n=120, d=3, targets="every:10"))
    for ax in drawn.axes:
        assert all(len(tick_labels(axis)) >= 2 for axis in (ax.xaxis, ax.yaxis))


def test_sparse_targets_are_thin_rows_with_gaps_between():
    drawn = figures.heatmap(falling(targets=[0, 10, 20, 30]))
    image, ax = drawn.images[0], drawn.axes[0]
    rows = np.asarray(image.get_array())
    gap = (rows == np.round(255 * np.array(to_rgba(GAP))).astype(np.uint8)).all(-1)
    # a row is one position high, of 31
    assert gap.all(1).mean() == pytest.approx(27 / 31, abs=0.01)
    assert not gap[~gap.all(1)].any()
    assert image.get_extent() == [-0.5, N - 0.5, 30.5, -0.5]
    assert ax.get_ylim() == (30.5, -0.5)
    assert ax.get_xlim() == (-0.5, N - 0.5)
    assert "not measured" in legend_texts(drawn)
    assert "grey: not measured" in drawn.caption.lower()
    assert "4 targets" in ax.get_ylabel()
    assert "targets" not in figures.heatmap(falling()).axes[0].get_ylabel()


def test_uneven_targets_keep_their_places():
    positions = np.array([2.0, 3, 10, 37])
    drawn = figures.heatmap(falling(targets=positions[::-1].astype(int)))
    image, ax = drawn.images[0], drawn.axes[0]
    rows = np.asarray(image.get_array())
    top, bottom = image.get_extent()[3], image.get_extent()[2]
    zero, _ = colours_off_the_scale(image)
    centres = top + (np.arange(len(rows)) + 0.5) * (bottom - top) / len(rows)
    nearest = positions[np.abs(centres[:, None] - positions).argmin(1)]
    measured = np.abs(centres - nearest) < 0.45
    # a row shows as many blocks as its target has inputs before it
    np.testing.assert_array_equal((~zero).sum(1)[measured], nearest[measured] + 1)
    assert not zero[np.abs(centres - nearest) > 0.55].any()
    assert ax.get_ylim() == (37.5, 1.5)


def test_single_target():
    drawn = figures.heatmap(falling(targets=[N - 1]))
    rendered(drawn)
    assert drawn.axes[0].get_ylim() == (N - 0.5, N - 1.5)
    assert [loc for loc, _ in tick_labels(drawn.axes[0].yaxis)] == [N - 1]


def test_banded_and_dense_give_the_same_picture():
    ds = window(4).isel(target=[3, 7, 11, 30, 39])
    lags = np.arange(-3, 4)
    for one in (ds, ds.isel(target=slice(0, 3)), window(4)):
        dense_image, band_image = (figures.heatmap(form).images[0] for form in (one, band(one, lags)))
        np.testing.assert_array_equal(dense_image.get_array(), band_image.get_array())
        assert dense_image.get_extent() == band_image.get_extent()


@pytest.mark.parametrize("banded", [False, True])
def test_large_grids_keep_thin_lines_and_claim_no_zeros(banded):
    n = 2000
    rng = np.random.default_rng(0)
    values = np.full((n, n), -np.inf)
    t = np.arange(n)
    values[t, t] = rng.normal(size=n)
    values[t[1:], t[:-1]] = np.nan
    ds = dataset(values)
    drawn = figures.heatmap(band(ds, [0, 1]) if banded else ds)
    zero, unknown = colours_off_the_scale(drawn.images[0])
    size = len(zero)
    group = -(-n // size)
    assert 400 < size < 700
    expected_zero = np.ones((size, size), bool)
    expected_known = np.zeros((size, size), bool)
    for i in range(n):
        expected_zero[i // group, i // group] = expected_zero[i // group, max(i - 1, 0) // group] = False
        expected_known[i // group, i // group] = True
    np.testing.assert_array_equal(zero, expected_zero)
    np.testing.assert_array_equal(unknown, ~expected_zero & ~expected_known)
    # the picture ends where the sequence does, although its last cell may reach further
    assert drawn.axes[0].get_xlim() == (-0.5, n - 0.5)
    assert drawn.images[0].get_extent()[1] == size * group - 0.5


def test_pooled_cells_show_the_largest_norm():
    n = 1800
    values = np.random.default_rng(0).normal(size=(n, n)) * LN10
    drawn = figures.heatmap(dataset(values), floor=-6, ceiling=6)
    size = len(np.asarray(drawn.images[0].get_array()))
    largest = values.reshape(size, n // size, size, n // size).max((1, 3)) / LN10
    expected = drawn.colorbar.cmap((largest + 6) / 12, bytes=True)
    np.testing.assert_array_equal(drawn.images[0].get_array(), expected)


def test_median_over_seeds_and_samples():
    x = np.full((2, 3, 2, 2), -np.inf)
    x[..., 0, 0] = LN10 * np.array([[-5, -4, -3], [-2, -1, 0]])
    # half of them zero is not an exact zero
    x[0, :, 1, 1] = 0.0
    x[0, 0, 0, 1] = np.nan
    x[0, :2, 1, 0] = 0.0
    drawn = figures.heatmap(dataset(x, dims="seed sample"), floor=-4, ceiling=0)
    rgba = np.asarray(drawn.images[0].get_array())
    zero, unknown = colours_off_the_scale(drawn.images[0])
    assert zero.tolist() == [[False, False], [True, False]]
    assert unknown.tolist() == [[False, True], [False, False]]
    assert rgba[0, 0].tolist() == list(drawn.colorbar.cmap(0.5, bytes=True))
    assert rgba[1, 1].tolist() == list(drawn.colorbar.cmap(1.0, bytes=True))


def test_panels_share_one_scale():
    drawn = figures.heatmap(stacked(falling(1, layer="a"), falling(2, layer="b")))
    assert [ax.get_title() for ax in drawn.axes] == ["a", "b"]
    first, second = (np.asarray(image.get_array()) for image in drawn.images)
    np.testing.assert_array_equal(first[-1, -1 - 20], second[-1, -1 - 10])
    assert (first[-1, 0] != second[-1, 0]).any()
    assert drawn.colorbar.mappable.get_clim() == pytest.approx((-2.0 * (N - 1), 0.0))


def test_one_deep_panel_leaves_colours_to_the_others():
    drawn = figures.heatmap(eight())
    low, high = drawn.colorbar.mappable.get_clim()
    assert -10 < low < high
    assert drawn.colorbar.extend == "min"
    darkest = drawn.colorbar.cmap(0.0, bytes=True)
    assert np.asarray(drawn.images[-1].get_array())[-1, 0].tolist() == list(darkest)


def test_few_outliers_do_not_cost_the_scale():
    values = np.random.default_rng(0).uniform(-10, 0, (N, N)) * LN10
    assert figures.heatmap(dataset(values)).colorbar.extend == "neither"
    values[0, 0] = -1000 * LN10
    drawn = figures.heatmap(dataset(values))
    assert drawn.colorbar.mappable.get_clim()[0] > -11
    assert drawn.colorbar.extend == "min"


def test_heatmaps_of_several_datasets():
    drawn = figures.heatmap([falling(), band(window(3), [-2, -1, 0, 1, 2])], labels=["x", "y"])
    assert [ax.get_title() for ax in drawn.axes] == ["x", "y"]


@pytest.mark.parametrize(
    ("given", "kwargs", "fault"),
    [
        (3, {}, "a figure takes datasets, not int"),
        (falling(), {"floor": 1}, "floor < ceiling, not 1 and 0"),
        (falling(), {"ax": []}, "of heat maps of 1 layer needs 1 axis, not 0"),
        (decay_curve(falling()), {}, "no variable 'log_norm'"),
    ],
)
def test_heatmap_refuses(given, kwargs, fault):
    with pytest.raises(BadInput, match=fault):
        figures.heatmap(given, **kwargs)


# both


def test_given_axes_are_used():
    figure = Figure(layout="constrained")
    one, two, three = figure.subplots(1, 3)
    drawn = figures.decay(stacked(falling(layer="a"), window(3, "b")), ax=one)
    assert drawn.ax is one
    assert drawn.figure is figure
    assert len(one.get_legend().get_texts()) == len(legend_texts(drawn))
    maps = figures.heatmap([falling(), falling(2)], ax=[two, three])
    assert maps.axes == [two, three]
    assert maps.figure is figure
    assert figures.heatmap(falling(), ax=Figure().add_subplot()).legend is not None
    rendered(drawn)
    part = Figure().subfigures(1, 2)[1].add_subplot()
    assert figures.decay(falling(), ax=part).figure is part.figure.figure


def test_settings_and_input_stay_as_they_were(tmp_path):
    ds = eight()
    before = ds.copy(deep=True)
    with matplotlib.rc_context({"font.size": 33, "svg.hashsalt": "mine"}):
        settings = dict(matplotlib.rcParams)
        figures.save(figures.decay(ds), tmp_path / "a.png")
        figures.heatmap(ds)
        assert dict(matplotlib.rcParams) == settings
    xr.testing.assert_identical(ds, before)


def test_settings_of_the_caller_do_not_reach_the_figure():
    plain = rendered(figures.decay(falling()))
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "text.usetex": True}):
        drawn = figures.decay(falling())
    np.testing.assert_array_equal(rendered(drawn), plain)


CROWDED = {
    "8 layers": eight(),
    "1e-5000": falling(5000 / 39),
    "both ways": falling(3, causal=False),
    "long name": falling(layer="conv-attention:attention=sliding-window,window=32,heads=8,causal=true"),
    "explodes": falling(-20),
    "support": window(4),
    "unknown": spotted().assign_attrs(falling().attrs, log_floor=-103.0),
    "sparse": falling(n=1000, targets=range(0, 1000, 100)),
}


@pytest.mark.parametrize("case", CROWDED)
@pytest.mark.parametrize("draw", [figures.decay, draw_heatmap])
def test_no_text_is_cut_or_covered(draw, case):
    drawn = draw(CROWDED[case])
    boxes = texts(drawn.figure)
    page = drawn.figure.bbox
    assert len(boxes) > 8
    for text, box in boxes:
        assert page.x0 <= box.x0, text
        assert box.x1 <= page.x1, text
        assert page.y0 <= box.y0, text
        assert box.y1 <= page.y1, text
    for i, (text, box) in enumerate(boxes):
        for other, second in boxes[:i]:
            inside = (
                min(box.x1, second.x1) - max(box.x0, second.x0),
                min(box.y1, second.y1) - max(box.y0, second.y0),
            )
            # boxes of neighbouring lines may touch by a hair
            assert min(inside) < 1.5, (text, other)


# figures on disk

STARTS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("suffix", STARTS)
@pytest.mark.parametrize("draw", [figures.decay, draw_heatmap])
def test_saved_whole_and_the_same_every_time(tmp_path, draw, suffix):
    first = figures.save(draw(eight()), tmp_path / f"a.{suffix}")
    again = figures.save(draw(eight()).figure, tmp_path / "new" / f"b.{suffix.upper()}")
    content = first.read_bytes()
    assert content.startswith(STARTS[suffix])
    assert content == again.read_bytes()
    assert b"20" + b"26-" not in content
    assert b"CreationDate" not in content
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [f"a.{suffix}", f"b.{suffix.upper()}"]


def test_png_has_300_dots_an_inch(tmp_path):
    drawn = figures.decay(falling())
    content = figures.save(drawn, tmp_path / "a.png").read_bytes()
    width = int.from_bytes(content[16:20], "big")
    assert width == round(300 * drawn.figure.get_size_inches()[0])


def test_large_heatmap_in_pdf_is_a_picture(tmp_path):
    drawn = figures.heatmap(falling(n=1000))
    assert figures.save(drawn, tmp_path / "a.pdf").stat().st_size < 500_000


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.", "png"])
def test_unknown_format_names_the_valid_ones(tmp_path, name):
    for call in (figures.format_of, lambda path: figures.save(Figure(), path)):
        with pytest.raises(BadInput, match=r"unknown figure format '.*Known: pdf, png, svg"):
            call(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "seen"),
    [
        (KeyboardInterrupt("^C"), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), DepprobeError),
        (ValueError("broken"), ValueError),
    ],
)
def test_failure_midway_leaves_the_old_figure(tmp_path, monkeypatch, failure, seen):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def half(self, temporary, **kwargs):
        temporary.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(seen):
        figures.save(figures.decay(falling()), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"cannot write '.*file/a\.png': "):
        figures.save(figures.decay(falling()), tmp_path / "file" / "a.png")


def test_neither_torch_nor_pyplot_is_needed(tmp_path):
    code = f"""
import sys
import depprobe.store, depprobe.figures, xarray, numpy
x = numpy.arange(3.0)
ds = xarray.Dataset({{"log_norm": (("target", "source"), -x[:, None] - x)}},
    coords={{"target": [0, 1, 2], "source": [0, 1, 2], "position": ("target", x)}})
depprobe.store.save(ds, {str(tmp_path / "a.nc")!r})
ds = depprobe.store.load({str(tmp_path / "a.nc")!r})
for draw in (depprobe.figures.decay, depprobe.figures.heatmap):
    depprobe.figures.save(draw(ds), {str(tmp_path / "a.png")!r})
assert "torch" not in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_layer_without_a_norm_is_said_to_be_missing():
    curve = decay_curve(falling())
    for change, why in (
        ({"count": 0}, "not measured"),
        ({"count": 0, "unknown": 1}, "no norm known"),
        ({"zeros": 1, "log_median": -np.inf, "log_low": -np.inf, "log_high": -np.inf}, "exactly zero"),
    ):
        other = curve.copy(deep=True)
        for name, value in ({"log_median": np.nan, "log_low": np.nan, "log_high": np.nan} | change).items():
            other[name] = other[name] * 0 + value if value == 0 else xr.full_like(other[name], value)
        drawn = figures.decay([curve, other], labels=["one", "two"])
        assert [handle.get_label() for handle in drawn.handles][:2] == ["one", f"two: {why}"]
        assert drawn.handles[1].get_linestyle() == "None"
        assert f"Without a curve are two: {why}." in drawn.caption
        assert len(drawn.lines) == 2
    assert "ithout a curve" not in figures.decay([curve, curve]).caption
