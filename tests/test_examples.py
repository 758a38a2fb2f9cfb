"""Examples in docstrings give what stands below them."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import depprobe

ROOT = Path(depprobe.__file__).parent
FILES = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_examples_are_true(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(".".join(("depprobe", *file.with_suffix("").parts)))
    said: list[str] = []
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(example, out=said.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(said)
