"""C1: steps counted on the support against stacked layers, closed forms and a recurrence run step by step."""

from __future__ import annotations

import pytest
import torch
from claim_evidence import small
from torch import nn

from depprobe.ledger import claims
from depprobe.ledger.gradients.counted_path_length import RECURRENCES, _round, steps_back
from depprobe.ledger.gradients.path_length import CLOSED, CONVOLUTIONS, DILATED
from depprobe.ledger.patterns.gradient_shares import squares
from depprobe.registry import Spec, layers

claim = claims["C1"]


def verdicts(ds):
    return [finding.verdict for finding in claim.judge(ds)]


@pytest.fixture(scope="module")
def paths():
    return small("C1")


@pytest.mark.parametrize("n", [9, 13])
@pytest.mark.parametrize("name", [name for name in CLOSED if name not in RECURRENCES])
def test_the_count_is_the_depth_at_which_a_stack_reaches(name, n):
    spec, found = Spec.parse(name), steps_back(name, n)
    options = dict(spec.options())

    def reaches(depth):
        if spec.name == "dilated-conv":
            stack = layers[spec.name].build(4, depth=depth, nonlinearity="none", **options).double()
        else:
            heads = {"heads": 2} if "attention" in name or "window" in name else {}
            stack = nn.Sequential(
                *(layers[spec.name].build(4, **heads, **options).double() for _ in range(depth))
            )
        return bool(squares(stack, torch.randn(n, 4, dtype=torch.float64), [n - 1])[0, 0] > 0)

    assert found == CLOSED[name](n)
    assert reaches(found)
    assert found == 1 or not reaches(found - 1)


@pytest.mark.parametrize("name", RECURRENCES)
def test_rounds_of_a_recurrence_come_to_its_states(name):
    module = layers[name].build(4).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    if name == "lstm":  # its cell state is not carried between rounds: one round is the first step
        assert torch.allclose(_round(module, torch.zeros_like(x), x)[0], module(x[None])[0][0, 0])
        return
    h = torch.zeros_like(x)
    for _ in range(7):
        before, h = h, _round(module, h, x)
    assert torch.allclose(h, module(x[None])[0][0])
    assert not torch.allclose(before, h)


def test_known_lengths():
    assert [CLOSED[name](1000) for name in ("attention", "conv:kernel=3,causal=true", *DILATED, "lstm")] == [
        *(1, 500, 10, 9, 7, 999)
    ]
    assert steps_back("dilated-conv:kernel=3", 1000) == 9
    assert steps_back("dilated-conv:kernel=3,base=3", 1000) == 7


def test_verdicts_flip(paths):
    defined = "by definition"
    assert verdicts(paths) == [defined, "qualified", defined, defined]
    assert "without dilation only" in claim.judge(paths)[1].note
    n = paths["n"].values
    flipped = paths.copy(deep=True)
    for name in DILATED:  # as if dilation did not help
        flipped["path_counted"].loc[{"layer": name}] = CONVOLUTIONS["conv:kernel=3,causal=true"](28) * n / 28
    assert verdicts(flipped) == [defined, "confirmed", defined, defined]
    flipped["path_counted"].loc[{"layer": "attention"}] = 2
    flipped["path_counted"].loc[{"layer": "conv:kernel=9"}] = n**2
    assert verdicts(flipped) == [defined, "qualified", defined, defined]
    assert any("attention at n = 9: 2 steps counted, 1 by" in fault for fault in claim.checks(flipped))
    flipped["path_counted"] = 0 * flipped["path_counted"] + n**2
    assert verdicts(flipped)[1] == "refuted"
    assert any("not 500" in fault for fault in claim.checks(paths.assign_coords(n=[9, 17, 1000])))
