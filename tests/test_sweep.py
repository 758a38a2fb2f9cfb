"""``depprobe sweep``: cells are those of the grid, each is what its command gives, all open as one."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import xarray as xr
from json_documents import document_of

import depprobe
from depprobe import store
from depprobe.cli.commands.sweep.cells import measure, plan_of
from depprobe.cli.commands.sweep.grid import grid_of
from depprobe.cli.summaries import summary_of
from depprobe.errors import BadInput, DepprobeError
from depprobe.runs.sweeps.engine import InProcess, run_cells
from depprobe.runs.sweeps.executors import Engine, engine
from depprobe.store.atomic import this_process
from depprobe.store.sweeps import opening
from depprobe.store.sweeps.folder import Cell, SweepFolder

GRID = """
[grid]
layer = ["lstm", "rnn:gain=2"]
n = [8, 12]
seed = [0, 1]
[fixed]
d = 4
[[include]]
layer = "attention:heads=2"
n = 10
[[exclude]]
layer = "lstm"
n = 12
seed = 1
"""


@pytest.fixture
def swept(run, tmp_path):
    """Sweep a grid into out/: (exit code, stdout, stderr)."""

    def go(text: str, *more: str):
        (tmp_path / "grid.toml").write_text(text)
        return run("sweep", "grid.toml", "-o", "out", "-q", *more)

    return go


def cells_of(text: dict) -> list[dict]:
    return [dict(cell.subject) | cell.values for cell in grid_of(text).cells]


def test_cells_are_every_combination_more_and_less():
    lists = {"layer": ["lstm", "gru"], "n": [3, 4], "seed": [0, 1]}
    found = cells_of(
        {
            "grid": lists,
            "fixed": {"d": 5},
            "exclude": [{"layer": "gru", "n": [4]}, {"seed": 1, "n": 3}],
            "include": [{"layer": "conv", "n": [7, 9]}],
        }
    )
    every = [
        dict(zip(lists, values, strict=True)) | {"d": 5} for values in itertools.product(*lists.values())
    ]
    less = [c for c in every if (c["layer"], c["n"]) != ("gru", 4) and (c["seed"], c["n"]) != (1, 3)]
    assert found == [*less, {"layer": "conv", "n": 7, "d": 5}, {"layer": "conv", "n": 9, "d": 5}]


def test_every_cell_is_what_its_own_command_gives(swept, run, tmp_path):
    code, out, err = swept(GRID)
    assert (code, err) == (0, "")
    assert "8 cells: 8 measured" in out
    ds = depprobe.open_sweep(tmp_path / "out")
    assert dict(ds.missing_reason.sizes) == {"layer": 3, "n": 3, "seed": 2}
    for layer, n, seed in (("lstm", 8, 1), ("attention:heads=2", 10, 0)):
        run(
            "jacobian", "--layer", layer, "--n", str(n), "--d", "4", "--seed", str(seed), "-o", "own.nc", "-q"
        )
        own = store.load(tmp_path / "own.nc")
        cell = ds.sel(layer=layer, n=n, seed=seed, target=own.target, source=own.source)
        for name in ("log_norm", "log_norm_error", "log_norm_status"):
            np.testing.assert_array_equal(cell[name], own[name])
        assert str(cell.method.values) == own.method
        stored = [store.load(file) for file in (tmp_path / "out").glob("*.nc")]
        assert any(own.identical(one) for one in stored), "to the last attribute, the command included"


def test_missing_cells_are_nan_with_their_reason(swept, tmp_path):
    assert swept(GRID.replace("[fixed]", "[fixed]\ntargets = 9"))[0] == 1
    ds = depprobe.open_sweep(tmp_path / "out")
    short = ds.sel(layer="lstm", n=8, seed=0)
    assert re.search("target", str(short.missing_reason.values))
    assert bool(np.isnan(short.log_norm).all())
    assert bool((short.log_norm_status == 0).all())
    assert str(ds.missing_reason.sel(layer="lstm", n=12, seed=1).values) == "not asked for"
    with pytest.raises(BadInput, match=r"^a sweep over n \(3 values\): choose one, as in ds.sel\(n=12\)$"):
        ds.depprobe.distances()
    assert bool(np.isfinite(ds.log_norm.sel(layer="lstm", n=12, seed=0, target=9, source=slice(0, 9))).all())


def test_lazy_and_eager_agree(swept, tmp_path, monkeypatch):
    swept(GRID)
    lazy = depprobe.open_sweep(tmp_path / "out")
    assert lazy.log_norm.chunks is not None
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    eager = depprobe.open_sweep(tmp_path / "out")
    assert eager.log_norm.chunks is None
    assert eager.identical(lazy.compute())
    assert store.load(store.save(eager, tmp_path / "all.nc")).log_norm.equals(eager.log_norm)


def test_one_setting_of_a_sweep_is_saved_and_shown_as_it_is(swept, run, tmp_path):
    pytest.importorskip("dask")
    swept(GRID)
    whole = depprobe.open_sweep(tmp_path / "out")
    one = whole.isel({axis: 0 for axis in whole.missing_reason.dims if axis not in ("layer", "seed")})
    depprobe.save(one, tmp_path / "one.nc")
    again = depprobe.load(tmp_path / "one.nc")
    np.testing.assert_array_equal(again.log_norm, one.log_norm)
    np.testing.assert_array_equal(again.log_norm_status, one.log_norm_status)
    assert run("show", str(tmp_path / "one.nc"))[0] == 0


def test_banded_and_dense_cells_open_together(swept, tmp_path):
    swept('[grid]\nlayer = ["conv", "lstm"]\n[fixed]\ntargets = "every:4"\nn = 20\nd = 4\n')
    ds = depprobe.open_sweep(tmp_path / "out").compute()
    for layer in ("conv", "lstm"):
        own = depprobe.dense(depprobe.jacobian(layer, n=20, d=4, targets="every:4"))
        np.testing.assert_array_equal(ds.log_norm.sel(layer=layer), own.log_norm)
    assert depprobe.distances(ds).decay_rate.sizes == {"layer": 2}


@pytest.mark.parametrize(
    ("probe", "more", "variable"),
    [
        ("spectrum", "", "eigenvalue"),
        ("gates", "hold_h = true", "log_norm_cc"),
        ("lyapunov", "exponents = 2", "exponent"),
        ("cost", 'phase = "forward"\nthreads = 1\nseconds = 0.01', "flops"),
    ],
)
def test_every_probe(swept, tmp_path, probe, more, variable):
    widths = 3 if probe == "cost" else "3, 4"
    grid = f'probe = "{probe}"\n[grid]\nlayer = ["lstm"]\nd = [{widths}]\n[fixed]\n{more}\n'
    grid += "" if probe == "spectrum" else "n = 8\n"
    assert swept(grid)[0] == 0
    ds = depprobe.open_sweep(tmp_path / "out")
    assert {"layer", "d"} <= set(ds[variable].dims)
    assert not (ds.missing_reason != "").any()
    assert bool(np.isfinite(ds[variable].sel(layer="lstm", d=3)).any())
    if probe != "cost":
        with pytest.raises(BadInput, match=r"a sweep over d \(2 values\): choose one, as in ds.sel\(d=3\)$"):
            ds.depprobe.plot()
    mark = next(cell.mark for cell in SweepFolder(tmp_path / "out").plan().cells if cell.at["d"] == 3)
    own = store.load(tmp_path / "out" / f"{mark}.nc")
    one = ds if probe == "cost" else ds.sel(d=3)
    assert summary_of(one).columns == summary_of(own).columns, "as its own command gives it"
    assert probe == "cost" or summary_of(one).title == summary_of(own).title
    assert type(one.depprobe.plot()) is type(own.depprobe.plot())


MODEL = """
import torch
def make(seed):
    torch.manual_seed(seed)
    return torch.nn.GRU(3, {width}, batch_first=True)
