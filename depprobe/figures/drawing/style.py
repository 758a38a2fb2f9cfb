"""How figures look: fonts and sizes for papers, colours that differ for every eye, lines that differ in grey.

Colours: Okabe and Ito 2008, https://jfly.uni-koeln.de/color/.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator

from depprobe.errors import BadInput
from depprobe.units import counted

#: the palette of Okabe and Ito without its yellow, which a thin line on white loses; the numbers of colours,
#: lines and markers have no common divisor, so that 280 layers differ
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

#: widths in inches of one column and of a page
COLUMN, PAGE = 4.2, 6.9

SMALL = 6.5
GREY = "#666666"

#: scripts and signs that DejaVu lacks: of each line the first font that is installed draws them
OTHER_SCRIPTS = (
    ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei"),
    ("WenQuanYi Zen Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei"),
    ("Noto Sans JP", "Hiragino Sans", "Yu Gothic", "MS Gothic", "IPAexGothic", "IPAGothic"),
    ("Noto Sans KR", "Apple SD Gothic Neo", "Malgun Gothic", "NanumGothic"),
    ("Noto Sans Devanagari", "Kohinoor Devanagari", "Nirmala UI", "Lohit Devanagari"),
    ("Noto Sans Thai", "Thonburi", "Leelawadee UI"),
    ("Noto Sans Symbols 2", "Noto Sans Symbols2", "Segoe UI Symbol", "Apple Symbols", "Symbola"),
    ("Noto Emoji", "Segoe UI Emoji"),
    ("Arial Unicode MS", "Unifont"),
)
#: settings that say how a figure looks
_LOOKS: tuple[str, ...] = (
    "axes.",
    "errorbar.",
    "figure.constrained",
    "figure.subplot",
    "figure.title",
    "font.",
    "grid.",
)
_LOOKS += ("hatch.", "image.", "legend.", "lines.", "markers.", "mathtext.", "patch.", "path.", "savefig.")
_LOOKS += ("scatter.", "text.", "xaxis.", "xtick.", "yaxis.", "ytick.")
#: how matplotlib begins to say that a character is in none of its fonts
NO_GLYPH = r"Glyph (\d+) \("

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
    "axes.prop_cycle": cycler(color=COLOURS),
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


class Asked(NamedTuple):
    """What a venue or a caller asks for: widths of a column and of a page in inches, and settings over RC."""

    column: float = COLUMN
    page: float = PAGE
    settings: dict[str, Any] | None = None


_ASKED: ContextVar[Asked | None] = ContextVar("asked", default=None)
#: order of the names whose looks several panels share; empty where each counts its own
_NAMES: ContextVar[tuple[str, ...]] = ContextVar("names", default=())
#: settings that a figure was made with, which texts need again when it is saved
_MADE_WITH: WeakKeyDictionary[Figure, Any] = WeakKeyDictionary()


@contextmanager
def styled() -> Iterator[None]:
    """Context in which figures are drawn; the caller's own settings come back after it."""
    with matplotlib.rc_context(_settings()), warnings.catch_warnings():
        # said once, when the figure is saved
        warnings.filterwarnings("ignore", message=NO_GLYPH)
        yield


def style_for(given: Any) -> AbstractContextManager[None]:
    """The house style for a figure of our own, the caller's settings for axes that are given."""
    return styled() if given is None else nullcontext()


def style_of(figure: Figure) -> AbstractContextManager[None]:
    """What a figure is saved with: the settings it was made with, and nothing random in the file."""
    fixed: Any = {name: RC[name] for name in ("svg.hashsalt", "pdf.fonttype", "savefig.bbox")}
    return matplotlib.rc_context(_MADE_WITH.get(figure, fixed))


def new_figure(panels: int, height: float) -> Figure:
    """A figure as wide as a column, or as a page where it has several panels abreast."""
    figure = Figure(figsize=(width_for(panels), height), layout="constrained")
    _MADE_WITH[figure] = _settings()
    return figure


def width_for(panels: int) -> float:
    """Inches of a column for one panel, of a page for several abreast."""
    sizes = _ASKED.get() or Asked()
    return sizes.column if panels == 1 else sizes.page


def _settings() -> Any:
    wanted = _ASKED.get() or Asked()
    settings = _defaults() | RC | (wanted.settings or {})
    # characters that a font lacks are taken from the next
    return settings | {
        "font.family": [*dict.fromkeys([*settings["font.family"], *RC["font.family"]]), *_others()]
    }


@cache
def _defaults() -> dict[str, Any]:
    """Settings of matplotlib itself, so that a style that is in force does not mix with that of the house."""
    return {name: matplotlib.rcParamsDefault[name] for name in matplotlib.rcParams if name.startswith(_LOOKS)}


@cache
def _others() -> list[str]:
    installed = {font.name for font in fontManager.ttflist}
    found = (next((name for name in names if name in installed), None) for names in OTHER_SCRIPTS)
    return [name for name in found if name is not None]


@contextmanager
def asked(wanted: Asked) -> Iterator[None]:
    """Context in which figures are drawn in these sizes."""
    token = _ASKED.set(wanted)
    try:
        yield
    finally:
        _ASKED.reset(token)


@contextmanager
def shared_looks(names: Sequence[str]) -> Iterator[None]:
    """Context in which a curve looks as its name's place among these says, in every panel."""
    token = _NAMES.set(tuple(names))
    try:
        yield
    finally:
        _NAMES.reset(token)


def axes_given(ax: Any, count: int, holder: str) -> list[Axes] | None:
    """The axes a caller gave as a list, or None; raises ``BadInput`` for another number of them."""
    if ax is None:
        return None
    found = [ax] if isinstance(ax, Axes) else list(ax)
    if len(found) != count or not all(isinstance(one, Axes) for one in found):
        raise BadInput(f"{holder} needs {counted(count, 'axis')}, not {len(found)}")
    return found


def figure_of(ax: Axes) -> Figure:
    """The whole figure that axes belong to, also from within a part of it."""
    # a Figure is its own figure
    figure = ax.figure.figure
    assert isinstance(figure, Figure)
    return figure


def line_style(index: int, name: str | None = None) -> dict[str, Any]:
    """Colour, line and marker of the curve with this index; in the house style the first 280 are different.

    Colours are those of ``axes.prop_cycle``; lines and markers too, where it has any.

    Examples
    --------
    >>> with styled():
    ...     [line_style(i)["color"] for i in (0, 7)], [line_style(i)["linestyle"] for i in (0, 7)]
    (['#0072B2', '#0072B2'], ['-', '-.'])
    """
    names = _NAMES.get()
    if name in names:
        index = names.index(name)
    own = matplotlib.rcParams["axes.prop_cycle"].by_key()
    ours = {"color": COLOURS, "linestyle": LINES, "marker": MARKERS}
    return {key: _at(own.get(key, values), index) for key, values in ours.items()}


def colour(index: int) -> Any:
    """The colour of the cycle with this index."""
    return _at(matplotlib.rcParams["axes.prop_cycle"].by_key().get("color", COLOURS), index)


def thin(share: float = 0.5) -> float:
    """Width of a line that is a share of a curve's."""
    return share * float(matplotlib.rcParams["lines.linewidth"])


def _at(values: Sequence[Any], index: int) -> Any:
    return values[index % len(values)]


def use_whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers alone; otherwise where matplotlib puts them."""
    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
