"""Lines where float arithmetic gives up, labelled where they hide nothing.

float32 loses everything below 2^-149 and above 2^128, float64 below 2^-1074 and above 2^1024
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from depprobe.figures.drawing.style import GREY, figure_of, thin

Floats = NDArray[np.float64]

#: label -> log10 of the limit
LIMITS = {
    "float32 underflow": -149 * math.log10(2),
    "float64 underflow": -1074 * math.log10(2),
    "float32 overflow": 128 * math.log10(2),
    "float64 overflow": 1024 * math.log10(2),
}


def draw_limits(ax: Axes, curves: Sequence[tuple[Floats, Floats]], low: float, high: float) -> list[Line2D]:
    """Draw the limits between two values of a log10 axis; limits that no curve crosses are left out.

    Parameters
    ----------
    ax : axes whose scales and limits are set.
    curves : x and log10 y of what is drawn already, which labels avoid.
    low, high : log10 of the lowest and highest value drawn.
    """
    lines: list[Line2D] = []
    taken: list[_Place] = []
    outside: list[float] = []
    wide, high_ = _size(ax)
    points = _points(ax, curves)
    for name, y in LIMITS.items():
        if not low < y < high:
            continue
        share = float(_share(ax.get_ylim(), np.array(y)))
        left_ends = (0.99 - wide, 0.01, *np.linspace(0.05, 0.95 - wide, 11))
        places = [_Place(left, above, share, wide, high_) for left in left_ends for above in (True, False)]
        place = min(places, key=lambda p: (not p.fits, any(map(p.meets, taken)), p.covered(*points)))
        lines.append(ax.axhline(y, color=GREY, linewidth=thin(), linestyle=(0, (1, 2)), zorder=0.6))
        look: dict[str, Any] = {"fontsize": "small", "color": GREY, "zorder": 2.5}
        look |= {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        if place.covered(*points):
            # no room among the curves, nor beside them where another limit is as near as its label is high
            if any(abs(share - other) < 2 * high_ for other in outside):
                continue
            outside.append(share)
            words = name.replace(" ", "\n")
            ax.annotate(words, (1, y), xytext=(3, 0), va="center", linespacing=1.0, **look)
            continue
        taken.append(place)
        right = place is places[0] or place is places[1]
        ax.annotate(
            name,
            (0.99 if right else place.left, y),
            xytext=(0, 1.5 if place.above else -2),
            ha="right" if right else "left",
            va="bottom" if place.above else "top",
            **look,
        )
    return lines


class _Place(NamedTuple):
    """A place for a label along a line at height ``line``; everything in shares of the axes."""

    left: float
    above: bool
    line: float
    wide: float
    high: float

    @property
    def bottom(self) -> float:
        return self.line if self.above else self.line - self.high

    @property
    def fits(self) -> bool:
        return self.bottom >= 0 and self.bottom + self.high <= 1

    def meets(self, other: _Place) -> bool:
        return abs(self.left - other.left) < self.wide and abs(self.bottom - other.bottom) < self.high

    def covered(self, x: Floats, y: Floats) -> int:
        beside = (x >= self.left) & (x <= self.left + self.wide)
        return int((beside & (y >= self.bottom) & (y <= self.bottom + self.high)).sum())


def _size(ax: Axes) -> tuple[float, float]:
    """Width and height of a label, in shares of the axes."""
    points = FontProperties(size="small").get_size_in_points()
    box, dpi = ax.get_window_extent(), figure_of(ax).dpi
    # letters are about half as wide as they are high; a line takes 1.3 times its letters
    wide = max(map(len, LIMITS)) * 0.58 * points / 72 * dpi / box.width
    return min(0.9, wide), min(0.45, 1.3 * points / 72 * dpi / box.height)


def _share(limits: tuple[float, float], values: Floats) -> Floats:
    return (values - limits[0]) / (limits[1] - limits[0])


def _points(ax: Axes, curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Points along the curves, in shares of the axes."""
    transform = ax.xaxis.get_transform()
    left, right = transform.transform(np.array(ax.get_xlim()))
    # a steep curve crosses a label between two of its own points
    steps = np.linspace(0, 1, 8)[:, None]
    along: tuple[list[Floats], list[Floats]] = ([], [])
    for x, y in curves:
        shares = _share((left, right), transform.transform(x)), _share(ax.get_ylim(), y)
        for values, points in zip(shares, along, strict=True):
            with np.errstate(invalid="ignore"):
                points.append((values[:-1] + steps * np.diff(values)).ravel())
    return np.concatenate(along[0]), np.concatenate(along[1])
