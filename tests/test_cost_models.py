"""Costs of a user's models: what is counted is what their layers cost, on the command line as in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import depprobe
from depprobe.errors import BadInput
from depprobe.runs.cases import cases_of
from depprobe.runs.identity import identity_of
from depprobe.runs.inputs import Source
from depprobe.runs.subject import Request
from depprobe.store.finished import Finished

NET = """
import torch
from torch import nn

class Tagger(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.rnn, self.read = nn.LSTM(3, d, batch_first=True), nn.Linear(d, 2)

    def forward(self, x):
        return self.read(self.rnn(x)[0])

class Characters(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.embed, self.read = nn.Embedding(256, d), nn.Linear(d, 256)

    def forward(self, ids):
        h = self.embed(ids)
        return {"last_hidden_state": h, "logits": self.read(h)}

def tagger(seed):
    torch.manual_seed(seed)
    return Tagger(5)

def characters(seed):
    torch.manual_seed(seed)
    return Characters(4)
"""
SHORT = {"threads": 1, "seconds": 0.001}


def made(name: str) -> nn.Module:
    found: dict = {}
    exec(NET, found)
    return found[name](0)


@pytest.mark.usefixtures("measured_here")
def test_a_model_of_floats_costs_what_its_layers_cost():
    n, d = 12, 5
    ds = depprobe.cost(lambda seed: made("tagger"), Source("noise"), n=[n, 2 * n], **SHORT)
    for i, length in enumerate((n, 2 * n)):
        forward = 2 * length * (4 * d * (3 + d) + d * 2)
        assert ds.flops.isel(n=i, phase=0).item() == forward
    weights = sum(p.nbytes for p in made("tagger").parameters())
    assert ds.parameter_bytes.item() == weights
    assert (ds.d.item(), ds.attrs["dtype"]) == (3, "float32")
    beside = depprobe.cost({"A": made("tagger"), "B": "lstm"}, Source("noise"), n=n, d=d, **SHORT)
    assert beside.flops.sel(layer="A", phase="forward").item() == 2 * n * (4 * d * (3 + d) + d * 2)
    assert beside.flops.sel(layer="B", phase="forward").item() == 2 * n * 4 * d * 2 * d


def test_a_model_of_ids_costs_what_its_logits_cost():
    module, ids = made("characters"), torch.arange(9)
    ds = depprobe.cost(module, ids, **SHORT)
    forward = 2 * 9 * 4 * 256
    # gradients of the read-out in its weights and in what it reads
    assert ds.flops.values.ravel().tolist() == [forward, 3 * forward]
    assert ds.no_stream == "Characters: no stream is known for Characters"
    assert not module.training or all(part.training for part in module.modules())


@pytest.mark.usefixtures("measured_here")
def test_the_command_line_gives_what_python_gives(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    np.savetxt("data.csv", np.random.default_rng(0).normal(size=(40, 3)), delimiter=",")
    words = (
        "--model",
        "T=net.py:tagger",
        "--layer",
        "G=gru",
        "--d",
        "5",
        "--input",
        "data.csv",
        "--n",
        "16",
    )
    code, out, err = run("cost", *words, "--threads", "1", "--seconds", "0.001", "-q", "-o", "c.nc")
    assert (code, err) == (0, "")
    assert "Cost of T, G" in out
    found = xr.open_dataset("c.nc")
    expected = depprobe.cost({"T": made("tagger"), "G": "gru"}, Source("noise"), n=16, d=5, **SHORT)
    for name in ("flops", "peak_bytes", "parameter_bytes"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for words, said in {
        ("--layer", "gru", "--input", "data.csv"): "named layers are measured at noise: leave out --input",
        ("--model", "net.py:tagger", "--input", "data.csv"): "data.csv holds 40 positions and n = 256",
        ("--model", "net.py:tagger", "--table", "text"): "the efficiency table is of named layers",
        ("--model", "net.py:tagger", "--d", "7"): "tagger has its own width",
        ("--model", "net.py:characters", "--input", "data.csv", "--n", "9"): "data.csv has 3 columns",
    }.items():
        code, _, err = run("cost", *words, "-q")
        assert code == 2
        assert said in err
        assert err.count("\n") == 1


def test_a_model_that_fails_at_a_length_is_named():
    class Short(nn.Module):
        input_size = 3

        def forward(self, x):
            return x + torch.zeros(8, 3)

    with pytest.raises(BadInput, match="Short fails at n = 12: RuntimeError"):
        depprobe.cost(Short(), Source("noise"), n=12, **SHORT)


def test_finished_points_of_a_model_are_those_of_its_weights_and_code(tmp_path):
    kept = Finished(tmp_path / "points")
    module = made("tagger")
    first = depprobe.cost(module, Source("noise"), n=8, finished=kept, **SHORT)
    assert depprobe.cost(module, Source("noise"), n=8, finished=kept, **SHORT).identical(first)

    def mark(one: nn.Module) -> dict:
        (case,) = cases_of(one, torch.ones(4, 3), Request()).cases
        return identity_of(case)

    before = mark(module)
    assert mark(made("tagger")) == before, "weights and code are the same"
    with torch.no_grad():
        module.read.bias[0] += 1e-6
    assert mark(module) != before
    other = made("tagger")
    other.scale = 2.0
    assert mark(other) != before, "an attribute may change what a forward computes"


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_model_with_a_sparse_matrix_has_its_bytes(layout):
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("mixing", torch.eye(20).to_sparse(layout=layout))

        def forward(self, x):
            return (self.mixing @ self.linear(x)[0])[None]

    ds = depprobe.cost(Mixing(), torch.randn(20, 4), threads=1, seconds=1e-4)
    # two tensors of output; indices of 8 bytes, two an entry, and for rows their starts beside them
    assert ds.peak_bytes.sel(phase="forward").item() == 2 * 20 * 4 * 4
    indices = 40 if layout is torch.sparse_coo else 40 + 21
    assert ds.parameter_bytes.item() == 4 * (16 + 4) + 4 * 20 + 8 * indices
