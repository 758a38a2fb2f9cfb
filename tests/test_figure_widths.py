"""Every figure at three widths and in axes of a caller: nothing cut or covered, settings obeyed."""

from __future__ import annotations

import functools
import re

import matplotlib
import numpy as np
import pytest
from figure_cases import CASES, costs, exponents, falling, matrices, over, window
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from test_figures import legend_texts, rendered, texts
from test_gates_figure import dataset as gated

import depprobe
from depprobe import figures
from depprobe.curves.scaling import SLOWER
from depprobe.errors import BadInput

WIDTHS = (3.25, 5.5, 7.0)
#: boxes of neighbouring lines may touch by a hair, in pixels
HAIR = 1.5


def overlaps(boxes):
    for i, (text, box) in enumerate(boxes):
        for other, second in boxes[:i]:
            inside = (
                min(box.x1, second.x1) - max(box.x0, second.x0),
                min(box.y1, second.y1) - max(box.y0, second.y0),
            )
            if min(inside) > HAIR:
                yield text, other


@functools.cache
def drawn_at(case, width):
    with figures.venue(None, width):
        return CASES[case]()


#: variants of a figure that is drawn at every width
NARROW_AND_WIDE = {
    *("decay of one", "decay with unknowns", "heat map of one target", "spectrum"),
    *("exponents of two", "gates of two", "decision"),
}


@pytest.mark.parametrize(
    ("case", "width"),
    [(case, width) for width in WIDTHS for case in CASES if width != 5.5 or case not in NARROW_AND_WIDE],
)
def test_no_text_is_cut_or_covered(case, width):
    drawn = drawn_at(case, width)
    assert drawn.figure.get_figwidth() == width
    boxes = texts(drawn.figure)
    page = drawn.figure.bbox
    cut = [
        text
        for text, box in boxes
        if box.x0 < page.x0 or box.x1 > page.x1 or box.y0 < page.y0 or box.y1 > page.y1
    ]
    assert cut == []
    assert list(overlaps(boxes)) == []


def test_overlaps_and_cuts_are_found():
    figure = Figure(figsize=(3, 2))
    figure.text(0.1, 0.5, "one")
    figure.text(0.12, 0.5, "other")
    assert list(overlaps(texts(figure))) == [("other", "one")]


@pytest.mark.parametrize("case", CASES)
def test_curves_differ_in_grey(case):
    """Lines that a legend tells apart differ in dashes, markers or width."""
    handles = [one for one in drawn_at(case, 7.0).handles if isinstance(one, Line2D)]
    looks = [
        (
            str(line.get_linestyle()),
            str(line.get_marker()),
            str(line.get_markerfacecolor()),
            line.get_linewidth(),
        )
        for line in handles
        if line.get_label() and str(line.get_linestyle()) + str(line.get_marker()) != "NoneNone"
    ]
    # where gates of several layers are drawn, quantity is told by dashes, layer by colour
    assert len(set(looks)) == len(looks) or case == "gates of two"


@pytest.mark.parametrize("case", CASES)
def test_every_figure_has_a_caption_and_takes_the_same_words(case):
    drawn = drawn_at(case, 7.0)
    if case not in {"heat maps", "decay", *NARROW_AND_WIDE}:
        bare = CASES[case](title="Mine", legend=False)
        assert bare.figure.get_suptitle() == "Mine"
        assert bare.figure.legends == []
    assert drawn.caption.endswith(".")
    assert "  " not in drawn.caption
    assert "nan" not in drawn.caption


ONE = {"decay": [falling()], "heatmap": [falling()], "speedup": costs(), "spectrum": matrices(["W"])}
SEVERAL = {"cost": (3, costs()), "gates": (3, gated()), "lyapunov": (2, exponents())}
MINE = {
    "font.size": 13.0,
    "lines.linewidth": 3.0,
    "lines.markersize": 9.0,
    "axes.prop_cycle": matplotlib.cycler(color=["#111111", "#222222", "#333333"]),
}


