"""The contract of every registered layer and operator, checked without naming any."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from conftest import tolerance

import depprobe
from depprobe import store
from depprobe.curves import FORMS
from depprobe.errors import BadInput
from depprobe.operators import temporal_jacobian
from depprobe.operators.composed.operator import GraphJacobian
from depprobe.registry import Spec, layers

F64 = torch.float64
N, D, D_IN = 67, 8, 5
SPECS = [spec for name, entry in layers.items() for spec in (name, *entry.examples)]


def built(text: str):
    spec = Spec.parse(text)
    entry = layers[spec.name]
    d_in = D_IN if entry.reads_any_width else D
    widths = {"d_in": d_in} if entry.reads_any_width else {}
    module = entry.build(D, **widths, **spec.options()).to(F64).eval()
    return entry, spec, module, torch.randn(N, d_in, dtype=F64)


@pytest.mark.parametrize("text", SPECS)
def test_operator_equals_autograd_block_by_block(text):
    _, _, module, x = built(text)
    plain = temporal_jacobian(module, x, method="autograd")
    operator = temporal_jacobian(module, x, tolerance=0)
    assert operator.shape == plain.shape
    n_out = operator.shape[0]
    targets = sorted({0, n_out // 2, n_out - 1})
    for t in targets:
        expected, found = plain.row(t).dense(), operator.row(t).dense()
        scale = expected.norm(dim=(0, 2))
        gap = (found - expected).norm(dim=(0, 2))
        # where entries fall below the normal numbers autograd itself has no digits left
        assert (gap <= tolerance() * scale + 1e-290).all(), (t, float((gap / scale).nan_to_num().max()))
        sv = torch.linalg.svdvals(expected[:, t // 2]) if scale[t // 2] > 1e-200 else None
        if sv is not None:
            torch.testing.assert_close(
                operator.singular_values(t, t // 2).dense(), sv, rtol=1e-8, atol=1e-10 * float(sv[0])
            )
    for norm in ("fro", "spectral"):
        found_norms = _over_sources(operator, targets, norm)
        expected_norms = plain.log_norms(targets, None, norm).values
        known = ~np.isnan(expected_norms)
        assert (np.isneginf(found_norms) == np.isneginf(expected_norms))[known].all()
        finite = known & np.isfinite(expected_norms)
        # ln norm, so an absolute gap is a relative one; what cancels out inside a block is round-off in both
        np.testing.assert_allclose(found_norms[finite], expected_norms[finite], atol=1e-9, rtol=0)


def _over_sources(operator, targets, norm):
    from depprobe.runs.labelling import over_sources

    norms = operator.log_norms(targets, None, norm)
    return over_sources(norms, operator.position[targets], operator.shape[2]).values


@pytest.mark.parametrize("text", SPECS)
def test_products_are_adjoint(text):
    _, _, module, x = built(text)
    operator = temporal_jacobian(module, x)
    plain = temporal_jacobian(module, x, method="autograd")
    v, u = torch.randn(operator.shape[:2], dtype=F64), torch.randn_like(x)
    torch.testing.assert_close(operator.vjp(v), plain.vjp(v), rtol=1e-9, atol=1e-11)
    assert torch.allclose((operator.vjp(v) * u).sum(), (operator.jvp(u) * v).sum(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("text", SPECS)
def test_causal_where_promised_and_only_there(text):
    entry, spec, module, x = built(text)
    operator = temporal_jacobian(module, x, tolerance=0)
    t = operator.shape[0] // 2
    future = np.arange(N) > operator.position[t]
    found = _over_sources(operator, [t], "fro")[0]
    assert np.isneginf(found[future]).all() == entry.causal(**spec.options())


@pytest.mark.parametrize("text", SPECS)
def test_same_seed_same_data_and_a_valid_dataset(text, tmp_path):
    first, second = (depprobe.jacobian(text, n=N, d=D, targets="every:16") for _ in range(2))
    assert first.identical(second)
    store.validate(first)
    assert store.load(store.save(first, tmp_path / "a.nc")).identical(first)
    other = depprobe.jacobian(text, n=N, d=D, targets="every:16", seed=1)
    assert not first["log_norm"].equals(other["log_norm"])
    assert depprobe.distances(first).sizes == {"form": len(FORMS)}


@pytest.mark.parametrize("name", list(layers))
def test_every_default_is_valid_and_every_entry_explains_itself(name):
    entry = layers[name]
    entry.build(64)
    assert entry.equation
    assert entry.citation
    assert entry.summary.endswith(".")
    for option, parameter in entry.options.items():
        assert parameter.default is not inspect.Parameter.empty, option
    with pytest.raises(BadInput, match="unknown option of"):
        Spec.parse(f"{name}:no_such_option=1").options()


def test_an_unknown_module_is_a_graph_of_glue():
    class Mixes(torch.nn.Module):
        def forward(self, x):
            return torch.tanh(x.cumsum(-2)).flip(-1)[..., :3]

    x = torch.randn(11, 4, dtype=F64)
    operator = temporal_jacobian(Mixes(), x)
    assert isinstance(operator, GraphJacobian)
    J = torch.func.jacrev(Mixes())(x)
    torch.testing.assert_close(operator.row(7).dense(), J[7], rtol=1e-12, atol=0)
    values = operator.log_norms([7]).values[0]
    assert np.isneginf(values[8:]).all()
    np.testing.assert_allclose(values[:8], J[7].norm(dim=(0, 2))[:8].log(), atol=1e-12)
