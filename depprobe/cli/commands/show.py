"""``depprobe show``: summarise stored datasets, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from depprobe.cli import output, tables
from depprobe.cli.grouped_help import Grouped
from depprobe.cli.options import check_forms, given, shared, weighing


@click.command(cls=Grouped, short_help="summarise stored datasets")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE.nc|FOLDER ..."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@shared("table", "rows", "labels", "panels")
@weighing
def show(
    files: tuple[Path, ...],
    as_json: bool,
    table: str | None,
    rows: str | None,
    labels: str | None,
    panels: str | None,
    **options: Any,
) -> None:
    """Print the summary of one or more stored datasets, and how they came about.

    \b
    depprobe show runs
    depprobe show a.nc b.nc --table latex --rows "decay rate,half-life"
    depprobe show a.nc b.nc --table latex --panels "data,English text"
    """
    from depprobe.cli.plotting import titles_in
    from depprobe.cli.result_table import merged, side_by_side
    from depprobe.cli.stored_dataset import read_all
    from depprobe.cli.summaries import NO_TABLE, TELL, files_by_kind, kind_of, summary_of
    from depprobe.errors import BadInput, wrong_number

    check_forms(as_json, table, rows)
    if as_json and panels is not None:
        raise BadInput("--panels are parts of a table; leave it out beside --json")
    found, faults = read_all(files, NO_TABLE)
    documents = [(file, ds, summary_of(ds, **given(options))) for file, ds in found.items()]
    if labels is not None and (as_json or (panels is None and table in (None, "text"))):
        names = _shared_out([made for *_, made in documents], labels)
        documents = [
            (file, ds, tables.chosen(made, labels=some))
            for (file, ds, made), some in zip(documents, names, strict=True)
        ]
        labels = None
    if as_json:
        said = {
            str(file): {"attributes": output.attributes_of(ds), "layers": made.records}
            for file, ds, made in documents
        }
        output.echo(output.as_json(said))
    elif panels is not None or table not in (None, "text"):
        kinds = files_by_kind([(str(file), ds) for file, ds, _ in documents])
        if len(kinds) > 1:
            raise BadInput(f"one table holds one kind of dataset, not {' and '.join(kinds.values())}")
        summaries, titles = [made for *_, made in documents], [] if panels is None else titles_in(panels)
        if titles and len(titles) != len(summaries):
            raise wrong_number(len(titles), "panel", len(summaries), "dataset")
        whole = merged(summaries, titles) if titles else side_by_side(list(found.values()), summaries)
        output.echo(tables.TABLES[table or "text"](tables.chosen(whole, rows, labels)))
    else:
        for file, ds, made in documents:
            output.echo(tables.as_text(tables.chosen(made, rows, labels)))
            output.echo("\n".join(["", *made.notes]))
            tell = TELL[kind_of(ds)]
            sizes = ", ".join(f"{name} {size}" for name, size in ds[tell].sizes.items())
            output.echo(f"file     {output.shown(file)}  ({tell}: {sizes})")
            output.echo(f"made by  {output.shown(output.command_of(ds))}\n")
    if faults:
        click.get_current_context().exit(2)


def _shared_out(summaries: Sequence[output.Summary], labels: str) -> list[list[str]]:
    """The labels of each summary's layers: one for each layer in their order, or for each that has a name.

    Raises ``BadInput``: a wrong number of labels.
    """
    from depprobe.errors import wrong_number

    held = [tables.layers_of(one) for one in summaries]
    every = [layer for layers in held for layer in layers]
    names, known = output.labels_in(labels), list(dict.fromkeys(every))
    if len(names) == len(every):
        left = iter(names)
        return [[next(left) for _ in layers] for layers in held]
    if len(names) != len(known):
        raise wrong_number(len(names), "label", len(every), "layer")
    called = dict(zip(known, names, strict=True))
    return [[called[layer] for layer in layers] for layers in held]
