"""The ledger of claims, as ``depprobe claims --quick`` gives it while the pages are built.

Measurements are kept beside the pages and taken up again; verdicts are computed each time.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from written import write

from depprobe import store
from depprobe.cli.output import with_error
from depprobe.cli.summaries.claims import tally
from depprobe.ledger.claim_cache import ClaimCache

DOCS = Path(__file__).parent.parent
KEPT = DOCS / "_build" / "claims"
HEAD = """\
# Claims

## What is tested here

depprobe grew from an overview article that compares self-attention, convolution and recurrence on long
sequences. The article gives formulas for cost and reach, a table of times and memory on one GPU (an RTX
3090 with PyTorch 2.0), and advice on which layer to take. Its statements are those that many introductions
repeat.

All of them are on this page, as C1 to C15, restated in this project's words. Each is divided into parts,
since half of a sentence may hold while the other half does not. Times measured on another machine are
compared as ratios only.

## How a part is judged

No verdict is stored. `depprobe claims` measures the statements and computes each verdict by the rule that
is printed with it; `depprobe claims --quick` does so at small sizes, as on this page, and `depprobe claims
C6` prints the evidence of one. Every rule can fail: `tests/test_claims_overturned.py` has data that confirm
and data that refute each part.

| verdict | meaning |
| --- | --- |
| **confirmed** | it holds in every case measured, or in as many as the rule says |
| **qualified** | it holds under the condition that is named |
| **refuted** | it does not hold, and the corrected form is named |
| **by definition** | it restates how a layer is built, so that no measurement could contradict it |
| **not measured here** | what would be needed is named; also where times scatter too much to tell |

## All verdicts
"""


def measured() -> list[dict[str, Any]]:
    """The records of all claims."""
    from_studies()
    command = [sys.executable, "-m", "depprobe", "claims", "--quick", "--json", "--quiet"]
    paths = [str(DOCS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [*command, "--output", str(KEPT)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    if done.returncode:
        raise ExtensionError(f"depprobe claims left with {done.returncode}:\n{done.stderr}")
    records: list[dict[str, Any]] = json.loads(done.stdout)["claims"]
    return records


def from_studies() -> None:
    """Take up what the quick studies measured: where a study is about a claim, its dataset is the claim's."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for data in sorted((DOCS / "_build" / "studies" / "quick").glob("*.nc")):
        ds = store.load(data)
        if "claim" in ds.attrs:
            ClaimCache(KEPT, quick=True).taken(str(ds.attrs["claim"]), ds.copy)


def said(number: dict[str, Any]) -> str:
    """A measured number with its error and unit."""
    value, stderr = (math.nan if number[key] is None else float(number[key]) for key in ("value", "stderr"))
    return f"{with_error(value, stderr)} {number['unit']}".rstrip()


def text(words: str) -> str:
    """Plain words as Markdown."""
    for mark in ("\\", "*", "_", "|", "<", "[", "$", "`"):
        words = words.replace(mark, "\\" + mark)
    return words


def entry(record: dict[str, Any]) -> str:
    """One claim: its statement, and, to be unfolded, findings and rule."""
    parts = [f"### {record['id']}", f"> {text(record['statement'])}"]
    verdicts = ", ".join(dict.fromkeys(finding["verdict"] for finding in record["findings"]))
    parts.append(f"<details>\n<summary>{verdicts}: findings, numbers and rule</summary>")
    for finding in record["findings"]:
        lines = [f"**{finding['verdict']}**: {text(finding['part'])}"]
        if finding["note"]:
            lines.append(f"  \n{text(finding['note'])}")
        parts.append("".join(lines))
        if finding["numbers"]:
            rows = [f"| {text(name)} | {said(number)} |" for name, number in finding["numbers"].items()]
            parts.append("\n".join(["| measured | |", "| --- | --- |", *rows]))
    parts += [f"*Rule.* {text(record['rule'])}", "</details>"]
    return "\n\n".join(parts)


def page() -> str:
    """The whole ledger, its verdicts first."""
    records = measured()
    rows = [
        f"| [{record['id']}](#{record['id'].lower()}) | {text(finding['part'])} | {finding['verdict']} |"
        for record in records
        for finding in record["findings"]
    ]
    table = "\n".join(["| claim | part | verdict |", "| --- | --- | --- |", *rows])
    counted = tally([finding["verdict"] for record in records for finding in record["findings"]])
    return (
        "\n\n".join([HEAD, f"{counted}.", table, "## The statements, one by one", *map(entry, records)])
        + "\n"
    )


def prepare(app: Sphinx, config: Any) -> None:
    """Write the page before Sphinx looks for it."""
    write(DOCS / "generated" / "claims.md", page())


def setup(app: Sphinx) -> dict[str, Any]:
    """Prepare the page once the configuration is read."""
    # after the studies, whose measurements are the same
    app.connect("config-inited", prepare, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
