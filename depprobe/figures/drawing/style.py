"""How figures look: fonts and sizes for papers, colours that differ for every eye, lines that differ in grey.

Colours: Okabe and Ito 2008, https://jfly.uni-koeln.de/color/.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: the palette of Okabe and Ito without its yellow, which a thin line on white loses; the numbers of colours,
#: lines and markers have no common divisor, so that 280 layers differ
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

#: widths in inches of one column and of a page
COLUMN, PAGE = 4.2, 6.9

SMALL = 6.5
GREY = "#666666"

#: a type narrower than Any here would have to list every setting matplotlib has
RC: Any = {
    # fonts that come with matplotlib, so that a figure is the same on every machine
    "font.family": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "text.usetex": False,
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    # long enough to tell dashes apart
    "legend.handlelength": 3.2,
    "axes.linewidth": 0.6,
    "axes.unicode_minus": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    # a page: its width is for what must know it before it draws
    "figure.figsize": (PAGE, 3.4),
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "auto",
    "savefig.bbox": None,
    # text stays text in PDF, and looks the same everywhere in SVG
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    # without a salt, the ids inside an SVG are random
    "svg.hashsalt": "depprobe",
}


#: what a venue asks for beyond RC
_ASKED: ContextVar[dict[str, Any] | None] = ContextVar("asked", default=None)


def styled() -> AbstractContextManager[None]:
    """Context in which figures are drawn and saved; the caller's own settings come back after it."""
    return matplotlib.rc_context(RC | (_ASKED.get() or {}))


@contextmanager
def asked(settings: dict[str, Any]) -> Iterator[None]:
    """Context in which ``styled`` puts these settings of matplotlib over its own."""
    token = _ASKED.set(settings)
    try:
        yield
    finally:
        _ASKED.reset(token)


def figure_of(ax: Axes) -> Figure:
    """The whole figure that axes belong to, also from within a part of it."""
    # a Figure is its own figure
    figure = ax.figure.figure
    assert isinstance(figure, Figure)
    return figure


def line_style(index: int) -> dict[str, Any]:
    """Colour, line and marker of the curve with this index; the first 280 are all different.

    Examples
    --------
    >>> line_style(0)["color"], line_style(7)["color"], line_style(0)["linestyle"], line_style(7)["linestyle"]
    ('#0072B2', '#0072B2', '-', '-.')
    """
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }
