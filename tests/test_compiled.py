"""Modules that torch compiled, wholly or for an operation of higher order, are measured and go on running."""

import pytest
import torch
from torch import nn
from torch._higher_order_ops.scan import scan

import depprobe
from depprobe.vocabulary import STATUS

N, D = 5, 3


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(D, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.rnn(x.tanh())[0])


class Scanned(nn.Module):
    """h_t = tanh(U h_(t-1) + W x_t), as torch's scan."""

    def __init__(self):
        super().__init__()
        self.read, self.U = nn.Linear(D, 4), nn.Parameter(0.3 * torch.randn(4, 4))

    def forward(self, x):
        def step(h, u):
            h = torch.tanh(h @ self.U + u)
            return h, h.clone()

        return scan(step, x.new_zeros(len(x), 4), self.read(x).transpose(0, 1))[1].transpose(0, 1)


def truth(module, x):
    """ln norms of every block, one ``autograd.grad`` for each output unit."""
    leaf = x.clone().requires_grad_()
    rows = [
        [torch.autograd.grad(unit, leaf, retain_graph=True)[0] for unit in units]
        for units in module(leaf[None])[0]
    ]
    return torch.stack([torch.stack(row).norm(dim=(0, 2)).log() for row in rows]).numpy()


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_a_compiled_module_is_measured_as_it_was_written(method):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    module, x = Tagger().double(), torch.randn(N, D).double()
    module.out = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double(), backend=backend)
    compiled = torch.compile(module, backend=backend)
    found = depprobe.temporal_jacobian(compiled, x, layout="b n d", method=method)
    norms = found.log_norms(range(N))
    assert not graphs  # which would take their time, and hide what is inside
    assert found.method == {"auto": "composed"}.get(method, method)
    with torch.compiler.set_stance("force_eager"):
        expected = truth(module, x)
    past = expected > -torch.inf
    assert abs(norms.values[past] - expected[past]).max() < 1e-9
    assert (norms.status[~past] == STATUS["zero"]).all()
    module.out(torch.ones(1, N, 4).double())
    assert graphs


@pytest.mark.filterwarnings("ignore")
def test_operations_of_higher_order_are_measured_and_go_on_running():
    torch.manual_seed(0)
    module, x = Scanned().double(), torch.randn(N, D).double()
    before, expected = module(x[None]), truth(module, x)[-2]
    norms = depprobe.temporal_jacobian(module, x, layout="b n d", method="autograd").log_norms([N - 2])
    past = expected > -torch.inf
    assert abs(norms.values[0, past] - expected[past]).max() < 1e-9
    assert (norms.error[0, past] > 0).all()
    assert (norms.status[0, ~past] == STATUS["zero"]).all()
    assert torch.equal(module(x[None]), before)