"""


def test_models_and_weights_stand_beside_layers(swept, run, tmp_path):
    import torch

    (tmp_path / "net.py").write_text(MODEL.format(width=4))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(12, 3)))
    for name, seed in (("a", 5), ("b", 6)):
        torch.manual_seed(seed)
        torch.save(torch.nn.GRU(3, 4, batch_first=True).state_dict(), tmp_path / f"{name}.pt")
    grid = '[grid]\nlayer = ["gru"]\n'
    grid += 'model = ["net.py:make", {model = "net.py:make", weights = "a.pt", label = "A"}]\n'
    grid += '[fixed]\ninput = "x.npy"\nn = 12\n[[include]]\nmodel = "B=net.py:make"\nweights = "b.pt"\n'
    code, out, err = swept(grid)
    assert (code, err) == (0, "")
    ds = depprobe.open_sweep(tmp_path / "out")
    assert ds.layer.values.tolist() == ["gru", "make", "A", "B"]
    own = ("--model", "B=net.py:make", "--weights", "b.pt", "--input", "x.npy", "--n", "12")
    run("jacobian", *own, "-o", "own.nc", "-q")
    own = store.load(tmp_path / "own.nc")
    there = ds.log_norm.sel(layer="B").values
    np.testing.assert_array_equal(there[np.isfinite(there)], own.log_norm.values.ravel())
    # other code under the same name is another configuration
    (tmp_path / "net.py").write_text(MODEL.format(width=5))
    code, out, err = swept(grid)
    assert (code, "1 measured in" in out, "1 measured before" in out) == (1, True, True)
    assert err.count("does not fit GRU") == 2


def test_the_same_command_goes_on(swept, tmp_path):
    swept(GRID)
    files = {file: file.read_bytes() for file in (tmp_path / "out").glob("*.nc")}
    (cut, flipped, gone), rest = list(files)[:3], list(files)[3:]
    cut.write_bytes(files[cut][:-200])
    whole = bytearray(files[flipped])
    whole[len(whole) // 2] ^= 1
    flipped.write_bytes(whole)
    gone.unlink()
    before = {file: file.stat().st_mtime_ns for file in rest}
    ds = depprobe.open_sweep(tmp_path / "out")
    assert sorted(set(ds.missing_reason.values.ravel().tolist())) == [
        "",
        "its file is damaged, or that of another cell: the same command measures it again",
        "not asked for",
        "not measured yet",
    ]
    assert "3 measured" in swept(GRID)[1]
    assert {file: file.read_bytes() for file in (tmp_path / "out").glob("*.nc")} == files
    assert {file: file.stat().st_mtime_ns for file in rest} == before


def test_a_file_under_the_name_of_another_cell_is_not_read_as_that_cell(swept, run, tmp_path):
    grid = '[grid]\nlayer = ["gru"]\nseed = [0, 1, 2]\n[fixed]\nn = 5\nd = 2\n'
    swept(grid)
    whole = {file: file.read_bytes() for file in (tmp_path / "out").glob("*.nc")}
    one, two, three = whole
    one.write_bytes(whole[two])
    two.write_bytes(whole[one])
    assert store.load(one).identical(store.load(two)) is False, "each is a sound file"
    code, _, err = run("sweep", "verify", "out")
    assert (code, one.name in err, two.name in err, three.name in err) == (3, True, True, False)
    reasons = depprobe.open_sweep(tmp_path / "out").missing_reason.values.ravel().tolist()
    assert sorted(reason != "" for reason in reasons) == [False, True, True]
    assert "2 measured in" in swept(grid)[1]
    assert {file: file.read_bytes() for file in whole} == whole
    # what the cell's own command writes holds the same, and is not known to belong here
    run("jacobian", "--layer", "gru", "--n", "5", "--d", "2", "--seed", "1", "-o", "own.nc", "-q")
    one.write_bytes((tmp_path / "own.nc").read_bytes())
    assert "1 measured in" in swept(grid)[1]
    assert run("sweep", "verify", "out")[0] == 0


def test_cells_of_earlier_grids_are_verified_too(swept, run, tmp_path):
    grid = '[grid]\nlayer = ["gru"]\nn = {}\n[fixed]\nd = 2\n'
    swept(grid.format([5]))
    (file,) = (tmp_path / "out").glob("*.nc")
    swept(grid.format([6]))
    assert "checked  2 files in out: 0 damaged" in run("sweep", "verify", "out")[1]
    file.write_bytes(file.read_bytes() + b"more")
    code, out, err = run("sweep", "verify", "out")
    assert (code, "checked  2 files in out: 1 damaged" in out) == (3, True)
    assert f"{file.name}: damaged, or the file of another cell; the grid that asked for it" in err
    assert "0 measured" in swept(grid.format([6]))[1], "what nobody asks for is left as it is"
    swept(grid.format([5]))
    assert run("sweep", "verify", "out")[0] == 0


def test_status_verify_and_retry(swept, run, tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text("def make():\n    raise OSError('no \\x1b[31m weights')\n")
    np.save(tmp_path / "x.npy", np.zeros((6, 3)))
    code, out, err = swept(
        '[grid]\nlayer = ["gru"]\nmodel = ["net.py:make"]\n[fixed]\ninput = "x.npy"\nn = 6\n'
        '[[include]]\nlayer = "lstm"\nd = 4\n'
    )
    assert code == 1
    assert "weights" in err
    assert "\x1b" not in out + err
    code, out, err = run("sweep", "status", "out", "--json")
    found = document_of("sweep-status", out)
    assert (code, found["measured"], found["failed"]) == (0, 2, 1)
    assert run("sweep", "verify", "out")[0] == 0
    assert run("sweep", "retry", "out", "-q")[0] == 1
    (tmp_path / "net.py").write_text(MODEL.format(width=4))
    code, out, err = run("sweep", "retry", "out", "-q")
    assert (code, "1 measured" in out) == (0, True), err
    file = next((tmp_path / "out").glob("*.nc"))
    file.write_bytes(b"\x89HDF\r\n\x1a\n")
    code, out, err = run("sweep", "verify", "out")
    assert (code, str(file.name) in err) == (3, True)
    before = (tmp_path / "out" / "sweep.json").read_bytes()
    monkeypatch.chdir(tmp_path / "out")
    code, out, err = run("sweep", "retry", ".")
    assert (code, "'x.npy', which is not there as seen from" in err) == (2, True), "where marks would differ"
    assert (tmp_path / "out" / "sweep.json").read_bytes() == before


ENDS = """
def error(): raise MemoryError("no more")
def leaves(): raise SystemExit(3)
def deep(): return deep()
def large(): return __import__("torch").ones(1 << 28)
"""


def test_cells_that_raise_or_exceed_memory_are_kept_and_the_rest_goes_on(swept, tmp_path, monkeypatch):
    monkeypatch.setattr("depprobe.runs.sweeps.within_memory.available", lambda: float(1 << 28))
    (tmp_path / "net.py").write_text(ENDS)
    np.save(tmp_path / "x.npy", np.zeros((6, 3)))
    models = [f"net.py:{name}" for name in ("error", "leaves", "deep", "large")]
    grid = f'[grid]\nmodel = {models}\n[fixed]\ninput = "x.npy"\nn = 6\n'
    grid += '[[include]]\nlayer = ["lstm", "gru"]\nd = 2048\nmemory = "20MiB"\n'
    grid += '[[include]]\nlayer = "rnn"\nd = 4\n'
    code, _, err = swept(grid)
    assert (code, err.count("\n")) == (1, 6)
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY, "the limit goes as it came"
    said = depprobe.open_sweep(tmp_path / "out").missing_reason.to_series().to_dict()
    assert said["rnn"] == ""
    words = {
        "error": "no more",
        "large": "more memory than this machine has left",
        "leaves": "3",
        "deep": "recursion",
        "lstm": "budget is 20 MiB",
        "gru": "20 MiB",
    }
    assert {name: said[name] for name, word in words.items() if word not in said[name]} == {}


KILLED = """
import os, sys
from pathlib import Path
from depprobe.runs.sweeps.engine import InProcess, run_cells
from depprobe.store.sweeps.folder import Cell, Plan, SweepFolder
from depprobe.store.trailer import sealed

