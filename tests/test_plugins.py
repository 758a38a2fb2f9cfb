"""Other packages add layers, operators and commands: a small one, installed into a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import depprobe

PLUGIN = Path(__file__).parent / "plugin"
ROOT = Path(depprobe.__file__).parents[1]


def installed(folder: Path, name: str, version: str, entry_points: dict[str, dict[str, str]]) -> None:
    """What an installer writes beside the code of a package."""
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    sections = (
        "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())])
        for group, entries in entry_points.items()
    )
    (about / "entry_points.txt").write_text("\n\n".join(sections) + "\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN / "depprobe_example", folder / "depprobe_example")
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    installed(folder, project["name"], project["version"], project["entry-points"])
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A package that cannot be imported, and one that ends the process."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "depprobe_broken.py").write_text("import a_package_that_is_not_there\n")
    (folder / "depprobe_leaving.py").write_text("raise SystemExit(3)\n")
    (folder / "depprobe_other.py").write_text("thing = 3\n")
    groups = {f"depprobe.{kind}": {"shattered": "depprobe_broken"} for kind in ("layers", "commands")}
    groups["depprobe.operators"] = {"torch.nn.modules.linear.Identity": "depprobe_broken"}
    groups["depprobe.commands"] |= {"leaving": "depprobe_leaving", "number": "depprobe_other:thing"}
    groups["depprobe.commands"] |= {"jacobian": "depprobe_broken"}
    installed(folder, "depprobe-broken", "0.3", groups)
    return folder


def run(*words: str, paths: tuple[Path, ...], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT])),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, cwd=cwd, check=False
    )


LIBRARY = """
import sys, warnings
import numpy as np, torch, depprobe
from torch import nn

known = depprobe.jacobian("rnn", n=5, d=2)
assert not [name for name in sys.modules if name.startswith("depprobe_")]
fast = depprobe.jacobian("moving-average:decay=0.5", n=30, d=4)
slow = depprobe.jacobian("moving-average:decay=0.5", n=30, d=4, method="autograd")
assert (fast.method, slow.method) == ("geometric", "autograd"), (fast.method, slow.method)
np.testing.assert_allclose(fast.log_norm, slow.log_norm, atol=1e-10)
np.testing.assert_allclose(fast.log_norm[0, ::-1], np.log(2 * 0.5 * 0.5 ** np.arange(30)), atol=1e-10)
from depprobe_example.layers import MovingAverage
around = nn.Sequential(nn.Linear(4, 4, bias=False), MovingAverage(0.5)).double()
nn.init.eye_(around[0].weight)
inside = depprobe.jacobian(around, torch.randn(30, 4).double(), layout="n d")
np.testing.assert_allclose(inside.log_norm, fast.log_norm, atol=1e-10)
assert "depprobe_broken" not in sys.modules
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    assert depprobe.jacobian(nn.Identity(), torch.zeros(5, 2)).log_norm.shape == (1, 5)
    assert len(depprobe.layers) == len(set(depprobe.layers)) > 5
assert [str(one.message).split(" of the")[0] for one in said] == [
    "depprobe.operators 'torch.nn.modules.linear.Identity'", "depprobe.layers 'shattered'"
], said
"""

COMMANDS = """
import contextlib, io, json, sys
from depprobe.cli import main

found = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as left:
            found.append([left.code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def called(*calls: list[str], paths: tuple[Path, ...], cwd: Path) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of commands, one after another in one process."""
    done = run("-c", COMMANDS, json.dumps(calls), paths=paths, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return [tuple(one) for one in json.loads(done.stdout)]


def test_a_layer_with_its_operator_is_measured_like_any_other(site, broken):
    done = run("-W", "error", "-c", LIBRARY, paths=(site, broken))
    assert done.stderr == ""
    assert done.returncode == 0


def test_the_command_line_knows_all_three(site, broken, tmp_path):
    measure = ["jacobian", "--layer", "moving-average", "--n", "30", "--d", "4"]
    measured, sizes, listed, lstm, lost = called(
        [*measure, "-o", "a.nc", "--figure", "a.svg"],
        ["widths", "a.nc"],
        ["layers", "moving-average"],
        ["layers", "lstm"],
        ["layers", "shattered"],
        paths=(site, broken),
        cwd=tmp_path,
    )
    assert "geometric" in measured[1]
    assert [measured[0], measured[2]] == [0, ""]
    assert sizes == (0, "a.nc: {'target': 1, 'source': 30}\n", "")
    assert "Roberts 1959; operator: geometric" in listed[1]
    assert [lstm[0], lstm[2]] == [0, ""]
    fault = (
        "depprobe: depprobe.layers 'shattered' of the package depprobe-broken 0.3 cannot be loaded from "
        "depprobe_broken: ModuleNotFoundError: No module named 'a_package_that_is_not_there'\n"
    )
    assert lost[0] == 2
    assert lost[2].startswith(fault + "depprobe: unknown layer 'shattered'")


def test_help_names_packages_and_imports_none(site, broken):
    shown = "import sys; from depprobe.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    shown += "assert not [m for m in sys.modules if m.startswith('depprobe_') or m in ('torch', 'numpy')]"
    done = run("-c", shown, paths=(site, broken))
    assert (done.returncode, done.stderr) == (0, "")
    assert "widths     From the package depprobe-example 1.2." in done.stdout
    assert "shattered  From the package depprobe-broken 0.3." in done.stdout
    # those of depprobe cannot be replaced
    assert done.stdout.count("jacobian  ") == 1
    shown += "\nassert 'importlib.metadata' not in sys.modules"
    done = run("-c", shown, paths=())
    assert (done.returncode, done.stderr) == (0, "")
    assert "Commands of other packages" not in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["shattered"],
            "depprobe.commands 'shattered' of the package depprobe-broken 0.3 cannot be loaded from",
        ),
        (["leaving"], "cannot be loaded from depprobe_leaving: SystemExit: 3"),
        (["number"], "'number' of the package depprobe-broken 0.3 is no click.Command but int"),
    ],
)
def test_a_command_that_cannot_be_loaded_is_one_line(broken, words, said):
    done = run("-m", "depprobe", *words, paths=(broken,))
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
