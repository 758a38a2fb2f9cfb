"""What a notebook shows for results and figures: once, with captions and tables, no markup from labels."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread

import depprobe
from depprobe.cli import tables
from depprobe.cli.summaries import summary_of
from depprobe.figures.displaying import escaped

HOSTILE = '<img src=x onerror="alert(1)">&\x1b[31m'


@pytest.fixture(scope="module")
def ds():
    return depprobe.jacobian(["rnn", "lstm"], n=12, d=3)


class _Page(HTMLParser):
    """The tags of a page, the cells of its tables row by row, and all its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.text, self.picture = "", b""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            self.picture = base64.b64decode(dict(attrs)["src"].removeprefix("data:image/png;base64,"))

    def handle_data(self, data):
        self.text += data
        if self.rows and "table" in self.tags and self.tags[-1] in ("td", "th") and data.strip():
            self.rows[-1][-1] += data


def test_results_are_a_figure_and_the_table_of_show(ds):
    page = _Page(ds.depprobe._repr_html_())
    summary = summary_of(ds)
    assert page.tags.count("img") == page.tags.count("table") == 1
    assert page.rows[0] == ["", "rnn", "lstm"]
    assert [row[0] for row in page.rows[1:]] == summary.headings[1:]
    shown = [[cell.replace("\N{MINUS SIGN}", "-") for cell in row[1:]] for row in page.rows[1:]]
    cells = zip(*(column[1:] for column in summary.columns), strict=True)
    assert shown == [[cell if cell != tables.MISSING else "\u2013" for cell in row] for row in cells]
    for said in (summary.title, *summary.notes, ds.depprobe.plot().caption):
        assert said in page.text


def test_the_picture_is_the_figure(ds):
    drawn = ds.depprobe.plot()
    picture = _Page(drawn._repr_html_()).picture
    assert picture == ds.depprobe.plot()._repr_png_(), "no dates, nothing random"
    width, height = drawn.figure.get_size_inches()
    pixels = imread(io.BytesIO(picture))
    np.testing.assert_allclose(pixels.shape[:2], [192 * height, 192 * width], atol=1)
    assert pixels[..., :3].std() > 0.05, "not blank"


def test_a_figure_that_pyplot_shows_is_not_shown_again(ds):
    figure, ax = plt.subplots()
    drawn = depprobe.figures.decay(ds, ax=ax)
    assert drawn._repr_png_() is None
    page = _Page(drawn._repr_html_())
    assert ("img" in page.tags, page.text) == (False, drawn.caption)
    # a notebook closes it once it is shown, and a later figure may have its number
    plt.close(figure)
    other, _ = plt.subplots()
    assert "img" in _Page(drawn._repr_html_()).tags
    plt.close(other)
    own = depprobe.figures.decay(ds)
    assert plt.get_fignums() == []
    assert "img" in _Page(own._repr_html_()).tags


def test_whatever_draws_returns_one_thing_that_shows_itself(ds):
    kinds = [
        thing
        for thing in vars(depprobe.figures).values()
        if isinstance(thing, type) and "figure" in getattr(thing, "_fields", ())
    ]
    assert len(kinds) >= 9
    for kind in kinds:
        assert callable(kind._repr_html_)
    panels = depprobe.figures.panels({"a": ds, "b": ds})
    for drawn in (panels, depprobe.figures.heatmap(ds), depprobe.figures.decay(ds), panels.drawn):
        assert not re.search(r"matplotlib|object at 0x|Line2D|<Axes", repr(drawn))
    assert panels.caption in repr(panels)


def test_labels_are_text():
    ds = depprobe.jacobian("rnn", n=12, d=3).assign_attrs(layer=HOSTILE)
    page = ds.depprobe._repr_html_()
    assert _Page(page).tags.count("img") == 1
    assert HOSTILE.replace("\x1b", "?") in _Page(page).text
    assert "\x1b" not in page + repr(ds.depprobe)
    panels = depprobe.figures.panels({HOSTILE: ds, "plain": ds.assign_attrs(n=13)}, share_legend=False)
    assert _Page(panels._repr_html_()).tags.count("img") == 1
    assert "\\href" not in escaped("$\\href{javascript:alert(1)}{x}$")


@pytest.mark.parametrize(
    ("strange", "said"),
    [
        (xr.Dataset(), "dataset (no dimensions)"),
        (xr.Dataset({"log_norm": ("a", ["<b>"])}), "log_norm has dimensions (a)"),
        (xr.Dataset({"time": 1.0}), "dataset (no dimensions)"),
    ],
)
def test_what_cannot_be_drawn_says_why_once(strange, said):
    page = _Page(strange.depprobe._repr_html_())
    assert (page.text.count(said), set(page.tags)) == (1, {"p"})
    assert repr(strange.depprobe).startswith("<depprobe: ")


def test_a_terminal_shows_what_a_dataset_is_without_measuring(ds, monkeypatch):
    monkeypatch.setattr("depprobe.curves.distances", None)
    assert repr(ds.depprobe) == (
        "<depprobe: jacobian dataset of rnn, lstm (layer 2, target 1, source 12); "
        "plot(), distances(), decay(), lag>"
    )
    assert "figure" not in ds._repr_html_()[:200], "xarray's own form stays"


def test_only_what_a_dataset_can_do_is_offered(ds):
    found, curve = depprobe.distances(ds), depprobe.decay_curve(ds)
    assert re.fullmatch(r"<depprobe: distances dataset of rnn, lstm \(.*\)>", repr(found.depprobe))
    assert re.fullmatch(r"<depprobe: decay dataset of rnn, lstm \(.*\); plot\(\)>", repr(curve.depprobe))
