"""C11: pairs against masks, shares against the structured Jacobian, tensors made, verdicts that flip."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import depprobe
from depprobe.ledger import claims
from depprobe.ledger.patterns.cost_exponents import PAIRS, WINDOW, fitted
from depprobe.ledger.patterns.gradient_shares import cases, pattern_shares, squares
from depprobe.ledger.patterns.pattern_costs import Largest
from depprobe.registry import layers

claim = claims["C11"]


def verdicts(ds):
    return [finding.verdict for finding in claim.judge(ds)]


@pytest.fixture(scope="module")
def measured():
    import depprobe.ledger.patterns.sparse_patterns as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "QUICK", (((256, 1024, 4096, 16384), 8, 2, 2), (49, 4, 8, 6, 2)))
        # verdicts on times are tested on times made up
        patch.setattr(
            "depprobe.ledger.patterns.pattern_costs.interleaved_seconds",
            lambda runs, rounds: {key: [1, 1] for key in runs},
        )
        return claim.measure(True)


@pytest.mark.parametrize("n", [64, 100, 256, 333])
def test_pairs_are_those_of_masks(n):
    t, k = np.indices((n, n))
    size = int(np.ceil(np.sqrt(n)))
    distance = np.abs(t - k)
    masks = {
        "sliding-window": (t - k <= WINDOW // 2) & (k - t <= (WINDOW - 1) // 2),
        "dilated-attention": (distance & (distance - 1)) == 0,
        "block-attention": (t // size == k // size) | (k == np.minimum((k // size + 1) * size, n) - 1),
    }
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        name: pairs(n) for name, pairs in PAIRS.items()
    }


def test_growth_is_told():
    n = 4.0 ** np.arange(4, 9)
    for name, growth in (("n", n), ("n log2 n", n * np.log2(n)), ("n sqrt n", n**1.5), ("n^2", n**2)):
        found, multiple, misfit = fitted(n, 7 * growth + 3)
        assert (found, round(multiple, 6)) == (name, 7.0)
        assert misfit < 1e-9
    assert fitted(n, n**1.7)[2] > 1e-3


def test_squares_are_those_of_the_structured_jacobian():
    module = layers["block-attention"].build(6, heads=2).double()
    x = torch.randn(11, 6, dtype=torch.float64)
    ds = depprobe.dense(depprobe.jacobian(module, x, targets=[2, 7]))
    np.testing.assert_allclose(squares(module, x, [2, 7]), np.exp(2 * ds.log_norm.values), atol=1e-13)


def test_what_is_meant():
    made = cases(49, 3, 8, np.random.default_rng(0))
    _, near = made["nearby"]
    assert np.flatnonzero(near[20]).tolist() == list(range(16, 24))
    x, multiples = made["period 12"]
    assert np.flatnonzero(multiples[20]).tolist() == [8, 20, 32, 44]
    assert np.std(x[12:] - x[:-12]) < np.std(x[5:] - x[:-5])
    _, own = made["documents of 2.5 blocks"]
    assert np.flatnonzero(own[20]).tolist() == list(range(18, 36))


def test_uniform_weights_share_by_the_number_of_pairs(monkeypatch):
    """With W_Q = 0 every pair has the same block, so that shares are counts."""
    build = layers["attention"].build

    def uniform(*args, **options):
        module = build(*args, **options)
        with torch.no_grad():
            module.weights.in_proj_weight[: module.weights.embed_dim] = 0
        return module

    monkeypatch.setattr("depprobe.ledger.patterns.gradient_shares.LAYERS", ("attention",))
    monkeypatch.setattr(
        "depprobe.ledger.patterns.gradient_shares.layers", {"attention": SimpleNamespace(build=uniform)}
    )
    found = pattern_shares(49, 4, 8, 6, [0], lambda label: None)
    np.testing.assert_allclose(found["share"][0, 0, :, 0], found["share_chance"], rtol=1e-10)
    assert found["reach"].tolist() == [[1, 1]]


def test_a_square_product_would_be_seen(measured):
    with Largest() as largest:
        layers["attention"].build(8, heads=1, fused=False)(torch.randn(300, 8))
    assert largest.elements == 300 * 300
    upper = measured.sel(n=[4096, 16384])
    assert (upper["largest_tensor"] < upper["n"] ** 2 / 16).all()
    # no more than the pairs of blocks, which grow 8 times, where n^2 grows 16 times
    assert (upper["peak_bytes"].sel(n=16384) / upper["peak_bytes"].sel(n=4096) < 8).all()


def test_verdicts_on_cost_flip(measured):
    ds = measured.copy(deep=True)
    assert claim.checks(ds) == []
    ds["pass_time"][:] = ds["pairs"]
    assert verdicts(ds)[:3] == ["confirmed"] * 3
    ds["pass_time"].loc[{"layer": "block-attention"}] = ds["n"].astype(float) ** 2
    ds["peak_bytes"].loc[{"layer": "dilated-attention"}] = ds["n"].astype(float) ** 2
    assert verdicts(ds)[:3] == ["confirmed", "qualified", "qualified"]
    assert "time or memory grows faster" in claim.judge(ds)[1].note
    ds["pairs"].loc[{"layer": "sliding-window"}] = ds["n"].astype(float) ** 2
    ds["largest_tensor"].loc[{"layer": "block-attention"}] = ds["n"].astype(float) ** 2
    assert verdicts(ds)[:3] == ["refuted", "qualified", "refuted"]
    assert "pairs grow as n^2" in claim.judge(ds)[0].note
    faults = claim.checks(ds)
    assert any("sliding-window at n = 1024 has 1048576 pairs, not" in fault for fault in faults)
    assert any("block-attention at n = 4096 makes a tensor" in fault for fault in faults)


def as_if(measured, **shares):
    """Full attention's share 0.1 everywhere, those of patterns as given, none for periods 12 and 15."""
    ds = measured.copy(deep=True)
    ds["share"][:] = 0.1
    for name, value in shares.items():
        ds["share"].loc[{"pattern": name.replace("_", "-")}] = value
    return ds


