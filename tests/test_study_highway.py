"""The study of the forget gate's highway, made small: its numbers are the probe's."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import depprobe
from depprobe import store

STUDIES = Path(depprobe.__file__).parents[1] / "studies"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    spec = importlib.util.spec_from_file_location("highway", STUDIES / "03_lstm_highway.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "highway", module)
    spec.loader.exec_module(module)
    small = {"QUICK": {"d": 5, "n": 40, "seeds": 2}, "BIASES": (-2, 3), "GAINS": (0.0, 1.0)}
    for name, value in (small | {"SHOWN_BIASES": (-2, 3)}).items():
        monkeypatch.setattr(module, name, value)
    return module


def test_it_writes_its_dataset_and_figures(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--out", str(tmp_path)])
    study.main(study.compute, study.plot, "highway")
    written = [tmp_path / f"highway.{suffix}" for suffix in ("nc", "pdf", "png")]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    assert all(path.stat().st_size > 1000 for path in written)
    ds = store.load(written[0])
    assert ds.log_gap.dims == ("forget_bias", "gain", "seed", "source")
    alone = depprobe.gates("lstm:forget_bias=3,gain=1.0", d=5, n=40, seeds=2)
    np.testing.assert_array_equal(ds.log_norm_cc.sel(forget_bias=3, gain=1.0), alone.log_norm_cc)
    # without recurrent weights the product is all there is
    assert float(abs(ds.log_gap.sel(gain=0.0)).max()) < 1e-6
    png = written[2].read_bytes()
    monkeypatch.setattr(sys, "argv", ["study", "--plot", "--out", str(tmp_path)])
    study.main(study.compute, study.plot, "highway")
    assert written[2].read_bytes() == png


def test_a_missing_dataset_is_one_line(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", "--plot", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        study.main(study.compute, study.plot, "highway")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("highway: cannot read")
