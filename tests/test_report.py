"""``depprobe report``: the page says what datasets hold, obeys none of it, loads nothing, fits a phone."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import depprobe
from depprobe import store
from depprobe.cli.commands.report import contents
from depprobe.cli.summaries import summary_of
from depprobe.curves import decay_curve
from depprobe.report import Curve, Page, Picture, Source, Table, html_of
from depprobe.report.curves import MOST, POINTS, thinned

GRID = """
probe = "jacobian"
[grid]
layer = ["lstm", "attention:heads=2"]
n = [12, 20]
seed = [0, 1]
[fixed]
d = 4
[[include]]
layer = "attention:heads=3"
n = 12
"""
EVIL = "<script>alert(1)</script>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep of which one cell failed."""
    from depprobe.cli import main

    folder = tmp_path_factory.mktemp("swept")
    (folder / "grid.toml").write_text(GRID)
    with pytest.raises(SystemExit):
        main(["sweep", str(folder / "grid.toml"), "-o", str(folder / "out"), "-q"])
    return folder / "out"


@pytest.fixture(scope="module")
def measured():
    return depprobe.jacobian(["lstm", "gru"], n=30, d=4)


@pytest.fixture
def page(run, tmp_path):
    """Write the page of a folder: (its text, what was printed)."""

    def go(folder, *more: str, code: int = 0) -> tuple[str, str]:
        ended, out, err = run("report", str(folder), "-o", "page.html", *more)
        assert ended == code, err
        return (tmp_path / "page.html").read_text(encoding="utf-8"), out + err

    return go


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without their figures, which take most of the time."""
    monkeypatch.setattr(contents, "pictures", lambda found, each: [])


def test_what_would_be_loaded_is_seen():
    assert loaded('<img src="http://a/b.png"><style>@import "x"</style>') == ["http://a/b.png", "@import"]


def told(text: str) -> list[list[str]]:
    """The cells of all rows of all tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", text.partition("<main>")[2], re.S)
    return [[html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows]


def loaded(text: str) -> list[str]:
    """What a page would load: addresses in elements, outside scripts."""
    bare = re.sub(r"<script.*?</script>", "<script>", text, flags=re.S)
    addresses = re.findall(r"(?:src|href|srcset|action|data)\s*=\s*[\"']?([^\"'\s>]+)", bare)
    return [a for a in addresses if not a.startswith("data:")] + re.findall(r"@import|url\(", bare)


def test_a_sweep_is_told_cell_by_cell(swept, page):
    text, said = page(swept, "--no-interactive")
    assert "without  1 of 9; the page says why" in said
    rows = told(text)
    ds = depprobe.open_sweep(swept)
    for n in (12, 20):
        for layer in ("lstm", "attention:heads=2"):
            one = ds.sel(n=n, layer=layer).assign_attrs(layer=layer)
            norms = np.exp(one["log_norm"].where(one["target"] == n - 1, drop=True))
            last = float(norms.sel(source=0).median("seed").squeeze())
            (row,) = [cells for cells in rows if cells[:2] == [str(n), layer]]
            assert float(row[4]) == pytest.approx(last, rel=0.06)
    (reason,) = [cells[1] for cells in rows if cells[0] == "layer = attention:heads=3, n = 12, seed = 0"]
    assert reason == str(ds["missing_reason"].sel(layer="attention:heads=3", n=12, seed=0).item())
    assert "heads must divide d = 4" in reason
    assert text.count("<details>") == 8
    assert text.count("<img ") == text.count("data:image/svg+xml;base64,") > 1


def test_a_plain_folder_is_told_as_show_tells_it(measured, page, tmp_path, undrawn):
    store.save(measured, tmp_path / "runs" / "a.nc")
    text, _ = page("runs", "--title", "A & B", "--no-interactive")
    summary = summary_of(measured)
    rows = told(text)
    for column in summary.columns:
        assert ["a.nc", *("–" if cell == "-" else cell for cell in column)] in rows
    assert all(html.escape(note) in text for note in summary.notes)
    assert "<title>A &amp; B</title>" in text
    assert ["provenance / command", json.loads(measured.attrs["provenance"])["command"]] in rows
    assert ["seed", "0"] in rows


def test_a_bad_file_among_good_ones_is_listed(measured, page, run, tmp_path, undrawn):
    store.save(measured, tmp_path / "runs" / "a.nc")
    (tmp_path / "runs" / "b.nc").write_bytes(b"CDF nonsense")
    text, said = page("runs", code=2)
    assert loaded(text) == []
    (reason,) = [cells[1] for cells in told(text) if cells[0] == "b.nc"]
    assert f"depprobe: {reason}" in said
    assert run("show", "runs")[0] == 2


def test_a_damaged_cell_is_listed(swept, page, tmp_path, undrawn):
    shutil.copytree(swept, tmp_path / "cut")
    file = next((tmp_path / "cut").glob("*.nc"))
    file.write_bytes(file.read_bytes()[:-100])
    text, said = page("cut", code=2)
    assert "its file is damaged" in text
    assert "without  2 of 9" in said


def test_every_kind_has_a_page(run, page):
    for kind in ("gates", "lyapunov", "spectrum"):
        size = () if kind == "spectrum" else ("--n", "30")
        assert run(kind, "--layer", "lstm", "--d", "4", "-q", "-o", f"runs/{kind}.nc", *size)[0] == 0
    text, _ = page("runs", "--no-interactive")
    assert text.count("<img ") == text.count("<details>") == 3
    assert {"gates.nc", "lyapunov.nc", "spectrum.nc"} <= {cells[0] for cells in told(text) if cells}


def test_costs_of_a_sweep_are_one_figure():
    n = np.array([128, 256])
    flops = xr.Dataset({"flops": (("layer", "n"), [5.0 * n**2])}, coords={"layer": ["a"], "n": n})
    swept = flops.assign_coords(no_stream=("layer", ["a: it looks ahead"]))
    assert depprobe.figures.cost(swept).caption == depprobe.figures.cost(flops).caption


def test_what_data_say_is_not_obeyed(measured, page, tmp_path):
    evil = measured.assign_coords(layer=[EVIL, f'" onload="alert(2){EVIL}']).assign_attrs(
        layer=EVIL, note=EVIL
    )
    store.save(evil, tmp_path / "runs" / "a.nc")
    (tmp_path / "runs" / "b&<i>.nc").write_bytes(b"x")
    text, _ = page("runs", "--title", EVIL, code=2)
    assert EVIL not in text
    assert html.escape(EVIL) in text
    assert "<i>" not in text.partition("<body>")[2]
    assert not re.search(r"<[^>]*\sonload=", text.partition("<body>")[2])


def test_without_bokeh_a_page_is_static(monkeypatch):
    for name in ("bokeh", "bokeh.embed", "bokeh.resources"):
        monkeypatch.setitem(sys.modules, name, None)
    text = html_of(made())
    assert "<script" not in text
    assert "pip install depprobe[report] adds interactive curves" in text
    static = html_of(replace(made(), explore=False))
    assert "<script" not in static
    assert "pip install" not in static


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["none"], "'none' is not a folder of datasets"),
        (["."], "'.' holds no dataset"),
        ([".", "-o", "page.nc"], "'page.nc': the page is an .html file"),
    ],
)
def test_wrong_calls_are_refused(words, match, run):
    code, out, err = run("report", *words)
    assert (code, out) == (2, "")
    assert match in err
    assert err.count("\n") == 1


