"""C10: the hybrid against the module as printed, its FLOPs against the formula, verdicts that flip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from claim_evidence import faster, small
from torch import nn

from depprobe.costs.interleaved_timing import interleaved_seconds
from depprobe.errors import BadInput
from depprobe.ledger import claims
from depprobe.ledger.costs.hybrid_factors import ALONE, PRINTED, factor
from depprobe.registry import layers

claim = claims["C10"]


def verdicts(ds):
    return [finding.verdict for finding in claim.judge(ds)]


@pytest.fixture(scope="module")
def passes():
    return small("C10")


class Printed(nn.Module):
    """As the statement has it: Conv1d with same padding, then nn.MultiheadAttention, its output returned."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(d, d, 3, padding="same")
        self.attention = nn.MultiheadAttention(d, 8, batch_first=True)

    def forward(self, x):
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return self.attention(x, x, x)[0]


def test_the_hybrid_is_the_module_as_printed():
    printed, hybrid = Printed(16), layers[PRINTED].build(16)
    weights = dict(hybrid.named_parameters()).items()
    assert [p.shape for _, p in weights] == [p.shape for p in printed.parameters()]
    with torch.no_grad():
        for (_, ours), theirs in zip(weights, printed.parameters(), strict=True):
            ours.copy_(theirs)
    x = torch.randn(2, 21, 16)
    torch.testing.assert_close(hybrid(x), printed(x))


def test_the_factor_in_flops():
    for stride, times in ((2, 13), (3, 2.25), (4, 10 / 13)):  # roots of the formula at factor 3
        n, d = round(times * 5200), 5200
        assert factor(n, d, stride) == pytest.approx(3, rel=1e-3)
        assert factor(10**7, 8, stride) == pytest.approx(stride**2, rel=1e-3)
    assert factor(10**7, 8, 1) < 1


def test_counts_follow_the_formula(passes):
    off = passes.copy(deep=True)
    off["flops"].loc[{"layer": PRINTED}] = off["flops"].sel(layer=ALONE)
    assert any("conv-attention at n = 64 are not those" in fault for fault in claim.checks(off))


def test_verdicts_flip(passes):
    strides = {f"conv-attention:stride={s}": s**2 for s in (2, 3, 4)}
    ds = faster(passes, **{PRINTED: 0.9}, **strides)
    assert verdicts(ds) == ["refuted", "confirmed", "refuted"]
    assert "takes more time in every pass" in claim.judge(ds)[0].note
    assert verdicts(faster(passes, **{PRINTED: 3.5})) == ["confirmed", "refuted", "confirmed"]
    ds["classifier_time"].loc[{"layer": PRINTED}] = 0.2
    ds["classifier_time"].loc[{"layer": "conv-attention:stride=2"}] = 0.5
    assert verdicts(ds) == ["qualified", "qualified", "qualified"]
    assert "classifier from n = 64" in claim.judge(ds)[0].note
    assert "stride 3 from n = 64, stride 4 from n = 64" in claim.judge(ds)[1].note


def test_a_factor_that_the_rounds_do_not_agree_on_is_not_measured(passes):
    ds = faster(passes, **{PRINTED: 3.5})
    assert verdicts(ds)[0] == "confirmed"
    ds["pass_time"].loc[{"layer": PRINTED, "round": 0}] = 1
    assert verdicts(ds)[0] == "not measured here"
    assert verdicts(faster(passes, **{PRINTED: 3.1}))[0] == "not measured here", "a busy machine moves 3.1"


def test_calls_are_timed_in_turn():
    calls = []
    threads = torch.get_num_threads()
    found = interleaved_seconds(
        {name: (lambda name=name: calls.append(name)) for name in "ab"}, rounds=2, least=1e-9
    )
    assert calls == list("ab" + "ab" + "ba")
    assert np.shape(found["a"]) == (2,)
    assert torch.get_num_threads() == threads
    with pytest.raises(BadInput, match="at least 1 round of more than 0 s, not 0 of"):
        interleaved_seconds({}, rounds=0)
