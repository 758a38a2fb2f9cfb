"""``depprobe cost``: the table, the efficiency table, what is saved, resuming, and how wrong calls end."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from json_documents import document_of

import depprobe.probes.cost as probe
from depprobe import store
from depprobe.cli.output import command_of
from depprobe.cli.summaries.cost import summary
from depprobe.cli.summaries.efficiency import summary as efficiency_summary

SMALL = ("--d", "8", "--threads", "1", "--seconds", "0.001")


@pytest.fixture(autouse=True)
def measured(measured_here):
    """The points measured; that a process is started for each is tested apart."""
    return measured_here


@pytest.fixture
def run(run):
    """The command under test, with further arguments."""
    return partial(run, "cost")


def good(run, *arguments):
    code, out, err = run(*arguments)
    assert code == 0, err
    return out


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_table_a_dataset_and_figures(run):
    sizes = ("--layer", "attention", "--layer", "lstm", "--n", "8,16,32")
    saved = ("-o", "a.nc", "--figure", "a.png")
    out = good(run, *sizes, *SMALL, *saved)
    ds = store.load("a.nc")
    store.validate(ds)
    assert ds.flops.dims == ("layer", "n", "d", "phase")
    assert ds.time.dims == ("layer", "n", "d", "phase", "threads")
    assert {"cpu", "cores", "ram_bytes", "torch", "blas"} <= set(ds.attrs)
    assert command_of(ds).startswith("depprobe cost --layer attention --layer lstm --n 8,16,32 --d 8")
    # n = 2 d = 16: four projections of n d^2 and two products of n^2 d cost what four gates of 2 n d^2 do
    assert "attention costs more FLOPs (forward, d = 8) than lstm from n = 16" in out
    assert "no stream: attention: a position sees later ones" in out
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert not Path("a_speedup.png").exists(), "one number of threads has no speed-up"


def test_the_speed_up_is_drawn_beside(run):
    good(run, "--layer", "conv", "--n", "8", *SMALL, "-o", "a.nc", "--figure", "a.png")
    ds = store.load("a.nc")
    many = xr.concat([ds, ds.assign_coords(threads=[2])], "threads", data_vars="minimal")
    store.save(many.transpose(..., "threads"), "b.nc")
    plot = run.func
    drawn = {"auto": ["b.png", "b_speedup.png"], "speedup": ["b_speedup.png"]}
    drawn |= {"efficiency": ["b_efficiency.png"]}
    for kind, names in drawn.items():
        code, out, err = plot("plot", "b.nc", "--kind", kind)
        assert (code, err) == (0, "")
        figures = [line for line in out.splitlines() if not line.startswith("caption")]
        assert figures == [f"figure   {name}" for name in names]
    code, _, err = plot("plot", "b.nc", "--kind", "decay")
    assert code == 2
    assert "can be drawn as cost, speedup, efficiency, not as decay" in err


def test_exponents_are_those_of_the_formulas(run):
    document = document_of(
        "cost",
        good(run, "--layer", "conv", "--layer", "gru", "--n", "8,16", "--d", "4,8", *SMALL[2:], "--json"),
    )
    assert len(document["layers"]) == 2 * 2 * 2
    for row in document["layers"]:
        np.testing.assert_allclose(row["scaling_n_flops"], 1, rtol=0.02)
        np.testing.assert_allclose(row["scaling_d_flops"], 2, rtol=1e-9)
        assert row["flops"] == row["flops_formula"]
        assert row["process_bytes"] is None


def test_one_length_has_no_exponents(run):
    out = good(run, "--layer", "conv:causal=true", "--n", "16", *SMALL)
    assert "one n only: no exponents, no crossovers" in out
    assert "n^" not in out
    assert "d^" not in out


def test_two_lengths_have_exponents_without_errors(run):
    call = ("--layer", "conv", *SMALL, "--phase", "forward")
    assert "exponents over n = 8 to 16, no errors from two\n" in good(run, *call, "--n", "8,16")
    assert "exponents over n = 8 to 32\n" in good(run, *call, "--n", "8,16,32")


def timed(one, many, spread=1.1, n=(64, 128, 256)):
    """Costs of layers whose median times at 1 and 2 threads are given, with quartiles that far apart."""
    names = list(one)
    time = np.array([[one[name], many[name]] for name in names], dtype=float).swapaxes(1, 2)
    over = ("layer", "n", "threads")
    return xr.Dataset(
        {
            "flops": (("layer", "n"), np.ones(time.shape[:2])),
            "time": (over, time),
            "time_low": (over, time / np.sqrt(spread)),
            "time_high": (over, time * np.sqrt(spread)),
        },
        coords={"layer": names, "n": list(n), "threads": [1, 2]},
    )


CALM = {"attention": [1.0, 4.0, 16.0], "gru": [2.0, 4.1, 8.0], "conv": [0.1, 0.2, 0.4]}


def growth_of(ds):
    return {row["layer"]: row["scaling_n_time"] for row in summary(ds).records}


def test_undisturbed_times_are_not_called_so():
    ds = timed(CALM, {**CALM, "conv": [0.2, 0.4, 0.8]})
    assert not any("disturbed" in note for note in [*summary(ds).notes, *efficiency_summary(ds).notes])
    np.testing.assert_allclose(list(growth_of(ds).values()), [2, 1, 1], atol=0.05)


def test_more_threads_that_take_several_times_as_long_are_disturbed():
    ds = timed(CALM, {**CALM, "gru": [2.0, 400.0, 8.0]})
    notes = summary(ds).notes
    assert [note.split("):")[0] for note in notes if "disturbed" in note] == [
        "disturbed times (2 threads: gru n = 128"
    ]
    assert [name for name, power in growth_of(ds).items() if np.isnan(power)] == ["gru"]
    (line,) = [note for note in notes if note.startswith("attention costs more time")]
    assert line.endswith("than gru unknown; conv always")
    assert any("2 threads: gru n = 128" in note for note in efficiency_summary(ds).notes)


def test_quartiles_far_apart_are_disturbed():
    ds = timed(CALM, CALM)
    ds["time_high"].loc[{"layer": "conv", "n": 64}] = 0.3
    ds["step_time_low"], ds["step_time_high"] = (0 * ds["flops"] + value for value in (1.0, 1.9))
    ds["step_time_high"].loc[{"layer": "gru", "n": 256}] = 2.1
    named = next(note for note in summary(ds).notes if note.startswith("disturbed"))
    said = "1 thread: conv n = 64 | 2 threads: conv n = 64 | per-token latency: gru n = 256"
    assert named.startswith(f"disturbed times ({said}): quartiles more than 2 times apart")
    assert np.isnan(growth_of(ds)["conv"])


def test_two_times_whose_quartiles_overlap_have_no_exponent():
    two = {name: values[:2] for name, values in CALM.items()} | {"conv": [0.2, 0.21]}
    found = growth_of(timed(two, two, n=(64, 128)))
    assert np.isnan(found.pop("conv"))
    np.testing.assert_allclose(list(found.values()), [2, np.log2(2.05)])
    three = {name: [*values, values[-1]] for name, values in two.items()}
    assert np.isfinite(growth_of(timed(three, three))["conv"]), "the error says how well it is known"


def test_a_crossover_that_may_be_anywhere_cannot_be_told():
    alike = {"attention": [1.0, 1.9, 4.1], "gru": [1.01, 2.0, 4.0], "conv": [0.1, 0.2, 0.4]}
    ds = timed(alike, alike, spread=1.6)
    (line,) = [note for note in summary(ds).notes if note.startswith("attention costs more time")]
    assert line == "attention costs more time than gru cannot be told from these times; conv always"


def test_a_count_that_is_not_the_formula_is_said(run):
    # half of the products of explicit causal attention are masked out: 4 n^2 d are made, 2 n (n + 1) d needed
    out = good(run, "--layer", "attention:causal=true,fused=false", "--n", "16", "--phase", "forward", *SMALL)
    made, needed = 8 * 16 * 64 + 4 * 16 * 16 * 8, 8 * 16 * 64 + 2 * 16 * 17 * 8
    assert f"({made / needed - 1:+.1%} of formula)" in out


def test_the_efficiency_table(run, measured):
    out = good(run, "--table", "text", "--n", "8", "--phase", "forward", *SMALL)
    assert [layer for layer, _ in measured] == ["attention:fused=false", "attention", "conv", "lstm"]
    assert out.startswith("Efficiency: d = 8, float32, batch 1")
    assert "42.3 ms" not in out, "the article's figures are for d = 512"
    assert "in brackets: over lstm at n = 8" in out
    rows = rows_of(good(run, "--table", "csv", "--n", "8", *SMALL))
    assert [(row["layer"], row["phase"]) for row in rows[:2]] == [
        ("attention:fused=false", "forward"),
        ("attention:fused=false", "forward+backward"),
    ]
    lstm = next(row for row in rows if row["layer"] == "lstm")
    for row in rows[::2]:
        ratio = float(row["peak_bytes"]) / float(lstm["peak_bytes"])
        np.testing.assert_allclose(float(row["memory_ratio"]), ratio)
    latex = good(run, "--table", "latex", "--n", "8", *SMALL)
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert latex.startswith(r"\begin{tabular}{lrlrrrrrrrrr}" + "\n" + r"\toprule")
    assert len(body) == 8
    assert all(line.count("&") == 11 and line.endswith(r"\\") for line in body)
    assert "µ" not in latex


def test_an_interrupted_run_goes_on(run, measured, monkeypatch):
    call = ("--layer", "conv", "--layer", "rnn", "--n", "8,16", *SMALL, "-o", "a.nc", "--figure", "a.png")
    here = probe.measured_alone

    def stops(request):
        if len(measured) == 3:
            raise KeyboardInterrupt
        return here(request)

    monkeypatch.setattr(probe, "measured_alone", stops)
    code, _, err = run(*call)
    assert code == 130
    assert "the same command takes up every finished point" in err
    assert len(list(Path("a.nc.partial").glob("*.npz"))) == 3
    monkeypatch.setattr(probe, "measured_alone", here)
    good(run, *call)
    assert measured == [("conv", 8), ("conv", 16), ("rnn", 8), ("rnn", 16)]
    assert not Path("a.nc.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--n", "8", "--phase", "backward"), "Known: both, forward, forward+backward"),
        (("--n", "8,x"), "--n must be integers such as 128,256, not '8,x'"),
        (("--n", "8", "--seconds", "inf"), "seconds must be above 0 and finite, not inf"),
        (("--n", ""), "--n must be integers such as 128,256, not ''"),
        (("--n", "8", "--threads", "99999"), "threads must be at most"),
        (("--n", "8", "--table", "csv", "--d", "4,8"), "the efficiency table is for one --d, not for 4,8"),
        (("--n", "8", "--table", "csv", "--json"), "give --json or --table, not both"),
        (("--n", "8", "--layer", "nope"), "unknown layer 'nope'"),
        (("--n", "65536", "--memory", "5MiB", "--layer", "conv"), "conv at n = 65536, d = 8 needs 10 MiB"),
        (("--n", "8", "--dtype", "int8"), "unknown dtype 'int8'. Known: float32, float64"),
    ],
)  # fmt: skip
def test_wrong_calls(run, arguments, match, measured):
    code, out, err = run(*(() if "--d" in arguments else ("--d", "8")), *arguments)
    assert (code, out, measured) == (2, "", [])
    assert match in err
    assert err.count("\n") == 1
