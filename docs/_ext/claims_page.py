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

from depprobe.cli.output import with_error
from depprobe.cli.summaries.claims import tally

DOCS = Path(__file__).parent.parent
HEAD = """\
# Claims

The package grew from an overview article that compares self-attention, convolution and recurrence on long
sequences: formulas of cost and reach, a table of times and memory on one GPU, and advice on which layer to
take. These are its statements, restated in this project's words, each with the measurement that decides it.
`depprobe claims` measures them in full, `depprobe claims --quick` as shown here, and `depprobe claims ID`
prints the evidence of one.

No verdict is stored: each is computed from the data by the rule that stands beside it, and every rule can
fail: `tests/test_claims_overturned.py` has data that confirm and data that refute each part.

- **confirmed**: it holds in every case measured, or in as many as the rule says;
- **qualified**: it holds under the condition named;
- **refuted**: it does not hold, and the corrected form is named;
- **by definition**: it restates how a layer is built; counts show it, and nothing measured could overturn it;
- **not measured here**: what would be needed is named; also where times scatter so that two verdicts are
  possible.
"""


def measured() -> list[dict[str, Any]]:
    """The records of all claims."""
    command = [sys.executable, "-m", "depprobe", "claims", "--quick", "--json", "--quiet"]
    paths = [str(DOCS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [*command, "--output", str(DOCS / "_build" / "claims")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    if done.returncode:
        raise ExtensionError(f"depprobe claims left with {done.returncode}:\n{done.stderr}")
    records: list[dict[str, Any]] = json.loads(done.stdout)["claims"]
    return records


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
    """One claim: statement, findings, rule."""
    parts = [f"## {record['id']}", f"> {text(record['statement'])}"]
    for finding in record["findings"]:
        lines = [f"**{finding['verdict']}**: {text(finding['part'])}"]
        if finding["note"]:
            lines.append(f"  \n{text(finding['note'])}")
        parts.append("".join(lines))
        if finding["numbers"]:
            rows = [f"| {text(name)} | {said(number)} |" for name, number in finding["numbers"].items()]
            parts.append("\n".join(["| measured | |", "| --- | --- |", *rows]))
    parts.append(f"*Rule.* {text(record['rule'])}")
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
    return "\n\n".join([HEAD, f"{counted}.", table, *map(entry, records)]) + "\n"


def prepare(app: Sphinx, config: Any) -> None:
    """Write the page before Sphinx looks for it."""
    write(DOCS / "generated" / "claims.md", page())


def setup(app: Sphinx) -> dict[str, Any]:
    """Prepare the page once the configuration is read."""
    app.connect("config-inited", prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
