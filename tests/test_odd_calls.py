"""Odd calls: arguments of other types than usual are taken for what they are, and wrong ones told at once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import depprobe
from depprobe.cli.summaries import summary_of
from depprobe.errors import BadInput

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(20, 3, generator=GENERATOR, dtype=torch.float64)


class Last(nn.Module):
    """A recurrence of which the last output alone is returned, without a time axis."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0][:, -1]


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return nn.GRU(3, 5, batch_first=True).double()


@pytest.fixture(scope="module")
def ds(module):
    return depprobe.jacobian(module, X, targets="all")


@pytest.fixture
def told(run):
    """Run a command that must end in one line on stderr and exit code 2; returns that line."""

    def go(*arguments: str) -> str:
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        return err

    return go


# --- numbers and texts of other libraries ----------------------------------------------------------------


@pytest.mark.parametrize(
    "targets", [np.array(3), torch.tensor(3), np.int64(3), xr.DataArray([3]), pd.Index([3])], ids=repr
)
def test_a_target_may_come_from_another_library(module, targets):
    found = depprobe.jacobian(module, X, targets=targets)
    xr.testing.assert_identical(found["log_norm"], depprobe.jacobian(module, X, targets=3)["log_norm"])


def test_scalars_of_numpy_are_numbers_and_dtypes_of_torch_are_names(module):
    how = {"method": "probes", "targets": [9]}
    one = depprobe.jacobian(module, X, probes=np.int64(3), **how)
    xr.testing.assert_equal(one["log_norm"], depprobe.jacobian(module, X, probes=3, **how)["log_norm"])
    given = {"n": np.int64(9), "d": np.int32(4), "dtype": torch.float32, "device": torch.device("cpu")}
    plain = depprobe.jacobian("rnn", n=9, d=4, dtype="float32", device="cpu")
    xr.testing.assert_equal(depprobe.jacobian("rnn", **given), plain)
    operator = depprobe.temporal_jacobian(module, X, method="probes", probes=np.int64(3))
    assert operator.probes == 3


def test_a_table_of_pandas_is_an_array(module):
    found = depprobe.jacobian(module, pd.DataFrame(X.numpy(), columns=["a", "b", "c"]))
    xr.testing.assert_equal(found["log_norm"], depprobe.jacobian(module, X)["log_norm"])


def test_a_table_of_pandas_with_dates_is_read_as_a_file(module, tmp_path):
    frame = pd.DataFrame(X.numpy(), columns=["a", "b", "c"])
    dated = frame.assign(day=pd.date_range("2020", periods=20))
    with pytest.raises(BadInput, match=r"column 'day' of datetime64.*; depprobe\.read_input\(x\) reads it"):
        depprobe.jacobian(module, dated)
    for given in (dated, frame.set_index(dated["day"])):
        found = depprobe.jacobian(module, depprobe.read_input(given))
        xr.testing.assert_equal(found["log_norm"], depprobe.jacobian(module, X)["log_norm"])
        assert found.attrs["input_index"].startswith("day: 2020-01-01")
        given.to_csv(tmp_path / "x.csv", index=given is not dated)
        columns, scaled = ["b", "c"], depprobe.read_input(given, columns=["b", "c"], standardise=True)
        from_file = depprobe.read_input(tmp_path / "x.csv", columns=columns, standardise=True)
        np.testing.assert_array_equal(scaled.data, from_file.data)


@pytest.mark.parametrize(
    ("frame", "how", "match"),
    [
        (pd.DataFrame({"a": [1.0, None]}), {}, "'DataFrame': row 1, column 'a' is empty"),
        (pd.DataFrame({"a": [1, pd.NA]}, dtype="Int64"), {}, "row 1, column 'a' is empty"),
        (pd.DataFrame({"a": ["x", "y"], "b": 1.0}), {}, "row 0, column 'a' holds 'x', not a number"),
        (pd.DataFrame({"a": [1.0]}), {"decimal": ","}, "delimiter and decimal are for files"),
        (pd.DataFrame({"a": []}), {}, r"the DataFrame is empty, of shape \(0, 1\)"),
    ],
)
def test_what_is_no_number_in_a_table_of_pandas_is_named(frame, how, match):
    with pytest.raises(BadInput, match=match):
        depprobe.read_input(frame, **how)