def test_verdicts_on_use_flip(measured):
    odd = {"pattern": "dilated-attention", "input": ["period 12", "period 15"]}
    ds = as_if(measured, sliding_window=1.0, dilated_attention=0.4, block_attention=0.3)
    assert verdicts(ds)[3:] == ["confirmed", "confirmed", "confirmed"]
    assert claim.judge(ds)[5].note == "sliding-window and dilated-attention give the own document more still"
    ahead = as_if(measured, sliding_window=0.5, dilated_attention=0.4, block_attention=0.45)
    assert claim.judge(ahead)[5].note == "sliding-window gives the own document more still"
    best = as_if(measured, sliding_window=0.5, dilated_attention=0.4, block_attention=0.6)
    assert claim.judge(best)[5].note == ""
    ds["share"].loc[odd] = 0.0
    assert verdicts(ds)[4] == "qualified"
    assert "holds for period 8, period 16; no gradient at all" in claim.judge(ds)[4].note
    ds["reach"].loc[{"pattern": "block-attention", "depth": 2}] = 0.9
    assert verdicts(ds)[5] == "qualified"
    assert "documents of 2.5 blocks; two layers do not reach every" in claim.judge(ds)[5].note
    ds["share"].loc[{"pattern": "block-attention"}] = 0.1
    assert verdicts(ds)[5] == "refuted"
    assert "with no boundary; two layers do not reach every position" in claim.judge(ds)[5].note
    ds = as_if(measured, sliding_window=0.9, dilated_attention=0.05, block_attention=0.1)
    ds["reach"].loc[{"pattern": "block-attention", "depth": 2}] = 1.0
    assert verdicts(ds)[3:] == ["refuted", "refuted", "qualified"]
    assert any("outside a window" in fault for fault in claim.checks(ds))
    assert any("multiples of 12" in fault for fault in claim.checks(ds))


def test_a_gain_within_its_error_is_none(measured):
    ds = as_if(measured, sliding_window=1.0)
    ds["share"].loc[{"pattern": "block-attention", "seed": 0}] = 0.3
    assert verdicts(ds)[5] == "qualified"
    assert "full attention with no boundary; two layers reach every" in claim.judge(ds)[5].note
