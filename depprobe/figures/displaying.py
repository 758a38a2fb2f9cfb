"""What figure functions return, as the value of a notebook cell: the figure once, its caption below.

A figure that pyplot manages is shown by the notebook itself at the end of the cell, so that only the caption
is added to it. In a terminal such a value is its name and caption, never a list of artists.
"""

from __future__ import annotations

import base64
import html
import io
import warnings
from typing import Any, TypeVar

from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure

from depprobe.errors import harmless
from depprobe.figures.drawing.saving import FORMATS
from depprobe.figures.drawing.style import NO_GLYPH, style_of

#: CSS pixels of an inch, and how many pixels of the picture stand in each for sharp screens
_INCH, _DENSITY = 96, 2
#: commands of TeX that a browser would obey, in formulas of labels
_OBEYED = ("\\href", "\\require")

Drawing = TypeVar("Drawing")


def displayed(kind: type[Drawing]) -> type[Drawing]:
    """A class whose objects have a ``figure``, and mostly a ``caption``, with forms in which to show them.

    A NamedTuple can have no base class to take them from.
    """
    named: Any = kind
    named._repr_html_, named._repr_png_, named.__repr__ = _as_html, _as_png, _as_text
    return kind


def escaped(text: str) -> str:
    """Text as HTML: without markup, and without what a terminal or a formula's renderer would obey.

    Examples
    --------
    >>> escaped("<i>&$\\\\href{a}{b}$")
    '&lt;i&gt;&amp;$href{a}{b}$'
    """
    for command in _OBEYED:
        text = text.replace(command, command[1:])
    return html.escape(harmless(text))


def _as_html(drawn: Any) -> str:
    caption = getattr(drawn, "caption", "")
    picture = _as_png(drawn)
    parts = [f"<figcaption>{escaped(caption)}</figcaption>"] if caption else []
    if picture is not None:
        wide, data = round(_INCH * drawn.figure.get_figwidth()), base64.b64encode(picture).decode()
        image = (
            f'<img src="data:image/png;base64,{data}" width="{wide}" style="max-width: 100%" alt="figure">'
        )
        parts.insert(0, image)
    return f"<figure>{''.join(parts)}</figure>"


def _as_png(drawn: Any) -> bytes | None:
    figure: Figure = drawn.figure
    if figure in [manager.canvas.figure for manager in Gcf.get_all_fig_managers()]:
        return None
    stream = io.BytesIO()
    with style_of(figure), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=NO_GLYPH)
        figure.savefig(stream, format="png", dpi=_DENSITY * _INCH, metadata=FORMATS["png"])
    return stream.getvalue()


def _as_text(drawn: Any) -> str:
    width, height = drawn.figure.get_size_inches()
    caption = getattr(drawn, "caption", "")
    said = f"{type(drawn).__name__}, {width:.1f} x {height:.1f} inches"
    return f"<{said}: {harmless(caption)}>" if caption else f"<{said}>"
