"""How numbers, their errors and tables are written: no digit that is not known, no small number as zero."""

from __future__ import annotations

import math

import pytest

from depprobe.cli import tables
from depprobe.cli.common import _run_name
from depprobe.cli.options import check_forms
from depprobe.cli.output import Summary, check_writable, with_error
from depprobe.errors import BadInput


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.25, 0.5, "1.25 ± 0.50"),
        (123456.0, 200.0, "123456 ± 200"),
        (0.495, 2.3e-6, "0.495000 ± 0.000002"),
        (0.4954123, 2.3e-8, "0.495412300 ± 2.3e-08"),
        (3.1e-12, 4.4e-13, "3.10e-12 ± 4.4e-13"),
        (-3.1e-12, 4.4e-11, "-3.1e-12 ± 4.4e-11"),
        (0.0, 4.4e-11, "0.0 ± 4.4e-11"),
        (1.0, 1e-12, "1"),
        (2.0, math.nan, "2"),
        (math.inf, math.nan, "inf"),
        (-math.inf, math.nan, "-inf"),
        (math.nan, 0.1, "-"),
    ],
)
def test_a_value_has_the_digits_that_its_error_leaves(value, error, text):
    assert with_error(value, error) == text


def many(layers=8):
    """A table of some layers with long cells."""
    headings = ["layer", "norm at lag 0", "decay rate (ln/step)", "half-life (steps)", "gap"]
    columns = [
        [f"sliding-window:window={i}", "1.5e-14", "-0.4954 [-0.4976, -0.4933]", "-", "2.0 \u00b1 0.1"]
        for i in range(layers)
    ]
    return Summary("T", headings, columns, [{"layer": column[0], "x": -1.0} for column in columns])


