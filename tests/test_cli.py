"""The command line: what good calls print and save, and how wrong calls end."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import SKETCH_DPI
from json_documents import document_of

import depprobe
from depprobe import store
from depprobe.cli import main
from depprobe.errors import BadInput
from depprobe.registry import layers
from depprobe.runs.subprocess_executor import measured_alone

SMALL = ("--n", "12", "--d", "4")
LSTM = ("jacobian", "--layer", "lstm", *SMALL)


@pytest.fixture
def good(run):
    """Run a command that must succeed, and return its stdout."""

    def go(*arguments: str) -> str:
        code, out, err = run(*arguments)
        # on a slow machine a run may say how far it is
        said = [line for line in err.splitlines() if not re.fullmatch(r"depprobe: \d+ %( \(.+\))?", line)]
        assert (code, said) == (0, [])
        return out

    return go


@pytest.fixture
def refused(run):
    """Run a command that must end in one line that matches, a code, and no file that was not there before."""

    def go(match: str, *arguments: str, code: int = 2) -> str:
        before = files()
        found, out, err = run(*arguments)
        assert (found, out) == (code, "")
        assert re.fullmatch(r"depprobe: [^\n]+\n", err)
        assert re.search(match, err), err
        assert files() == before
        return err

    return go


def files() -> dict[str, bytes | None]:
    """Everything below the working folder: path -> content, None for folders."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in Path().rglob("*")}


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds this depprobe."""
    home = str(Path(depprobe.__file__).parents[1])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, *(["-c", code] if code else []), *arguments]
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )


# --- good calls -----------------------------------------------------------------------------------------


def test_results_are_saved_under_runs_by_default_and_their_paths_printed(good):
    out = good(*LSTM)
    paths = re.findall(r"^(?:dataset|figure) +(\S+)$", out, re.MULTILINE)
    assert {Path(p).suffix for p in paths} == {".nc", ".png"}
    assert sorted(paths) == sorted(p for p, content in files().items() if content is not None)
    assert all(p.startswith("runs" + os.sep) for p in paths)
    store.validate(store.load(next(p for p in paths if p.endswith(".nc"))))
    assert Path(next(p for p in paths if p.endswith(".png"))).read_bytes().startswith(b"\x89PNG")


def test_different_options_are_saved_under_different_names(good):
    for extra in ((), ("--seed", "1"), ("--wrt", "h"), ("--targets", "all")):
        good(*LSTM, *extra)
    assert len(list(Path("runs").glob("*.nc"))) == 4


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_output_and_figure_go_where_they_are_told(good, suffix):
    out = good(*LSTM, "-o", "deep/a.nc", "--figure", f"b/c.{suffix}")
    assert set(files()) == {"deep", "deep/a.nc", "b", f"b/c.{suffix}"}
    assert "deep/a.nc" in out
    assert f"b/c.{suffix}" in out


def test_summary_shows_the_norms_that_the_dataset_holds(good):
    out = good(*LSTM, "-o", "a.nc", "--figure", "a.png")
    log_norm = store.load("a.nc")["log_norm"].values[0]
    for lag in (0, 11):
        mantissa, exponent = re.search(rf"norm at lag {lag} +([\d.]+)e([+-]?\d+)", out).groups()
        assert float(mantissa) * 10.0 ** int(exponent) == pytest.approx(np.exp(log_norm[11 - lag]), rel=0.06)
    assert "seed 0" in out


@pytest.mark.parametrize("extra", [("--targets", "10,15,39"), ("--seeds", "3")])
def test_a_receptive_field_is_a_largest_one_without_error(good, extra):
    command = ("jacobian", "--layer", "dilated-conv:depth=3", "--n", "40", "--d", "4", *extra)
    out = good(*command, "-o", "a.nc", "--figure", "a.png")
    assert re.search(r"^ receptive field \(steps\) +14$", out, re.MULTILINE)
    assert re.search(r"^ half-life \(steps\) +\u2013$", out, re.MULTILINE)
    assert "receptive_field_stderr" not in json.loads(good(*command, "--json"))["layers"][0]


def test_json_is_one_document_and_nothing_else(good):
    document = document_of("jacobian", good(*LSTM, "--json", "-o", "a.nc", "--figure", "a.png"))
    ds = store.load("a.nc")
    (row,) = document["layers"]
    assert row["layer"] == "lstm"
    assert row["log_norm_far"] == float(ds["log_norm"][0, 0])
    assert document["attributes"]["seed"] == 0
    assert (document["dataset"], document["figures"]) == ("a.nc", ["a.png"])
    assert document["curve"]["lag"] == list(range(12))


def test_json_holds_no_number_that_json_lacks(good):
    text = good("jacobian", "--layer", "conv", *SMALL, "--json")
    assert document_of("jacobian", text)["layers"][0]["log_norm_far"] == "-inf"


def test_ends_of_curves_are_named_once_and_spelled_right(good):
    one = good("jacobian", "--layer", "conv:stride=30", "--n", "20", "--d", "4")
    assert one.count("norm at") == 1
    two = good("jacobian", "--layer", "conv:stride=5", "--layer", "lstm", *SMALL)
    assert "norm at farthest lag" in two


def test_csv_table_is_read_back_with_full_precision(good):
    out = good(*LSTM, "--table", "csv", "-o", "a.nc", "--figure", "a.png")
    (row,) = csv.DictReader(io.StringIO(out))
    assert float(row["log_norm_far"]) == float(store.load("a.nc")["log_norm"][0, 0])
    assert float(row["receptive_field"]) == 11


def test_latex_table_is_booktabs(good):
    out = good(*LSTM, "--layer", "gru:gain=0.5", "--table", "latex")
    assert out.startswith("\\begin{tabular}{lrr}\n\\toprule\n")
    assert out.endswith("\\bottomrule\n\\end{tabular}\n")
    rows = [line for line in out.splitlines() if "&" in line]
    assert {line.count("&") for line in rows} == {2}
    assert all(line.endswith(r"\\") for line in rows)
    assert not re.search(r"(?<!\\)[%_#]", out)


def test_several_layers_share_one_dataset_with_a_layer_dimension(good):
    specs = ["lstm:forget_bias=2", "gru", "rnn:nonlinearity=relu"]
    flags = [word for spec in specs for word in ("--layer", spec)]
    out = good("jacobian", *flags, *SMALL, "--targets", "5,11", "-o", "a.nc", "--figure", "a.png")
    ds = store.load("a.nc")
    assert ds["layer"].values.tolist() == specs
    assert dict(ds["log_norm"].sizes) == {"layer": 3, "target": 2, "source": 12}
    assert ds["method"].dims == ds["tolerance"].dims == ("layer",)
    assert all(spec in out for spec in specs)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [("last", [11]), ("every:5", [4, 9]), ("all", list(range(12))), ("0,3,-1", [0, 3, 11])],
)
def test_targets(good, targets, expected):
    good(*LSTM, "--targets", targets, "-o", "a.nc", "--figure", "a.png")
    assert store.load("a.nc")["target"].values.tolist() == expected
    assert Path("a_heatmap.png").exists() == (len(expected) >= 8)


def test_samples_and_seeds_become_dimensions(good):
    good(*LSTM, "--samples", "3", "--seeds", "2", "--seed", "7", "-o", "a.nc", "--figure", "a.png")
    ds = store.load("a.nc")
    assert dict(ds["log_norm"].sizes) == {"seed": 2, "sample": 3, "target": 1, "source": 12}
    assert ds["seed"].values.tolist() == [7, 8]
    flat = ds["log_norm"].values.reshape(6, -1)
    assert len(np.unique(flat[:, 0])) == 6


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("jacobian", "--layer", "lstm", "--n", "12", "--samples", "2", "--seeds", "3"),
            "3 seeds, 2 samples",
        ),
        (("jacobian", "--layer", "lstm", "--n", "12", "--samples", "2"), "seed 0, 2 samples"),
        (("gates", "--layer", "lstm", "--n", "12", "--samples", "2", "--seeds", "3"), "3 seeds, 2 samples"),
        (("lyapunov", "--layer", "rnn", "--n", "12", "--samples", "2", "--seeds", "3"), "3 seeds, 2 samples"),
        (("spectrum", "--layer", "rnn", "--seeds", "3"), "3 seeds"),
        (("spectrum", "--layer", "rnn", "--seed", "3"), "seed 3"),
    ],
)
def test_titles_say_how_many_seeds_and_samples_there_are(good, command, said):
    title = good(*command, "--d", "4", "-o", "a.nc", "--figure", "a.svg").splitlines()[0]
    assert f", {said}, float64" in title
    assert re.search(rf"<!-- .*,  {said}\b.* -->", Path("a.svg").read_text())


def test_norm_and_wrt_reach_the_measurement(good):
    values = {}
    for name, extra in {
        "fro": (),
        "spectral": ("--norm", "spectral"),
        "h": ("--wrt", "h"),
        "c": ("--wrt", "c"),
    }.items():
        good(*LSTM, *extra, "--targets", "all", "-o", f"{name}.nc", "--figure", "a.png")
        values[name] = store.load(f"{name}.nc")
    assert values["spectral"].norm == "spectral"
    assert (values["h"].wrt, values["c"].wrt) == ("h", "c")
    gap = (values["fro"]["log_norm"] - values["spectral"]["log_norm"]).values
    assert (gap[np.isfinite(gap)] > 0).all()
    assert (gap[np.isfinite(gap)] <= np.log(2) + 1e-9).all()
    # dh_t/dh_t is the identity
    diagonal = np.diag(values["h"]["log_norm"].values)
    np.testing.assert_allclose(diagonal, np.log(4) / 2, rtol=1e-12)
    assert not values["h"]["log_norm"].equals(values["c"]["log_norm"])


def test_random_probes_come_with_a_standard_error(good):
    out = good(
        *LSTM, "--method", "probes", "--probes", "2", "--targets", "last", "-o", "a.nc", "--figure", "a.png"
    )
    good(*LSTM, "-o", "exact.nc", "--figure", "a.png")
    ds, exact = store.load("a.nc"), store.load("exact.nc")
    assert (ds["log_norm_stderr"] > 0).all()
    assert "orthonormal random probes, 2 a target" in out
    assert "effective rank" in out
    assert float(abs((ds["log_norm"] - exact["log_norm"]) / ds["log_norm_stderr"]).max()) < 5
    assert "standard error" in out


@pytest.mark.parametrize("suffix", ["txt", "npy", "csv"])
def test_input_files_are_read(good, suffix):
    rows = np.random.default_rng(0).standard_normal((20, 3))
    Path("x.txt").write_text("The quick brown fox jumps over the lazy dog.")
    np.save("x.npy", rows)
    np.savetxt("x.csv", rows, delimiter=",", header="a,b,c", comments="")
    good("jacobian", "--layer", "gru", *SMALL, "--input", f"x.{suffix}", "-o", "a.nc", "--figure", "a.png")
    ds = store.load("a.nc")
    good("jacobian", "--layer", "gru", *SMALL, "-o", "noise.nc", "--figure", "a.png")
    assert not ds["log_norm"].equals(store.load("noise.nc")["log_norm"])
    provenance = json.loads(ds.provenance)
    assert f"--input x.{suffix}" in provenance["command"]
    if suffix == "npy":
        expected = depprobe.jacobian("gru", rows[:12], d=4)
        assert ds["log_norm"].equals(expected["log_norm"])


def test_a_projection_of_the_input_is_recorded(good):
    np.save("x.npy", np.random.default_rng(0).standard_normal((20, 3)))
    spec = next(name for name, entry in layers.items() if not entry.reads_any_width)
    good(
        "jacobian",
        "--layer",
        spec,
        "--n",
        "12",
        "--d",
        "16",
        "--input",
        "x.npy",
        "-o",
        "a.nc",
        "--figure",
        "a.png",
    )
    assert json.loads(store.load("a.nc").provenance)["input_projection"] == "fixed random"


def test_same_command_same_file_bit_for_bit(good):
    command = (*LSTM, "--layer", "gru", "--samples", "2", "-o", "a.nc", "--figure", "a.png")
    printed = good(*command)
    first = files()
    assert good(*command, "--again") == printed
    assert files() == first


def test_quiet_and_verbose_differ_on_stderr_only(run):
    quiet, plain, verbose = (run(*LSTM, "--again", *extra) for extra in (("-q",), (), ("-v",)))
    assert quiet[1] == plain[1] == verbose[1]
    assert (quiet[2], plain[2]) == ("", "")
    assert re.fullmatch(
        r"depprobe: measured in [\d.]+ s with 1 thread\n", run(*LSTM, "--again", "-v", "--threads", "1")[2]
    )
    assert verbose[2].startswith("depprobe: measured in")


def test_progress_names_what_is_under_way(run, monkeypatch):
    monkeypatch.setattr("depprobe.cli.progress._EVERY", -1.0)
    first, *_, last = run(*LSTM)[2].splitlines()
    assert first == "depprobe: 0 % (lstm)"
    assert last == "depprobe: 100 %"


def test_show_and_plot_read_what_was_stored(good):
    good(*LSTM, "-o", "a.nc", "--figure", "a.png")
    good("jacobian", "--layer", "gru", *SMALL, "-o", "b.nc", "--figure", "b.png")
    rows = list(csv.DictReader(io.StringIO(good("show", "a.nc", "b.nc", "--table", "csv"))))
    assert [row["layer"] for row in rows] == ["lstm", "gru"]
    assert set(json.loads(good("show", "a.nc", "b.nc", "--json"))) == {"a.nc", "b.nc"}
    assert "depprobe jacobian --layer lstm" in good("show", "a.nc")
    assert "both.svg" in good("plot", "a.nc", "b.nc", "--figure", "both.svg")
    assert {"lstm", "gru"} <= set(re.findall(r"<!-- (\w+) -->", Path("both.svg").read_text()))


def test_a_threshold_lag_is_printed_where_it_is_asked_for(good):
    given = ["jacobian", "--layer", "gru", "--n", "60", "--d", "5"]
    norms = xr.load_dataset(Path(json.loads(good(*given, "--json"))["dataset"]))["log_norm"]
    by_lag = norms.values[0, ::-1]
    for options, fraction, about, words in (
        (["--threshold", "1e-3"], 1e-3, by_lag.max(), "below 0.001 of peak"),
        (["--relative-to", "lag0"], 1e-6, by_lag[0], "below 1e-06 of lag 0"),
    ):
        first = np.flatnonzero(by_lag >= about + np.log(fraction)).max() + 1
        (line,) = [line for line in good(*given, *options).splitlines() if words in line]
        assert line.split("from (steps)")[1].split()[0] == str(first)
    assert "below" not in good(*given).split("dataset")[0]


def test_plot_goes_beside_the_first_dataset(good):
    good(*LSTM, "--targets", "all", "-o", "deep/a.nc", "--figure", "x.png")
    good("plot", "deep/a.nc", "--kind", "decay")
    assert Path("deep/a.png").exists()


def test_a_heat_map_goes_beside_the_curve_and_not_over_it(good):
    good(*LSTM, "--targets", "all", "-o", "a.nc")
    good("plot", "a.nc")
    first = files()
    assert {"a.png", "a_heatmap.png"} <= set(first)
    Path("a_heatmap.png").unlink()
    assert "figure   a_heatmap.png" in good("plot", "a.nc", "--kind", "heatmap")
    assert files() == first


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_layers_lists_every_registered_layer(good, form):
    out = good("layers", *form)
    if form:
        document = json.loads(out)
        assert list(document) == list(layers)
        for name, facts in document.items():
            assert list(facts["options"]) == list(layers[name].options)
            assert facts["operator"]
    else:
        headings = re.findall(r"^(\S+)  ", out, re.MULTILINE)
        assert headings == list(layers)
        assert all(entry.equation in out and entry.citation in out for entry in layers.values())


# --- in a process of its own ----------------------------------------------------------------------------

#: commands one after another, separated by a comma: the exit code of each, after what it prints
WITHOUT_TORCH = """
import sys
sys.modules['torch'] = None
from depprobe.cli import main
for words in ' '.join(sys.argv[1:]).split(' , '):
    try:
        main(words.split())
    except SystemExit as stop:
        print('ENDED', stop.code, flush=True)
        print('ENDED', file=sys.stderr)
