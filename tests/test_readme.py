"""What the README and CONTRIBUTING show is what runs."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest
from pages import blocks, commands, run
from safetensors.torch import save_file
from test_docs import PAGES
from torch import nn


def test_python_blocks_of_the_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("README.md")


def test_every_command_of_the_readme_is_understood(tmp_path, monkeypatch, capsys, sketched):
    """Each ``depprobe`` line is parsed by the program itself, at a small size."""
    from depprobe.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("abcdefgh" * 200)
    (tmp_path / "mine.py").write_text("from torch import nn\n\ndef make(seed):\n    return nn.GRU(3, 4)\n")
    np.savetxt(tmp_path / "data.csv", np.random.default_rng(0).normal(size=(90, 3)), delimiter=",")
    save_file(nn.GRU(3, 4).state_dict(), tmp_path / "net.safetensors")
    measuring = re.compile(r"depprobe (jacobian|spectrum|lyapunov|gates) ")
    given = [command for block in blocks("README.md", "console") for command in commands(block)]
    given = [command for command in given if measuring.match(command)]
    assert {command.split()[1] for command in given} == {"jacobian", "spectrum", "lyapunov", "gates"}
    for command in given:
        words = re.sub(r"--[nd] \d+", "", command).split()[1:]
        words = [re.sub(r"window=\d+", "window=4", word) for word in words]
        # weights are taken apart without an input, which has no length; a model has a width of its own
        words += ["--n", "70"] if words[0] != "spectrum" else []
        words += ["--d", "16"] if "--layer" in words else []
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0, (command, capsys.readouterr().err)


@pytest.mark.parametrize("page", [page for page in ["README.md", *PAGES] if blocks(page, "console")])
def test_every_command_on_a_page_is_one(page, tmp_path, monkeypatch):
    """Options and their types are those of the program; nothing is measured."""
    from depprobe.cli import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cost.nc").touch()
    given = [command for block in blocks(page, "console") for command in commands(block)]
    context = cli.make_context("depprobe", [], resilient_parsing=True)
    for words in map(shlex.split, given):
        if words[0] != "depprobe":
            continue
        files = ["runs/cost.nc" if word == "runs/*.nc" else word for word in words[2:]]
        cli.get_command(context, words[1]).make_context(words[1], files)


def test_the_layer_of_the_contributing_page_works():
    import depprobe
    from depprobe.registry import Table

    table = Table("layer", "depprobe.layers")
    code = "\n".join(blocks("CONTRIBUTING.md", "python"))
    code = code.replace("from depprobe.registry import layers\n", "")
    space: dict[str, object] = {"layers": table}
    exec(compile(code, "CONTRIBUTING.md", "exec"), space)
    module = table["moving-average"].build(3, decay=0.5)
    ds = depprobe.jacobian(module, np.random.default_rng(0).normal(size=(30, 3)))
    lag = 29 - np.arange(30)
    expected = np.log(0.5) * (lag + 1) + 0.5 * np.log(3)
    np.testing.assert_allclose(ds["log_norm"].values[0], expected, atol=1e-10)
