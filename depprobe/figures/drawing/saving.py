"""Figures on disk: png, pdf or svg by the suffix, whole or not at all, the same bytes for the same figure."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from depprobe.errors import BadInput, harmless, unknown
from depprobe.figures.drawing.style import NO_GLYPH, style_of
from depprobe.store import replacing
from depprobe.store.atomic import as_path

#: suffix -> what to leave out of the file: dates, and the program's version in png
FORMATS: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
    "svg": {"Date": None},
}

#: most dots an inch, which printers do not exceed
_FINEST = 2400
#: most characters that are named
_NAMED = 12


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
    dpi : dots per inch of a png, and of the pixels inside a pdf or svg, up to 2400.

    Returns
    -------
    The path, as given.

    Raises
    ------
    BadInput : another suffix, a dpi that is no such number, or the folder cannot be written.
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
    if not isinstance(dpi, int | float | np.number) or not 1 <= dpi <= _FINEST:
        raise BadInput(f"dpi must be a number of dots an inch, 1 to {_FINEST}, not {dpi!r}")
    with style_of(figure), _boxes_told(), replacing(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=dpi, metadata=FORMATS[suffix])
    return Path(path)


@contextmanager
def _boxes_told() -> Iterator[None]:
    """Context of a save: one warning for all characters that no font has, not one for each."""
    lost: dict[str, None] = {}
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Warning | str, *where: Any, **more: Any) -> None:
            found = re.match(NO_GLYPH, str(message))
            if found:
                lost[chr(int(found[1]))] = None
            else:
                before(message, *where, **more)

        warnings.filterwarnings("always", message=NO_GLYPH)
        warnings.showwarning = show
        yield
    if lost:
        named = harmless(" ".join(list(lost)[:_NAMED])) + " ..." * (len(lost) > _NAMED)
        warnings.warn(
            f"no installed font has these characters, which are drawn as boxes: {named}; "
            "install one that does, such as Noto Sans in their script",
            stacklevel=4,
        )


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
