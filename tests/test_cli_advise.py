"""``depprobe advise``: what good calls print and draw, and how wrong calls end."""

from __future__ import annotations

import csv
import io
import json
from functools import partial

import numpy as np
import pytest
from json_documents import document_of

from depprobe.advice import arriving_gradient as arriving
from depprobe.advice import decision_map, ranking
from depprobe.advice.cost_model import CostModel
from depprobe.advice.machine_costs import Costs

LAYERS = ("--layer", "attention", "--layer", "gru", "--layer", "conv")


@pytest.fixture(autouse=True)
def made(tmp_path, monkeypatch):
    """Costs that are known: attention takes 3 ms, the others 1 ms a layer, all of them 1 KiB.

    The dictionary sets other errors, and which points were disturbed.
    """
    made = {"error": 0.1, "disturbed": {}}

    def costs(specs, streamed, kept, progress=None, *grid):
        def constant(found, n, d):
            return [1.0]

        if progress:
            progress(0, 1, "made up")
        seconds = {spec: 3e-3 if spec.startswith("attention") else 1e-3 for spec in specs}
        times = {spec: CostModel(constant, np.array([time]), made["error"]) for spec, time in seconds.items()}
        sizes = {spec: CostModel(constant, np.array([1024.0]), 0.0) for spec in specs}
        return Costs(streamed, times, sizes, disturbed=made["disturbed"])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ranking, "fitted", costs)
    monkeypatch.setattr(decision_map, "fitted", costs)
    monkeypatch.setattr(arriving, "WIDTH", 8)
    return made


@pytest.fixture
def run(run):
    """The command under test, with further arguments."""
    return partial(run, "advise")


def test_the_table_says_what_to_take_and_why(run, tmp_path):
    code, out, err = run("--n", "200", "--d", "16", *LAYERS, "-q")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "Layers for n = 200, d = 16, lag 199"
    assert lines[3].split()[:6] == ["attention", "1", "3", "ms", "×/÷", "1.1"]
    assert lines[4].endswith("drowns")
    assert lines[5].endswith("would need 199 layers")
    assert "take     attention: the cheapest layer through which the gradient arrives from lag 199" in out
    assert "tree     the article's decision tree says attention: the same" in out
    assert any((tmp_path / "cache" / "depprobe").iterdir())


def test_where_the_article_differs_it_is_said_why(run):
    _, out, _ = run("--n", "200", "--d", "16", "--dependency", "1", *LAYERS, "-q")
    # conv costs as much: where times are equal, the order of the call
    assert "take     gru or conv: their times are indistinguishable within noise; " in out
    assert "; attention takes 3 times as long as gru\n" in out
    assert "says attention, which differs: attention is number 3 and takes 3 times as long" in out
    _, out, _ = run("--n", "6000", "--d", "16", *LAYERS, "-q")
    assert "says recurrence, which differs: gru: drowns (" in out
    assert "* continued from sequences of up to 512 positions, of recurrences 4096" in out


def test_times_within_their_errors_are_indistinguishable(run, made):
    call = ("--n", "200", "--d", "16", "--dependency", "1", *LAYERS, "-q")
    # ln 3 = 1.10: within both errors from 0.55 on
    made["error"] = 0.54
    assert "take     gru or conv: their times" in run(*call)[1]
    made["error"] = 0.56
    out = run(*call)[1]
    assert out.splitlines()[3].split()[4:6] == ["×/÷", "1.8"]
    assert (
        "take     gru, conv or attention: their times are indistinguishable within noise; the gradient" in out
    )
    assert (
        "says attention: attention is number 3, and its time is indistinguishable from the first's\n" in out
    )
    assert json.loads(run(*call, "--json")[1])["attributes"]["indistinguishable"] == ["conv", "attention"]


def test_an_error_that_is_no_float_as_a_factor(run, made):
    made["error"] = 720.0
    assert "3 ms ×/÷ > 1000" in run("--n", "200", "--d", "16", *LAYERS, "-q")[1]


