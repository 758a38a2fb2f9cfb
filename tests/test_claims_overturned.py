"""No part of a claim is judged by a rule that cannot fail: data that confirm it and data that refute it."""

from __future__ import annotations

import pytest
from claim_evidence import BROKEN, EXAMPLES, small

from depprobe.ledger import claims
from depprobe.ledger.verdicts import CONFIRMED, DEFINED, REFUTED, timed

PARTS = [(name, part) for name, claim in claims.items() for part in claim.parts]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_part_is_a_definition_or_can_be_confirmed_and_refuted(name, part):
    claim, ds = claims[name], small(name)
    rule = claim.parts[part]
    verdict, numbers, note = rule(ds)[:3]
    if verdict == DEFINED:
        assert (name, part) not in EXAMPLES
        assert note
        assert numbers
        if (name, part) in BROKEN:
            broken = BROKEN[name, part](ds)
            assert rule(broken)[0] == DEFINED
            assert set(claim.checks(broken)) > set(claim.checks(ds))
        return
    confirms, refutes = (rule(example(ds))[0] for example in EXAMPLES[name, part])
    assert (confirms, refutes) == (CONFIRMED, REFUTED)


def test_every_example_belongs_to_a_part():
    assert {*EXAMPLES, *BROKEN} <= set(PARTS)


@pytest.mark.parametrize("name", claims)
def test_what_was_measured_breaks_no_truth(name):
    assert claims[name].checks(small(name)) == []


def test_times_that_allow_two_verdicts_give_none():
    assert timed([CONFIRMED, CONFIRMED], {}, "why") == (CONFIRMED, {}, "why")
    verdict, _, note = timed([CONFIRMED, REFUTED], {}, "why")
    assert verdict == "not measured here"
    assert "confirmed and refuted" in note