def test_a_file_given_as_x_is_pointed_to_what_reads_it(module, tmp_path):
    for name in (tmp_path / "a.npy", "a.npy"):
        with pytest.raises(BadInput, match=r"a\.npy'; a file is read by depprobe\.read_input\('"):
            depprobe.jacobian(module, name)


@pytest.mark.filterwarnings("error")
def test_positions_may_be_a_tensor(module):
    found = depprobe.jacobian(module, X, position=torch.arange(20) + 1)
    assert found["position"].values.tolist() == [20]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"x": torch.nested.nested_tensor([X, X], layout=torch.jagged)}, "x is a nested tensor"),
        ({"position": np.full(20, np.nan)}, "position must hold 20 finite numbers, one an output, not NaN"),
        ({"position": 3}, "position must hold 20 finite numbers, one an output, not the one 3"),
        ({"position": [1, 2]}, r"one an output, not 2 of shape \(2,\)"),
        ({"tolerence": 1}, "unknown argument of jacobian 'tolerence'; did you mean 'tolerance'"),
        (
            {"x": np.full((20, 3), 1e39), "dtype": "float32"},
            "x holds 1e.39, beyond the largest torch.float32",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_what_cannot_be_taken_is_named(module, given, match):
    target = "rnn" if "dtype" in given else module
    with pytest.raises(BadInput, match=match):
        depprobe.jacobian(target, **{"x": X} | given, **({"d": 3} if target == "rnn" else {}))


def test_numbers_beyond_the_dtype_of_a_module_are_named():
    with pytest.raises(BadInput, match=r"x holds 1e\+39, beyond the largest torch\.float32, 3\.4e\+38"):
        depprobe.jacobian(nn.GRU(3, 5, batch_first=True), np.full((20, 3), 1e39))


def test_unknown_arguments_of_other_calls_are_named(module, ds):
    with pytest.raises(BadInput, match="unknown argument of temporal_jacobian 'tolerance_'; did you mean"):
        depprobe.temporal_jacobian(module, X, tolerance_=0.1)
    with pytest.raises(BadInput, match="unknown argument of table 'skip_lag'; did you mean 'skip_lags'"):
        depprobe.table(ds, skip_lag=1)
    with pytest.raises(BadInput, match="unknown argument of spectrum 'mode'; did you mean 'modes'"):
        depprobe.spectrum(module, mode=1)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"title": 3}, "title must be text, or None; got 3"),
        ({"legend": 1}, "legend must be true or false; got 1"),
        ({"labels": [1]}, "a label must be text; got 1"),
        ({"labels": "a"}, "labels are a list of names, one a layer; not str"),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
@pytest.mark.parametrize("draw", [depprobe.figures.decay, depprobe.figures.heatmap], ids=["decay", "heatmap"])
def test_words_of_figures_are_text(ds, draw, given, match):
    with pytest.raises(BadInput, match=match):
        draw(ds, **given)
    with pytest.raises(BadInput, match=match):
        depprobe.figures.panels({"a": ds}, **given)


@pytest.mark.parametrize("labels", [np.array(["mine"]), pd.Index(["mine"]), pd.Series(["mine"])], ids=repr)
def test_labels_of_figures_may_be_an_array(ds, labels):
    assert depprobe.figures.heatmap(ds, labels=labels).axes[0].get_title() == "mine"
    assert "mine" in depprobe.table(ds, labels=labels)
    assert depprobe.combine([ds], labels=labels).attrs["layer"] == "mine"
    assert depprobe.figures.panels({"a": ds, "b": ds}, labels=labels).figure


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("title", [r"a $\unknown{$ b", "5$ or 3$", "$x", r"\alpha_b^c {", "word " * 200])
def test_any_title_can_be_drawn(ds, tmp_path, title):
    for draw in (depprobe.figures.decay, depprobe.figures.heatmap):
        depprobe.figures.save(draw(ds, title=title), tmp_path / "a.png", dpi=30)
        assert (tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("given", "drawn"),
    [(r"$\unknown$ and $\alpha$", r"\$\unknown\$ and $\alpha$"), (r"\$5, $x$", r"\$5, $x$")],
)
def test_formulas_of_a_title_that_cannot_be_drawn_are_text(ds, given, drawn):
    assert depprobe.figures.decay(ds, title=given).figure.get_suptitle() == drawn


