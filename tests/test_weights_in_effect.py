"""Spectra, gates, exponents and theory take the weights that the forward uses, computed or stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import depprobe
from depprobe.core.calling.weights_in_effect import recurrence_in_effect
from depprobe.errors import BadInput
from depprobe.probes.theory import theory

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")

NAME, F64 = "weight_hh_l0", torch.float64


def lstm():
    torch.manual_seed(4)
    return nn.LSTM(3, 5, batch_first=True).double()


def pruned(module):
    prune.l1_unstructured(module, NAME, amount=0.5)
    with torch.no_grad():
        # stored weights move, as in training: what stands under the name is of the last forward
        module.get_parameter(f"{NAME}_orig").mul_(2)
    return module


def normed(module):
    weight_norm(module, NAME)
    with torch.no_grad():
        module.get_parameter(f"{NAME}_g").mul_(3)
    return module


def parametrised(module):
    parametrizations.weight_norm(module, NAME)
    with torch.no_grad():
        module.parametrizations[NAME].original0.mul_(3)
    return module


CHANGED = {
    "pruned": pruned,
    "weight_norm by hooks": normed,
    "weight_norm": parametrised,
    "spectral_norm by hooks": lambda module: spectral_norm(module, NAME),
    "spectral_norm": lambda module: parametrizations.spectral_norm(module, NAME),
    "orthogonal": lambda module: parametrizations.orthogonal(module, NAME),
}


def used(module, x):
    """The recurrent weight that torch's kernel is handed in a forward."""
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") in ("lstm", "rnn_tanh"):
                seen.append(args[2][1].detach().clone())
            return func(*args, **(kwargs or {}))

    with Watch():
        module(x)
    return seen[0].numpy()


def held(module):
    """Every tensor of a module with a copy of it, and hooks and mode of its parts."""
    named = {**module.state_dict(keep_vars=True), **vars(module)}
    tensors = {
        name: (value, value.clone()) for name, value in named.items() if isinstance(value, torch.Tensor)
    }
    return tensors, [(id(part), list(part._forward_pre_hooks), part.training) for part in module.modules()]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CHANGED)
def test_all_of_them_take_the_weight_that_the_kernel_is_handed(name, training):
    x = torch.randn(1, 23, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    make = lambda: CHANGED[name](lstm()).train(training)  # noqa: E731
    weight, module = used(make(), x), make()
    tensors, parts = held(module)
    plain = lstm()
    with torch.no_grad():
        plain.weight_hh_l0.copy_(torch.from_numpy(weight))
    assert not np.allclose(weight, lstm().weight_hh_l0.detach())

    found = depprobe.spectrum(module, grid=0)
    for gate, expected in zip("ifgo", np.split(weight, 4), strict=True):
        values = found.singular_value.sel(weight=f"{NAME}[{gate}]")
        np.testing.assert_allclose(values, np.linalg.svd(expected)[1], rtol=1e-12)
    for call in (
        lambda m: depprobe.spectrum(m, x[0], steps="last", grid=0).eigenvalue,
        lambda m: depprobe.gates(m, x[0]).log_norm_cc,
        lambda m: depprobe.lyapunov(m, x[0], exponents=3).exponent,
        lambda m: theory(m, x[0]).log_theory,
    ):
        np.testing.assert_allclose(call(module), call(plain), rtol=1e-9)
    now, then = held(module)
    assert then == parts
    assert list(now) == list(tensors)
    for name, (value, copy) in tensors.items():
        assert now[name][0] is value
        assert torch.equal(now[name][1], copy), name


def test_weights_by_name_are_those_in_effect():
    module = nn.Sequential(nn.Linear(4, 4).double(), nn.ReLU())
    prune.random_unstructured(module[0], "weight", amount=0.5)
    parametrizations.orthogonal(linear := nn.Linear(4, 4).double())
    module.append(linear)
    ds = depprobe.spectrum(module, weight=["0.weight", "2.weight", "0.weight_orig"], grid=0)
    stored = module[0].get_parameter("weight_orig").detach()
    masked = (stored * module[0].get_buffer("weight_mask")).numpy()
    np.testing.assert_allclose(ds.largest_singular_value[0], np.linalg.norm(masked, 2), rtol=1e-12)
    np.testing.assert_allclose(ds.singular_value[1], 1, rtol=1e-12)
    np.testing.assert_allclose(ds.largest_singular_value[2], np.linalg.norm(stored, 2), rtol=1e-12)


def test_cells_and_parts_of_a_model():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = parametrizations.orthogonal(nn.RNNCell(3, 4).double(), "weight_hh")

    np.testing.assert_allclose(depprobe.spectrum(Model(), grid=0).spectral_radius, 1, rtol=1e-12)


def test_a_forward_of_ones_own_is_not_taken_for_torchs():
    class Twice(nn.RNN):
        def forward(self, x):
            return super().forward(2 * x)

    assert recurrence_in_effect(parametrizations.orthogonal(Twice(3, 4), NAME)) is None
    module = nn.LSTM(3, 4)
    module.register_forward_pre_hook(lambda module, given: None)
    assert recurrence_in_effect(module) is None
    with pytest.raises(BadInput, match="LSTM with a forward or hooks of its own has no gates to read"):
        depprobe.gates(module, torch.randn(9, 3))


def test_the_command_line_takes_the_weight_in_effect(run, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\nfrom torch.nn.utils import parametrizations, prune\n"
        "def orthogonal(seed):\n"
        "    torch.manual_seed(seed)\n"
        "    return parametrizations.orthogonal(nn.LSTM(4, 4), 'weight_hh_l0')\n"
        "def empty(seed):\n"
        "    return prune.l1_unstructured(nn.LSTM(4, 4), 'weight_hh_l0', amount=1.0)\n"
    )
    for command, options in {"spectrum": (), "gates": ("--n", "9"), "lyapunov": ("--n", "40")}.items():
        for make in ("orthogonal", "empty"):
            file = str(tmp_path / f"{command}-{make}.nc")
            code, _, err = run(command, "--model", f"net.py:{make}", *options, "-q", "-o", file)
            assert code == 0, err
    # four gates of orthonormal columns in all; without recurrent weights the gates are the whole path
    ds = depprobe.load(tmp_path / "spectrum-orthogonal.nc")
    np.testing.assert_allclose((ds.singular_value**2).sum(), 4, rtol=1e-5)
    assert float(depprobe.load(tmp_path / "spectrum-empty.nc").spectral_radius.max()) == 0
    assert float(abs(depprobe.load(tmp_path / "gates-empty.nc").log_gap).max()) < 1e-5
