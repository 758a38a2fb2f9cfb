"""Figures in the sizes that a venue prints: widths of column and page, and sizes of type.

    labels = type of the venue's text or captions - 1 or 2 points        ticks and legends = labels - 1 point

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
from depprobe.figures.drawing.style import PAGE, RC, asked

#: venue -> names of its page, its column and its type in tueplots, and how much smaller than that labels are
VENUES: dict[str, tuple[str, str, str, int]] = {
    "neurips": ("neurips2024", "neurips2024", "neurips2024", 2),
    # that of its captions, which are smaller than its text
    "icml": ("icml2024_full", "icml2024_half", "icml2024", 1),
    "iclr": ("iclr2024", "iclr2024", "iclr2024", 2),
    "jmlr": ("jmlr2001", "jmlr2001", "jmlr2001", 2),
}
_SMALLER = ("xtick.labelsize", "ytick.labelsize", "legend.fontsize")
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
    narrower than a page; its height stays, so that panels keep room for their labels.

    Raises
    ------
    BadInput : another name, or tueplots is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> with venue("icml") as fitted:
    ...     fitted(Figure(figsize=(6.9, 3.4))).get_size_inches().round(2).tolist()
    [6.75, 3.4]
    """
    if name not in VENUES:
        raise unknown("venue", name, VENUES)
    try:
        from tueplots import figsizes, fontsizes
    except ImportError:
        raise BadInput("sizes of venues need tueplots: pip install 'depprobe[studies]'") from None
    page, column, type_, less = VENUES[name]
    wide, narrow = (_width(getattr(figsizes, size)()) for size in (page, column))

    def fitted(figure: Figure) -> Figure:
        drawn, high = figure.get_size_inches()
        figure.set_size_inches(wide if drawn >= min(PAGE, wide) else narrow, high)
        return figure

    sizes = getattr(fontsizes, type_)(default_smaller=less)
    small = dict.fromkeys(_SMALLER, sizes["font.size"] - 1)
    with asked(sizes | small | _SERIF | {"figure.figsize": (wide, RC["figure.figsize"][1])}):
        yield fitted


def _width(settings: dict[str, Any]) -> float:
    return float(settings["figure.figsize"][0])
