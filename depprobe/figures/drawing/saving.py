"""Figures on disk: png, pdf or svg by the suffix, whole or not at all, the same bytes for the same figure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from matplotlib.figure import Figure

from depprobe.errors import BadInput, unknown
from depprobe.figures.drawing.style import style_of
from depprobe.store import replacing
from depprobe.store.atomic import as_path

#: suffix -> what to leave out of the file: dates, and the program's version in png
FORMATS: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
    "svg": {"Date": None},
}


class Drawn(Protocol):
    """What a figure function returns: anything with the figure it drew into."""

    @property
    def figure(self) -> Figure:
        """The matplotlib figure."""


def save(drawn: Figure | Drawn, path: str | os.PathLike[str], *, dpi: float = 300) -> Path:
    """Write a figure to ``path``, in the format its suffix names.

    Parameters
    ----------
    drawn : a matplotlib figure, or what a figure function returned.
    path : ends in .png, .pdf or .svg; parent folders are made, an existing file is replaced.
    dpi : dots per inch of a png, and of the pixels inside a pdf or svg.

    Returns
    -------
    The path, as given.

    Raises
    ------
    BadInput : another suffix, or the folder cannot be written.
    DepprobeError : writing failed midway; the path is as it was before.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> save(Figure(), "curve.jpg")
    Traceback (most recent call last):
    depprobe.errors.BadInput: unknown figure format 'jpg'; did you mean 'png'? Known: pdf, png, svg
    """
    suffix = format_of(path)
    figure = drawn if isinstance(drawn, Figure) else getattr(drawn, "figure", None)
    if not isinstance(figure, Figure):
        raise BadInput(f"save takes a figure or what a figure function returned, not {type(drawn).__name__}")
    with style_of(figure), replacing(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=dpi, metadata=FORMATS[suffix])
    return Path(path)


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that the suffix of a path names; raises ``BadInput`` for others, before any work is done.

    Examples
    --------
    >>> format_of("runs/curve.PDF")
    'pdf'
    """
    suffix = as_path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise unknown("figure format", suffix, FORMATS)
    return suffix
