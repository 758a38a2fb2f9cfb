"""``depprobe plot``: draw stored datasets, overlaid, without torch."""

from __future__ import annotations

from pathlib import Path

import click

from depprobe.cli import output
from depprobe.cli.plotting import KINDS


@click.command(short_help="draw stored datasets, overlaid")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="A.nc [B.nc ...]")
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to save: .png, .pdf or .svg (default: beside the first dataset).",
)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="auto",
    help="Of a Jacobian decay curves, heat maps; of costs their growth, speed-up, the efficiency table.",
)
def plot(files: tuple[Path, ...], figure: Path | None, kind: str) -> None:
    """Draw one or more datasets in one figure."""
    from depprobe.cli.plotting import draw, path_of
    from depprobe.cli.stored_dataset import read
    from depprobe.figures.drawing.saving import format_of

    path = figure or path_of(files[0].with_suffix(".png"), kind)
    format_of(path)
    output.check_writable(path)
    for written in draw([read(file) for file in files], files, path, kind):
        output.echo(f"figure   {written}")
