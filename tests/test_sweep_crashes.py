"""Nothing is lost: after any harm the same command ends with the bytes of an undisturbed sweep.

``make crash`` does each harm fifty times; DEPPROBE_CRASHES says how many, and the seed of chance counts them.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from crashes import GRID, KINDS

from depprobe.store.sweeps.folder import PLAN

TIMES = int(os.environ.get("DEPPROBE_CRASHES", "0"))
#: without ``make crash``: these kinds, once each
QUICK = ("main_killed", "main_told_to_end", "two_at_once", "disk_full", "scheduler_killed")
CASES = [(kind, i) for kind in KINDS for i in range(TIMES)] or [(kind, 0) for kind in QUICK]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return _swept(tmp_path_factory.mktemp("undisturbed"))


def _swept(folder) -> dict[str, bytes]:
    """The files of a sweep that ends, run in this process."""
    from depprobe.cli import main

    (folder / "grid.toml").write_text(GRID)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(folder / "grid.toml"), "-o", str(folder / "out"), "--threads", "1", "-q"])
    assert stop.value.code == 0
    return {file.name: file.read_bytes() for file in (folder / "out").iterdir()}


@pytest.mark.parametrize(("kind", "number"), CASES)
def test_the_same_command_ends_in_the_same_bytes(kind, number, undisturbed, tmp_path):
    KINDS[kind](tmp_path, np.random.default_rng([number, *kind.encode()]))
    found = _swept(tmp_path)
    assert sorted(found) == sorted(undisturbed), "all cells and the plan, no temporary files"
    assert [name for name in found if name != PLAN and found[name] != undisturbed[name]] == []
