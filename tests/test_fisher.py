"""The Fisher norm: sqrt(tr J^T F J) of logits, against its definition and the Kullback-Leibler divergence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.errors import BadInput
from depprobe.operators import temporal_jacobian

N, D, V = 9, 5, 7


class Language(nn.Module):
    """A recurrent language model: logits alone, or by name beside a hidden state."""

    def __init__(self, named=False):
        super().__init__()
        self.embed, self.h = (
            nn.Embedding(V, D),
            nn.ModuleList(nn.GRU(D, D, batch_first=True) for _ in range(2)),
        )
        self.head, self.named = nn.Linear(D, V), named

    def forward(self, ids):
        assert ids.ndim == 2
        x = self.embed(ids)
        for block in self.h:
            x = x + block(x)[0]
        logits = 3 * self.head(x)
        return {"last_hidden_state": x, "logits": logits} if self.named else logits


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Language().double()


IDS = torch.tensor([3, 1, 4, 1, 5, 2, 6, 5, 3])


def after_embedding(f, z):
    x = z[None]
    for block in f.h:
        x = x + block(x)[0]
    return 3 * f.head(x)[0]


def truth(f):
    """Fisher norms (n, n) from the matrix F at every target and plain autograd."""
    z = f.embed(IDS).detach()
    J = torch.autograd.functional.jacobian(lambda z: after_embedding(f, z), z)
    p = after_embedding(f, z).softmax(1)
    F = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("tvkd,tvw,twkd->tk", J, F, J).clamp_min(0).sqrt().detach().log().numpy()


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_it_is_its_definition(model, method):
    ds = depprobe.jacobian(model, IDS, norm="fisher", targets="all", method=method)
    assert (ds.norm, ds.of) == ("fisher", "logits")
    np.testing.assert_allclose(ds.log_norm, truth(model), rtol=1e-8)
    assert float(ds.log_norm_error.max()) < 1e-8


def test_a_random_step_moves_the_distribution_by_it(model):
    """KL(p(x) || p(x + dx)) = |A J dx|^2 / 2, whose mean over dx ~ N(0, eps^2 I) is eps^2 |J|_F^2 / 2."""
    eps, t, k = 1e-4, 8, 5
    z = model.embed(IDS).detach()
    p = after_embedding(model, z)[t].log_softmax(0)
    # an orthogonal frame of steps has the mean of random ones
    moved = [
        after_embedding(model, z.index_add(0, torch.tensor([k]), eps * e[None]))[t]
        for e in torch.eye(D).double()
    ]
    divergences = [(p.exp() * (p - q.log_softmax(0))).sum() for q in moved]
    norm = (2 * torch.stack(divergences).sum()).sqrt() / eps
    ds = depprobe.jacobian(model, IDS, norm="fisher", targets=[t])
    assert float(ds.log_norm[0, k]) == pytest.approx(norm.log().item(), abs=1e-3)


def test_probes_estimate_it(model):
    every = temporal_jacobian(model, IDS, method="probes", norm="fisher", probes=V)
    np.testing.assert_allclose(every.log_norms([8], None, "fisher").values[0], truth(model)[8], rtol=1e-8)
    squares = []
    for seed in range(36):
        J = temporal_jacobian(model, IDS, method="probes", norm="fisher", probes=2, seed=seed)
        squares.append(np.exp(2 * J.log_norms([8], None, "fisher").values[0]))
    ratio = np.mean(squares, 0) / np.exp(2 * truth(model)[8])
    spread = np.std(squares, 0) / np.mean(squares, 0) / 6
    assert (np.abs(ratio - 1) < 4.5 * spread).all()


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
def test_a_glob_gives_it_at_every_depth(model, method):
    asked = {"norm": "fisher", "targets": [8], "method": method}
    ds = depprobe.jacobian(model, IDS, wrt="h.*", **asked)
    for i in range(2):
        one = depprobe.jacobian(model, IDS, wrt=f"h.{i}", **asked)
        np.testing.assert_allclose(ds.log_norm.isel(depth=i), one.log_norm, rtol=1e-10)


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
@pytest.mark.parametrize(
    ("dtype", "gap"), [(torch.float64, 400.0), (torch.float32, 80.0), (torch.float32, 0.0)]
)
def test_a_class_that_is_certain_leaves_it_known(method, dtype, gap):
    """Two classes: F = p q [[1, -1], [-1, 1]], so |J|^2 = p q |J_1 - J_2|^2, here with q down to e^-400."""
    torch.manual_seed(0)
    f = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    with torch.no_grad():
        f[2].weight *= 100
        f[2].bias += torch.tensor([gap, -gap]) / 2
    x = torch.randn(5, 3, dtype=dtype)
    ds = depprobe.jacobian(f, x, norm="fisher", targets="all", method=method, layout="b n d",
                           **({"probes": 2} if method == "probes" else {}))  # fmt: skip
    f, x = f.double(), x.double()
    J = torch.stack([torch.autograd.functional.jacobian(f, row) for row in x])
    y = f(x).detach()
    ln_pq = nn.functional.logsigmoid(y[:, 0] - y[:, 1]) + nn.functional.logsigmoid(y[:, 1] - y[:, 0])
    expected = (ln_pq + (J[:, 0] - J[:, 1]).square().sum(1).log()) / 2
    found, error = (np.diagonal(ds[name]) for name in ("log_norm", "log_norm_error"))
    assert (np.abs(found - expected.numpy()) < error).all()
    assert error.max() < 1e4 * torch.finfo(dtype).eps


def test_named_logits_are_taken(model):
    named = Language(named=True).double()
    named.load_state_dict(model.state_dict())
    ds = depprobe.jacobian(named, IDS, norm="fisher", targets="all")
    np.testing.assert_allclose(ds.log_norm, truth(model), rtol=1e-8)


def test_what_has_no_logits_is_refused(model):
    with pytest.raises(
        BadInput, match=r"^norm='fisher' weighs logits, and LSTM .* no 'logits'; of= may name"
    ):
        depprobe.jacobian("lstm", n=9, d=4, norm="fisher")
    with pytest.raises(BadInput, match="needs logits of at least 2 classes"):
        depprobe.jacobian(nn.Sequential(nn.Linear(3, 1)), torch.randn(9, 3), norm="fisher")
    with pytest.raises(BadInput, match="method 'chain' gives the norm fro or spectral, not 'fisher'"):
        temporal_jacobian(nn.GRU(3, 4), torch.randn(9, 3)).log_norms([8], None, "fisher")


def test_from_the_shell(run, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "def make(seed):\n"
        "    torch.manual_seed(seed)\n"
        "    return nn.Sequential(nn.Embedding(256, 4), nn.GRU(4, 6, batch_first=True), nn.Linear(6, 256))\n"
    )
    (tmp_path / "book.txt").write_text("It was the best of times, it was the worst of times.")
    asked = ("jacobian", "--model", "net.py:make", "--input", "book.txt", "--n", "20", "--norm", "fisher")
    code, out, said = run(*asked, "-o", "fisher.nc", "--figure", "fisher.png")
    assert code == 0, said
    assert "Fisher norm" in out
    assert depprobe.load("fisher.nc").norm == "fisher"
