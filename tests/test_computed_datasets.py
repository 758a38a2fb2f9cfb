"""Datasets that are computed of measured ones, as files: what can be shown of them, and what drawn."""

import pytest
from json_documents import document_of

import depprobe
from depprobe.cli.summaries import summary_of


@pytest.fixture
def stored(run):
    """A Jacobian, its distances and its decay curve, stored in the folder of the test."""
    ds = depprobe.jacobian(["lstm", "gru"], n=30, d=5)
    depprobe.save(ds, "norms.nc")
    depprobe.save(depprobe.distances(ds), "distances.nc")
    depprobe.save(depprobe.decay_curve(ds), "curve.nc")
    return ds


def test_stored_distances_are_shown_as_those_of_python(stored, run):
    found = depprobe.distances(stored)
    depprobe.validate(depprobe.load("distances.nc"))
    code, out, _ = run("show", "distances.nc")
    assert code == 0
    assert out.startswith(depprobe.table(found))
    assert "distances.nc  (best_form: layer 2)" in out
    code, out, _ = run("show", "distances.nc", "--table", "latex", "--rows", "decay rate")
    assert (code, out.strip()) == (0, depprobe.table(found, "latex", rows=["decay rate"]))
    code, out, _ = run("show", "distances.nc", "--json")
    for row, known in zip(
        document_of("show", out)["distances.nc"]["layers"], summary_of(found).records, strict=True
    ):
        assert row["best_form"] == known["best_form"]
        assert row["decay_rate"] == pytest.approx(known["decay_rate"], rel=1e-12)


def test_distances_stored_before_a_kind_of_norm_was_told_apart_are_shown(stored):
    older = depprobe.distances(stored).drop_vars("not_a_number")
    assert {row["not_a_number"] for row in summary_of(older).records} == {0}


def test_a_stored_decay_curve_is_drawn(stored, run):
    code, out, _ = run("plot", "curve.nc")
    assert code == 0
    assert out.startswith("figure   curve.png\ncaption  Decay of the norm")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("plot distances.nc", "'distances.nc': distances have no figure: draw the norms .*decay_curve"),
        ("show curve.nc", "'curve.nc': a decay curve has no table; draw it: depprobe plot"),
        (
            "show distances.nc --power 1",
            "power: distances are taken of a Jacobian; this is a dataset of distances",
        ),
    ],
)
def test_what_a_computed_dataset_lacks_is_said_in_one_line(stored, run, call, why):
    code, out, err = run(*call.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(err)


def test_beside_others_the_rest_is_drawn_and_shown(stored, run):
    code, out, err = run("plot", "norms.nc", "distances.nc")
    assert (code, out.count("figure   ")) == (2, 1)
    assert "distances have no figure" in err
    _, _, err = run("report", ".")
    assert err.count("computed of a dataset that was measured") == 2


def test_in_a_notebook_they_tell_the_same(stored):
    found, curve = depprobe.distances(stored), depprobe.decay_curve(stored)
    assert repr(found.depprobe) == "<depprobe: distances dataset of lstm, gru (layer 2, form 12)>"
    assert "<table" in found.depprobe._repr_html_()
    assert "<img" in curve.depprobe._repr_html_()
    with pytest.raises(depprobe.BadInput, match="distances have no figure"):
        found.depprobe.plot()
    with pytest.raises(depprobe.BadInput, match="a decay curve has no table"):
        depprobe.table(curve)
