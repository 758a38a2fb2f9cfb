"""``depprobe show``: summarise stored datasets, without torch."""

from __future__ import annotations

from pathlib import Path

import click

from depprobe.cli import output


@click.command(short_help="summarise stored datasets")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE.nc...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--table", type=click.Choice(list(output.TABLES)), help="Print the table in this form.")
def show(files: tuple[Path, ...], as_json: bool, table: str | None) -> None:
    """Print the summary of one or more stored datasets, and how they came about."""
    from depprobe import store
    from depprobe.curves import decay_curve, distances
    from depprobe.errors import BadInput

    if as_json and table:
        raise BadInput("give --json or --table, not both")
    documents = []
    for file in files:
        ds = store.load(file)
        store.validate(ds)
        found = distances(ds)
        documents.append((file, ds, found, output.summary(ds, found, decay_curve(ds))))
    if as_json:
        output.echo(
            output.as_json(
                {str(file): {"attributes": ds.attrs, "layers": rows} for file, ds, _, rows in documents}
            )
        )
    elif table:
        output.echo(output.TABLES[table]([row for *_, rows in documents for row in rows]))
    else:
        for file, ds, found, rows in documents:
            output.echo(output.as_text(rows, output.title(ds)))
            output.echo("\n".join(["", *output.notes(ds, found)]))
            sizes = ", ".join(f"{name} {size}" for name, size in ds["log_norm"].sizes.items())
            output.echo(f"file     {file}  (log_norm: {sizes})")
            output.echo(f"made by  {output.command_of(ds)}\n")
