"""What ``depprobe claims`` says of a statement: verdicts, numbers, the rule, the evidence."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import xarray as xr

from depprobe.cli.output import Summary, attributes_of, with_error
from depprobe.ledger.claim import Claim, Finding, Measured
from depprobe.ledger.verdicts import VERDICTS

WIDTH = 104
#: rows of an evidence table; longer ones are thinned evenly
ROWS = 36


def record(
    claim: Claim, ds: xr.Dataset, findings: Sequence[Finding], faults: Sequence[str]
) -> dict[str, Any]:
    """A statement for the JSON document."""
    return {
        "id": claim.id,
        "statement": claim.statement,
        "rule": claim.rule,
        "findings": [
            {
                "part": one.part,
                "verdict": one.verdict,
                "numbers": {name: number._asdict() for name, number in one.numbers.items()},
                "note": one.note,
            }
            for one in findings
        ],
        "failed_checks": list(faults),
        "attributes": attributes_of(ds),
    }


def entry_text(claim: Claim, findings: Sequence[Finding], ds: xr.Dataset | None = None) -> str:
    """A statement as printed; with its dataset also the rule and the evidence."""
    lines = _wrapped(f"{claim.id:<5}", claim.statement)
    margin = " " * (7 + max(map(len, VERDICTS)))
    for one in findings:
        lines += _wrapped(f"     {one.verdict:<{len(margin) - 5}}", one.part)
        numbers = "; ".join(f"{name}: {_said(number)}" for name, number in one.numbers.items())
        lines += _wrapped(margin, numbers) if numbers else []
        lines += _wrapped(f"{margin}-> ", one.note) if one.note else []
    if ds is not None:
        lines += ["", *_wrapped("rule     ", claim.rule), ""]
        # its last line is blank
        return "\n".join([*lines, *_tables(ds)])
    return "\n".join([*lines, ""])


def summary(judged: Sequence[tuple[Claim, Sequence[Finding]]]) -> Summary:
    """A table with a row for each part of the statements; its records have one for each number."""
    cells, records = [], []
    for claim, findings in judged:
        for one in findings:
            measured = "; ".join(f"{name}: {_said(number)}" for name, number in one.numbers.items())
            cells.append([claim.id, one.part, one.verdict, measured or "-", one.note or "-"])
            row = {"claim": claim.id, "part": one.part, "verdict": one.verdict}
            for name, number in (one.numbers or {"": Measured(math.nan)}).items():
                records.append(row | {"number": name, **number._asdict(), "note": one.note})
    headings = ["claim", "part", "verdict", "measured", "note"]
    verdicts = [one.verdict for _, findings in judged for one in findings]
    return Summary("The article's claims, tested", headings, cells, records, [tally(verdicts)], upright=True)


def tally(verdicts: Sequence[str]) -> str:
    """How many parts of the statements got each verdict.

    Examples
    --------
    >>> tally(["refuted", "confirmed", "refuted"])
    '3 parts: 1 confirmed, 2 refuted'
    """
    counts = [f"{verdicts.count(word)} {word}" for word in VERDICTS if word in verdicts]
    return f"{len(verdicts)} part{'s' * (len(verdicts) != 1)}: {', '.join(counts)}"


def _said(number: Measured) -> str:
    return f"{with_error(*number[:2])} {number.unit}".rstrip()


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first))


def _tables(ds: xr.Dataset) -> list[str]:
    """Every variable, those over the same dimensions side by side."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, variable in ds.data_vars.items():
        groups.setdefault(tuple(map(str, variable.dims)), []).append(str(name))
    lines = []
    for dims, names in groups.items():
        sizes = [ds.sizes[dim] for dim in dims]
        every = math.ceil(math.prod(sizes) / ROWS)
        rows = [[*dims, *names]]
        for place in itertools.islice(itertools.product(*map(range, sizes)), 0, None, every):
            at = dict(zip(dims, place, strict=True))
            here = ds.isel(at)
            rows.append([_cell(here[name].item()) for name in (*dims, *names)])
        if every > 1:
            lines.append(f"one row in {every} of {math.prod(sizes)}:")
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *rest]))
        lines += [*(f"  {name}: {_about(ds, name)}" for name in names), ""]
    return lines


def _about(ds: xr.Dataset, name: str) -> str:
    attrs = ds[name].attrs
    return f"{attrs.get('long_name', name)} ({attrs.get('units', '1')})"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.5g}"
    return str(value)