def task(settings, path):
    print(settings["i"], flush=True)
    if settings["i"] == 0:
        os.kill(os.getpid(), 9)
    Path(path).write_bytes(sealed(b"", Path(path).stem))

folder = SweepFolder(Path("out"))
cells = [Cell(f"{i:024x}", {"i": i}, {"i": i}, 3.0 - i) for i in range(3)]
folder.claim()
folder.write(Plan("jacobian", ["i"], cells))
print(run_cells(cells, folder, task, InProcess()).failed)
"""


def test_a_cell_at_which_processes_are_killed_waits_for_the_others_and_is_then_kept_as_failed(run, tmp_path):
    def go():
        done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout.split("\n")[:-1]

    assert go() == (-9, ["0"])
    assert "not measured yet; processes killed at it: 1" in run("sweep", "status", "out")[1]
    assert go() == (-9, ["1", "2", "0"])
    code, (said,) = go()
    assert code == 0
    assert "2 processes that measured it were killed" in said
    assert "1 failed, 2 measured" in run("sweep", "status", "out")[1]
    assert [file.name for file in (tmp_path / "out").glob("*.begun")] == []


def test_a_process_leaves_the_cells_of_another_for_later(tmp_path):
    cells = [Cell(f"{i:024x}", {"i": i}, {"i": i}, 3.0 - i) for i in range(3)]
    folder, order = SweepFolder(tmp_path / "out"), []
    folder.claim()
    # the first is at another process, which lives
    (folder.folder / f"{cells[0].mark}.begun").write_text(f"{this_process()[:4]}{os.getppid():06x}\n")
    run_cells(cells, folder, lambda settings, path: order.append(settings["i"]), InProcess())
    assert order == [1, 2, 0]


class _Gone(Executor):
    """An executor whose workers are ended again and again, or that is lost."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.set_exception(self.error)
        return future


