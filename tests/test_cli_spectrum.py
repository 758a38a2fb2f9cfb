"""``depprobe spectrum``: what it prints and saves, and how wrong calls end."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from json_documents import document_of

import depprobe
from depprobe import store


@pytest.fixture
def run(run):
    """The command under test, with further arguments."""
    return partial(run, "spectrum")


def test_table_dataset_and_figure(run, tmp_path):
    code, out, _ = run("--layer", "gru:gain=0.5", "--d", "8", "--seed", "2", "-q")
    assert code == 0
    (path,) = tmp_path.glob("runs/*.nc")
    (figure,) = tmp_path.glob("runs/*.png")
    assert figure.read_bytes().startswith(b"\x89PNG")
    ds = store.load(path)
    store.validate(ds)
    expected = depprobe.spectrum("gru:gain=0.5", d=8, seed=2)
    np.testing.assert_array_equal(ds.eigenvalue, expected.eigenvalue)
    (line,) = [line for line in out.splitlines() if line.strip().startswith("spectral radius")]
    assert line.split()[-3:] == [f"{value:.4g}" for value in expected.spectral_radius.values]
    assert "weight_hh_l0[z]" in out


def test_steps_as_json(run):
    code, out, _ = run("--layer", "lstm", "--d", "4", "--n", "12", "--steps", "3,11", "--json", "-q")
    assert code == 0
    document = document_of("spectrum", out)
    expected = depprobe.spectrum("lstm", d=4, n=12, steps="3,11")
    assert [row["matrix"] for row in document["layers"]] == ["step l0 k=3", "step l0 k=11"]
    assert [row["log_growth"] for row in document["layers"]] == expected.log_growth.values.tolist()


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        (
            "attention:heads=2 has no recurrent weight; name a square one",
            ["--layer", "attention:heads=2", "--d", "4"],
        ),
        ("conv has no recurrent weight, and no square one", ["--layer", "conv", "--d", "4"]),
        (
            "is 12 x 4, not a square matrix; square weights: none; by default, without a name, the recurrent",
            ["--layer", "gru", "--d", "4", "--weight", "weight_ih_l0"],
        ),
        (
            "no weight 'sq.npy'; square weights: none; by default, without a name, the recurrent gates",
            ["--layer", "lstm", "--d", "4", "--weight", "sq.npy"],
        ),
        ("leave out --input", ["--layer", "gru", "--d", "4", "--input", "a.npy"]),
    ],
)
def test_wrong_calls(run, tmp_path, match, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert match in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
