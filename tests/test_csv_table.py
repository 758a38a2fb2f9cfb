"""Tables as inputs: which columns are read, what is recognised and said, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import depprobe
from depprobe.errors import BadInput
from depprobe.runs.inputs import read

DAYS = pd.date_range("1999-12-27", periods=20)
RNG = np.random.default_rng(8)
FRAME = pd.DataFrame(
    {"price": RNG.normal(5, 2, 20), "sold": RNG.integers(0, 9, 20), "odd, name": RNG.random(20)}
)


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("columns", [None, ["sold", "price"], [2, "price"], "1,0", '"odd, name",sold'])
def test_columns_are_those_that_pandas_reads(where, decimal, delimiter, columns):
    FRAME.to_csv("x.csv", sep=delimiter, decimal=decimal, index=False)
    found = read("x.csv", columns=columns, delimiter=delimiter, decimal=decimal)
    names = {"1,0": ["sold", "price"], '"odd, name",sold': ["odd, name", "sold"]}.get(str(columns), columns)
    wanted = FRAME if names is None else FRAME[[FRAME.columns[c] if isinstance(c, int) else c for c in names]]
    expected = pd.read_csv("x.csv", sep=delimiter, decimal=decimal)[list(wanted)].to_numpy(float)
    np.testing.assert_array_equal(found.data, expected)
    assert found.about["input_columns"] == ", ".join(wanted)


def test_tabs_by_suffix_by_word_and_runs_of_blanks(where):
    FRAME.to_csv("x.tsv", sep="\t", index=False)
    FRAME.to_csv("x.csv", sep="\t", index=False)
    Path("y.csv").write_text("1   2\n 3 4 \n")
    np.testing.assert_array_equal(read("x.tsv").data, FRAME)
    np.testing.assert_array_equal(read("x.csv", delimiter="tab").data, FRAME)
    np.testing.assert_array_equal(read("y.csv", delimiter="space").data, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%y", "%Y-%m-%d %H:%M:%S", "%d %b %Y", "%b %d, %Y"]
)
@pytest.mark.parametrize("header", [True, False])
def test_a_column_of_dates_is_the_index_wherever_it_stands(where, form, header):
    dated = FRAME.assign(day=DAYS.strftime(form))[["price", "day", "sold"]]
    dated.to_csv("x.csv", index=False, header=header)
    found = read("x.csv")
    np.testing.assert_array_equal(found.data, FRAME[["price", "sold"]])
    first, last = DAYS[[0, -1]].strftime(form)
    assert found.about["input_index"] == f"{'day' if header else 1}: {first} to {last}"
    (said,) = found.notes
    assert "holds dates and is taken as the index, not as input" in said


def test_dates_that_run_backwards_are_said(where):
    FRAME.assign(day=DAYS)[::-1].to_csv("x.csv", index=False)
    assert any("its dates run backwards" in note for note in read("x.csv").notes)
    assert any("its dates run backwards" in note for note in read("x.csv", columns="price").notes)


@pytest.mark.parametrize("start", [0, 1, 1700])
def test_a_first_column_that_numbers_the_rows_is_the_index_unless_asked_for(where, start):
    FRAME.set_index(pd.RangeIndex(start, start + 20)).to_csv("x.csv")
    found = read("x.csv")
    np.testing.assert_array_equal(found.data, FRAME)
    assert found.about["input_index"] == f": {start} to {start + 19}"
    assert "the number of each row and is taken as the index" in found.notes[0]
    asked = read("x.csv", columns=[0, "price"])
    np.testing.assert_array_equal(asked.data[:, 0], np.arange(start, start + 20))
    assert not asked.notes
    pd.DataFrame({"id": range(20)}).to_csv("ids.csv", index=False)
    np.testing.assert_array_equal(read("ids.csv").data[:, 0], np.arange(20))


@pytest.mark.parametrize(
    ("name", "times", "kind"),
    [
        ("timestamp", np.arange(20) * 60 + 1_600_000_000, "Unix times"),
        ("", np.arange(20) * 86_400_000 + 1_600_000_000_000, "Unix times"),
        ("epoch", np.cumsum(RNG.random(20)) + 1_600_000_000, "Unix times"),
        ("ts", (np.arange(20) + 1_600_000_000) * 10**9, "Unix times"),
        ("time [s]", np.arange(20) / 10, "times"),
        ("t", np.arange(20) + 5, "times"),
    ],
)
def test_a_column_of_times_as_numbers_is_the_index_unless_asked_for(where, name, times, kind):
    FRAME.assign(**{name: times})[[name, "price", "sold"]].to_csv("x.csv", index=False)
    found = read("x.csv")
    np.testing.assert_array_equal(found.data, FRAME[["price", "sold"]])
    assert found.notes == (f"column {name!r} holds {kind} and is taken as the index, not as input",)
    first, last = pd.read_csv("x.csv", dtype=str)[name or "Unnamed: 0"].iloc[[0, -1]]
    assert found.about["input_index"] == f"{name}: {first} to {last}"
    asked = read("x.csv", columns=[0, "price"])
    np.testing.assert_allclose(asked.data[:, 0], times, rtol=1e-15)
    assert not asked.notes
    assert "input_index" not in asked.about


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("time", RNG.normal(size=20)),  # falls: a measured time
        ("population", np.sort(RNG.random(20)) * 1e8 + 1.6e9),  # rises, but not whole
        ("volume", np.arange(20) * 60.0),
        ("sometimes", np.arange(20) * 60.0),
    ],
)
def test_other_columns_that_rise_or_are_called_time_are_input(where, name, column):
    FRAME.assign(**{name: column})[[name, "price"]].to_csv("x.csv", index=False)
    found = read("x.csv")
    np.testing.assert_allclose(found.data[:, 0], column, rtol=1e-15)
    assert not found.notes


def test_row_numbers_beside_dates_and_a_table_of_times_alone(where):
    FRAME.assign(day=DAYS)[["day", "price"]].to_csv("x.csv")
    found = read("x.csv")
    np.testing.assert_array_equal(found.data, FRAME[["price"]])
    assert found.about["input_index"] == "day: 1999-12-27 to 2000-01-15"
    assert len(found.notes) == 2
    pd.DataFrame({"time": np.arange(20)}).to_csv("times.csv", index=False)
    np.testing.assert_array_equal(read("times.csv").data[:, 0], np.arange(20))


def test_standardised_columns_say_what_they_were(where):
    FRAME.to_csv("x.csv", index=False)
    np.save("x.npy", FRAME.to_numpy(float))
    expected = (FRAME - FRAME.mean()) / FRAME.std(ddof=0)
    for name in ("x.csv", "x.npy"):
        found = read(name, standardise=True)
        np.testing.assert_allclose(found.data, expected, rtol=1e-12)
        np.testing.assert_allclose(found.about["input_mean"], FRAME.mean(), rtol=1e-12)
        np.testing.assert_allclose(found.about["input_std"], FRAME.std(ddof=0), rtol=1e-12)


TEXTS = {
    "plain": "a,b\n1,2\n3,4\n5,7\n",
    "word": "a,b\n1,2\n3,x\n5,7\n",
    "hole": "a,b\n1,2\n3,\n",
    "nan": "a,b\n1,2\n3,nan\n",
    "ragged": "a,b\n1,2\n\n3\n",
    "semicolons": "day;a;b\n1;2,5;3\n2;1,5;4\n",
    "commas": "1,5;2\n1,7;3\n",
    "two": "a,a\n1,2\n3,4\n",
    "flat": "a,b\n1,2\n1,4\n",
    "days": "2020-01-01\n2020-01-02\n",
    "head": "a,b\n",
    "quote": 'a,b\n1,"2\n',
}
REFUSED: list[tuple[str, dict, str]] = [
    ("plain", {"columns": "bb"}, "unknown column in plain.csv 'bb'; did you mean 'b'"),
    ("plain", {"columns": "2"}, "has columns 0 to 1, no column 2: a, b"),
    ("plain", {"columns": "a,0"}, "column '0' of plain.csv is named twice"),
    ("plain", {"columns": ""}, "columns names none; leave it out"),
    ("plain", {"columns": [1.5]}, "a column is given by name or position, not 1.5"),
    ("plain", {"delimiter": "ab"}, "delimiter must be one character .*not 'ab'"),
    ("plain", {"decimal": ","}, "delimiter and decimal are both ','; give another --delimiter"),
    ("word", {}, "line 3, column 'b' holds 'x', not a number; --columns a reads those of numbers alone"),
    ("hole", {}, "line 3, column 'b' is empty; fill it or leave out the row"),
    ("nan", {}, "holds NaN or Inf"),
    ("ragged", {}, "line 4 has 1 column and line 1 has 2"),
    ("semicolons", {}, "line 2 has 2 columns and line 1 has 1; .* ';' give --delimiter ';'"),
    ("semicolons", {"columns": "a"}, "give --delimiter ';'"),
    (
        "semicolons",
        {"delimiter": ";"},
        "'a' holds '2,5', not a number; for numbers such as 1,5 give --decimal",
    ),
    ("two", {"columns": "a"}, "has 2 columns 'a'; give the position"),
    ("flat", {"standardise": True}, "'a' does not vary and cannot be standardised"),
    ("days", {}, "no column of numbers beside"),
    ("days", {"columns": "0"}, "holds '2020-01-01', not a number"),
    ("head", {}, "is empty but for its header"),
    ("quote", {}, "unexpected end of data"),
]


@pytest.mark.parametrize(("name", "options", "match"), REFUSED)
def test_what_is_no_table_of_numbers_is_refused(where, name, options, match):
    Path(f"{name}.csv").write_text(TEXTS[name])
    with pytest.raises(BadInput, match=match) as raised:
        read(f"{name}.csv", **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["noise", "x.npy", "x.txt", "x.wav"])
@pytest.mark.parametrize(
    "option", [{"columns": "a"}, {"delimiter": ";"}, {"decimal": ","}, {"standardise": True}]
)
def test_options_of_tables_are_refused_with_other_inputs(where, name, option):
    np.save("x.npy", np.random.default_rng(0).normal(size=(9, 2)))
    if (name, *option) == ("x.npy", "standardise"):
        return  # arrays are standardised too
    with pytest.raises(BadInput, match=f"{next(iter(option))} is for .csv, .tsv.* files, not for"):
        read(name, **option)


def test_files_of_other_kinds_are_refused_by_name(where):
    kinds = {"w.safetensors": "weights", "t.parquet": "a table of another kind", "s.mp3": "compressed sound"}
    for name, kind in kinds.items():
        Path(name).write_bytes(b"some bytes")
        with pytest.raises(BadInput, match=f"cannot read '{name}' as an input: .* is {kind}; use noise or"):
            read(name)
    Path("b.txt").write_bytes(b"a\0b")
    Path("l.txt").write_bytes("é".encode("latin-1"))
    for name, match in {"b.txt": "holds NUL bytes", "l.txt": "byte 0 is not UTF-8; save it as UTF-8"}.items():
        with pytest.raises(BadInput, match=match):
            read(name)


def test_on_the_command_line_the_index_is_said_and_the_columns_are_kept(where, run):
    table = FRAME.assign(day=DAYS)[["day", "price", "sold"]]
    table.to_csv("x.csv", index=False, sep=";", decimal=",")
    words = (
        "--layer",
        "gru",
        "--d",
        "4",
        "--n",
        "12",
        "--input",
        "x.csv",
        "--delimiter",
        ";",
        "--decimal",
        ",",
    )
    code, _, err = run("jacobian", *words, "--standardise", "-o", "out.nc")
    assert code == 0, err
    assert err == "depprobe: x.csv: column 'day' holds dates and is taken as the index, not as input\n"
    ds = xr.open_dataset("out.nc")
    assert ds.attrs["input_columns"] == "price, sold"
    np.testing.assert_allclose(ds.attrs["input_mean"], table[["price", "sold"]].mean())
    assert "--delimiter ';' --decimal , --standardise" in json.loads(ds.attrs["provenance"])["command"]
    x = table[["price", "sold"]]
    x = (x - x.mean()) / x.std(ddof=0)
    expected = depprobe.jacobian("gru", torch.from_numpy(x.to_numpy(float)[:12]), d=4)
    np.testing.assert_allclose(ds.log_norm, expected.log_norm, rtol=1e-9)
    for command, more in {"gates": (), "lyapunov": (), "spectrum": ("--steps", "last")}.items():
        code, _, err = run(command, *words, *more, "--columns", "sold", "-q", "-o", f"{command}.nc")
        assert (code, err) == (0, ""), command
        assert xr.open_dataset(f"{command}.nc").attrs["input_columns"] == "sold"
    code, _, err = run("jacobian", *words, "--columns", "pric", "-o", "no.nc")
    assert (code, err) == (
        2,
        "depprobe: unknown column in x.csv 'pric'; did you mean 'price'? Known: day, price, sold\n",
    )
