"""``depprobe report``: the results of a folder as one HTML file, without torch."""

from __future__ import annotations

from pathlib import Path

import click

from depprobe.cli import output
from depprobe.cli.grouped_help import Grouped
from depprobe.cli.options import shared
from depprobe.cli.progress import progress

#: what a page may be called
_SUFFIXES = (".html", ".htm")


@click.command(cls=Grouped, short_help="one HTML page of a folder's results")
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "-o",
    "--output",
    "output_",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Where to save the page (default: FOLDER/report.html).",
)
@click.option("--title", metavar="TEXT", help="Heading of the page (default: names the folder).")
@click.option(
    "--interactive/--no-interactive",
    default=True,
    help="Add curves to explore, where Bokeh is installed, or figures alone.",
)
@shared("quiet")
def report(folder: Path, output_: Path | None, title: str | None, interactive: bool, quiet: bool) -> None:
    """Write one page on all datasets of a folder or sweep: tables, figures, curves to explore, provenance.

    The page is a single file that needs no network. Cells that were not measured, and files that cannot be
    read, are listed in it with the reason.

    \b
    depprobe report runs/decay
    depprobe report runs -o results.html --title "Decay of trained models"
    """
    from depprobe.cli.commands.report.contents import page_of
    from depprobe.errors import BadInput
    from depprobe.report import html_of
    from depprobe.store import replacing

    if not folder.is_dir():
        raise BadInput(
            f"{str(folder)!r} is not a folder of datasets; to see one dataset: depprobe show FILE.nc"
        )
    path = output_ or folder / "report.html"
    if path.suffix.lower() not in _SUFFIXES:
        raise BadInput(f"{str(path)!r}: the page is an .html file")
    output.check_writable(path)
    with progress(quiet) as told:
        page, unread = page_of(folder, title, interactive, told)
    with replacing(path) as temporary:
        temporary.write_text(html_of(page), encoding="utf-8")
    if page.missing:
        output.echo(
            f"without  {len(page.missing)} of {len(page.missing) + len(page.sources)}; the page says why"
        )
    output.echo(f"report   {output.shown(path)}")
    if unread:
        click.get_current_context().exit(2)