"""


def test_show_and_plot_work_where_torch_cannot_be_imported(good):
    good(*LSTM, "-o", "a.nc", "--figure", "a.png")
    good("jacobian", "--layer", "conv", *SMALL, "-o", "b.nc", "--figure", "b.png")
    plot = ("plot", "a.nc", "b.nc", "--figure", "both.pdf")
    done = python(WITHOUT_TORCH, "show", "a.nc", "b.nc", ",", *plot, ",", *LSTM)
    assert done.returncode == 0
    assert re.findall("ENDED (.*)", done.stdout) == ["0", "0", "1"]
    assert "lstm" in done.stdout.partition("ENDED")[0]
    shown, drawn, measured, _ = done.stderr.split("ENDED\n")
    assert (shown, drawn, measured.count("\n")) == ("", "", 1)
    assert Path("both.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("arguments", [("--help",), ("jacobian", "--help"), ("--version",)])
def test_help_imports_nothing_heavy(arguments):
    heavy = ["torch", "matplotlib", "scipy", "h5py"]
    # the commands' own help may load numpy and xarray, the list of commands nothing
    heavy += ["numpy", "xarray"] if arguments[0].startswith("-") else []
    code = (
        "import sys\nfrom depprobe.cli import main\n"
        f"try:\n    main({list(arguments)!r})\n"
        f"finally:\n    print('LOADED', [m for m in {heavy!r} if m in sys.modules])"
    )
    done = python(code)
    assert done.returncode == 0
    assert done.stdout.endswith("LOADED []\n")


def test_python_dash_m_is_the_same_program():
    done = python("", "-m", "depprobe", "--version")
    assert (done.returncode, done.stdout) == (0, f"depprobe, version {depprobe.__version__}\n")


# --- wrong calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("unknown command 'jacobain'; did you mean 'jacobian'", ["jacobain"]),
        ("unknown layer 'lsmt'; did you mean 'lstm'", ["jacobian", "--layer", "lsmt"]),
        ("'forget_bia'; did you mean 'forget_bias'", ["jacobian", "--layer", "lstm:forget_bia=2"]),
        ("'rely'; did you mean 'relu'", ["jacobian", "--layer", "rnn:nonlinearity=rely"]),
        ("lstm:forget_bias takes float, not 'x'", ["jacobian", "--layer", "lstm:forget_bias=x"]),
        ("--lyer.*--layer", ["jacobian", "--lyer", "lstm"]),
        ("give --layer SPEC or --model FILE.py:FACTORY", ["jacobian"]),
        ("a layer is given twice: lstm, lstm", [*LSTM, "--layer", "lstm"]),
        ("'frob' is not one of 'fro', 'spectral'", [*LSTM, "--norm", "frob"]),
        ("unknown wrt 'y'", [*LSTM, "--wrt", "y"]),
        ("'magic' is not one of 'auto', 'structured'", [*LSTM, "--method", "magic"]),
        ("'ten' is not a valid integer", ["jacobian", "--layer", "lstm", "--n", "ten"]),
        ("'lstm' belongs to no option; give it as --layer lstm$", ["jacobian", "lstm"]),
        ("give it as --layer a=gru:bias=false$", ["cost", "a=gru:bias=false", "lstm"]),
        ("give it as --model net.py:make$", ["jacobian", "net.py:make"]),
        ("give it as --input x.csv$", [*LSTM, "x.csv"]),
        ("'other' belongs to no option$", [*LSTM, "other"]),
        ("'x.nc' belongs to no option; a stored dataset is read by depprobe show x.nc$", ["gates", "x.nc"]),
        ("n must be at least 2, not 1", ["jacobian", "--layer", "lstm", "--n", "1"]),
        ("n must be at least 2, not -5", ["jacobian", "--layer", "lstm", "--n", "-5"]),
        ("d must be at least 1, not 0", ["jacobian", "--layer", "lstm", "--d", "0"]),
        ("targets must be last, all, every:M, random:K or a list.*'some'", [*LSTM, "--targets", "some"]),
        ("targets must be .*'every:x'", [*LSTM, "--targets", "every:x"]),
        ("targets must be .*not ''", [*LSTM, "--targets", ""]),
        ("step must lie between 1 and n = 12", [*LSTM, "--targets", "every:0"]),
        ("target 12 lies outside the 12 positions; use -12 to 11", [*LSTM, "--targets", "3,12"]),
        ("a target is given twice: 3", [*LSTM, "--targets", "3,5,3"]),
        ("a target is given twice: 11", [*LSTM, "--targets", "11,-1"]),
        ("no meaning with method 'autograd'", [*LSTM, "--method", "autograd", "--tolerance", "1e-6"]),
        ("no meaning with method 'probes'", [*LSTM, "--method", "probes", "--tolerance", "0"]),
        ("tolerance must lie in .0, 1., not 1.0", [*LSTM, "--tolerance", "1"]),
        ("tolerance must lie in .0, 1., not -0.1", [*LSTM, "--tolerance", "-0.1"]),
        ("tolerance must lie in .0, 1., not nan", [*LSTM, "--tolerance", "nan"]),
        ("probes must be at least 1", [*LSTM, "--method", "probes", "--probes", "0"]),
        ("samples .*must be at least 1, not 0", [*LSTM, "--samples", "0"]),
        ("seeds must be at least 1, not 1 and 0", [*LSTM, "--seeds", "0"]),
        ("seed must lie between 0 and", [*LSTM, "--seed", "-1"]),
        ("seed must lie between 0 and", [*LSTM, "--seed", str(2**63 - 1), "--seeds", "2"]),
        ("wrt='c' needs a cell state and GRU has none", ["jacobian", "--layer", "gru", *SMALL, "--wrt", "c"]),
        ("wrt='h' needs .*use x", ["jacobian", "--layer", "conv", *SMALL, "--wrt", "h"]),
        ("give --json or --table, not both", [*LSTM, "--json", "--table", "csv"]),
        ("float16 has too few digits.*use --dtype float32", [*LSTM, "--dtype", "float16"]),
        ("bfloat16 has too few digits.*use --dtype float32", [*LSTM, "--dtype", "bfloat16"]),
        ("unknown dtype 'float'; did you mean 'float64'", [*LSTM, "--dtype", "float"]),
        ("no device 'foo' here; there is cpu", [*LSTM, "--device", "foo"]),
        ("no device 'meta' here; there is cpu", [*LSTM, "--device", "meta"]),
        ("'--threads': 0", [*LSTM, "--threads", "0"]),
        ("'--threads': 9223372036854775808", [*LSTM, "--threads", "9223372036854775808"]),
        ("unknown figure format 'jpg'; did you mean 'png'.*pdf, png, svg", [*LSTM, "--figure", "a.jpg"]),
        ("unknown figure format ''", [*LSTM, "--figure", "a"]),
        ("memory must be a size such as 4GiB.*'4XB'", [*LSTM, "--memory", "4XB"]),
        ("memory must be a size such as", [*LSTM, "--memory", "0"]),
        ("'a.png' is named twice", [*LSTM, "-o", "a.png", "--figure", "a.png"]),
        ("cannot read 'none.nc': no such file", ["show", "none.nc"]),
        ("cannot read 'none.nc': no such file", ["plot", "none.nc"]),
        ("unknown figure format 'gif'", ["plot", "none.nc", "--figure", "a.gif"]),
        ("Missing argument", ["show"]),
    ],
)
def test_a_wrong_call_is_one_line_and_leaves_nothing(refused, match, arguments):
    refused(match, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a cuda device")
def test_absent_cuda(refused):
    refused("no device 'cuda' here; there is cpu", *LSTM, "--device", "cuda")


def test_a_layer_checks_its_options_against_the_width(refused):
    refused("proj_size must lie between", "jacobian", "--layer", "lstm:proj_size=9", *SMALL)


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        (r"1000 B; use a smaller --d, or --dtype float32", [*LSTM, "--memory", "1KB"]),
        ("the input .* needs 384 B .*smaller --n or --d", [*LSTM, "--memory", "10"]),
        (
            "needs 381 GiB .* 4 GiB; use a smaller --n",
            ["jacobian", "--layer", "lstm", "--n", "100000000", "--targets", "all"],
        ),
        (
            "needs 745 GiB .*use a smaller --n",
            ["jacobian", "--layer", "conv", "--n", "100000000000", "--d", "1"],
        ),
        (
            "with its weights needs .*use a smaller --d",
            ["jacobian", "--layer", "lstm", "--n", "9", "--d", "30000"],
        ),
        (
            r"the result .* ask for fewer targets \(last, every:M\)",
            ["jacobian", "--layer", "rnn", "--n", "30000", "--d", "1", "--targets", "all"],
        ),
    ],
)
def test_a_job_over_budget_is_refused_before_it_is_allocated(refused, monkeypatch, match, arguments):
    def allocated(*_, **__):
        raise AssertionError("work began before the budget was checked")

    monkeypatch.setattr("depprobe.probes.jacobian.jacobians_at_depths", allocated)
    refused(match, *arguments)


INPUTS = {
    "nan.npy": ("holds NaN or Inf", np.array([[1.0, np.nan]] * 20)),
    "inf.npy": ("holds NaN or Inf", np.array([[1.0, np.inf]] * 20)),
    "empty.npy": ("is empty", np.ones((0, 3))),
    "narrow.npy": ("is empty", np.ones((20, 0))),
    "rank0.npy": (r"has shape \(\); it must be \(length,\) or \(length, width\)", np.ones(())),
    "rank3.npy": (r"has shape \(2, 20, 3\)", np.ones((2, 20, 3))),
    "complex.npy": ("holds complex128; it must hold real numbers", np.ones((20, 3), complex)),
    "words.npy": ("holds <U1; it must hold real numbers", np.array([["a", "b"]] * 20)),
    "short.npy": (
        "short.npy holds 5 positions and n = 12 were asked for; use --n 5 or less",
        np.ones((5, 3)),
    ),
    "objects.npy": ("pickles are refused", np.array([[1, None]] * 20, dtype=object)),
    "pickled.npy": ("pickles are refused", pickle.dumps([[1.0, 2.0]] * 20)),
    "nothing.npy": ("is empty", b""),
    "nothing.txt": ("is empty", b""),
    "nothing.csv": ("is empty", b""),
    "header.csv": ("is empty", b"a,b\n"),
    "ragged.csv": ("line 2 has 1 column and line 1 has 2", b"1,2\n3\n4,5\n"),
    "word.csv": ("line 3, column 'b' holds 'x', not a number", b"a,b\n1,2\n3,x\n"),
    "hole.csv": ("line 2, column '1' is empty", b"1,2\n3,\n"),
    "nan.csv": ("holds NaN or Inf", b"1,2\n3,nan\n" * 10),
    "bytes.csv": ("cannot read input 'bytes.csv'", b"\xff\xfe\x00,1\n1,2\n"),
    "short.txt": ("short.txt holds 5 positions and n = 12 were asked for; use --n 5 or less", b"short"),
    "one.txt": ("one.txt holds 1 position .*use a longer one", b"1"),
    "model.pt": ("cannot read 'model.pt' as an input", b"PK"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_cannot_be_measured_at_is_refused(refused, name):
    match, content = INPUTS[name]
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    else:
        np.save(name, content, allow_pickle=content.dtype.hasobject)
    refused(match, *LSTM, "--input", name)


@pytest.mark.parametrize("command", ["jacobian", "gates", "lyapunov", "spectrum --steps last"])
def test_a_length_that_was_not_given_is_told_as_the_default(refused, command):
    np.save("x.npy", np.ones((20, 3)))
    call = (*command.split(), "--layer", "lstm", "--d", "8", "--input", "x.npy")
    refused("x.npy holds 20 positions and the default n = 1000 is longer; use --n 20 or less", *call)
    refused("and n = 1000 were asked for", *call, "--n", "1000")


@pytest.mark.parametrize("kept", [8, 40, 130, -1])
def test_a_truncated_array_is_refused(refused, kept):
    np.save("x.npy", np.ones((20, 3)))
    Path("x.npy").write_bytes(Path("x.npy").read_bytes()[:kept])
    refused("cannot read input 'x.npy'", *LSTM, "--input", "x.npy")


def test_a_missing_input_or_a_folder_is_refused(refused):
    Path("folder.npy").mkdir()
    refused("no such input 'none.txt'; use noise or", *LSTM, "--input", "none.txt")
    refused("input 'folder.npy' is a folder", *LSTM, "--input", "folder.npy")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(refused, monkeypatch):
    def measured(*_, **__):
        raise AssertionError("the work was done first")

    monkeypatch.setattr("depprobe.probes.jacobian.jacobian", measured)
    Path("file").write_text("")
    Path("folder.nc").mkdir()
    refused("cannot write 'file/x/a.nc': 'file' is not a folder", *LSTM, "-o", "file/x/a.nc")
    refused("cannot write 'file/a.png': 'file' is not a folder", *LSTM, "--figure", "file/a.png")
    refused("cannot write 'folder.nc': it is a folder", *LSTM, "-o", "folder.nc")
    refused("--output must end in .nc, not 'y.txt'", *LSTM, "-o", "y.txt")
    if Path("/proc/self").exists():
        # writable by its permissions for root, and yet no file can be made there
        refused("cannot write '/proc/y.png'", *LSTM, "--figure", "/proc/y.png", "-o", "z.nc")
        refused("cannot write '/proc/x/y.nc'", *LSTM, "-o", "/proc/x/y.nc")
    with monkeypatch.context() as full:

        def refuse(**_):
            raise OSError

        full.setattr("tempfile.TemporaryFile", refuse)
        refused("cannot write 'a/b.nc': no file can be made in '.'", *LSTM, "-o", "a/b.nc")
    Path("runs").write_text("")
    refused("'runs' is not a folder", *LSTM)
    monkeypatch.setattr("os.access", lambda *_: False)
    refused("cannot write 'a.nc': no permission", *LSTM, "-o", "a.nc")


def test_a_call_never_overwrites_its_own_input(refused):
    np.save("x.npy", np.ones((20, 3)))
    refused("'x.npy' is named twice", *LSTM, "--input", "./x.npy", "-o", "x.npy")


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "it is empty"), (b"text", "not a netCDF-4 file"), (None, "cannot read 'a.nc'")],
)
def test_show_and_plot_refuse_a_damaged_dataset(good, refused, content, match):
    good(*LSTM, "-o", "a.nc", "--figure", "a.png")
    whole = Path("a.nc").read_bytes()
    Path("a.nc").write_bytes(whole[: len(whole) // 2] if content is None else content)
    refused(match, "show", "a.nc")
    refused(match, "plot", "a.nc", "--figure", "b.png")


def test_show_refuses_a_dataset_of_something_else(refused):
    store.save(xr.Dataset({"temperature": ("time", [1.0])}), "a.nc")
    refused("'a.nc': not a valid dataset: unknown dimension 'time'", "show", "a.nc")
    refused("'a.nc': not a valid dataset: unknown dimension 'time'", "plot", "a.nc")


def test_a_heat_map_of_one_row_is_drawn_only_where_asked_for(good):
    good(*LSTM, "-o", "a.nc", "--figure", "a.png")
    good(*LSTM, "--targets", "0,1,2,3,4,5,10,11", "-o", "b.nc", "--figure", "b.png")
    assert "a_heatmap" not in good("plot", "a.nc")
    assert "a_heatmap.png" in good("plot", "a.nc", "--kind", "heatmap")
    assert "b_heatmap.png" in good("plot", "b.nc", "a.nc")


def test_datasets_of_several_kinds_get_a_figure_each_and_no_common_table(good, refused):
    good(*LSTM, "-o", "a.nc", "--figure", "a.png")
    good("spectrum", "--layer", "rnn", "--d", "4", "-o", "b.nc", "--figure", "b.png")
    said = good("plot", "a.nc", "b.nc", "--figure", "c.png")
    assert "figure   c.png" in said
    assert "figure   c_spectrum.png" in said
    assert said.count("caption  ") == 2
    kinds = r"one kind of dataset, not jacobian \(a.nc\) and spectrum \(b.nc\)"
    refused(kinds, "show", "a.nc", "b.nc", "--table", "csv")


def test_a_folder_is_shown_and_drawn_and_a_bad_file_hides_no_other(good, run, refused):
    good(*LSTM, "-o", "runs/a.nc", "--figure", "a.png")
    assert "file     runs/a.nc" in good("show", "runs")
    Path("runs/bad.nc").write_text("junk", encoding="utf-8")
    for command, told in (("show", "file     runs/a.nc"), ("plot", "figure   runs/figure.png")):
        code, out, err = run(command, "runs")
        assert code == 2
        assert told in out
        assert "cannot read 'runs/bad.nc'" in err
    Path("none").mkdir()
    refused("'none' holds no dataset", "show", "none")


def test_figures_in_the_words_of_a_venue(good, refused):
    good(*LSTM, "-o", "a.nc", "--figure", "a.png")
    good(
        "plot",
        "a.nc",
        "--venue",
        "icml",
        "--figure",
        "v.png",
        "--labels",
        "Mine",
        "--title",
        "",
        "--no-legend",
    )
    width = int.from_bytes(Path("v.png").read_bytes()[16:20], "big")
    assert width == int(SKETCH_DPI * 3.25)
    good(*LSTM, "--width", "5", "-o", "b.nc", "--figure", "b.png")
    assert int.from_bytes(Path("b.png").read_bytes()[16:20], "big") == 5 * SKETCH_DPI
    # how a figure looks does not bear on the data
    assert Path("a.nc").read_bytes() == Path("b.nc").read_bytes()
    refused("unknown venue 'imcl'; did you mean 'icml'", "plot", "a.nc", "--venue", "imcl")
    refused("2 labels were given for 1 layer", "plot", "a.nc", "--labels", "a,b")
    refused(r"no layer matches 'g\*'; there are lstm", "plot", "a.nc", "--only", "g*")
    assert "figure" in good("plot", "a.nc", "--only", "l*")


def test_the_name_of_a_layer_is_answered_with_its_command(refused, good):
    refused("lstm is a layer: depprobe jacobian --layer lstm, or depprobe layers lstm", "lstm")
    refused("unknown command 'jacobain'; did you mean 'jacobian'", "jacobain")
    assert good("layers", "lstm").startswith("lstm  ")
    assert "gru  " not in good("layers", "lstm")
    refused("unknown layer 'lsmt'; did you mean 'lstm'", "layers", "lsmt")


def test_the_same_command_again_says_that_the_result_is_there(good, monkeypatch):
    Path("a.txt").write_text("abcdefgh" * 20, encoding="utf-8")
    call = (*LSTM, "--input", "a.txt", "-o", "a.nc", "--figure", "a.png")
    first = good(*call)
    written = Path("a.nc").stat().st_mtime_ns
    before = "dataset  a.nc (measured before; --again measures anew)"
    assert before not in first
    assert before in good(*call, "--rows", "form")
    assert Path("a.nc").stat().st_mtime_ns == written
    assert before not in good(*call, "--again")
    assert Path("a.nc").stat().st_mtime_ns > written
    # another command, another input, another version
    assert before not in good(*call, "--seed", "1")
    assert before not in good(*call)
    # the contents count, not the date
    os.utime("a.nc", (0, 0))
    assert before in good(*call)
    Path("a.txt").write_text("hgfedcba" * 20, encoding="utf-8")
    os.utime("a.txt", (1, 1))
    assert before not in good(*call)
    monkeypatch.setattr("depprobe._version.__version__", "0.0")
    assert before not in good(*call)


def test_results_of_two_files_of_one_name_stand_side_by_side(good):
    for folder, text in (("a", "abcdefgh"), ("b", "hgfedcba")):
        Path(folder).mkdir()
        Path(folder, "my text.txt").write_text(text * 20, encoding="utf-8")
    made = [json.loads(good(*LSTM, "--input", f"{one}/my text.txt", "--json"))["dataset"] for one in "aba"]
    assert made[0] == made[2] != made[1]
    assert Path(made[0]).name.startswith("jacobian_lstm-my-text_n12_d")
    assert not store.load(made[0]).log_norm.equals(store.load(made[1]).log_norm)


def test_json_holds_no_json_in_strings(good):
    document = document_of("jacobian", good(*LSTM, "--json", "-o", "a.nc", "--figure", "a.png"))
    assert document["attributes"]["provenance"]["command"].startswith("depprobe jacobian --layer lstm")
    shown = json.loads(good("show", "a.nc", "--json"))["a.nc"]
    assert shown["attributes"] == document["attributes"]


def test_runs_lists_what_is_there(good, refused):
    refused("'runs' holds no dataset", "runs")
    good(*LSTM, "-o", "runs/a.nc", "--figure", "a.png")
    good("spectrum", "--layer", "rnn", "--d", "4", "-o", "other/b.nc", "--figure", "b.png")
    Path("runs/bad.nc").write_text("junk", encoding="utf-8")
    rows = {line.split()[0]: line for line in good("runs").splitlines()[3:]}
    assert re.search(r"jacobian +lstm +noise +\d{4}-\d\d-\d\d \d\d:\d\d$", rows["a.nc"])
    assert "not readable" in rows["bad.nc"]
    found = document_of("runs", good("runs", "other", "--json"))
    assert [found["b.nc"][name] for name in ("question", "layer", "input")] == ["spectrum", "rnn", "-"]
    Path("runs/gone.nc").symlink_to("nowhere.nc")
    cell = {"at": {"layer": "gru"}, "mark": "0" * 24, "settings": {}, "work": 1.0}
    plan = {"probe": "jacobian", "axes": ["layer"], "cells": [cell]}
    for name, text in (("decay", json.dumps(plan)), ("torn", "{")):
        Path("runs", name).mkdir()
        Path("runs", name, "sweep.json").write_text(text, encoding="utf-8")
    found = document_of("runs", good("runs", "--json"))
    asked = {name: row["question"] for name, row in found.items()}
    assert asked == {
        **dict.fromkeys(("gone.nc", "bad.nc", "torn/"), "not readable"),
        "a.nc": "jacobian",
        "decay/": "sweep of jacobian, 1 cell",
    }


@pytest.mark.parametrize("command", ["jacobian", "gates", "lyapunov", "spectrum", "cost", "plot"])
def test_help_stands_in_groups_with_examples_under_a_heading(good, command):
    text = good(command, "--help")
    heads = [line.rstrip(":") for line in text.splitlines() if re.fullmatch(r"[A-Z][a-z]+:", line)]
    assert heads == [
        head for head in ("Model", "Input", "Computation", "Output", "Examples") if head in heads
    ]
    assert {"Output", "Examples"} <= set(heads)
    assert text.split("Examples:")[1].split()[:2] == ["depprobe", command]
    # every option stands in one group
    assert text.count("--figure FILE") == 1
    assert text.count("--help") == 1


def test_no_command_prints_the_help_and_is_wrong(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: depprobe")


# --- runs that do not end -------------------------------------------------------------------------------


def test_interrupting_the_measurement_writes_nothing(refused, monkeypatch):
    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal was swallowed")

    monkeypatch.setattr("depprobe.probes.jacobian.jacobians_at_depths", interrupted)
    before = torch.get_num_threads()
    # a shell that starts the tests in the background has interrupts ignored
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        refused("interrupted", *LSTM, "--threads", str(before + 1), code=130)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert torch.get_num_threads() == before


def test_interrupting_the_writing_leaves_no_part_of_a_file(run, monkeypatch):
    def half(path, content):
        path.write_text("half")
        raise KeyboardInterrupt

    Path("a.nc").write_text("earlier")
    monkeypatch.setattr(Path, "write_bytes", half)
    code, _, err = run(*LSTM, "-o", "a.nc", "--figure", "a.png")
    assert code == 130
    assert re.fullmatch(r"depprobe: interrupted[^\n]+\n", err)
    assert [p for p in files() if ".partial" not in p] == ["a.nc"]
    assert Path("a.nc").read_bytes() == b"earlier"


def test_an_interrupted_comparison_resumes_and_ends_in_the_same_file(run, good, monkeypatch):
    from depprobe.probes import jacobian as probe

    command = (*LSTM, "--layer", "gru", "-o", "data/a.nc", "--figure", "data/a.png")
    good(*command)
    expected = files()
    Path("data/a.nc").unlink()
    measured, stopping = [], True

    def second_interrupted(module, *arguments, **options):
        if measured and stopping:
            raise KeyboardInterrupt
        measured.append(type(module).__name__)
        return operator(module, *arguments, **options)

    operator = probe.jacobians_at_depths
    monkeypatch.setattr(probe, "jacobians_at_depths", second_interrupted)
    code, _, err = run(*command)
    assert (code, err.splitlines()[-1]) == (
        130,
        "depprobe: interrupted; nothing is half-written; the same command takes up every finished case and "
        "goes on with the others",
    )
    assert not Path("data/a.nc").exists()
    stopping = False
    good(*command)
    assert measured == ["LSTM", "GRU"]
    assert files() == expected


def test_an_interrupted_command_that_keeps_no_cases_says_so(run, monkeypatch):
    def stops(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("depprobe.cli.commands.layers._operator_of", stops)
    code, _, err = run("layers")
    said = "depprobe: interrupted; nothing is half-written, and the same command starts again\n"
    assert (code, err) == (130, said)


def test_data_that_ends_early_is_not_taken_for_an_interrupt(refused, monkeypatch):
    def short(*_, **__):
        raise EOFError("no more")

    monkeypatch.setattr("depprobe.probes.jacobian.jacobians_at_depths", short)
    refused("data ended too early: no more", *LSTM, code=1)


def test_an_internal_error_is_one_line_and_a_traceback_only_with_debug(refused, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr("depprobe.probes.jacobian.jacobians_at_depths", broken)
    message = refused("ZeroDivisionError: first line", *LSTM, code=1)
    assert "--debug" in message
    assert "second" not in message
    for arguments in ([*LSTM, "--debug"], ["--debug", *LSTM]):
        with pytest.raises(ZeroDivisionError):
            main(arguments)


# --- the call leaves everything as it was ---------------------------------------------------------------


class Mixer(torch.nn.Module):
    """A module of the user's own: mixes positions, and has a mode and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(3, 5)
        self.dropout = torch.nn.Dropout(0.0)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return self.dropout(torch.tanh(self.inner(x).cumsum(-2) * self.scale))