@pytest.mark.parametrize("dpi", [0, -3, 1e6, float("nan"), "300", None])
def test_dots_an_inch_are_a_number_that_a_figure_can_have(ds, tmp_path, dpi):
    with pytest.raises(BadInput, match="dpi must be a number of dots an inch, 1 to 2400, not"):
        depprobe.figures.save(depprobe.figures.decay(ds), tmp_path / "a.png", dpi=dpi)


@pytest.mark.parametrize("value", [float("nan"), 10**30, "low"])
def test_ends_of_axes_are_numbers_that_an_axis_can_have(ds, value):
    for end in ("floor", "ceiling"):
        with pytest.raises(BadInput, match=f"{end} is a log10 of a norm, a number or None; got"):
            depprobe.figures.decay(ds, **{end: value})


def test_other_arguments_of_figures_are_refused_by_name(ds):
    with pytest.raises(
        BadInput, match=r"theory is what depprobe\.probes.theory\.theory gave, or None; got 1"
    ):
        depprobe.figures.decay(ds, theory=1)
    with pytest.raises(BadInput, match=r"draw must be a figure function such as figures\.decay, not 'decay'"):
        depprobe.figures.panels({"a": ds}, draw="decay")
    with pytest.raises(BadInput, match="across must be a number of panels in a row, 1 or more, not 'two'"):
        depprobe.figures.panels({"a": ds}, across="two")
    for names in ("rows", "labels"):
        with pytest.raises(BadInput, match=f"{names} must be a list of names, not 3"):
            depprobe.table(ds, **{names: 3})
    with pytest.raises(BadInput, match=r"unknown table \['text'\]|unknown form"):
        depprobe.table(ds, ["text"])


@pytest.mark.parametrize("resamples", [10**9, 10**30])
def test_more_draws_than_memory_holds_are_refused(ds, resamples):
    with pytest.raises(
        BadInput, match=f"resamples={resamples} draws of this dataset need too much memory; give at most"
    ):
        depprobe.distances(ds, resamples=resamples)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (
            lambda **how: depprobe.gates("lstm", n=4, d=3, **how),
            ("depth", "tolerance", "memory", "seed", "hold_h"),
        ),
        (lambda **how: depprobe.spectrum("rnn", d=3, **how), ("powers", "dense", "memory")),
        (lambda **how: depprobe.lyapunov("rnn", n=9, d=3, **how), ("memory", "seed", "drive")),
    ],
    ids=["gates", "spectrum", "lyapunov"],
)
def test_none_is_refused_by_name_where_it_is_no_default(call, names):
    for name in names:
        with pytest.raises(BadInput, match=f"^{name} must be .*, not None$"):
            call(**{name: None})


def test_an_array_of_no_axis_is_no_list_of_layers():
    for target in (np.array("lstm"), torch.tensor(2)):
        with pytest.raises(BadInput):
            depprobe.jacobian(target, X)


def test_counts_and_names_of_other_kinds_are_refused(module):
    lstm = nn.LSTM(3, 4, batch_first=True).double()
    for given, match in [
        ({"depth": 1}, r"depth must be 0 \(LSTM has one layer\), not 1"),
        ({"hold_h": "no"}, "hold_h must be true or false, not 'no'"),
    ]:
        with pytest.raises(BadInput, match=match):
            depprobe.gates(lstm, X, **given)
    assert "log_norm_cc" in depprobe.gates(lstm, X, hold_h=True)
    square = nn.RNN(3, 3, batch_first=True)
    for how, match in [
        ({"modes": 0}, "modes must be at least 1, not 0"),
        ({"weight": ["weight_hh_l0"] * 2}, "weight names one parameter twice: weight_hh_l0, weight_hh_l0"),
    ]:
        with pytest.raises(BadInput, match=match):
            depprobe.spectrum(square, **how)
    with pytest.raises(BadInput, match=r"seed must lie between 0 and 2\^63 - 1, not -1$"):
        depprobe.jacobian("rnn", n=9, d=4, seed=-1)
    with pytest.raises(BadInput, match="an input is named by text or a Path, not by int 3"):
        depprobe.read_input(3)
    with pytest.raises(BadInput, match="unknown trained model '3'"):
        depprobe.trained(3)


