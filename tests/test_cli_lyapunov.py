"""``depprobe lyapunov``: what good calls print and save, and how wrong calls end."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from json_documents import document_of

from depprobe import store
from depprobe.cli.output import command_of

SMALL = ("lyapunov", "--layer", "lstm", "--n", "60", "--d", "4")


def good(run, *arguments):
    code, out, err = run(*arguments)
    assert code == 0, err
    return out


def test_a_table_a_dataset_and_a_figure(run):
    out = good(run, *SMALL, "--exponents", "all", "-o", "a.nc", "--figure", "a.png")
    ds = store.load("a.nc")
    store.validate(ds)
    assert ds.exponent.sizes["mode"] == 8
    assert "exponents 4 to 7 are in the dataset" in out
    assert "exponent 4 is in the dataset" in good(run, *SMALL, "--exponents", "5")
    assert "in the dataset" not in good(run, *SMALL, "--exponents", "4")
    shown = float(re.search(r"exponent 1 \(nats/step\) +(-?[\d.]+)", out)[1])
    assert shown == pytest.approx(float(ds.exponent[0]), abs=float(ds.exponent_stderr[0]))
    assert "the sum of all exponents meets the mean ln |det J| to" in out
    assert "standard errors from 4 block means" in out
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert command_of(ds) == "depprobe lyapunov --layer lstm --n 60 --d 4 --exponents all --seed 0"


def test_several_layers_as_json_and_csv(run):
    both = (*SMALL, "--layer", "gru", "--seeds", "2", "--exponents", "2", "--drive", "none", "--warmup", "5")
    document = document_of("lyapunov", good(run, *both, "--json"))
    ds = store.load(document["dataset"])
    assert [row["layer"] for row in document["layers"]] == ["lstm", "gru"]
    assert document["layers"][1]["exponent_2"] == float(ds.exponent[1, 1])
    assert (ds.warmup, ds.drive, ds.stderr_from) == (5, "none", "the spread of 2 seeds")
    _, second = csv.DictReader(io.StringIO(good(run, *both, "--table", "csv")))
    assert float(second["exponent_1"]) == float(ds.exponent[1, 0])
    assert "needs more exponents" not in good(run, *both)


def test_singular_steps_are_said(run):
    out = good(
        run, "lyapunov", "--layer", "rnn:gain=0", "--n", "30", "--d", "3", "--figure", "a.png", "-o", "a.nc"
    )
    assert "3 exponents are -inf" in out


def test_stored_exponents_are_shown_and_drawn(run):
    good(run, *SMALL, "-o", "a.nc", "--figure", "a.png")
    assert "exponent 1 (nats/step)" in good(run, "show", "a.nc")
    good(run, "plot", "a.nc", "--figure", "b.pdf")
    assert Path("b.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("code", "match", "arguments"),
    [
        (2, "between 1 and the width 8 of the state, not 9", [*SMALL, "--exponents", "9"]),
        (2, "exponents must be all, .*'many'", [*SMALL, "--exponents", "many"]),
        (2, "warm-up must lie between 0 and n - 1 = 59 steps, not 60", [*SMALL, "--warmup", "60"]),
        (2, "conv has no known recurrence", ["lyapunov", "--layer", "conv", "--n", "30", "--d", "4"]),
        (2, "'x' is not one of 'input', 'none'", [*SMALL, "--drive", "x"]),
        (2, "--drive none reads no input", [*SMALL, "--drive", "none", "--input", "a.txt"]),
        (2, "no such input 'a.txt'", [*SMALL, "--input", "a.txt"]),
        (
            1,
            "reached Inf or NaN at step",
            ["lyapunov", "--layer", "rnn:nonlinearity=relu,gain=30", "--n", "900", "--d", "8"],
        ),
    ],
)
def test_a_wrong_call_is_one_line_and_leaves_nothing(run, code, match, arguments):
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert re.fullmatch(r"depprobe: [^\n]+\n", err)
    assert re.search(match, err), err
    assert not list(Path().rglob("*.nc"))