@pytest.mark.parametrize("build", [lambda: torch.nn.LSTM(3, 5), Mixer], ids=["lstm", "custom"])
@pytest.mark.parametrize("training", [True, False])
def test_jacobian_leaves_module_and_process_as_they_were(build, training):
    module = build().train(training)
    next(module.parameters()).requires_grad_(False)
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(9, 3)

    def state():
        return (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            [m.training for m in module.modules()],
            [(p.requires_grad, p.grad is None) for p in module.parameters()],
            x.requires_grad,
        )

    before, random, numpy_random = state(), torch.get_rng_state(), np.random.get_state()[1].copy()
    for method in ("auto", "autograd", "probes"):
        depprobe.jacobian(module, x, targets="all", method=method)
    assert state() == before
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == numpy_random).all()
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())


def test_named_layers_leave_the_random_state_as_it_was():
    random = torch.get_rng_state()
    depprobe.jacobian(["lstm", "conv"], n=9, d=4)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.LSTM(3, 5, num_layers=2, dropout=0.3),
        torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.3)),
    ],
    ids=["lstm", "sequential"],
)
def test_active_dropout_is_refused_and_harmless_in_eval_mode(module):
    x = torch.randn(9, 3)
    with pytest.raises(BadInput, match=r"dropout 0.3 of .* is active.*call module.eval\(\) first"):
        depprobe.jacobian(module.train(), x)
    assert module.training
    depprobe.jacobian(module.eval(), x)