def test_where_an_output_without_time_sits_may_be_said_as_well_as_left(run):
    torch.manual_seed(0)
    x = X.float()
    left = depprobe.jacobian(Last(), x)
    assert left["position"].values.tolist() == [19]
    for position, place in (("end", 19), ("forecast", 20), ([7], 7)):
        found = depprobe.jacobian(Last(), x, position=position)
        assert found["position"].values.tolist() == [place]


def test_the_recurrence_inside_a_model_is_named_where_nothing_drives_it(module):
    with pytest.raises(BadInput, match=r"Last holds rnn and hands what is read: .* drive='input'"):
        depprobe.lyapunov(Last(), n=20, drive="none")


# --- datasets that were cut ------------------------------------------------------------------------------


def test_one_target_or_source_cut_out_is_measured_like_a_list_of_one(ds):
    for axis in ("target", "source"):
        one, listed = ds.isel({axis: 7}), ds.isel({axis: [7]})
        xr.testing.assert_equal(depprobe.distances(one), depprobe.distances(listed))
        xr.testing.assert_equal(depprobe.decay_curve(one), depprobe.decay_curve(listed))
    assert depprobe.table(ds.isel(target=7)) == depprobe.table(ds.isel(target=[7]))
    assert depprobe.figures.decay(ds.isel(target=7)).figure.axes
    banded = depprobe.jacobian("conv", n=20, d=4, targets="all")
    cut = depprobe.distances(banded.isel(target=7)), depprobe.distances(banded.isel(target=[7]))
    xr.testing.assert_equal(*cut)


def test_skipping_all_there_is_is_refused(ds):
    for how, match in [
        ({"skip_lags": 20}, "skip_lags=20 leaves no lag: the largest is 19; use that or less"),
        ({"skip_first": 20}, "skip_first=20 leaves none of the 20 sources"),
    ]:
        with pytest.raises(BadInput, match=match):
            depprobe.distances(ds, **how)
    assert depprobe.distances(ds, skip_lags=19)["mean_distance"].item() == 19


@pytest.mark.parametrize("odd", [np.array(["a", "b"]), torch.arange(2), ["rms"], 3])
def test_what_is_no_word_is_refused_where_a_word_is_chosen(ds, odd):
    for name in ("pooling", "normalise", "relative_to"):
        with pytest.raises(BadInput, match=f"unknown {name} .* Known: "):
            depprobe.distances(ds, **{name: odd})
    with pytest.raises(BadInput, match=r"unknown xscale .* Known: "):
        depprobe.figures.decay(ds, xscale=odd)
    with pytest.raises(BadInput, match=r"unknown phase .* Known: "):
        depprobe.cost("rnn", n=12, d=4, phases=[odd])


@pytest.mark.parametrize("single", [torch.tensor(2), np.array(2)])
def test_arrays_of_no_axis_are_no_lists(single):
    with pytest.raises(BadInput, match="lags must be a list, not"):
        depprobe.gates("lstm", n=12, d=4, lags=single)
    with pytest.raises(BadInput, match=r"combine takes a list of datasets, \[a, b\], not one"):
        depprobe.combine(single)


def test_accessor_and_table_and_combine_say_what_they_take(ds):
    curve = ds.depprobe.decay(skip_first=3)
    xr.testing.assert_equal(curve, depprobe.decay_curve(ds, skip_first=3))
    for call, match in [
        (lambda: depprobe.table(None), "a table is made of datasets, not of NoneType"),
        (lambda: depprobe.table(ds, rows=[]), "rows names none; leave it out to show all"),
        (lambda: depprobe.table(ds, labels={"GRU": "a"}), "names are a list, .* not a mapping"),
        (lambda: depprobe.combine({"a": ds}), r"not one dict; labels=\[...\] names their layers"),
        (lambda: depprobe.combine(["a.nc"]), "number 1 is str; depprobe.load reads a file"),
    ]:
        with pytest.raises(BadInput, match=match):
            call()


# --- the command line ------------------------------------------------------------------------------------

