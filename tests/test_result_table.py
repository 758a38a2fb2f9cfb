"""Several results as one table: side by side, or below titles; from Python what the command line prints."""

from __future__ import annotations

import pytest
from test_output import many

import depprobe
from depprobe.cli import tables
from depprobe.cli.output import Summary
from depprobe.cli.result_table import merged
from depprobe.errors import BadInput


def test_summaries_with_other_headings_stand_side_by_side():
    one = Summary("T", ["layer", "norm at lag 9", "form"], [["lstm", "1", "flat"]], [{"layer": "lstm"}])
    two = Summary("T", ["layer", "norm at lag 19", "form"], [["gru", "2", "-"]], [{"layer": "gru", "x": 1}])
    both = merged([one, two])
    assert both.headings == ["layer", "norm at lag 19", "norm at lag 9", "form"]
    assert both.columns == [["lstm", "-", "1", "flat"], ["gru", "2", "-", "-"]]
    assert tables.as_csv(both).splitlines() == ["layer,x", "lstm,", "gru,1"]


def test_layers_stand_in_rows_below_the_title_of_their_dataset():
    both = merged([many(2), many(1)], ["noise", "50 % text"])
    latex = tables.as_latex(tables.chosen(both, rows="gap", labels=["a,b", "B", "C"])).splitlines()
    assert latex[2] == r"layer & gap \\"
    assert latex[4] == r"\multicolumn{2}{l}{\textit{noise}} \\"
    assert latex[5] == r"a,b & $2.0 \pm 0.1$ \\"
    assert latex[7:9] == [r"\addlinespace", r"\multicolumn{2}{l}{\textit{50 \% text}} \\"]
    assert tables.as_markdown(both).splitlines()[2] == "| noise |  |  |  |  |"
    assert [line.split(",")[0] for line in tables.as_csv(both).splitlines()] == [
        "group",
        *("noise", "noise", "50 % text"),
    ]
    text = tables.as_text(both, width=80).splitlines()
    assert max(map(len, text)) <= 80
    assert any(line.split()[:1] == ["noise"] for line in text)


def test_a_table_from_python_is_that_of_the_command_line(tmp_path, capsys):
    from depprobe.cli import main

    short, long = (depprobe.jacobian(["gru", "lstm"], n=n, d=3) for n in (12, 20))
    assert "gru" in depprobe.table(short)
    for name, ds in {"short": short, "long": long}.items():
        depprobe.save(ds, tmp_path / f"{name}.nc")
    with pytest.raises(SystemExit):
        main(["show", str(tmp_path / "short.nc"), str(tmp_path / "long.nc"), "--table", "latex"])
    shown = capsys.readouterr().out.strip()
    assert shown == depprobe.table([short, long], "latex")
    assert r"gru (n=12) & lstm (n=12) & gru (n=20) & lstm (n=20) \\" in shown
    grouped = depprobe.table({"12": short, "20": long}, "markdown", rows=["receptive"], labels=["G", "L"])
    assert grouped.splitlines()[2:] == [
        "| 12 |  |",
        "| G | 11 |",
        "| L | 11 |",
        "| 20 |  |",
        "| G | 19 |",
        "| L | 19 |",
    ]
    files = [str(tmp_path / f"{name}.nc") for name in ("short", "long")]
    words = [*files, "--panels", "12,20", "--labels", "G,L"]
    with pytest.raises(SystemExit):
        main(["show", *words, "--table", "markdown", "--rows", "receptive"])
    assert capsys.readouterr().out.strip() == grouped
    with pytest.raises(SystemExit):
        main(["plot", *words, "--figure", str(tmp_path / "panels.svg")])
    caption = capsys.readouterr().out.split("caption  ")[1].strip()
    assert caption == depprobe.figures.panels({"12": short, "20": long}, share_floor=True).caption
    for command in (["show"], ["plot", "--figure", str(tmp_path / "p.png")]):
        with pytest.raises(SystemExit) as left:
            main([*command, *files, "--panels", "12"])
        assert left.value.code == 2
        assert "1 panel was given for 2 datasets" in capsys.readouterr().err
    with pytest.raises(BadInput, match="unknown form 'tex'; did you mean 'text'"):
        depprobe.table(short, "tex")
    with pytest.raises(BadInput, match="a table is made of datasets, not of str"):
        depprobe.table(["short.nc"])
    with pytest.raises(BadInput, match="a table is made of datasets, not of nothing"):
        depprobe.table([])
    with pytest.raises(BadInput, match="one table holds one kind of dataset, not jacobian and spectrum"):
        depprobe.table([short, depprobe.spectrum("gru", d=3)])
    with pytest.raises(BadInput, match="3 labels were given for 2 layers"):
        depprobe.table(short, labels=["a", "b", "c"])


def test_distances_have_the_table_of_the_dataset_they_were_taken_of():
    ds = depprobe.jacobian(["gru", "lstm"], n=30, d=5, seeds=2)
    rows = ["form", "decay", "half", "mean", "95 %", "receptive"]
    found = depprobe.distances(ds, skip_lags=1)
    own = depprobe.table(found, "markdown")
    assert own == depprobe.table(ds, "markdown", rows=rows, skip_lags=1)
    page = found.depprobe._repr_html_()
    assert page.count("<tr>") == 7
    assert "without lags below 1" in page
    with pytest.raises(BadInput, match="distances have no figure"):
        found.depprobe.plot()