def test_a_cell_that_ends_workers_is_kept_and_a_lost_cluster_ends_the_sweep(tmp_path):
    from distributed import KilledWorker

    plan = plan_of(grid_of({"grid": {"layer": ["gru"], "seed": [0, 1]}, "fixed": {"n": 4, "d": 2}}))
    folder = SweepFolder(tmp_path / "out")
    folder.claim()
    folder.write(plan)
    tally = run_cells(plan.cells, folder, measure, _Gone(KilledWorker("a cell", None, 4)))
    assert set(tally.failed.values()) == {
        "the processes that measured it were ended, as systems do when memory runs out"
    }
    for cell in plan.cells:
        folder.forget(cell)
    with pytest.raises(DepprobeError, match="what is measured stays, and the same command goes on"):
        run_cells(plan.cells, folder, measure, _Gone(BrokenExecutor("gone")))
    assert {folder.state(cell) for cell in plan.cells} == {"missing"}


class _Silent(Executor):
    """An executor from which nothing ever comes back."""

    def submit(self, fn, /, *args, **kwargs):
        return Future()


def test_where_no_worker_is_left_the_sweep_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("depprobe.runs.sweeps.engine._PATIENCE", 0.01)
    plan = plan_of(grid_of({"grid": {"layer": ["gru"]}, "fixed": {"n": 4, "d": 2}}))
    folder = SweepFolder(tmp_path / "out")
    folder.claim()
    asked = iter([False, True])
    with pytest.raises(DepprobeError, match="the workers are gone; what is measured stays"):
        run_cells(plan.cells, folder, measure, _Silent(), lost=lambda: next(asked))


