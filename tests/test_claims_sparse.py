"""C11: pairs against masks, shares against the structured Jacobian, tensors made, verdicts that flip."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from claim_evidence import as_n, put, shared, small

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
    return small("C11")


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
    upper = measured.sel(n=[1024, 4096])
    assert (upper["largest_tensor"] < upper["n"] ** 2 / 4).all()
    # no more than the pairs of blocks, which grow 8 times, where n^2 grows 16 times
    assert (upper["peak_bytes"].sel(n=4096) / upper["peak_bytes"].sel(n=1024) < 8).all()


def test_verdicts_on_cost_flip(measured):
    ds = measured
    for name in ("sliding-window", "dilated-attention", "block-attention"):
        ds = as_n(ds, name, 1)
    assert verdicts(ds)[:6] == ["by definition"] * 3 + ["confirmed"] * 3
    assert verdicts(as_n(ds, "sliding-window", 1.2))[3] == "qualified"
    assert verdicts(as_n(ds, "sliding-window", 1.3))[3] == "refuted"
    # far below the 2 of a full product, and yet not as few as the pairs
    assert verdicts(as_n(ds, "block-attention", 1.8))[5] == "refuted"
    memory = put(ds, "peak_bytes", ds["n"] ** 2.0, layer="dilated-attention")
    assert verdicts(memory)[4] == "refuted"
    assert "memory grows faster" in claim.judge(memory)[4].note
    # rounds that disagree
    shaken = put(ds, "pass_time", ds["n"] ** 1.4, layer="sliding-window", round=0)
    assert verdicts(shaken)[3] == "not measured here"


def test_broken_counts_are_told(measured):
    square = measured["n"].astype(float) ** 2
    ds = put(measured, "pairs", square, layer="sliding-window")
    faults = claim.checks(put(ds, "largest_tensor", square, layer="block-attention"))
    assert "the pairs of sliding-window are not O(n k)" in faults
    assert any("sliding-window at n = 1024 has 1048576 pairs, not" in fault for fault in faults)
    assert any("block-attention at n = 4096 makes a tensor" in fault for fault in faults)


def test_a_pattern_is_for_what_no_other_serves_better(measured):
    odd = {"pattern": "dilated-attention", "input": ["period 12", "period 15"]}
    ds = shared(measured, sliding_window=1.0, dilated_attention=0.4, block_attention=0.3)
    assert verdicts(ds)[6:] == ["by definition", "refuted", "refuted"]
    note = claim.judge(ds)[8].note
    assert "sliding-window, dilated-attention give no less for documents of 3 blocks" in note
    ds = shared(measured, dilated_attention=0.4, block_attention=0.6)
    assert verdicts(ds)[7:] == ["refuted", "confirmed"]
    ds = put(shared(measured, dilated_attention=0.6), "share", 0.0, **odd)
    assert verdicts(ds)[7] == "qualified"
    assert "it gives most for period 8, period 16; " in claim.judge(ds)[7].note
    assert "no gradient at all for period 12, period 15: distances are" in claim.judge(ds)[7].note
    assert any("outside a window" in fault for fault in claim.checks(shared(measured, sliding_window=0.9)))
    odd_shares = claim.checks(shared(measured, dilated_attention=0.1))
    assert any("multiples of 12" in fault for fault in odd_shares)


def test_a_gain_within_its_error_is_none(measured):
    ds = put(shared(measured), "share", 0.3, pattern="block-attention", seed=0)
    assert verdicts(ds)[8] == "refuted"


def test_the_share_of_a_mask_counts_its_sources(measured):
    n, block = 49, 7
    made = cases(n, 4, 8, np.random.default_rng([0, n]))
    (_, own), t = made["documents of 3 blocks"], np.arange(n)
    mask = (t[:, None] // block == t // block) | (t == np.minimum((t // block + 1) * block, n) - 1)
    targets = range(3, n, 6)
    shares = [(own[k] & mask[k] & (t != k)).sum() / (mask[k] & (t != k)).sum() for k in targets]
    found = measured["share_mask"].sel(pattern="block-attention", input="documents of 3 blocks")
    assert float(found) == pytest.approx(np.mean(shares), rel=1e-12)