RNN = ("jacobian", "--layer", "rnn", "--n", "12", "--d", "4")
BEFORE = [
    (("--labels", "a,b"), "2 labels were given for 1 layer"),
    (("--labels", "a,"), "label 2 is empty; give each layer a name"),
    (("--layer", "gru", "--labels", "a,a"), "two labels are 'a'; give each layer a name of its own"),
    (("--venue", "icm"), "unknown venue 'icm'; did you mean 'icml'"),
    (("--width", "99"), "a figure is 2.5 to 30 inches wide, not 99"),
    (("--rows", ""), "--rows '' names none or an empty one; leave it out"),
    (("--rows", "form,"), "--rows 'form,' names none or an empty one"),
    (("-q", "-v"), "give --quiet or --verbose, not both"),
    (("-o", ".nc"), "--output must have a name before .nc, not '.nc'"),
    (("--input", ""), "no such input ''; use noise"),
]


@pytest.mark.parametrize(("more", "match"), BEFORE, ids=lambda value: " ".join(value) if value else "")
def test_words_that_nothing_takes_are_told_before_anything_is_measured(told, more, match):
    assert match in told(*RNN, *more)
    assert not list(Path().iterdir())


def test_a_row_that_there_is_not_says_where_the_result_is(told):
    err = told(*RNN, "-o", "a.nc", "--figure", "a.png", "--rows", "decoy")
    assert "unknown row 'decoy'; did you mean 'decay rate'" in err
    assert err.endswith("; the result is there: depprobe show a.nc\n")
    err = told(*RNN, "-o", "a.nc", "--figure", "a.png", "--skip-lags", "40")
    assert "skip_lags=40 leaves no lag: the largest is 11; use that or less; the result is there" in err


def test_labels_are_shared_out_among_datasets(run, told):
    for name in ("rnn", "gru"):
        run(
            "jacobian",
            "--layer",
            name,
            "--n",
            "12",
            "--d",
            "4",
            "-o",
            f"{name}.nc",
            "--figure",
            f"{name}.png",
        )
    code, out, _ = run("show", "rnn.nc", "gru.nc", "--labels", "Elman,Cho")
    heads = [line.split() for line in out.splitlines() if line.strip() in ("Elman", "Cho")]
    assert (code, heads) == (0, [["Elman"], ["Cho"]])
    _, out, _ = run("show", "rnn.nc", "gru.nc", "--labels", "Elman,Cho", "--json")
    assert out.count('"layer": "Elman"') == out.count('"layer": "Cho"') == 1
    assert "3 labels were given for 2 layers" in told("show", "rnn.nc", "gru.nc", "--labels", "a,b,c")
    for command in ("show", "plot"):
        assert "two panels are called 'a'" in told(command, "rnn.nc", "gru.nc", "--panels", "a,a")
        assert "a panel has no title" in told(command, "rnn.nc", "gru.nc", "--panels", "")
    assert "0 labels were given for 2 layers" in told("plot", "rnn.nc", "gru.nc", "--labels", "")


def test_labels_of_spectra_are_those_of_matrices(told, run):
    gru = ("spectrum", "--layer", "gru", "--d", "4", "--grid", "0")
    assert "1 label was given for 3 matrices" in told(*gru, "--labels", "a")
    assert run(*gru, "--labels", "r,z,n")[0] == 0


def test_gates_at_the_first_position_are_drawn_without_a_word(run):
    code, _, err = run("gates", "--layer", "lstm", "--n", "12", "--d", "4", "--target", "0")
    assert (code, err) == (0, "")


# --- files -----------------------------------------------------------------------------------------------

