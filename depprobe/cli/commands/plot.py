"""``depprobe plot``: draw stored datasets, overlaid, without torch."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depprobe.cli import output
from depprobe.cli.grouped_help import Grouped
from depprobe.cli.options import drawing, shared
from depprobe.cli.plotting import KINDS

if TYPE_CHECKING:
    import xarray as xr


@click.command(cls=Grouped, short_help="draw stored datasets, overlaid")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="A.nc|FOLDER ...")
@click.option(
    "-o",
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
@click.option("--only", metavar="PATTERN", help="Draw the layers whose names match, such as 'lstm*'.")
@shared("panels")
@drawing
def plot(files: tuple[Path, ...], figure: Path | None, kind: str, only: str | None, **options: Any) -> None:
    """Draw datasets in one figure of each kind, and print captions for a paper.

    \b
    depprobe plot a.nc b.nc --labels "LSTM,TCN" --venue icml
    depprobe plot a.nc b.nc --panels "data,English text"
    depprobe plot runs --only "lstm*" --figure lstm.pdf
    """
    from depprobe.cli.plotting import NO_FIGURE, Look, draw
    from depprobe.cli.stored_dataset import read_all
    from depprobe.figures.drawing.saving import format_of

    first = files[0]
    path = figure or (first / "figure.png" if first.is_dir() else first.with_suffix(".png"))
    if figure is None and kind in ("heatmap", "speedup", "efficiency"):
        path = path.with_name(f"{path.stem}_{kind}{path.suffix}")
    format_of(path)
    output.check_writable(path)
    found, faults = read_all(files, NO_FIGURE)
    given = list(found.values()) if only is None else _only(list(found.values()), only)
    for written in draw(given, path, kind, look=Look.of(options)):
        output.echo(f"figure   {output.shown(written.path)}")
        if written.caption:
            output.echo(f"caption  {written.caption}")
    if faults:
        click.get_current_context().exit(2)


def _only(datasets: list[xr.Dataset], pattern: str) -> list[xr.Dataset]:
    """The layers whose names match; raises ``BadInput`` where none does."""
    from depprobe.errors import BadInput

    kept, names = [], []
    for ds in datasets:
        if "layer" not in ds.dims:
            own = [str(ds.attrs.get("layer", ""))]
            kept += [ds] if fnmatch.fnmatchcase(own[0], pattern) else []
        else:
            own = [str(name) for name in ds["layer"].values]
            matching = [i for i, name in enumerate(own) if fnmatch.fnmatchcase(name, pattern)]
            kept += [ds.isel(layer=matching)] if matching else []
        names += own
    if not kept:
        raise BadInput(f"no layer matches {pattern!r}; there are {', '.join(dict.fromkeys(names))}")
    return kept
