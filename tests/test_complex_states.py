"""Hand-written recurrences whose states are complex numbers."""

import torch
from torch import nn

import depprobe


class Unitary(nn.Module):
    """h_t = relu(|z| + b) z / |z|, z = U h_(t-1) + x_t (Arjovsky et al. 2016)."""

    def __init__(self):
        super().__init__()
        self.phase, self.bias = nn.Parameter(torch.randn(4)), nn.Parameter(-0.1 * torch.rand(4))

    def forward(self, x):
        h, states = torch.complex(x.new_zeros(len(x), 4), x.new_ones(len(x), 4)), []
        for u in x.unbind(1):
            z = torch.fft.fft(h * torch.exp(1j * self.phase), norm="ortho") + torch.complex(u, 0 * u)
            h = torch.relu(z.abs() + self.bias) * z / (z.abs() + 1e-8)
            states.append(torch.cat([h.real, h.imag], -1))
        return torch.stack(states, 1)


def test_rows_on_complex_states_are_rescaled():
    torch.manual_seed(0)
    module, x = Unitary().double(), torch.randn(40, 4).double()
    norms = depprobe.temporal_jacobian(module, x, layout="b n d").log_norms([39]).values[0]
    leaf = x.clone().requires_grad_()
    rows = [torch.autograd.grad(unit, leaf, retain_graph=True)[0] for unit in module(leaf[None])[0, 39]]
    assert abs(norms - torch.stack(rows).norm(dim=(0, 2)).log().numpy()).max() < 1e-8
