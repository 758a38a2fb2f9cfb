"""``depprobe claims``: what it prints, keeps and takes up again, and how wrong calls end."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from json_documents import document_of

from depprobe import store
from depprobe.cli.output import command_of
from depprobe.ledger import VERDICTS, ClaimCache, claims
from depprobe.ledger.evidence import command_of as command_of_claim
from depprobe.ledger.gradients import receptive_field
from depprobe.runs.labelling import provenance
from depprobe.store import finished

QUICK = ("claims", "C6", "--quick", "-q")


SIZES = ((2, 3), (1, 2, 3, 4), 34, 3, 6)


@pytest.fixture(scope="module")
def stacks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receptive_field, "QUICK", SIZES)
        return receptive_field.CLAIM.measure(True)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(receptive_field, "QUICK", SIZES)


@pytest.fixture
def measured(monkeypatch, stacks):
    """The ledger with C6 alone, measured beforehand; gives what was asked for: (quick, seed, threads)."""
    calls = []

    def measure(quick, progress=None, seed=0):
        calls.append((quick, seed, torch.get_num_threads()))
        return stacks.assign_attrs(provenance=provenance(command_of_claim("C6", quick, seed)))

    monkeypatch.setattr(claims, "_entries", {"C6": replace(receptive_field.CLAIM, measure=measure)})
    return calls


def good(run, *arguments):
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("command", ["show", "plot"])
def test_evidence_of_a_claim_is_told_from_a_measurement(run, measured, command):
    good(run, "claims", "C6", "--quick", "-q")
    code, out, err = run(command, "runs/claims/C6_quick_seed0.nc")
    said = "is the evidence of claim C6; to see it: depprobe claims C6 --quick --seed 0\n"
    assert (code, out) == (2, "")
    assert err == f"depprobe: 'runs/claims/C6_quick_seed0.nc' {said}"


def test_one_statement_with_its_rule_and_evidence(run):
    out = good(run, "claims", "c6", "--quick", "-q")
    path = "runs/claims/C6_quick_seed0.nc"
    said = " ".join(out.split())
    assert "\n\n\n" not in out
    for words in (receptive_field.CLAIM.statement, receptive_field.CLAIM.rule, f"dataset {path}"):
        assert words in said
    assert "refuted the receptive field is k (2^L - 1)" in said
    assert "-> the support has 1 + (k-1)(2^L - 1) positions" in said
    ds = store.load(path)
    assert command_of(ds) == "depprobe claims C6 --quick --seed 0"
    for name in ds.data_vars:
        assert ds[name].attrs["long_name"] in said
    # a row of the table for every stack
    assert out.count("dilated-conv:depth=") == ds.sizes["layer"]
    assert out.splitlines()[-1] == "3 parts: 1 confirmed, 2 refuted"


def test_all_statements_in_short(run, measured):
    claims._entries["C7"] = replace(claims["C6"], id="C7", statement="Another.")
    out = good(run, "claims", "--quick", "-q")
    assert re.findall(r"^C\d+", out, re.MULTILINE) == ["C6", "C7"]
    assert out.splitlines()[-1] == "6 parts: 2 confirmed, 4 refuted"
    assert "rule" not in out
    assert [path.name for path in sorted(Path("runs/claims").iterdir())] == [
        "C6_quick_seed0.nc",
        "C7_quick_seed0.nc",
    ]


def test_an_unknown_id_is_one_line(run):
    code, out, err = run("claims", "C6", "C66", "--quick")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"depprobe: unknown claim 'C66'; did you mean 'C6'\? Known: .*\n", err)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "wrong",
    [("--threads", "0"), ("--seed", "x"), ("--seed", "-1"), ("--seed", "1" * 20), ("-o", "file/inside")],
)
def test_wrong_options_are_one_line(run, wrong):
    Path("file").write_text("")
    code, out, err = run(*QUICK, *wrong)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"depprobe: .*(threads|seed|file).*\n", err)


def test_the_ledger_as_a_table(run, measured):
    latex = good(run, *QUICK, "--table", "latex", "--rows", "part,verdict")
    findings = receptive_field.CLAIM.judge(
        store.load(json.loads(good(run, *QUICK, "--json"))["claims"][0]["dataset"])
    )
    assert len(latex.splitlines()) == 4 + len(findings) + 2
    assert latex.splitlines()[2] == r"claim & part & verdict \\"
    rows = list(csv.DictReader(io.StringIO(good(run, *QUICK, "--table", "csv"))))
    assert len(rows) == sum(max(1, len(one.numbers)) for one in findings)
    for row in rows:
        (one,) = [one for one in findings if one.part == row["part"]]
        assert row["verdict"] == one.verdict
        assert float(row["value"]) == one.numbers[row["number"]].value
    assert "--rows chooses columns of a table" in run(*QUICK, "--rows", "part")[2]


def test_json_has_every_number(run, measured):
    document = document_of("claims", good(run, *QUICK, "--json"))
    (record,) = document["claims"]
    ds = store.load(record["dataset"])
    findings = receptive_field.CLAIM.judge(ds)
    assert document["mode"] == "quick"
    assert list(document["verdicts"]) == list(VERDICTS)
    assert sum(document["verdicts"].values()) == len(findings)
    for told, finding in zip(record["findings"], findings, strict=True):
        assert (told["part"], told["verdict"], told["note"]) == (
            finding.part,
            finding.verdict,
            finding.note,
        )
        assert {name: number["value"] for name, number in told["numbers"].items()} == {
            name: number.value for name, number in finding.numbers.items()
        }
    assert record["failed_checks"] == []


def test_what_is_kept_is_not_measured_again(run, measured):
    first = good(run, *QUICK)
    assert good(run, *QUICK) == first
    assert measured == [(True, 0, 1)]
    good(run, *QUICK, "--seed", "1")
    good(run, "claims", "C6", "-q")
    good(run, *QUICK, "--fresh")
    assert [call[:2] for call in measured[1:]] == [(True, 1), (False, 0), (True, 0)]
    assert len(list(Path("runs/claims").iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "foreign", "other code"])
def test_what_is_damaged_or_from_elsewhere_is_measured_again(run, measured, damage, monkeypatch):
    first = good(run, *QUICK)
    path = Path("runs/claims/C6_quick_seed0.nc")
    ds = store.load(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "foreign":
        store.save(ds.assign_attrs(depprobe_version="0.0.1"), path)
    else:
        monkeypatch.setattr(finished, "code_version", lambda: "another")
    assert good(run, *QUICK) == first
    assert len(measured) == 2
    assert store.load(path).attrs["depprobe_version"] != "0.0.1"


def test_verdicts_are_computed_from_what_is_kept(run, measured):
    good(run, *QUICK)
    path = Path("runs/claims/C6_quick_seed0.nc")
    ds = store.load(path)
    stated = ds["kernel"] * (2 ** ds["layers_stacked"] - 1)
    width = ds["receptive_width"].where(ds["base"] != 2, stated)
    changed = ds.assign(receptive_width=width, receptive_field=width - 1)
    ClaimCache(path.parent, quick=True, fresh=True).taken("C6", changed.copy)
    out = good(run, *QUICK)
    assert "confirmed          the receptive field is k (2^L - 1)" in out
    assert out.splitlines()[-1] == "3 parts: 2 confirmed, 1 refuted"


def test_a_broken_truth_is_exit_code_3(run, monkeypatch, measured):
    broken = replace(claims["C6"], checks=lambda ds: ["water runs uphill"])
    monkeypatch.setitem(claims._entries, "C6", broken)
    code, out, err = run(*QUICK)
    assert (code, err) == (3, "depprobe: check failed: C6: water runs uphill\n")
    assert "3 parts" in out
    code, out, _ = run(*QUICK, "--json")
    assert code == 3
    assert json.loads(out)["claims"][0]["failed_checks"] == ["water runs uphill"]


def test_one_thread_measures_unless_more_are_asked_for(run, measured):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        good(run, *QUICK)
        good(run, *QUICK, "--fresh", "--threads", "2")
        assert [threads for *_, threads in measured] == [1, 2]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
