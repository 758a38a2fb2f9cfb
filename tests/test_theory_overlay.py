"""Theory of layers, drawn over measured curves and printed beside them."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from json_documents import document_of

import depprobe
from depprobe.cli import main
from depprobe.errors import BadInput
from depprobe.figures import decay
from depprobe.probes.theory import theory


def test_mean_field_of_a_default_recurrence_meets_the_measured_curve():
    predicted = theory("rnn", n=60, d=128).sel(layer="rnn", theory="mean field")
    measured = depprobe.jacobian("rnn", n=60, d=128, seeds=3).log_norm.mean("seed").values[0, ::-1]
    assert predicted.log_theory.values[:10] == pytest.approx(measured[:10], abs=0.2)
    assert float(predicted.predicted_rate) == pytest.approx(
        np.polyfit(range(30), measured[:30], 1)[0], rel=0.05
    )


def test_bound_stands_above_the_measured_curve():
    predicted = theory("rnn:gain=2", n=40, d=24).sel(layer="rnn:gain=2", theory="bound")
    measured = depprobe.jacobian("rnn:gain=2", n=40, d=24).log_norm.values[0, ::-1]
    assert (predicted.log_theory.values >= measured).all()


def test_forget_path_of_an_uncoupled_lstm_is_its_gate():
    module = torch.nn.LSTM(3, 5, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        module.bias_ih_l0[5:10] = 2.0
    found = theory(module, torch.randn(9, 3, dtype=torch.float64))
    assert found.predicted_rate.item() == pytest.approx(-math.log(1 + math.exp(-2)), rel=1e-12)


def test_receptive_field_gives_the_height_of_a_stack_without_nonlinearity():
    spec = "dilated-conv:depth=8,base=1,nonlinearity=none"
    predicted = theory(spec, n=31, d=32).log_theory.values[0, 0]
    measured = depprobe.jacobian(spec, n=31, d=32, seeds=4)
    rms = 0.5 * np.log(np.exp(2 * measured.log_norm).mean("seed").values[0, ::-1][4:13])
    # two standard deviations (2.3) about the mean lag of 8
    assert predicted[4:13] == pytest.approx(rms, abs=0.1)


def test_a_slope_starts_on_the_first_measured_lag():
    drawn = decay(depprobe.jacobian("gru", n=20, d=6), theory=theory("gru", n=20, d=6))
    (line,) = drawn.theory
    assert line.get_label() == "update path, gru"
    assert line.get_ydata()[0] == pytest.approx(drawn.lines[0].get_ydata()[0])


def test_layers_without_theory_are_told():
    with pytest.raises(BadInput, match="no theory applies to attention; it does to rnn"):
        theory("attention", n=9, d=8)


def test_command_prints_measured_beside_predicted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["jacobian", "--layer", "rnn", "--n", "20", "--d", "6", "--theory", "--json", "-q"])
    rows = document_of("jacobian", capsys.readouterr().out)["theory"]
    assert (stop.value.code, [row["theory"] for row in rows]) == (0, ["eigenvalue", "bound", "mean field"])
    truth = theory("rnn", n=20, d=6).predicted_rate.values[0]
    assert [row["predicted"] for row in rows] == pytest.approx(truth.tolist())


def test_the_width_of_a_linear_stack_is_printed_beside_the_closed_form(tmp_path, capsys):
    """Dilations 2^l: variance (k^2 - 1)/12 (4^L - 1)/3."""
    layer = "dilated-conv:nonlinearity=none,depth=4"
    options = ["--d", "48", "--n", "90", "--seeds", "4", "--theory", "-q", "-o", str(tmp_path / "a.nc")]
    with pytest.raises(SystemExit) as stop:
        main(["jacobian", "--layer", layer, *options, "--figure", str(tmp_path / "a.png")])
    assert stop.value.code == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("theory")]
    predicted, measured = (float(word) for word in re.findall(r"[\d.]+(?=,| positions)", line.split(":")[-1]))
    assert predicted == pytest.approx(((9 - 1) / 12 * (4**4 - 1) / 3) ** 0.5, abs=1e-4)
    assert measured == pytest.approx(predicted, rel=0.03)
