"""Studies: each runs in its quick version, gives its frozen numbers again and breaks no truth.

They run in the tests' process, which has torch loaded, and one of them as it is run by hand.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import runpy
import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

import depprobe
from depprobe import store
from depprobe.costs import interleaved_timing, timing
from depprobe.errors import BadInput
from depprobe.ledger.patterns import pattern_costs

STUDIES = Path(__file__).parent.parent / "studies"
SCRIPTS = sorted(STUDIES.glob("[0-9][0-9]_*.py"))
#: the one that runs in a process of its own
BY_HAND = STUDIES / "02_eigenvalues.py"


@pytest.fixture
def roughly_timed(monkeypatch):
    """Calls are timed for a millisecond: no number that is frozen or checked bears on a clock."""
    roughly = partial(interleaved_timing.interleaved_seconds, least=0.001)
    for module in (interleaved_timing, pattern_costs):
        monkeypatch.setattr(module, "interleaved_seconds", roughly)
    monkeypatch.setattr(timing, "_RUNS", 1)


@pytest.fixture
def run(capsys, monkeypatch, coarse, roughly_timed):
    """Run a script as ``python SCRIPT WORDS`` does, in this process: (exit code, stdout, stderr)."""

    def go(script: Path, *words: str) -> tuple[int, str, str]:
        monkeypatch.syspath_prepend(STUDIES)
        monkeypatch.syspath_prepend(script.parent)
        monkeypatch.setattr(sys, "argv", [str(script), *words])
        capsys.readouterr()
        threads, code = torch.get_num_threads(), 0
        _keep_modules_of(script.parent)
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        finally:
            torch.set_num_threads(threads)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield go
    _keep_modules_of(STUDIES)


def _keep_modules_of(folder: Path) -> None:
    """Forget what was imported by the same names from beside scripts in other folders."""
    for name in {path.stem for path in folder.glob("_*.py")} & set(sys.modules):
        if Path(sys.modules[name].__file__).parent != folder:
            del sys.modules[name]


def module_of(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    return module_of(STUDIES / "_study.py")


@pytest.fixture
def sources(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    return module_of(STUDIES / "_sources.py")


@pytest.mark.parametrize("script", sorted({*SCRIPTS} - {BY_HAND}), ids=lambda path: path.stem)
def test_quick_version_gives_the_frozen_numbers(script, tmp_path, run):
    code, out, err = run(script, "--quick", "--out", str(tmp_path))
    assert code == 0, err
    assert_written(script, tmp_path, out)


def assert_written(script: Path, folder: Path, out: str) -> dict[str, str]:
    """What a study says that it wrote is there, compared with frozen numbers; the marks of its sources."""
    assert (STUDIES / "frozen" / f"{script.stem}.json").exists()
    written = [folder / f"{script.stem}{suffix}" for suffix in (".nc", ".pdf", ".png")]
    assert out.split() == [str(path) for path in written]
    assert all(path.stat().st_size > 5000 for path in written)
    facts = json.loads(written[0].with_suffix(".json").read_text())
    assert facts["mode"] == "quick"
    assert f"studies/{script.name}" in facts["sources"]
    return facts["sources"]


def test_a_study_runs_by_hand_from_its_own_folder(tmp_path):
    command = [sys.executable, BY_HAND.name, "--quick", "--out", str(tmp_path)]
    path = {"PYTHONPATH": os.pathsep.join([str(STUDIES.parent), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | path, cwd=STUDIES)
    assert done.returncode == 0, done.stderr
    sources = assert_written(BY_HAND, tmp_path, done.stdout)
    assert "depprobe/ledger/gradients/eigenvalues.py" in sources
    assert "depprobe/ledger/gradients/lstm_highway.py" not in sources, "what it did not run"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_docstring_asks_and_answers(script):
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    title, _, rest = text.partition("\n")
    assert title.endswith("?")
    assert "Answer: " in rest


#: a study that says on stderr when it computes
TOY = '''"""Is one one?

