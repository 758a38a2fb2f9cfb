"""Every module of the corpus against autograd of that module by itself, or refused; none changed by it."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest
import torch
from corpus import F64, MODULES, D, N
from corpus_modules import KeepsState, Raises, RunningAverage
from torch import nn

from depprobe.errors import BadInput
from depprobe.operators import temporal_jacobian

#: of these float64 is not asked for: dtype, device or kind of the weights is the point
_AS_BUILT = ("meta", "half", "quantised", "made in inference mode")


def built(name):
    torch.manual_seed(0)
    module = MODULES[name].build()
    return module if name in _AS_BUILT else module.double()


def given(name):
    torch.manual_seed(1)
    return MODULES[name].x()


@cache
def truth_of(name):
    """One ``autograd.grad`` per output unit of a module of its own: (n_out, d_out, n, d)."""
    x = given(name)
    leaf = x.clone().requires_grad_()
    y = MODULES[name].truth(built(name), leaf.clone())
    rows = [gradient(one, leaf, name == "reentrant checkpoint") for one in y.flatten()]
    return torch.stack(rows).view(*y.shape, *x.shape)


def gradient(one, leaf, reentrant):
    if not reentrant:
        return torch.autograd.grad(one, leaf, retain_graph=True, materialize_grads=True)[0]
    # torch allows no other way
    leaf.grad = None
    one.backward(retain_graph=True)
    return leaf.grad.clone()


def state_of(value, seen=None):
    """Everything reachable from a module, as comparable text and bits."""
    seen = set() if seen is None else seen
    if isinstance(value, (int, float, str, bool, type(None))):
        return repr(value)
    if isinstance(value, torch.Tensor):
        if isinstance(value, nn.UninitializedParameter):
            return id(value)
        bits = value.detach()
        if bits.is_meta or bits.is_quantized:
            return id(value)
        bits = bits.to_dense().numpy().tobytes()
        grad = value.grad if value.is_leaf else None
        return (id(value), bits, value.requires_grad, None if grad is None else grad.numpy().tobytes())
    if isinstance(value, np.ndarray):
        return (id(value), value.tobytes())
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if id(value) in seen:
        return "again"
    seen.add(id(value))
    if isinstance(value, dict):
        return (id(value), [(str(key), state_of(item, seen)) for key, item in value.items()])
    if isinstance(value, (list, tuple, set)):
        return (type(value).__name__, [state_of(item, seen) for item in value])
    if isinstance(value, BaseException):
        return id(value)
    if hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        return state_of(vars(value), seen)
    if isinstance(value, nn.Module):
        made = getattr(type(value), "made", None)
        return (type(value).__name__, made, state_of(vars(value), seen))
    return id(value)


def process_state():
    drawn = np.random.get_state()
    return (
        torch.get_rng_state().numpy().tobytes(),
        (drawn[1].tobytes(), drawn[2]),
        random.getstate(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("name", [name for name, brought in MODULES.items() if brought.truth])
@pytest.mark.filterwarnings("ignore")
def test_every_block_is_that_of_the_module_by_itself(name, method):
    threads = torch.get_num_threads()
    try:
        x, options = given(name), MODULES[name].options
        truth = truth_of(name)
        torch.set_default_dtype(torch.float32)
        module = built(name)
        before, process = state_of(module), process_state()
        jacobian = temporal_jacobian(module, x, method=method, **options)
        norms = jacobian.log_norms(range(jacobian.shape[0]), range(jacobian.shape[2]))
        rows = [jacobian.row(t).dense() for t in range(jacobian.shape[0])]
        assert process_state() == process
        assert state_of(module) == before
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
    assert jacobian.shape == truth.shape
    size = truth.abs().max()
    torch.testing.assert_close(torch.stack(rows), truth, rtol=1e-9, atol=1e-11 * float(size))
    expected = truth.transpose(1, 2).flatten(2).norm(dim=2).log().numpy()
    known = ~np.isnan(norms.values)
    assert known[expected > np.log(1e-13 * float(size))].all()
    finite = np.isfinite(norms.values)
    np.testing.assert_allclose(
        norms.values[finite & (expected > -25)], expected[finite & (expected > -25)], atol=1e-8
    )
    assert np.isneginf(expected[np.isneginf(norms.values)]).all(), "a zero that is none"


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("name", [name for name, brought in MODULES.items() if brought.refusal])
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_measured_is_refused_in_one_line(name, method):
    module, x = built(name), given(name)
    before, process = state_of(module), process_state()
    with pytest.raises(BadInput, match=MODULES[name].refusal) as caught:
        temporal_jacobian(module, x, method=method, **MODULES[name].options)
    assert "\n" not in str(caught.value)
    assert process_state() == process
    assert state_of(module) == before


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError, SystemExit, ValueError])
def test_nothing_is_left_behind_an_interrupt(kind, at):
    error = kind("stop")
    module = Raises(error, at).double()
    before, process = state_of(module), process_state()
    with pytest.raises((kind, BadInput)):
        temporal_jacobian(module, torch.randn(N, D, dtype=F64, generator=torch.Generator().manual_seed(0)))
    assert process_state() == process
    assert state_of(module) == before


def test_training_goes_on_from_where_it_was():
    """An operator that is still there does not bring old weights back, and says that they are gone."""
    module, x = RunningAverage(D, in_place=True).double(), torch.randn(N, D, dtype=F64)
    jacobian = temporal_jacobian(module, x, layout="b n d")
    with torch.no_grad():
        module.linear.weight.add_(1.0)
        module.ema.mul_(3.0)
    module.note = "kept"
    before = state_of(module)
    with pytest.raises(BadInput, match="was changed after its Jacobian was asked for"):
        jacobian.log_norms([N - 1])
    jacobian.jvp(x)
    assert state_of(module) == before


@pytest.mark.parametrize("mode", ["autocast", "inference", "no_grad", "anomaly"])
def test_modes_of_the_caller_do_not_reach_the_module(mode):
    module, x = KeepsState(D, 5).double(), torch.randn(N, D, dtype=F64)
    plain = temporal_jacobian(module, x).log_norms([N - 1]).values
    modes = {
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "inference": torch.inference_mode,
        "no_grad": torch.no_grad,
        "anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
    }
    with modes[mode]():
        found = temporal_jacobian(module, x).log_norms([N - 1]).values
    np.testing.assert_array_equal(found, plain)


def test_a_global_hook_counts_and_stays():
    x = torch.randn(N, D, dtype=F64)
    module = nn.Sequential(nn.LSTM(D, 5, batch_first=True), nn.Linear(5, 3)).double()
    plain = temporal_jacobian(module, x).log_norms([N - 1]).values
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, a, y: 5 * y if isinstance(m, nn.Linear) else None
    )
    try:
        found = temporal_jacobian(module, x).log_norms([N - 1]).values
    finally:
        handle.remove()
    np.testing.assert_allclose(found, plain + np.log(5), rtol=1e-12)


def test_threads_that_measure_one_module_do_not_meet():
    from concurrent.futures import ThreadPoolExecutor

    module = RunningAverage(D, in_place=True).double()
    x = torch.randn(N, D, dtype=F64)
    before = state_of(module)

    def measure(_):
        return temporal_jacobian(module, x, layout="b n d").log_norms([N - 1]).values

    alone = measure(0)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(measure, range(12)):
            np.testing.assert_array_equal(found, alone)
    assert state_of(module) == before
