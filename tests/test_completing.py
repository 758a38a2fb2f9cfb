"""What a shell gets when it asks for completions, and that its own script asks rightly."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from depprobe.cli import main

#: words before the one begun, that one, and some of what completes it
CASES = [
    ("depprobe", "jac", ["plain,jacobian"]),
    ("depprobe", "s", ["plain,spectrum", "plain,sweep", "plain,show"]),
    ("depprobe jacobian", "--nor", ["plain,--norm", "plain,--normalise"]),
    ("depprobe jacobian --norm", "", ["plain,fro", "plain,spectral", "plain,fisher"]),
    ("depprobe jacobian --layer", "ls", ["plain,lstm"]),
    ("depprobe jacobian --layer", "mine=ls", ["plain,mine=lstm"]),
    ("depprobe jacobian --layer rnn --model", "trained:g2", ["plain,trained:g2p"]),
    ("depprobe jacobian --model", "ne", ["file,ne"]),
    ("depprobe jacobian --input", "da", ["file,da"]),
    ("depprobe cost --layer", "gr", ["plain,gru"]),
    ("depprobe layers", "gr", ["plain,gru"]),
    ("depprobe claims", "c1", ["plain,C1", "plain,C10"]),
    ("depprobe models fetch", "g", ["plain,g2p"]),
    ("depprobe report runs", "--no-", ["plain,--no-interactive"]),
    ("depprobe show", "runs/a", ["file,runs/a"]),
    ("depprobe sweep", "st", ["file,st", "plain,status"]),
    ("depprobe sweep", "--dry", ["plain,--dry-run"]),
    ("depprobe sweep grid.toml", "--wor", ["plain,--workers"]),
]


@pytest.mark.parametrize(("before", "begun", "expected"), CASES, ids=[f"{a} {b}" for a, b, _ in CASES])
def test_words_are_completed(before, begun, expected, monkeypatch, capfd):
    monkeypatch.setenv("_DEPPROBE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"{before} {begun}")
    monkeypatch.setenv("COMP_CWORD", str(len(before.split())))
    with pytest.raises(SystemExit):
        main([])
    out, err = capfd.readouterr()
    assert set(expected) <= set(out.splitlines())
    assert all(line.partition(",")[2].startswith((begun, begun.upper())) for line in out.splitlines())
    assert err == ""


def test_nothing_is_said_where_nothing_can_be_completed(monkeypatch, capfd):
    monkeypatch.setenv("_DEPPROBE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "depprobe nonsense --x")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        main([])
    assert capfd.readouterr() == ("", "")


def script_of(shell: str, monkeypatch, capfd) -> str:
    monkeypatch.setenv("_DEPPROBE_COMPLETE", f"{shell}_source")
    with pytest.raises(SystemExit) as left:
        main([])
    out, err = capfd.readouterr()
    assert (left.value.code, err) == (0, "")
    assert "_DEPPROBE_COMPLETE" in out
    return out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_those_of_the_shells(shell, monkeypatch, capfd):
    script = script_of(shell, monkeypatch, capfd)
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_with_the_script(monkeypatch, capfd, tmp_path):
    script = script_of("bash", monkeypatch, capfd)
    monkeypatch.delenv("_DEPPROBE_COMPLETE")
    command = tmp_path / "depprobe"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m depprobe "$@"\n')
    command.chmod(0o755)
    ask = f"{script}\nCOMP_WORDS=(depprobe lya); COMP_CWORD=1\n_depprobe_completion {command}\n"
    ask += 'echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("lyapunov", "")