def test_threads_wait_asleep_but_not_where_they_are_timed(run, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert run("layers")[0] == 0
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    seen = {}

    def child(command, *, env, **options):
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, '{"flops": 1}\n', "")

    monkeypatch.setattr(subprocess, "run", child)
    measured_alone({"layer": "lstm", "n": 4, "d": 2})
    assert "OMP_WAIT_POLICY" not in seen
    assert seen["PATH"] == os.environ["PATH"]


def test_a_value_given_twice_is_refused(run):
    for again in (["--n", "9"], ["--legend", "--no-legend"]):
        code, out, said = run(*LSTM, *again)
        assert (code, out) == (2, "")
        assert said == f"depprobe: {again[0]} is given twice; leave out all but one\n"
    code, _, _ = run("jacobian", "--layer", "gru", "--layer", "rnn", "--n", "9", "--d", "3", "-q", "-q")
    assert code == 0


@pytest.mark.parametrize("command", ["gates", "lyapunov", "spectrum"])
def test_examples_in_help_run(run, command):
    Path("README.md").write_text("what a recurrence reads " * 20)
    _, out, _ = run(command, "--help")
    examples = [shlex.split(line)[1:] for line in out.split("Examples:")[1].splitlines() if line.strip()]
    ran = [words for words in examples if "--model" not in words]
    for words in ran:
        for option, small in {"--n": "100", "--d": "8"}.items():
            at = words.index(option) if option in words else len(words)
            # weights are read without an input
            read = option == "--d" or command != "spectrum" or "--steps" in words
            words[at : at + 2] = [option, small] if read else []
        code, _, said = run(*words)
        assert code == 0, said
    assert ran


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("> /dev/full", 1, "depprobe: no space left on the device that the output is on\n"),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
    ],
)
def test_a_full_or_closed_output_is_told_in_one_line(tmp_path, more, code, said):
    words = "-m depprobe jacobian --layer gru --n 9 --d 3 -q -o a.nc"
    done = subprocess.run(
        f"{sys.executable} {words} {more}", shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr, done.stdout) == (code, said, "")
    assert depprobe.load(tmp_path / "a.nc").sizes["source"] == 9


def test_an_output_that_nobody_reads_is_told_in_one_line(tmp_path):
    depprobe.save(depprobe.jacobian("gru", n=9, d=3), tmp_path / "a.nc")
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "depprobe", "show", "a.nc"]
    done = subprocess.run(words, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "depprobe: the reader of the output went away\n")