Answer: yes.
"""
import sys
import xarray as xr
from _study import main
from matplotlib.figure import Figure
from depprobe.runs.labelling import provenance

def compute(quick):
    print("computing", file=sys.stderr)
    return xr.Dataset({"one": 1.0}, attrs={"provenance": provenance("toy")})

def plot(ds):
    figure = Figure(figsize=(6.9, 3.0))
    figure.text(0.5, 0.5, "one")
    return figure

def summary(ds):
    return {"one": float(ds["one"])}

def checks(ds):
    return [] if float(ds["one"]) == 1 else ["one is not one"]

if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=checks)
'''


@pytest.fixture
def toy(tmp_path):
    # what marks sources is that of all studies, which has marked them already
    (tmp_path / "_study.py").write_text((STUDIES / "_study.py").read_text())
    script = tmp_path / "01_toy.py"
    script.write_text(TOY)
    return script


def test_only_what_changed_is_computed_again(toy, run):
    assert "computing" in run(toy, "--quick")[2]
    data = toy.parent / "out" / "quick" / "01_toy.nc"
    first = store.load(data)
    assert "computing" not in run(toy, "--quick")[2]
    assert not (toy.parent / "out" / "01_toy.nc").exists()

    toy.write_text(
        TOY.replace("Is one one?", "Is it?").replace('"one")\n    return f', '"uno")\n    return f')
    )
    assert "computing" not in run(toy, "--quick")[2]
    toy.write_text(TOY.replace("1.0}", "2 - 1.0}"))
    assert "computing" in run(toy, "--quick")[2]
    xr.testing.assert_equal(store.load(data), first)

    data.write_bytes(data.read_bytes()[:-9])
    assert "computing" in run(toy, "--quick")[2]
    assert "computing" in run(toy, "--quick", "--fresh")[2]


def test_frozen_numbers_and_checks(toy, run):
    assert run(toy, "--quick", "--freeze")[0] == 0
    frozen = toy.parent / "frozen" / "01_toy.json"
    assert json.loads(frozen.read_text())["numbers"] == {"one": 1.0}
    assert run(toy, "--quick")[0] == 0
    toy.write_text(TOY.replace("1.0}", "1.1}"))
    code, _, said = run(toy, "--quick")
    assert code == 3
    assert "check failed: one is not one" in said
    assert "check failed: one is 1.1, not 1 within 1e-06" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plot"], "01_toy: cannot read"),
        (["--freeze"], "--freeze goes with --quick"),
        (["--quick", "--venue", "nature"], "invalid choice: 'nature'"),
    ],
)
def test_wrong_calls_are_one_clear_line(toy, run, words, said):
    code, _, err = run(toy, *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_marks_follow_what_a_source_does(sources):
    one = "def compute(quick):\n    return 1\n"
    assert sources.mark(one) == sources.mark('"""About."""\n# why\n' + one + "def plot(ds):\n    pass\n")
    assert sources.mark(one) != sources.mark(one.replace("1", "2"))


def test_differences_name_each_number(study):
    frozen = {"relative_tolerance": 0.01, "numbers": {"rate": 2.0, "none": float("nan"), "zero": 0.0}}
    assert study.differences(frozen, {"rate": 2.01, "none": float("nan"), "zero": 0.0}) == []
    assert study.differences(frozen, {"rate": 2.0, "none": float("nan"), "zero": 9e-6}) == []
    said = study.differences(frozen, {"rate": 2.1, "none": 1.0, "zero": 2e-5, "new": 1.0})
    assert [line.split()[0] for line in said] == ["new", "rate", "none", "zero"]


@pytest.mark.parametrize(("name", "page", "column"), [("icml", 6.75, 3.25), ("neurips", 5.5, 5.5)])
def test_figures_have_the_width_of_the_venue(name, page, column):
    from depprobe.figures.drawing.style import COLUMN, PAGE, styled
    from depprobe.figures.drawing.venues import venue

    with venue(name) as fitted:
        for drawn, printed in ((PAGE, page), (COLUMN, column)):
            figure = fitted(Figure(figsize=(drawn, 3.0)))
            assert figure.get_size_inches() == pytest.approx([printed, 3.0])
        with styled():
            import matplotlib

            assert matplotlib.rcParams["font.family"][0] == "STIXGeneral"
            assert matplotlib.rcParams["figure.figsize"][0] == pytest.approx(page)
            assert matplotlib.rcParams["axes.labelsize"] == 8
            assert matplotlib.rcParams["xtick.labelsize"] == 7
    with styled():
        import matplotlib

        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans"]


def test_an_unknown_venue_names_the_known():
    from depprobe.figures.drawing.venues import venue

    with pytest.raises(BadInput, match="unknown venue 'icmi'; did you mean 'icml'"), venue("icmi"):
        pass


def test_a_stored_dataset_is_read_back(toy, run):
    assert run(toy, "--quick", "--venue", "icml")[0] == 0
    ds = store.load(toy.parent / "out" / "quick" / "01_toy.nc")
    assert isinstance(ds, xr.Dataset)
    assert float(ds["one"]) == 1.0


def test_an_interrupted_study_takes_up_what_its_probes_had_finished(study, tmp_path):
    script, data, done = tmp_path / "01.py", tmp_path / "01.nc", []
    script.write_text("")

    def stop(at, total, label):
        done.append(at)
        if at > 1 and done.count(0) == 1:
            raise KeyboardInterrupt

    def compute(quick):
        ds = depprobe.lyapunov("rnn", n=12, d=3, seeds=3, finished=study.finished(), progress=stop)
        return ds[["exponent_case"]].assign_attrs(provenance=ds.attrs["provenance"])

    def dataset():
        return study._dataset(compute, script, data, Namespace(plot=False, quick=True, fresh=False))

    with pytest.raises(KeyboardInterrupt):
        dataset()
    assert len(list((tmp_path / "01.nc.partial").glob("*.npz"))) == 1
    found = dataset()
    assert (done.count(0), sorted(file.name for file in tmp_path.iterdir())) == (
        2,
        ["01.json", "01.nc", "01.py"],
    )
    assert study.finished() is None
    np.testing.assert_array_equal(
        found["exponent_case"], depprobe.lyapunov("rnn", n=12, d=3, seeds=3)["exponent_case"]
    )
