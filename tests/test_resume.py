"""An interrupted run goes on: finished cases are taken up, damaged or different ones measured again."""

from __future__ import annotations

import pytest

import depprobe
from depprobe.operators import RecurrentJacobian
from depprobe.runs.cache import Finished


@pytest.fixture
def counted(monkeypatch):
    calls = []
    plain = RecurrentJacobian.log_norms

    def spy(self, *arguments):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    monkeypatch.setattr(RecurrentJacobian, "log_norms", spy)
    return calls


def test_finished_cases_are_taken_up_and_the_data_are_the_same(tmp_path, counted):
    kept = Finished(tmp_path / "partial")
    options = {"n": 12, "d": 4, "seeds": 5}
    with pytest.raises(KeyboardInterrupt):
        depprobe.jacobian("gru", **options, finished=kept)
    assert len(list(kept.folder.iterdir())) == 2
    resumed = depprobe.jacobian("gru", **options, finished=kept)
    assert len(counted) == 3 + 3, "two cases were finished, the third was not"
    assert resumed.identical(depprobe.jacobian("gru", **options))
    for path in kept.folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert depprobe.jacobian("gru", **options, finished=kept).identical(resumed)
    before = len(counted)
    depprobe.jacobian("gru", n=12, d=4, seeds=5, tolerance=0, finished=kept)
    assert len(counted) == before + 5, "another tolerance is another measurement"
    kept.clear()
    assert not kept.folder.exists()