def test_a_page_is_written_in_the_folder(measured, run, tmp_path):
    store.save(measured, tmp_path / "runs" / "a.nc")
    assert run("report", "runs", "--no-interactive") == (0, "report   runs/report.html\n", "")
    assert sorted(file.name for file in (tmp_path / "runs").iterdir()) == ["a.nc", "report.html"]


def test_curves_are_those_of_the_datasets(swept, undrawn):
    pytest.importorskip("bokeh")
    from depprobe.report.curves import explorer

    told = []
    page, _ = contents.page_of(swept, progress=lambda *now: told.append(now))
    shares, totals, labels = zip(*told, strict=True)
    assert set(totals) == {len(contents._STAGES)}
    assert list(shares) == sorted(shares)
    assert dict.fromkeys(label.rsplit(" ", 3)[0] for label in labels) == dict.fromkeys(contents._STAGES[:-1])
    assert [curve.at for curve in page.curves] == [
        {"layer": layer, "n": n} for n in ("12", "20") for layer in ("lstm", "attention:heads=2")
    ]
    sources = {}
    from bokeh.models import GlyphRenderer, Select

    plots = explorer(page.curves)
    for line in plots.select({"type": GlyphRenderer}):
        data = line.data_source.data
        sources[data["name"][0]] = data
    assert {select.title for select in plots.select({"type": Select})} == {"n", "lag", "axis of norms"}
    for n in (12, 20):
        part = depprobe.open_sweep(swept).sel(n=n, layer="lstm").load()
        curve = decay_curve(part.sel(target=[n - 1], source=slice(0, n - 1)))
        data = sources[f"lstm, n = {n}"]
        assert data["lag"] == curve["lag"].values.tolist()
        np.testing.assert_allclose(data["ln"], curve["log_median"].values, rtol=1e-6)
        np.testing.assert_allclose(data["log10"], curve["log_median"].values / math.log(10), rtol=1e-6)
        assert math.isnan(data["behind"][0])
        assert data["behind"][1:] == data["lag"][1:]


