"""Lines where float arithmetic gives up, labelled where they hide nothing.

float32 loses everything below 2^-149 and above 2^128, float64 below 2^-1074 and above 2^1024
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from depprobe.figures.drawing.style import GREY, SMALL

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
    points = _points(ax, curves)
    for name, y in LIMITS.items():
        if not low < y < high:
            continue
        share = float(_share(ax.get_ylim(), np.array(y)))
        places = [_Place(left, above, share) for left in _LEFT for above in (True, False)]
        place = min(places, key=lambda p: (not p.fits, any(map(p.meets, taken)), p.covered(*points)))
        lines.append(ax.axhline(y, color=GREY, linewidth=0.6, linestyle=(0, (1, 2)), zorder=0.6))
        look: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "zorder": 2.5}
        look |= {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        if place.covered(*points):
            # no room among the curves
            words = name.replace(" ", "\n")
            ax.annotate(words, (1, y), xytext=(3, 0), va="center", linespacing=1.0, **look)
            continue
        taken.append(place)
        right = place.left == _LEFT[0]
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

    @property
    def bottom(self) -> float:
        return self.line if self.above else self.line - _HEIGHT

    @property
    def fits(self) -> bool:
        return self.bottom >= 0 and self.bottom + _HEIGHT <= 1

    def meets(self, other: _Place) -> bool:
        return abs(self.left - other.left) < _WIDTH and abs(self.bottom - other.bottom) < _HEIGHT

    def covered(self, x: Floats, y: Floats) -> int:
        beside = (x >= self.left) & (x <= self.left + _WIDTH)
        return int((beside & (y >= self.bottom) & (y <= self.bottom + _HEIGHT)).sum())


#: what a label takes, in shares of the axes
_WIDTH, _HEIGHT = 0.32, 0.06
#: where it may begin: at the right end, at the left end, and between
_LEFT = (0.67, 0.01, *np.linspace(0.1, 0.6, 11))


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