@pytest.mark.parametrize("name", [*ONE, *SEVERAL])
def test_axes_that_are_given_keep_the_settings_of_their_caller(name):
    count, given = SEVERAL.get(name) or (1, ONE[name])
    with matplotlib.rc_context(MINE):
        figure = Figure(figsize=(12, 5), layout="constrained")
        mine = list(np.ravel(figure.subplots(1, count + 1)))
        mine[-1].plot([0, 1], [0, 1], "C0")
        mine[-1].set_title("neighbour")
        before = mine[-1].get_xlim(), mine[-1].get_ylim(), len(mine[-1].get_children())
        drawn = getattr(figures, name)(given, ax=mine[:count] if count > 1 else mine[0])
    assert drawn.figure is figure
    assert figure.get_size_inches().tolist() == [12, 5]
    assert figure.get_suptitle() == ""
    assert [ax.get_title(loc) for ax in mine[:-1] for loc in ("left", "center", "right")] == [""] * 3 * count
    assert figure.legends == []
    assert (mine[-1].get_xlim(), mine[-1].get_ylim(), len(mine[-1].get_children())) == before
    assert {ax.xaxis.label.get_fontsize() for ax in mine} == {13.0}
    colours = {
        line.get_color() for ax in mine[:-1] for line in ax.lines if line.get_marker() not in ("None", "")
    }
    assert not colours & set(figures.drawing.style.COLOURS)
    own = [line.get_linewidth() for ax in mine[:-1] for line in ax.lines]
    assert not own or max(own) >= 2.4
    rendered(drawn)


def test_house_style_is_not_touched_by_settings():
    with matplotlib.rc_context(MINE):
        drawn = figures.decay(falling())
    assert drawn.lines[0].get_color() == "#0072B2"
    assert drawn.ax.xaxis.label.get_fontsize() == 8.0


def test_legend_and_title_of_given_axes_on_request():
    one, two = Figure().subplots(1, 2)
    figures.decay(falling(), ax=one, legend=False)
    figures.decay(falling(), ax=two, title="Mine", labels=["x"])
    assert one.get_legend() is None
    assert two.get_title() == "Mine"
    assert two.get_legend().get_texts()[0].get_text() == "x"


@pytest.mark.parametrize("layout", ["constrained", None])
@pytest.mark.parametrize("size", [(2, 2), (3.3, 2.6), (5, 4)])
def test_the_legend_of_a_heat_map_in_given_axes_covers_none_of_its_norms(size, layout):
    ax = Figure(figsize=size, layout=layout).subplots()
    drawn = figures.heatmap(depprobe.jacobian("lstm", n=40, d=4, targets="all"), ax=ax)
    rendered(drawn)
    box = ax.get_legend().get_window_extent()
    corners = ax.transData.inverted().transform([(box.x0, box.y1), (box.x1, box.y0)])
    (left, top), (right, bottom) = np.round(corners).astype(int)
    seen = [(t, k) for t in range(max(top, 0), min(bottom, 39) + 1) for k in range(max(left, 0), t + 1)]
    assert not [(t, k) for t, k in seen if k <= right]


