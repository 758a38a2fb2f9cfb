"""On a CUDA device every layer and probe gives what it gives on the CPU, and leaves torch as it was.

Named layers have the same weights and input on both devices: float64 agrees to 1e-12 and the errors that are
stated, float32 within the stated errors. Where there is no CUDA device all of it is skipped.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.operators import temporal_jacobian
from depprobe.registry import layers

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

F32, F64 = torch.float32, torch.float64
N, D = 67, 8
SPECS = [spec for name, entry in layers.items() for spec in (name, *entry.examples)]
#: factor on the sum of two stated errors, each of them the estimate of a spread where it is no bound
SPREAD = 3.0


class Hybrid(nn.Module):
    """A convolution, an LSTM and attention in a forward of its own, with a residual sum and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(D, D, 3, padding=1)
        self.rnn = nn.LSTM(D, D, num_layers=2, batch_first=True)
        self.norm = nn.LayerNorm(D)
        self.attention = nn.MultiheadAttention(D, 2, batch_first=True)

    def forward(self, x):
        z = x + self.conv(x.mT).mT
        y = self.norm(self.rnn(z)[0] + z)
        return y + self.attention(y, y, y, need_weights=False)[0]


class OwnLoop(nn.Module):
    """A recurrence written as a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(D, D)

    def forward(self, x):
        h, out = x.new_zeros(len(x), D), []
        for step in x.unbind(1):
            h = self.cell(step, h)
            out.append(h)
        return torch.stack(out, 1)


RECURRENT = {
    f"{kind.__name__} {options}": (kind, options)
    for kind in (nn.RNN, nn.GRU, nn.LSTM)
    for options in ({}, {"num_layers": 2}, {"bidirectional": True})
}
OWN = {"hybrid": Hybrid, "loop": OwnLoop}


def drawn(make, *args, **options):
    """A module with the same weights every time, and an input (N, D), both float64 on the CPU."""
    torch.manual_seed(3)
    module = make(*args, **options).double().eval()
    return module, torch.randn(N, D, dtype=F64)


def on(device, dtype, module, x):
    return module.to(device=device, dtype=dtype), x.to(device=device, dtype=dtype)


def agrees(here, there):
    """Whether two datasets say the same of every norm, as far as each knows it."""
    # what states no error has that of a few sums
    exact = 1e-12 if here.dtype == "float64" else 1e-12 if "log_norm_error" in here else 1e-5
    known = [ds["log_norm_status"].values for ds in (here, there)]
    for one, other in (known, known[::-1]):
        # what one proves to be zero the other does not measure
        assert not ((one == 2) & (other == 1)).any()
    both = (known[0] == 1) & (known[1] == 1)
    assert both.any()
    a, b = (ds["log_norm"].values[both] for ds in (here, there))
    errors = sum(_errors(ds)[both] for ds in (here, there))
    gap = np.abs(a - b)
    assert (gap <= exact * (1 + np.abs(a)) + SPREAD * errors).all(), float((gap / (exact + errors)).max())


def _errors(ds):
    stated = ds.get("log_norm_error")
    return np.zeros(ds["log_norm"].shape) if stated is None else np.nan_to_num(stated.values)


# --- named layers ---


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_named_layer_gives_what_it_gives_on_the_cpu(text, dtype):
    asked = {"n": N, "d": D, "targets": "every:16", "tolerance": 0, "dtype": dtype}
    here, there = (depprobe.jacobian(text, device=device, **asked) for device in ("cpu", DEVICE))
    assert (here.method, here.zero_proof) == (there.method, there.zero_proof)
    agrees(here, there)


@pytest.mark.parametrize("text", ["lstm", "attention:causal=true", "conv-attention:heads=2", "transformer"])
@pytest.mark.parametrize("method", ["autograd", "probes"])
def test_autograd_and_probes_give_what_they_give_on_the_cpu(text, method):
    asked = {"n": N, "d": D, "targets": "every:16", "method": method}
    here, there = (depprobe.jacobian(text, device=device, **asked) for device in ("cpu", DEVICE))
    agrees(here, there)
    if method == "probes":
        # the same probes, and the same interval from them
        ends = (ds["log_norm_low"].where(np.isfinite(ds["log_norm"])) for ds in (here, there))
        np.testing.assert_allclose(*ends, atol=1e-6)


def test_a_compressed_chain_keeps_its_tolerance():
    asked = {"n": 300, "d": 32, "targets": "last", "dtype": "float64"}
    exact = depprobe.jacobian("lstm", tolerance=0, **asked)
    agrees(exact, depprobe.jacobian("lstm", device=DEVICE, **asked))


# --- modules of the user's ---


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
def test_recurrences_that_cudnn_runs(name, method):
    kind, options = RECURRENT[name]
    asked = {"targets": [N - 1, N // 2], "method": method}
    asked |= {"probes": 3} if method == "probes" else {}
    module, x = drawn(kind, D, D, **options)
    here = depprobe.jacobian(module, x, **asked)
    for training in (False, True):
        given, value = on(DEVICE, F64, module.train(training), x)
        agrees(here, depprobe.jacobian(given, value, **asked))
        assert given.training is training


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
@pytest.mark.parametrize("dtype", [F64, F32])
def test_forwards_of_the_users_own(name, method, dtype):
    asked = {"targets": [N - 1, N // 2], "method": method}
    module, x = drawn(OWN[name])
    here = depprobe.jacobian(*on("cpu", dtype, module, x), **asked)
    agrees(here, depprobe.jacobian(*on(DEVICE, dtype, module, x), **asked))


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_rows_and_products_are_those_of_the_cpu(method):
    module, x = drawn(Hybrid)
    v, u = torch.randn(N, D, dtype=F64), torch.randn(N, D, dtype=F64)
    truth = temporal_jacobian(module, x, method=method)
    row, vjp, jvp = truth.row(N - 1).dense(), truth.vjp(v), truth.jvp(u)
    found = temporal_jacobian(*on(DEVICE, F64, module, x), method=method)
    v, u = v.to(DEVICE), u.to(DEVICE)
    pairs = (found.row(N - 1).dense(), row), (found.vjp(v), vjp), (found.jvp(u), jvp)
    for one, other in pairs:
        assert one.device.type == DEVICE
        torch.testing.assert_close(one.cpu(), other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_long_trajectory_is_made_again_in_segments(dtype, monkeypatch):
    module, x = drawn(nn.LSTM, D, 5, num_layers=2)
    x = x.repeat(5, 1)
    whole = temporal_jacobian(*on("cpu", dtype, module, x)).log_norms([334, 100])
    monkeypatch.setattr("depprobe.operators.chain.operator._HELD", 0)
    monkeypatch.setattr("depprobe.operators.chain.trajectories._SEGMENT_BYTES", 0)
    for _ in range(3):  # as it runs, as it is recorded, as it is replayed
        found = temporal_jacobian(*on(DEVICE, dtype, module, x)).log_norms([334, 100])
        known = np.isfinite(whole.values)
        apart = np.abs(found.values[known] - whole.values[known])
        assert (apart <= SPREAD * (whole.error + found.error)[known]).all()


def test_a_batched_product_that_fails_is_tried_once():
    module, x = drawn(nn.LSTM, D, D)
    operator = temporal_jacobian(*on(DEVICE, F64, module, x), method="autograd")
    recording = operator._products._recording
    tried = []
    batched = recording._at_once

    def counted(*args):
        tried.append(1)
        return batched(*args)

    recording._at_once = counted
    found = operator.log_norms([N - 1, 3]).values
    assert recording._batched or len(tried) == 1
    expected = temporal_jacobian(module.to("cpu"), x, method="autograd").log_norms([N - 1, 3]).values
    np.testing.assert_allclose(found, expected, rtol=1e-10)


# --- other probes ---


def test_lyapunov_exponents_spectra_gates_and_costs():
    asked = {"n": 200, "d": D, "dtype": "float64"}
    for text in ("lstm", "lstm:depth=2", "gru:gain=1.5", "rnn:gain=1.2,orthogonal=true"):
        here, there = (
            depprobe.lyapunov(text, exponents="all", device=device, **asked) for device in ("cpu", DEVICE)
        )
        np.testing.assert_allclose(there["exponent"], here["exponent"], atol=1e-9)
        np.testing.assert_allclose(there["log_det"], there["exponent_sum"], rtol=1e-9)
    for text in ("lstm", "gru:depth=2"):
        here, there = (
            depprobe.spectrum(text, steps=[5, 60], device=device, **asked) for device in ("cpu", DEVICE)
        )
        for name in ("singular_value", "spectral_radius"):
            np.testing.assert_allclose(there[name], here[name], rtol=1e-9, atol=1e-12)
        here, there = (depprobe.gates(text, device=device, **asked) for device in ("cpu", DEVICE))
        for name in set(here.data_vars) - {f"{name}_error" for name in here.data_vars}:
            # what is stated differs with what was compressed; what is measured does not
            scale = float(np.abs(here[name].where(np.isfinite(here[name]))).max())
            np.testing.assert_allclose(there[name], here[name], rtol=1e-9, atol=1e-9 * scale)
    module, x = drawn(Hybrid)
    here, there = (
        depprobe.cost(*on(device, F32, module, x), threads=1, seconds=0.01) for device in ("cpu", DEVICE)
    )
    for name in ("flops", "parameter_bytes"):
        np.testing.assert_array_equal(there[name], here[name])
    assert (there["time"] > 0).all()


def test_a_map_on_the_device():
    step = lambda s: torch.stack([1 - 1.4 * s[0] ** 2 + s[1], 0.3 * s[0]])  # noqa: E731
    start = torch.tensor([0.1, 0.1], dtype=F64, device=DEVICE)
    ds = depprobe.lyapunov_of_map(step, start, steps=300)
    np.testing.assert_allclose(ds["exponent_sum"], np.log(0.3), rtol=1e-12)


# --- what is left behind, and the command line ---


def flags():
    backends = torch.backends
    found = [backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic]
    found += [backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32]
    found += [torch.get_float32_matmul_precision(), torch.get_default_dtype(), torch.get_default_device()]
    return found


@pytest.mark.parametrize("method", ["auto", "autograd", "probes"])
def test_flags_and_random_states_are_left_as_they_were(method):
    module, x = on(DEVICE, F32, *drawn(Hybrid))
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        known, drawn_from = flags(), (torch.cuda.get_rng_state(), torch.get_rng_state())
        rough = depprobe.jacobian(module, x, method=method)
        assert flags() == known
        for one, other in zip((torch.cuda.get_rng_state(), torch.get_rng_state()), drawn_from, strict=True):
            assert torch.equal(one, other)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    # float32 is float32, whatever the flags
    agrees(depprobe.jacobian(module, x, method=method), rough)


def test_the_default_device_is_not_where_we_compute():
    expected = depprobe.jacobian("lstm", n=N, d=D, targets="every:16")
    torch.set_default_device(DEVICE)
    try:
        found = depprobe.jacobian("lstm", n=N, d=D, targets="every:16")
        gates = depprobe.gates("lstm", n=N, d=D)
        exponents = depprobe.lyapunov("lstm", n=N, d=D, exponents="all")
        assert torch.get_default_device().type == DEVICE
    finally:
        torch.set_default_device(None)
    assert found.identical(expected)
    assert gates.log_norm_cc.notnull().all()
    assert exponents.exponent.notnull().all()


def test_the_option_of_the_command(run):
    code, out, err = run("jacobian", "--layer", "lstm", "--n", "40", "--d", "8", "--device", DEVICE, "-q")
    assert (code, err) == (0, "")
    assert "lstm" in out
