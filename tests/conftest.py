"""Shared by all tests: one tolerance, scaled to the dtype; the command run in this process."""

from __future__ import annotations

import gc

import pytest
import torch


def tolerance(dtype: torch.dtype = torch.float64) -> float:
    """Relative tolerance of two routes to one number: 1e-10 in float64, in proportion elsewhere."""
    return 1e-10 * torch.finfo(dtype).eps / torch.finfo(torch.float64).eps


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _what_is_loaded_is_no_garbage():
    """Costs collect garbage before they measure, which goes through all modules of the run each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command in this process and a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str) -> tuple[int, str, str]:
        from depprobe.cli import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return go