TABLES = [
    ("a,b\n1e400,1\n1,2\n", {}, "holds NaN or Inf \\(1e400\\)"),
    (
        "a b\n1 2\n3 4\n",
        {},
        "holds '1 2', not a number; for columns set apart by space give --delimiter space",
    ),
    ("a;b\n1.234,5;1\n2;3\n", {"delimiter": ";", "decimal": ","}, "without marks between thousands"),
    ("a,b\n1,2\n3,4\n", {"delimiter": ""}, "delimiter must be one character .*, not ''"),
    ("a,b\n1,2\n3,4\n", {"decimal": ""}, "decimal must be one character .*, not ''"),
    ("a,b\n1,2\n1,2\n", {"standardise": True}, "'a', 'b' do not vary and cannot be standardised; leave out"),
    ("# of two\na,b\n1,2\n", {}, "line 2 has 2 columns and line 1 has 1$"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("text", "how", "match"), TABLES)
def test_tables_that_cannot_be_read_say_why(tmp_path, text, how, match):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(BadInput, match=match):
        depprobe.read_input(str(tmp_path / "x.csv"), **how)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_columns_outside_the_range_of_squares_are_standardised(tmp_path, scale):
    values = np.random.default_rng(0).normal(size=(20, 3))
    np.save(tmp_path / "x.npy", values * scale)
    found = depprobe.read_input(tmp_path / "x.npy", standardise=True)
    np.testing.assert_allclose(found.data, (values - values.mean(0)) / values.std(0), rtol=1e-12)
    np.testing.assert_allclose(found.about["input_std"], values.std(0) * scale, rtol=1e-12)


def test_a_text_of_numbers_says_that_it_is_read_as_text(tmp_path):
    np.savetxt(tmp_path / "x.txt", np.eye(3))
    (note,) = depprobe.read_input(tmp_path / "x.txt").notes
    assert "is read as text, byte by byte" in note
    (tmp_path / "y.txt").write_text("3 men in a boat, in the year 1889")
    assert not depprobe.read_input(tmp_path / "y.txt").notes


# --- figures and sweeps ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", [3.35, None])
def test_legends_taller_than_a_figure_and_long_titles_stay_beside_the_panel(width):
    torch.manual_seed(0)
    many = {f"a long name of model number {i}, of several words": nn.GRU(3, 4) for i in range(14)}
    named = depprobe.jacobian(many, X.float())
    with depprobe.figures.venue(None if width else "icml", width):
        drawn = depprobe.figures.decay(named, title="a title of more words than one line holds " * 4)
    figure = drawn.figure
    figure.canvas.draw()
    (panel,), (legend,) = figure.axes, figure.legends
    box, below = panel.get_window_extent(), legend.get_window_extent()
    assert box.height / figure.dpi > 1.5
    assert 0 <= below.y0 < below.y1 < box.y0
    assert figure.get_suptitle().count("\n") >= 1
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1


def test_a_short_trajectory_says_nothing_of_blocks(module):
    found = depprobe.lyapunov(module, X[:9])
    assert found.attrs["stderr_from"] == ""
    assert "no standard errors: fewer than 20 steps" in "".join(summary_of(found).notes)
    assert "block" not in depprobe.figures.lyapunov(found).figure.get_suptitle()


GRIDS = [
    ('layer = ["rnn", "gru", "rnn"]', r"\[grid\] layer lists 'rnn' twice: leave one out"),
    ('layer = ["rnn"]\nn = [9, 9]', r"\[grid\] n lists 9 twice"),
    ('model = ["no.such:make"]\nn = [8, 9]', "all 2 cells need 'no.such', which does not exist; nothing was"),
]


@pytest.mark.parametrize(("grid", "match"), GRIDS)
def test_grids_that_cannot_be_meant_are_told_once(told, grid, match):
    Path("grid.toml").write_text(f'probe = "jacobian"\n[grid]\n{grid}\n')
    assert re.search(match, told("sweep", "grid.toml"))
    assert not Path("runs").exists()


def test_modules_of_python_itself_are_no_absent_files(run):
    Path("grid.toml").write_text(
        'probe = "jacobian"\n[grid]\nlayer = ["rnn"]\nmodel = ["os.path:join"]\nn = [8]\n'
    )
    _, _, err = run("sweep", "grid.toml", "-q")
    assert "does not exist" not in err
    assert "join was called as a factory" in err


def test_a_misspelt_command_of_sweep_is_named(told):
    assert "unknown command of sweep 'statsu'; did you mean 'status'" in told("sweep", "statsu", "runs/decay")


def test_norms_that_were_averaged_are_told_apart_from_measured_ones(ds):
    seeds = depprobe.jacobian("rnn", n=8, d=2, seeds=3)
    # of which all statuses agree, so that their mean is that of each
    assert bool((seeds.log_norm_status == seeds.log_norm_status[0]).all())
    for changed in (np.exp(ds), ds.coarsen(source=2).mean(), seeds.mean("seed")):
        with pytest.raises(BadInput, match="log_norm_status does not fit log_norm"):
            depprobe.distances(changed)
    status = ds.log_norm_status.astype(np.float32)  # what joining makes of it
    as_floats = depprobe.distances(ds.assign(log_norm_status=status))
    xr.testing.assert_allclose(as_floats, depprobe.distances(ds))


def test_names_do_not_format_markdown(module):
    found = depprobe.jacobian({"c*d`e`<b>|x": module}, X)
    assert depprobe.table(found, "markdown").splitlines()[0] == r"|  | c\*d\`e\`\<b>\|x |"


def test_heat_maps_of_several_layers_are_no_panels(told, run):
    run(*RNN, "--layer", "gru", "-o", "a.nc", "--figure", "a.png")
    Path("b.nc").write_bytes(Path("a.nc").read_bytes())
    err = told("plot", "a.nc", "b.nc", "--panels", "x,y", "--kind", "heatmap")
    assert "a panel is one heat map, and 'x' would hold 2: leave out --panels" in err


# --- results and weights ---------------------------------------------------------------------------------

MODELS = """
import torch
class Dead(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x.cumsum(1) - 1e6)
class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(2, 3)
    def forward(self, x):
        return self.line(x)
"""


def test_a_model_that_passes_nothing_on_is_a_result_without_a_figure(run, told):
    Path("m.py").write_text(MODELS)
    np.save("x.npy", np.random.default_rng(0).normal(size=(9, 2)))
    dead = ("jacobian", "--model", "m.py:Dead", "--input", "x.npy", "-o", "z.nc", "--figure", "z.png")
    code, out, err = run(*dead)
    assert (code, err) == (0, "depprobe: nothing to draw: every norm is exactly zero or unknown\n")
    assert "norm at lag 0" in out
    assert sorted(path.name for path in Path().iterdir()) == ["m.py", "x.npy", "z.nc"]
    assert run(*dead, "-q", "--json")[2] == ""
    assert "nothing to draw" in told("plot", "z.nc")


def test_weights_of_another_kind_are_named(told):
    Path("m.py").write_text(MODELS)
    torch.save({"line.weight": torch.ones(3, 2, dtype=torch.int32), "line.bias": torch.ones(3)}, "int.pt")
    torch.save(torch.zeros(3), "one.pt")
    Path("junk.npz").write_text("hello")
    for name, match in [
        ("int.pt", "line.weight is torch.int32 in the file and torch.float32 in the module"),
        ("one.pt", "'one.pt' holds Tensor, not weights by name; save module.state_dict()"),
        ("junk.npz", "'junk.npz' is not a .npz file; save the weights with numpy.savez"),
    ]:
        assert match in told("jacobian", "--model", "m.py:Line", "--weights", name, "--n", "9")


class Pair(nn.Module):
    """Two recurrences of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.high(self.low(x)[0])[0]


@pytest.mark.parametrize("probe", [depprobe.gates, depprobe.lyapunov])
def test_two_recurrences_of_one_model_are_told_apart(probe):
    torch.manual_seed(0)
    pair = Pair()
    found = [probe(pair, X.float(), part=part) for part in ("low", "high")]
    assert [one.attrs["part"] for one in found] == ["low", "high"]
    assert depprobe.table(found, "markdown").splitlines()[0] == "|  | Pair (part=low) | Pair (part=high) |"


def test_a_layer_given_twice_is_not_ranked(told):
    assert "a layer is given twice: lstm, lstm" in told(
        "advise", "--n", "99", "--layer", "lstm", "--layer", "lstm"
    )


def test_an_unknown_command_of_models_is_named(told):
    assert "unknown command of models 'fetsh'; did you mean 'fetch'? Known: fetch" in told("models", "fetsh")


def test_names_in_another_case_are_suggested(module):
    with pytest.raises(BadInput, match="unknown layer 'LSTM'; did you mean 'lstm'"):
        depprobe.jacobian("LSTM", n=4, d=3)
    with pytest.raises(BadInput, match="unknown method 'Auto'; did you mean 'auto'"):
        depprobe.jacobian(module, X, method="Auto")
