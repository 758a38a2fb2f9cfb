"""Figures in the sizes that a venue prints: widths of column and page, and sizes of type.

    labels = type of the venue's text or captions - 1 or 2 points        ticks and legends = labels - 1 point

Widths are those of the venues' own style files. A figure keeps fonts that come with matplotlib, so that it is
the same on every machine; where the venue sets serif, STIX, which is drawn after Times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from depprobe.errors import BadInput, require_known
from depprobe.figures.drawing.style import RC, Asked, asked


class Venue(NamedTuple):
    """Widths of column and page in inches, and the size of labels in points."""

    column: float
    page: float
    labels: float


VENUES: dict[str, Venue] = {
    "neurips": Venue(5.5, 5.5, 8.0),
    "icml": Venue(3.25, 6.75, 8.0),
    "iclr": Venue(5.5, 5.5, 8.0),
    "jmlr": Venue(6.0, 6.0, 9.0),
}
#: narrowest and widest figure, in inches
NARROWEST, WIDEST = 2.5, 30.0
_SAME = ("font.size", "axes.labelsize", "axes.titlesize")
_SMALLER = ("xtick.labelsize", "ytick.labelsize", "legend.fontsize")
_SERIF = {"font.family": ["STIXGeneral"], "mathtext.fontset": "stix"}


@contextmanager
def venue(name: str | None, width: float | None = None) -> Iterator[Callable[[Figure], Figure]]:
    """Context in which figures are drawn in the sizes of a venue; gives what fits other figures to its width.

    Parameters
    ----------
    name : ``neurips``, ``icml``, ``iclr`` or ``jmlr``; None keeps the type of the house.
    width : of every figure, in inches, whatever the venue's column and page are.

    Yields
    ------
    A function from a figure to the same figure, as wide as the venue's page, or as its column if it was drawn
    narrower than a page; its height stays. Figures of this package are drawn in that width already.

    Raises
    ------
    BadInput : another name, or a width that no figure fits.

    Examples
    --------
    >>> with venue("icml") as fitted:
    ...     fitted(Figure(figsize=(6.9, 3.4))).get_size_inches().round(2).tolist()
    [6.75, 3.4]
    """
    if name is not None:
        require_known("venue", name, VENUES)
    if width is not None and not NARROWEST <= width <= WIDEST:
        raise BadInput(f"a figure is {NARROWEST:g} to {WIDEST:g} inches wide, not {width:g}")
    column, page = (Asked().column, Asked().page) if name is None else VENUES[name][:2]
    if width is not None:
        column = page = width

    def fitted(figure: Figure) -> Figure:
        drawn, high = figure.get_size_inches()
        figure.set_size_inches(page if drawn >= min(Asked().page, page) else column, high)
        return figure

    settings: dict[str, Any] = {"figure.figsize": (page, RC["figure.figsize"][1])}
    if name is not None:
        settings |= dict.fromkeys(_SAME, VENUES[name].labels) | _SERIF
        settings |= dict.fromkeys(_SMALLER, VENUES[name].labels - 1)
    with asked(Asked(column, page, settings)):
        yield fitted