def test_notes_that_differ_in_parentheses_are_one():
    late = "late (n = {}): again"
    notes = [("a", "x"), (late.format(1), "x"), ("a", "y"), (late.format(2), "y"), ("b (1)", "y")]
    assert contents._noted(notes) == ["a", "late (x; y): again", "y: b (1)"]
    many = contents._noted([(f"late (n = {i})", f"x{i}") for i in range(20)])
    assert many == [f"late ({'; '.join(f'x{i}' for i in range(12))}; 8 more)"]


def made(number: int = 2, points: int = 50, name: str = "layer") -> Page:
    lag = np.arange(points)
    texts = ["1"] * points
    curves = [
        Curve(f"{name} {i}", {"layer": f"{name} {i}"}, lag, -0.1 * i * lag, texts, texts, texts)
        for i in range(number)
    ]
    table = Table("table", [f"heading {i}" for i in range(30)], [["x" * 30] * 30] * 3, ["note " * 30])
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="30"><path d="M0 0h900"/></svg>'
    source = Source(f"cell {name}", "/a/" + "long" * 60 + ".nc", {"provenance": {"command": "x" * 300}})
    picture = Picture("a", svg, "svg", "A $J_{t,k}$.")
    return Page(f"Results {name}", {"in": "y" * 200}, [table], [picture], [source], curves)


def test_large_sweeps_stay_small(tmp_path):
    pytest.importorskip("bokeh")
    bare = len(html_of(made(1, 2)))
    assert len(html_of(made(MOST + 20, 100_000))) - bare < 3_000_000
    for m in (1, POINTS, POINTS + 1, 10**5):
        kept = thinned(np.arange(m))
        assert (kept[0], kept[-1]) == (0, m - 1)
        assert len(kept) <= POINTS
        assert (np.diff(kept) > 0).all()


def test_captions_are_read_as_text():
    assert 'alt="A J[t,k]."' in html_of(made())


def chromium(address: str, *more: str) -> tuple[str, str]:
    """The document that a browser makes of a page, and what it says of it."""
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0")
    flags += ("--virtual-time-budget=4000", "--allow-file-access-from-files", "--dump-dom")
    done = subprocess.run([CHROMIUM, *flags, *more, address], capture_output=True, text=True, timeout=60)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


#: loads a page in a frame as wide as a phone, opens what is folded, says how wide and high it became, then
#: chooses the first layer, a logarithmic axis and the other logarithm, and says what is seen
FRAME = """<iframe id=f src="page.html" style="width:390px;height:844px;border:0"></iframe><script>
const wait = (ms) => new Promise(done => setTimeout(done, ms))
document.getElementById("f").onload = async () => {
  await wait(1000)
  const w = document.getElementById("f").contentWindow, d = w.document, root = d.documentElement
  d.querySelectorAll("details").forEach(e => e.open = true)
  const high = d.getElementById("curves")?.getBoundingClientRect().height ?? 0
  const first = d.querySelector(".cells td")?.getBoundingClientRect().width ?? 0
  const said = ["measured", root.scrollWidth - root.clientWidth, high, Math.round(first)]
  if (w.Bokeh) {
    const models = [...w.Bokeh.documents[0]._all_models.values()]
    const choice = (title) => models.find(m => m.title === title && m.options)
    const of = (type) => models.filter(m => m.type === type)
    choice("layer").value = choice("layer").options.slice(0, 1)
    choice("lag").value = "logarithmic"
    choice("axis of norms").value = "ln norm"
    await wait(500)
    const name = (line) => line.data_source.get_column("name")[0]
    said.push(of("GlyphRenderer").filter(m => m.visible).map(m => name(m).slice(-1)).join(""))
    said.push(of("Figure").map(m => +m.visible).join(""))
    said.push(of("GlyphRenderer")[0].glyph.y.field)
  }
  document.title = said.join(" ")
}</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("name", ["layer", "<img src=x onerror=console.error(1)>"])
def test_a_browser_shows_it_on_a_phone_without_errors(name, tmp_path):
    pytest.importorskip("bokeh")
    (tmp_path / "page.html").write_text(html_of(made(name=name)), encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME)
    document, said = chromium((tmp_path / "frame.html").as_uri())
    word, beyond, high, first, *chosen = re.search(r"<title>(.*?)</title>", document)[1].split()
    assert (word, int(beyond)) == ("measured", 0)
    assert float(high) > 300
    assert 100 < int(first) < 160, "long names stand on several lines"
    assert chosen == ["00", "01", "ln"]
    assert not [line for line in said.splitlines() if not re.search(r'INFO:CONSOLE.*"\[bokeh', line)]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_an_error_in_a_browser_would_be_seen(tmp_path):
    (tmp_path / "page.html").write_text("<script>undefined_function()</script><p style='width:600px'>a")
    (tmp_path / "frame.html").write_text(FRAME)
    document, said = chromium((tmp_path / "frame.html").as_uri())
    assert "undefined_function" in said
    assert int(re.search(r"<title>measured (\d+)", document)[1]) > 200