class _LostAfterTwo(InProcess):
    """Two cells come back, then nothing."""

    def __init__(self) -> None:
        self.left = 2

    def submit(self, fn, /, *args, **kwargs):
        self.left -= 1
        return super().submit(fn, *args, **kwargs) if self.left >= 0 else Future()


def test_a_cluster_that_is_gone_for_good_is_replaced_and_what_is_measured_stays(swept, tmp_path, monkeypatch):
    monkeypatch.setattr("depprobe.runs.sweeps.engine._PATIENCE", 0.01)
    opened = []

    @contextlib.contextmanager
    def engine(*_):
        opened.append(_LostAfterTwo())
        yield Engine(opened[-1], 1, 1, lambda: True)

    monkeypatch.setattr("depprobe.runs.sweeps.executors.engine", engine)
    text = '[grid]\nlayer = ["gru"]\nseed = [0, 1, 2, 3, 4]\n[fixed]\nn = 5\nd = 2\n'
    code, out, err = swept(text, "--workers", "1")
    assert (code, err) == (0, "")
    assert "5 cells: 5 measured in" in out
    assert "before" not in out
    assert len(opened) == 3
    code, out, err = swept(text.replace("3, 4", "3, 4, 5, 6, 7, 8, 9, 10, 11, 12"), "--workers", "1")
    assert code != 0
    assert "the workers are gone; what is measured stays" in err
    assert len(opened) == 6