def test_a_wide_table_of_eight_layers_fits_eighty_columns():
    text = tables.as_text(many(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    # every cell is there, and every row names its layer
    assert text.count("-0.4954 [-0.4976, -0.4933]") == 8
    assert all(text.count(f"sliding-window:window={i}") == 2 for i in range(8))
    assert text.count("\u2013") == 8
    # without a terminal as wide as it needs, a column for each layer
    assert max(map(len, tables.as_text(many()).splitlines())) > 200
    assert len(tables.as_text(many(1), width=80).splitlines()) == 7


def test_latex_has_numbers_in_math_mode():
    lines = tables.as_latex(many(2)).splitlines()
    assert lines[4] == r"norm at lag 0 & $1.5\cdot 10^{-14}$ & $1.5\cdot 10^{-14}$ \\"
    assert lines[5].count("$-0.4954$ [$-0.4976$, $-0.4933$]") == 2
    assert lines[6] == r"half-life (steps) & -- & -- \\"
    assert lines[7] == r"gap & $2.0 \pm 0.1$ & $2.0 \pm 0.1$ \\"


def test_names_cannot_command_latex():
    hostile = Summary("T", ["layer", "x"], [[r"a\input{/etc/passwd}$x_1%", "inf"]], [{"layer": "a"}])
    text = tables.as_latex(hostile)
    assert r"\textbackslash{}input\{/etc/passwd\}\$x\_1\%" in text
    assert r"x & $\infty$ \\" in text


def test_many_layers_have_a_row_each_on_paper():
    latex, markdown = tables.as_latex(many()).splitlines(), tables.as_markdown(many()).splitlines()
    assert latex[0] == r"\begin{tabular}{lrrrr}"
    assert latex[2] == r"layer & norm at lag 0 & decay rate (ln/step) & half-life (steps) & gap \\"
    assert len(latex) == 5 + 8 + 1
    assert markdown[1] == "| --- | ---: | ---: | ---: | ---: |"
    assert len(markdown) == 2 + 8


def test_words_stand_left_and_long_ones_in_lines():
    reasons = [["a", "2", "takes " * 10], ["[b]", "3", "-"], ["*", "-", "fits \u00d7/\u00f7"]]
    told = Summary("T", ["layer", "x", "reason"], reasons, [], upright=True)
    latex = tables.as_latex(told).splitlines()
    assert latex[0] == r"\begin{tabular}{lrp{0.3\linewidth}}"
    # LaTeX reads a bracket or a star behind a line's end as that line's
    assert latex[5] == r"{}[b] & $3$ & -- \\"
    assert latex[6] == r"{}* & -- & fits $\times$/$\div$ \\"
    _, heads, _, first, *_ = tables.as_text(told).splitlines()
    assert first.index("takes") == heads.index("reason")


def test_sentences_keep_their_whole_numbers():
    assert tables._latex("ceil((n-1)/k) layers, 3 or more") == "ceil((n-1)/k) layers, 3 or more"
    assert tables._latex("gru: -0.5 ± 0.1, 2e-9") == r"gru: $-0.5 \pm 0.1$, $2\cdot 10^{-9}$"


def test_a_power_of_nought_is_left_out():
    assert tables._latex("1.2e+0") == "$1.2$"
    assert tables._latex("1.2e+10") == r"$1.2\cdot 10^{10}$"


def test_markdown():
    lines = tables.as_markdown(many(1)).splitlines()
    assert lines[0] == "|  | sliding-window:window=0 |"
    assert lines[3] == "| decay rate (ln/step) | \u22120.4954 [\u22120.4976, \u22120.4933] |"
    assert lines[4] == "| half-life (steps) | \u2013 |"


def test_rows_and_labels():
    found = tables.chosen(many(2), rows="decay,gap", labels="A,B")
    assert found.headings == ["layer", "decay rate (ln/step)", "gap"]
    assert [column[0] for column in found.columns] == ["A", "B"]
    assert [record["layer"] for record in found.records] == ["A", "B"]
    with pytest.raises(BadInput, match="unknown row 'dcay'; did you mean 'decay rate'"):
        tables.chosen(many(2), rows="dcay")
    # all that begin so
    two = Summary("T", ["layer", "norm at lag 0", "gap", "norm at lag 9"], [["a", "1", "2", "3"]], [])
    assert tables.chosen(two, rows="norm").columns == [["a", "1", "3"]]
    assert tables.chosen(two, rows="norm at lag 9,gap").columns == [["a", "3", "2"]]
    named = tables.chosen(many(2), labels='A\nB, "C, D"')
    assert [column[0] for column in named.columns] == ["A B", "C, D"]
    with pytest.raises(BadInput, match="1 label was given for 2 layers"):
        tables.chosen(many(2), labels="A")
    with pytest.raises(BadInput, match="--table csv holds every number; leave out --rows"):
        check_forms(False, "csv", "decay")


def test_a_label_leaves_what_a_column_says_besides_its_layer():
    headings, columns = ["layer", "x"], [["lstm d=8", "1"], ["lstm d=16", "2"]]
    two = Summary("T", headings, columns, [{"layer": "lstm"}, {"layer": "lstm"}])
    assert [column[0] for column in tables.chosen(two, labels="Mine").columns] == ["Mine d=8", "Mine d=16"]


@pytest.mark.parametrize(
    ("name", "of", "start"),
    [
        ("a", ["lstm:forget_bias=2", "gru"], "jacobian_lstm-forget_bias-2-gru_n20_d4_"),
        ("a", ["模型", "données ünï"], "jacobian_模型-données-ünï_n20_d4_"),
        ("a", ["../..", "a\nb"], "jacobian_-a-b_n20_d4_"),
    ],
)
def test_runs_are_named_after_what_they_measure_and_read(name, of, start):
    found = _run_name("jacobian", name, of, {"n": 20, "d": 4, "targets": "all"})
    assert found.startswith(start)
    assert len(found) == len(start) + 8
    assert _run_name("jacobian", "b", of, {"n": 20, "d": 4}) != found
    assert len(_run_name("jacobian", name, ["模" * 200], {}).encode()) < 200


def test_names_that_no_file_can_have_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"cannot write .*: file name too long"):
        check_writable(tmp_path / ("x" * 300 + ".nc"))
