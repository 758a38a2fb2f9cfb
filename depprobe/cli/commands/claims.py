"""``depprobe claims``: every statement, what was measured, and the verdict that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depprobe.cli import completing, output, tables
from depprobe.cli.grouped_help import Grouped
from depprobe.cli.options import THREADS, check_forms, shared
from depprobe.cli.progress import progress
from depprobe.errors import BadInput

if TYPE_CHECKING:
    from depprobe.ledger.claim import Claim, Finding


@click.command(cls=Grouped, short_help="statements about layers, measured: confirmed, qualified or refuted")
@click.argument("names", nargs=-1, metavar="[ID]...", shell_complete=completing.claims)
@click.option("--quick", is_flag=True, help="The small version: minutes for all instead of hours.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Fixes the weights, then the input."
)
# small matrices lose time to a second thread, and with one the numbers are the same on every machine
@click.option("--threads", type=THREADS, default=1, help="Threads to measure with.")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("runs/claims"),
    metavar="DIR",
    help="Folder where measurements are kept, and taken up again.",
)
@click.option("--fresh", is_flag=True, help="Measure again what is kept already.")
@shared("json", "table", "rows", "quiet")
def claims(
    names: tuple[str, ...],
    quick: bool,
    seed: int,
    threads: int,
    folder: Path,
    fresh: bool,
    as_json: bool,
    table: str | None,
    rows: str | None,
    quiet: bool,
) -> None:
    """Print the ledger of statements C1 to C15: numbers and a verdict on every part.

    With one ID, its rule and its evidence too. Measurements are kept; verdicts are computed each time.

    \b
    depprobe claims --quick
    depprobe claims C6
    """
    from depprobe.cli.summaries.claims import entry_text, record, summary, tally
    from depprobe.ledger import VERDICTS, ClaimCache
    from depprobe.ledger import claims as ledger

    check_forms(as_json, table, rows)
    if rows and not table:
        raise BadInput("--rows chooses columns of a table; add --table text, latex or markdown")
    chosen = list(dict.fromkeys(ledger[name].id for name in names)) or list(ledger)
    kept = ClaimCache(folder, quick, seed, fresh, threads)
    for name in chosen:
        output.check_writable(kept.path(name))
    records: list[dict[str, Any]] = []
    judged: list[tuple[Claim, Sequence[Finding]]] = []
    faults: list[str] = []
    verdicts: list[str] = []
    with progress(quiet) as report:
        for done, name in enumerate(chosen):
            claim = ledger[name]

            def inner(part: float, of: int, label: str, done: int = done, name: str = name) -> None:
                if report:
                    report(done + part / of, len(chosen), f"{name} {label}")

            ds = kept.of(claim, inner)
            findings, wrong = claim.judge(ds), claim.checks(ds)
            faults += [f"{name}: {fault}" for fault in wrong]
            verdicts += [one.verdict for one in findings]
            judged.append((claim, findings))
            records.append(record(claim, ds, findings, wrong) | {"dataset": str(kept.path(name))})
            if not (as_json or table):
                single = ds if len(chosen) == 1 else None
                output.echo(entry_text(claim, findings, single))
                if single is not None:
                    output.echo(f"dataset  {kept.path(name)}")
    if as_json:
        counts = {word: verdicts.count(word) for word in VERDICTS}
        document = {"mode": "quick" if quick else "full", "verdicts": counts, "claims": records}
        output.echo(output.as_json(document))
    elif table:
        said = tables.chosen(summary(judged), rows)
        output.echo(tables.TABLES[table](said))
        if table == "text":
            output.echo("\n".join(["", *said.notes]))
    else:
        output.echo(tally(verdicts))
    for fault in faults:
        click.echo(f"depprobe: check failed: {fault}", err=True)
    if faults:
        click.get_current_context().exit(3)
