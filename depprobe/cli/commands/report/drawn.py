"""The figures of a page: as ``depprobe plot`` draws them, but kept in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from depprobe.cli import plotting
from depprobe.cli.summaries import kind_of
from depprobe.errors import BadInput
from depprobe.figures.drawing.style import COLUMN
from depprobe.report import Picture
from depprobe.store.sweeps.opening import open_sweep

if TYPE_CHECKING:
    from depprobe.cli.commands.report.contents import Each, Found, Result

#: most cells of a sweep, apart in more than layer and seed, that have figures
MOST_FIGURES = 6


def pictures(found: Found, each: Each) -> list[Picture]:
    """The figures of what a folder holds; notes what is left out, and why."""
    drawn: list[Picture] = []
    for title, datasets in each(_groups(found), "figure"):
        try:
            drawn += _drawn(title, datasets)
        except BadInput as error:
            found.left_out.append(f"figure{' of ' * bool(title)}{title}: {error}")
    return drawn


def _groups(found: Found) -> Iterator[tuple[str, Sequence[xr.Dataset]]]:
    """Datasets that share a figure, and what tells them from those of the others."""
    kinds: dict[str, list[Result]] = {}
    for one in found.results:
        kinds.setdefault(kind_of(one.ds), []).append(one)
    for kind, results in kinds.items():
        if found.sweep and kind == "jacobian":
            yield from ((one.name, [one.ds]) for one in results[:MOST_FIGURES])
            if len(results) > MOST_FIGURES:
                found.left_out.append(f"figures: {MOST_FIGURES} of {len(results)}")
        elif found.sweep and kind == "cost":
            yield "", [open_sweep(found.sweep).load()]
        else:
            kept = _few([one.ds for one in results])
            yield "", kept
            if len(kept) < len(results):
                found.left_out.append(f"figure of {kind}: {len(kept)} of {len(results)} datasets")


def _few(datasets: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """As many of datasets as one figure tells apart, but one at least."""
    kept, curves = list[xr.Dataset](), 0
    for ds in datasets:
        curves += ds.sizes.get("layer", 1) * ds.sizes.get("depth", 1)
        if kept and curves > plotting.MOST:
            break
        kept.append(ds)
    return kept


def _drawn(title: str, datasets: Sequence[xr.Dataset]) -> list[Picture]:
    # a column, which a phone shows whole
    look = plotting.Look(width=COLUMN)
    with tempfile.TemporaryDirectory() as folder:
        written = plotting.draw(datasets, Path(folder) / "figure.svg", look=look)
        return [
            Picture(title, one.path.read_bytes(), one.path.suffix.removeprefix("."), one.caption)
            for one in written
        ]