def test_figures_in_axes_side_by_side_leave_each_other_room():
    figure = Figure(figsize=(6.8, 2.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    figures.heatmap(depprobe.jacobian("gru", n=40, d=4, targets="all"), ax=left)
    figures.decay(falling(), ax=middle)
    figures.heatmap(depprobe.jacobian("sliding-window:window=8", n=40, d=8, targets="every:4"), ax=right)
    boxes = texts(figure)
    page = figure.bbox
    assert [text for text, box in boxes if not page.x0 <= box.x0 <= box.x1 <= page.x1] == []
    assert list(overlaps(boxes)) == []


@pytest.mark.parametrize("name", SEVERAL)
def test_a_wrong_number_of_axes_is_refused(name):
    count, given = SEVERAL[name]
    with pytest.raises(BadInput, match=f"needs {count} axes, not 1"):
        getattr(figures, name)(given, ax=Figure().add_subplot())


@pytest.mark.parametrize("case", ["heat maps", "heat map of sparse targets"])
def test_the_colour_bar_is_as_tall_as_the_panels(case):
    drawn = drawn_at(case, 3.25)
    rendered(drawn)
    panels = [ax.get_window_extent() for ax in drawn.axes]
    low, top = min(box.y0 for box in panels), max(box.y1 for box in panels)
    # the arrow of an end beyond the scale belongs to the bar
    body = drawn.colorbar.ax.get_window_extent()
    assert body.y0 - low < 0.08 * (top - low)
    assert top - body.y1 < 0.02 * (top - low)
    assert body.x0 > max(box.x1 for box in panels)


def test_steps_that_differ_get_a_panel_each():
    drawn = CASES["decay over bytes and tokens"]()
    assert [ax.get_xlabel().split("(")[1][:5] for ax in drawn.axes] == ["bytes", "token"]
    assert [line.axes for line in drawn.lines] == [drawn.axes[0], drawn.axes[1], drawn.axes[1]]
    assert len({line.get_color() for line in drawn.lines}) == 3
    assert drawn.axes[0].get_ylim() == drawn.axes[1].get_ylim()
    with pytest.raises(BadInput, match="over bytes and tokens needs 2 axes, not 1"):
        figures.decay([over(falling(), "byte"), over(falling(), "token")], ax=Figure().add_subplot())


def test_panels_share_floors_looks_and_one_legend():
    contents = {"a": [falling(), falling(2, layer="gru")], "b": falling(2, layer="gru")}
    drawn = figures.panels(contents, share_floor=True)
    assert len({ax.get_ylim() for ax in drawn.axes.values()}) == 1
    (_, gru), (again,) = (one.lines for one in drawn.drawn.values())
    assert (gru.get_color(), gru.get_linestyle()) == (again.get_color(), again.get_linestyle())
    assert legend_texts(drawn)[:2] == ["lstm", "gru"]
    assert [ax.get_title(loc="left") for ax in drawn.axes.values()] == ["a", "b"]
    own = figures.panels({"a": falling(), "b": falling(3)}, share_legend=False)
    assert own.figure.legends == []
    assert len({ax.get_ylim() for ax in own.axes.values()}) == 2
    maps = figures.panels({"x": falling(), "y": falling(3)}, draw=figures.heatmap, share_floor=True)
    assert len({one.colorbar.mappable.get_clim() for one in maps.drawn.values()}) == 1


def test_panels_of_decay_curves_share_the_scale_of_lags():
    short, long = window(2), falling()
    assert figures.decay(long).ax.get_xscale() == "linear"
    drawn = figures.panels({"both": [short, long], "long": long})
    assert {ax.get_xscale() for ax in drawn.axes.values()} == {"symlog"}
    drawn = figures.panels({"short": short, "long": long})
    assert {ax.get_xscale() for ax in drawn.axes.values()} == {"linear"}


def test_panels_say_once_what_they_share():
    deep, deeper = ([window(4), window(5), falling(rate)] for rate in (5.0, 8.0))
    drawn = figures.panels({"one": deep, "two": deeper}, share_floor=True)
    assert drawn.caption.count("Decay of the norm") == drawn.caption.count("An open circle") == 1
    assert re.search(r"one: The axis is cut; .* two: The axis is cut; ", drawn.caption)
    notes = [text for text in legend_texts(drawn) if text.startswith("axis cut")]
    assert notes == ["axis cut"]
    same = figures.panels({"one": deep, "two": deep}, share_floor=True)
    assert "one: " not in same.caption
    assert [text for text in legend_texts(same) if text.startswith("axis cut; lowest norm")]


def test_a_panel_may_be_drawn_by_hand():
    drawn = figures.panels(
        {
            "curve": falling(),
            "map": lambda ax: figures.heatmap(falling(), ax=ax),
            "own": lambda ax: ax.plot([1]),
        }
    )
    assert len(drawn.axes["own"].lines) == 1
    with pytest.raises(BadInput, match="2 panels need 2 axes, not 1"):
        figures.panels({"a": falling(), "b": falling()}, ax=Figure().add_subplot())
    with pytest.raises(BadInput, match="no panel was given"):
        figures.panels({})
    with pytest.raises(BadInput, match=r"a mapping from titles to datasets, .*, not list"):
        figures.panels([falling()])
    with pytest.raises(BadInput, match="across must be a number of panels in a row, 1 or more, not 0"):
        figures.panels({"a": falling()}, across=0)


def test_a_panel_takes_the_figure_of_its_kind_where_that_fills_one_axes():
    one, three = (depprobe.spectrum(name, d=4) for name in ("rnn", "gru"))
    drawn = figures.panels({"decay": falling(), 2: one})
    assert type(drawn.drawn["2"]).__name__ == "SpectrumDrawing"
    assert len(drawn.figure.axes) == 2
    for given in (three, lambda ax: figures.spectrum(three, ax=ax)):
        with pytest.raises(
            BadInput, match="panel 'b': a figure of 3 matrices needs 3 axes, not 1; a panel is one"
        ):
            figures.panels({"a": falling(), "b": given})


def test_the_legend_of_costs_withholds_what_the_table_withholds():
    said = legend_texts(figures.cost(costs()))
    assert said[0] == "lstm   1.00, 1.00, 1.00"
    # threads that waited for busy processors
    assert legend_texts(figures.cost(costs(slow=SLOWER * 2)))[0] == "lstm   –, 1.00, 1.00"


def test_floors():
    assert figures.decay(falling(), floor=-60).ax.get_ylim()[0] == -60
    assert figures.gates(gated(), floor=-100).axes[0].get_ylim()[0] == -100
    assert figures.lyapunov(exponents(), floor=-1).axes[1].get_ylim()[0] == -1
    assert figures.cost(costs(), floor={"time": -2}).axes[0].get_ylim()[0] == pytest.approx(0.01)
    assert figures.speedup(costs(), floor=0.5).axes.get_ylim()[0] == 0.5
    with pytest.raises(BadInput, match="unknown panel 'tme'; did you mean 'time'"):
        figures.cost(costs(), floor={"tme": 1})
    with pytest.raises(BadInput, match="floor has one number for each panel"):
        figures.cost(costs(), floor=-3)


def test_what_differs_tells_curves_apart():
    def stored(words):
        return falling(provenance='{"command": "depprobe jacobian --layer lstm ' + words + '"}')

    drawn = figures.decay([stored("--input a.txt --n 40"), stored("--input b.txt --n 40"), stored("--n 40")])
    assert legend_texts(drawn)[:3] == ["lstm (input=a.txt)", "lstm (input=b.txt)", "lstm (input=default)"]


def test_captions_explain_marks():
    assert "open circle" in figures.decay(window(4)).caption
    assert "axis is cut" in CASES["decay"]().caption
    assert "dotted horizontal lines" in CASES["decay of one"]().caption.lower()


def test_sizes_of_venues_need_no_extra():
    with figures.venue("icml"):
        assert figures.decay(falling()).figure.get_figwidth() == 3.25
        assert figures.gates(gated()).figure.get_figwidth() == 6.75
    for width in (1.0, 40.0):
        with pytest.raises(BadInput, match=r"a figure is 2\.5 to 30 inches wide"), figures.venue(None, width):
            pass


def test_a_figure_is_saved_with_the_settings_it_was_drawn_with(tmp_path):
    with figures.venue("neurips"):
        drawn = figures.decay(falling())
        inside = figures.save(drawn, tmp_path / "a.png").read_bytes()
    assert figures.save(drawn, tmp_path / "b.png").read_bytes() == inside


def test_text_objects_are_counted():
    figure = figures.decay(falling()).figure
    FigureCanvasAgg(figure).draw()
    assert len(texts(figure)) < len(figure.findobj(Text))
