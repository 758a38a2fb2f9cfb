"""``depprobe widths``: the variables of stored datasets with their sizes."""

from __future__ import annotations

from pathlib import Path

import click

import depprobe


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def widths(files: tuple[Path, ...]) -> None:
    """Print the sizes of stored datasets."""
    for file in files:
        click.echo(f"{file.name}: {dict(depprobe.load(file).sizes)}")
