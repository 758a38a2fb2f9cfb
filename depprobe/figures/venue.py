"""Figures in the sizes that a venue prints: widths of column and page, and sizes of type.

The widths and sizes are those of tueplots (https://github.com/pnkraemer/tueplots). Its fonts are not taken: a
figure keeps fonts that come with matplotlib, so that it is the same on every machine; where the venue sets
serif, STIX, which is drawn after Times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib.figure import Figure

from depprobe.errors import BadInput, unknown
from depprobe.figures.style import PAGE, asked

#: venue -> names of its page, its column and its type in tueplots
VENUES: dict[str, tuple[str, str, str]] = {
    "neurips": ("neurips2024", "neurips2024", "neurips2024"),
    "icml": ("icml2024_full", "icml2024_half", "icml2024"),
    "iclr": ("iclr2024", "iclr2024", "iclr2024"),
    "jmlr": ("jmlr2001", "jmlr2001", "jmlr2001"),
}
_SERIF = {"font.family": ["STIXGeneral"], "mathtext.fontset": "stix"}


@contextmanager
def venue(name: str) -> Iterator[Callable[[Figure], Figure]]:
    """Context in which figures are drawn with the type of a venue; gives what fits one to its width.

    Parameters
    ----------
    name : ``neurips``, ``icml``, ``iclr`` or ``jmlr``.

    Yields
    ------
    A function from a figure to the same figure, as wide as the venue's page, or as its column if it was drawn
    narrower than a page; the height in proportion.

    Raises
    ------
    BadInput : another name, or tueplots is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> with venue("icml") as fitted:
    ...     fitted(Figure(figsize=(6.9, 3.4))).get_size_inches().round(2).tolist()
    [6.75, 3.33]
    """
    if name not in VENUES:
        raise unknown("venue", name, VENUES)
    try:
        from tueplots import figsizes, fontsizes
    except ImportError:
        raise BadInput("sizes of venues need tueplots: pip install 'depprobe[studies]'") from None
    page, column, type_ = VENUES[name]

    def width(size: str) -> float:
        settings: dict[str, Any] = getattr(figsizes, size)()
        return float(settings["figure.figsize"][0])

    def fitted(figure: Figure) -> Figure:
        wide, high = figure.get_size_inches()
        new = width(page if wide >= PAGE else column)
        figure.set_size_inches(new, high * new / wide)
        return figure

    with asked(getattr(fontsizes, type_)() | _SERIF):
        yield fitted