def test_disturbed_points_are_named(run, made):
    call = ("--n", "200", "--d", "16", *LAYERS, "-q")
    assert "disturbed" not in run(*call)[1]
    made["disturbed"] = {"gru": [(64, 64), (512, 64)]}
    assert "disturbed: gru at (n, d) = (64, 64), (512, 64): several times as long" in run(*call)[1]


def test_where_nothing_is_usable_it_is_said(run):
    code, out, _ = run("--n", "200", "--d", "16", "--memory", "10", *LAYERS, "-q")
    assert code == 0
    assert "take     none: gru: over the memory budget, and so on down the table" in out


def test_the_ranking_as_other_tables(run):
    call = ("--n", "200", "--d", "16", *LAYERS, "-q", "--table")
    names = ("--labels", "A,B,C", "--rows", "training,reason")
    given = [word for word in LAYERS if word != "--layer"]
    _, out, _ = run(*call, "latex", *names)
    lines = out.splitlines()
    assert lines[2] == r"layer & training step & reason \\"
    assert lines[4].startswith(rf"{'ABC'[given.index('attention')]} & $3$ ms $\times$/$\div$ $1.1$ & ")
    _, out, _ = run(*call, "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["layer"] for row in rows] == ["attention", "gru", "conv"]
    assert float(rows[0]["predicted_time"]) == 3e-3
    _, out, _ = run(*call, "markdown", "--labels", "A,B,C")
    assert out.startswith("| layer | place | training step |")
    assert "take     " in run(*call, "text")[1]
    code, _, err = run(*call, "latex", "--labels", "A")
    assert code == 2
    assert "1 label was given for 3 layers" in err
    assert "give --json or --table, not both" in run(*call, "latex", "--json")[2]


def test_json_holds_the_ranking_and_a_map_is_drawn(run, tmp_path, monkeypatch):
    monkeypatch.setattr(decision_map.decision_map, "__kwdefaults__", {
        **decision_map.decision_map.__kwdefaults__, "lengths": (20, 200), "lags": (1, 100),
    })  # fmt: skip
    code, out, _ = run("--n", "200", "--d", "16", *LAYERS, "--map", "new/map.pdf", "--json", "-q")
    document = document_of("advise", out)
    assert code == 0
    assert [row["layer"] for row in document["layers"]] == ["attention", "gru", "conv"]
    assert document["layers"][0]["predicted_time"] == 3e-3
    assert document["attributes"]["tree"] == "attention"
    assert (tmp_path / document["map"]).read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--n", "0"), "n must be 2 to 262144, not 0"),
        (("--n", "100", "--dependency", "100"), "a lag of 1 to n - 1 = 99, not 100"),
        (("--n", "100", "--dependency", "-3"), "a lag of 1 to n - 1 = 99, not -3"),
        (("--n", "100", "--dependency", "1.5"), "a lag of 1 to n - 1 = 99, not 1.5"),
        (("--n", "100", "--dependency", "9" * 5000), "a lag of 1 to n - 1 = 99, not 999"),
        (
            ("--n", "100", "--dependency", "lcoal"),
            "must be local, global or a lag of 1 to n - 1 = 99, not lcoal",
        ),
        (
            ("--n", "100", "--memory", "4Gx"),
            "memory must be a size such as 4GiB, 500MB or 1000000, not '4Gx'",
        ),
        (("--n", "100", "--map", "map.doc"), "unknown figure format 'doc'. Known: pdf, png, svg"),
        (("--n", "100", "--map", "FILE/map.pdf"), "cannot write 'FILE/map.pdf': 'FILE' is not a folder"),
        (
            ("--n", "100", "--cache", "FILE"),
            "measurements cannot be kept in 'FILE'; name a folder with --cache",
        ),
        (("--n", "100", "--layer", "lsmt"), "unknown layer 'lsmt'; did you mean 'lstm'?"),
        (("--n", "many"), "'many' is not a valid integer"),
        ((), "Missing option '--n'"),
    ],
)
def test_a_wrong_call_gets_one_line(run, tmp_path, arguments, message):
    (tmp_path / "FILE").touch()
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