def test_where_nothing_can_be_written_is_one_line(swept, run, tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    for place in ("/proc/here", "grid.toml", "grid.toml/in"):
        code, out, err = run("sweep", "grid.toml", "-o", place)
        assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '[grid]\nlayer = ["lstm"]\n[fixed]\ntarget = 3',
            "unknown key of jacobian in .fixed. 'target'; did you mean 'targets'",
        ),
        ('[grid]\nlayer = ["lsmt"]', "unknown layer 'lsmt'; did you mean 'lstm'"),
        ('prob = "gates"', "unknown table of a grid 'prob'; did you mean 'probe'"),
        ('probe = "gate"', "unknown probe 'gate'; did you mean 'gates'"),
        ('[grid]\nlayer = ["lstm"]\nn = ["ten"]', "n = 'ten'"),
        ('[grid]\nlayer = "lstm"', "layer must be a list"),
        ("[grid]\nn = [10]", "a cell without a layer"),
        ("", "no cell"),
        ('[grid]\nlayer = ["lstm"]\n[[exclude]]\nn = 3', "matches no cell"),
        ('[grid]\nlayer = ["lstm"]\n[[exclude]]\nlayer = {"" = []}', "matches no cell"),
        ('[grid]\nlayer = ["lstm"]\nn = [3]\n[fixed]\nn = 3', "stands in .grid. and in .fixed."),
        ('[grid]\nlayer = ["lstm"]\n[fixed]\noutput = "../x.nc"', "output is no key of a grid"),
        ('[grid]\nlayer = ["lstm"]\n[fixed]\nquiet = true', "unknown key of jacobian"),
        ('[grid]\nlayer = ["lstm", {layer = "gru", label = "lstm"}]', "two layers would be called 'lstm'"),
        (
            '[grid]\nlayer = ["lstm"]\nseed = [0]\n[fixed]\nseeds = 2',
            "seed is an axis .* several of it .seeds = 2.",
        ),
        ('probe = "cost"\n[grid]\nlayer = ["lstm"]\nn = ["8,16"]', "n is an axis .* .n = 8,16.: give one"),
        (
            '[grid]\nmodel = [{model = "net.py:make", label = "../x"}]',
            "a label holds no : / .* which '../x' does",
        ),
        ("[grid", "is not TOML"),
        ("x = " + "[" * 5000, "is not TOML"),
    ],
)
def test_wrong_grids_end_in_one_line(swept, tmp_path, text, fault):
    code, out, err = swept(text)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(fault, err)
    assert not (tmp_path / "out").exists()


def test_without_a_grid_file_it_says_what_to_give(run):
    code, out, err = run("sweep")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "give a grid file, as in depprobe sweep grid.toml" in err


