"""``depprobe gates``: what it prints and saves, and how wrong calls end."""

from __future__ import annotations

import json
import re
from functools import partial

import numpy as np
import pytest
from json_documents import document_of

import depprobe
from depprobe import store
from depprobe.cli import main

SMALL = ("--n", "12", "--d", "4")


@pytest.fixture
def run(run):
    """The command under test, with further arguments."""
    return partial(run, "gates")


def test_table_dataset_and_figure(run, tmp_path):
    code, out, _ = run("--layer", "lstm", "--layer", "lstm:forget_bias=3", *SMALL, "--seed", "2", "-q")
    assert code == 0
    assert re.search(r"^gates: n = 12, d = 4, depth = 0, t = 11, seed 2, float64", out)
    (path,) = tmp_path.glob("runs/*.nc")
    (figure,) = tmp_path.glob("runs/*.png")
    assert str(path.relative_to(tmp_path)) in out
    assert figure.read_bytes().startswith(b"\x89PNG")
    ds = store.load(path)
    store.validate(ds)
    specs = ["lstm", "lstm:forget_bias=3"]
    assert json.loads(ds.attrs["provenance"])["command"] == (
        "depprobe gates --layer lstm --layer lstm:forget_bias=3 --n 12 --d 4 --seed 2"
    )
    expected = depprobe.gates(specs, n=12, d=4, seed=2)
    np.testing.assert_array_equal(ds.log_norm_cc, expected.log_norm_cc)
    decades = [f"{gap:+.1f}" for gap in expected.log_gap.isel(source=0).values / np.log(10)]
    (line,) = [line for line in out.splitlines() if line.strip().startswith("true over product")]
    assert line.split()[-2:] == decades


def test_json_holds_the_numbers(run):
    code, out, _ = run("--layer", "gru", *SMALL, "--target", "7", "--samples", "2", "--json", "-q")
    assert code == 0
    document = document_of("gates", out)
    ds = store.load(document["dataset"])
    (row,) = document["layers"]
    assert ds.sizes["source"] == 8
    assert row["log_norm_hh"] == pytest.approx(float(ds.log_norm_hh.isel(source=0).median()), rel=1e-12)
    assert row["hold_share_1"] == pytest.approx(float(ds.hold_share.sel(lag=1).mean()), rel=1e-12)
    assert document["attributes"]["keeper"] == "z"


def test_the_held_state_is_recorded_and_bears_on_the_result(run):
    code, out, _ = run("--layer", "lstm:depth=2", *SMALL, "--depth", "1", "--hold-h", "-o", "a.nc", "-q")
    assert code == 0
    assert "h_k held" in out
    ds = store.load("a.nc")
    assert json.loads(ds.attrs["provenance"])["command"].endswith("--depth 1 --hold-h --seed 0")
    np.testing.assert_array_equal(
        ds.log_norm_cc, depprobe.gates("lstm:depth=2", n=12, d=4, depth=1, hold_h=True).log_norm_cc
    )


def test_csv_and_stored_datasets_are_shown(run, capsys):
    code, out, _ = run("--layer", "lstm", *SMALL, "--table", "csv", "-o", "a.nc", "-q")
    assert code == 0
    assert out.splitlines()[0].startswith("layer,log_norm_cc,log_norm_hc,log_norm_product,log_gap,")
    with pytest.raises(SystemExit) as stop:
        main(["show", "a.nc"])
    assert stop.value.code == 0
    assert "product of f at lag 11" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--layer", "rnn", *SMALL), "rnn has no gates to read"),
        (("--layer", "lstm:bidirectional=true", *SMALL), "needs bidirectional=false"),
        (("--layer", "lstm", "--layer", "gru", *SMALL), "different gates"),
        (("--layer", "lstm", "--depth", "1", *SMALL), "depth must be 0"),
        (("--layer", "gru", "--hold-h", *SMALL), "hold_h needs a cell state"),
        (("--layer", "lstm", "--target", "99", *SMALL), "target 99 lies outside the 12 positions"),
        (("--layer", "lstm", "--target", "all", *SMALL), "one target"),
        (("--layer", "lstmm", *SMALL), "did you mean 'lstm'"),
        (("--layer", "lstm", "--figure", "a.jpg", *SMALL), "unknown figure format"),
        (("--layer", "lstm", "--memory", "1KB", *SMALL), "the memory budget is"),
    ],
)
def test_wrong_calls_end_in_one_line_and_code_2(run, tmp_path, arguments, match):
    code, out, err = run(*arguments, "-q")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"depprobe: [^\n]+\n", err)
    assert re.search(match, err), err
    assert list(tmp_path.rglob("*")) == []