def test_a_folder_of_other_files_is_refused(swept, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, _, err = swept(GRID)
    assert (code, "holds other files, such as 'mine.txt'" in err) == (2, True)


def test_dry_run_measures_nothing(swept, tmp_path):
    code, out, _ = swept(GRID, "--dry-run")
    assert code == 0
    assert re.search(r"^ lstm +8 +4 +2 +0 +[\d.e-]+ +[\d.]+ KiB$", out, re.M)
    assert re.search(r"^ lstm +12 +4 +1 +0 ", out, re.M)
    assert "8 cells of depprobe jacobian (layer 3, n 3, seed 2) into out" in out
    assert not (tmp_path / "out").exists()
    # more sizes than have a row each: one a layer, from the smallest to the largest
    fixed = "[fixed]\nd = 4\n"
    out = swept(f'[grid]\nlayer = ["rnn", "conv"]\nn = {[*range(10, 31)]}\n{fixed}', "--dry-run")[1]
    for layer in ("rnn", "conv"):
        few = [swept(f'[grid]\nlayer = ["{layer}"]\nn = [{n}]\n{fixed}', "--dry-run")[1] for n in (10, 30)]
        memory = [re.search(r"([\d.]+ KiB)$", one, re.M)[1] for one in few]
        assert re.search(rf"^ {layer} +10 to 30 +4 +21 +0 .* {memory[0]} to {memory[1]}$", out, re.M)
    spectra = 'probe = "spectrum"\n[grid]\nlayer = ["rnn"]\nd = [4]\n[[include]]\nlayer = "rnn"\nsteps = 1\n'
    out = swept(spectra, "--dry-run")[1]
    assert not re.search("sentinel|unset|none", out, re.I)


def test_a_file_that_no_cell_can_do_without_is_told_once_before_anything_is_written(swept, run, tmp_path):
    layers = '[grid]\nlayer = ["gru", "rnn", "lstm"]\n[fixed]\nn = 4\ninput = "x.npy"\n'
    models = '[grid]\nmodel = [{model = "net.py:make", label = "A"}, {model = "hf:folder", label = "B"}]\n'
    for more in ([], ["--dry-run"]):
        code, out, err = swept(layers, *more)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "all 3 cells need 'x.npy', which does not exist" in err
        code, out, err = swept(models, *more)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "all 2 cells need files that do not exist: 'folder' (1), 'net.py' (1)" in err
        assert not (tmp_path / "out").exists()
    np.save(tmp_path / "x.npy", np.zeros((6, 3)))
    assert swept(layers)[0] == 0
    (tmp_path / "x.npy").unlink()
    assert swept(layers)[0] == 2
    assert run("sweep", "verify", "out")[0] == 0


def test_a_file_that_some_cells_need_is_told_before_the_others_run(swept, run, tmp_path):
    (tmp_path / "net.py").write_text(MODEL.format(width=4))
    grid = (
        '[grid]\nlayer = ["gru", "rnn"]\nmodel = [{model = "net.py:make", weights = "a.pt", label = "A"}]\n'
        "seed = [0, 1]\n[fixed]\nn = 4\nd = 3\n"
    )
    told = "2 of 6 cells need 'a.pt', which does not exist; the others are measured"
    code, out, _ = swept(grid, "--dry-run")
    assert (code, out.count(told)) == (0, 1)
    code, out, err = swept(grid)
    assert (code, err.splitlines()[0], err.count(told)) == (1, f"depprobe: {told}", 1)
    assert ("4 measured in" in out, "failed   2;" in out) == (True, True)
    assert run("sweep", "retry", "out", "-q")[2].startswith(f"depprobe: {told}\n")


def test_an_input_that_cannot_be_read_is_told_once_before_anything_is_written(swept, tmp_path):
    (tmp_path / "t.csv").write_text("price,sold\n1,2\n2,4\n3,1\n4,4\n5,0\n")
    fault = "unknown column in t.csv 'sould'; did you mean 'sold'? Known: price, sold"
    grid = (
        '[grid]\nlayer = ["gru", "rnn", "lstm"]\n[fixed]\nn = 4\ninput = "t.csv"\ncolumns = "price,sould"\n'
    )
    for more in ([], ["--dry-run"]):
        code, out, err = swept(grid, *more)
        assert (code, out) == (2, "")
        assert err == f"depprobe: all 3 cells fail: {fault}; nothing was measured\n"
    assert not (tmp_path / "out").exists()
    some = grid.replace('columns = "price,sould"', "").replace(
        "[fixed]", 'columns = ["price", "sould"]\n[fixed]'
    )
    code, out, err = swept(some)
    assert (code, err.splitlines()[0]) == (
        1,
        f"depprobe: 3 of 6 cells fail: {fault}; the others are measured",
    )
    assert "3 measured in" in out


def test_any_executor_gives_the_same_bytes_largest_first(swept, tmp_path):
    swept(GRID)
    folder = SweepFolder(tmp_path / "pool")
    plan = plan_of(grid_of(__import__("tomllib").loads(GRID)))
    folder.claim()
    folder.write(plan)
    started = []
    task = partial(measure, "jacobian", 1, str(tmp_path))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        plain = pool.submit
        pool.submit = lambda task, settings, path: started.append(settings) or plain(task, settings, path)
        tally = run_cells(plan.cells, folder, task, pool, at_once=4)
    assert (len(tally.measured), tally.failed) == (8, {})
    work = {json.dumps(cell.settings): cell.work for cell in plan.cells}
    order = [work[json.dumps(settings)] for settings in started]
    assert order == sorted(order, reverse=True)
    for file in (tmp_path / "out").glob("*.nc"):
        assert (tmp_path / "pool" / file.name).read_bytes() == file.read_bytes()


def test_opening_what_is_no_sweep(tmp_path):
    with pytest.raises(BadInput, match=r"is not the folder of a sweep: it holds no sweep\.json"):
        depprobe.open_sweep(tmp_path)
    for text in (
        "{}",
        "[1]",
        "[" * 9999,
        '{"probe":"x","axes":["n"],"cells":[{"mark":"../a","settings":{},"at":{"n":1},"work":1}]}',
    ):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(BadInput, match="is not as depprobe writes it"):
            depprobe.open_sweep(tmp_path)


def test_a_dataset_of_a_sweep_is_labelled(swept, tmp_path):
    swept(GRID)
    ds = depprobe.open_sweep(tmp_path / "out")
    assert isinstance(ds, xr.Dataset)
    assert all(
        variable.attrs.get("long_name") and variable.attrs.get("units") for variable in ds.variables.values()
    )


def test_a_model_is_left_out_by_its_label_and_what_one_cell_says_more_is_no_axis():
    models = [{"model": "a.py:make", "label": "one"}, {"model": "a.py:make", "label": "other"}]
    grid = {"grid": {"model": models, "seed": [0, 1]}, "fixed": {"n": 9}}
    found = grid_of(grid | {"exclude": [{"model": "other", "seed": 1}]})
    names = [(found.keys.at(cell, "layer"), found.keys.at(cell, "seed")) for cell in found.cells]
    assert names == [("one", 0), ("one", 1), ("other", 0)]
    more = {"layer": "gru", "d": 6}
    assert grid_of(grid | {"include": [more]}).axes == ["layer", "seed"]
    assert grid_of(grid | {"include": [more | {"d": [6, 8]}]}).axes == ["layer", "seed", "d"]
    with pytest.raises(BadInput, match=r"number 1 matches no cell of \[grid\]: \{'model': 'none'\}"):
        grid_of(grid | {"exclude": [{"model": "none"}]})


@pytest.mark.skipif("DEPPROBE_SLOW" not in os.environ, reason="starts and kills workers; DEPPROBE_SLOW=1")
def test_a_worker_that_comes_back_late_is_not_given_up():
    dask = pytest.importorskip("dask")
    late = {"distributed.deploy.lost-worker-timeout": "1ms"}
    with dask.config.set(late), engine(1, None, 1, timed=False) as found:
        before = found.executor.submit(os.getpid).result(60)
        os.kill(before, signal.SIGKILL)
        assert found.executor.submit(os.getpid).result(40) != before


def test_a_width_beside_models_is_that_of_the_layers_alone():
    models = {"model": ["a.py:make"], "n": [9]}
    found = grid_of({"grid": models | {"layer": ["gru"]}, "fixed": {"d": 6}})
    assert {found.keys.named(cell).name: cell.values for cell in found.cells} == {
        "gru": {"n": 9, "d": 6},
        "make": {"n": 9},
    }
    told = "d = 6 has no meaning for the model 'make', as it is for layers: "
    for grid, way in (
        ({"grid": models, "fixed": {"d": 6}}, "leave it out"),
        ({"grid": models | {"layer": ["gru"], "d": [6, 8]}}, r"say it in \[fixed\], or in an \[\[include"),
    ):
        with pytest.raises(BadInput, match=told + way):
            grid_of(grid)


def test_a_layout_beside_layers_is_that_of_the_models():
    grid = {"model": ["a.py:make"], "layer": ["gru"], "n": [9]}
    found = grid_of({"grid": grid, "fixed": {"layout": "b n d"}})
    assert [("layout" in cell.values, found.keys.named(cell).is_model) for cell in found.cells] == [
        (True, True),
        (False, False),
    ]
    told = "layout = b n d has no meaning for the layer 'gru', as it is for models: leave it out"
    with pytest.raises(BadInput, match=told):
        grid_of({"grid": {"layer": ["gru"], "layout": ["b n d", "n d"]}})


def test_cells_that_fail_for_one_reason_are_told_in_one_line(swept, tmp_path):
    (tmp_path / "net.py").write_text(MODEL.format(width=4))
    grid = '[grid]\nlayer = ["gru"]\nmodel = ["net.py:mak"]\nseed = [0, 1, 2, 3]\n[fixed]\nn = 4\nd = 3\n'
    code, out, err = swept(grid)
    assert (code, err.count("\n")) == (1, 1), err
    assert "4 cells (layer=mak, seed=0; layer=mak, seed=1; layer=mak, seed=2; ...): unknown name in" in err
    assert "4 measured" in out
