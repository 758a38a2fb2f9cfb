"""How figures show trained weights beside untrained ones: colours, markers and lines, and a legend."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from depprobe.figures.drawing.style import COLOURS


class Look(NamedTuple):
    """Of one kind of weights."""

    colour: str
    marker: str
    line: str


LOOK = {"trained": Look(COLOURS[0], "o", "-"), "untrained": Look(COLOURS[1], "s", "--")}


def add_weights_legend(figure: Figure, *shown: str) -> None:
    """A legend above a figure, with what is ``shown`` of each: ``marker`` or ``line``."""
    handles = [
        Line2D(
            [],
            [],
            color=look.colour,
            linestyle=look.line if "line" in shown else "none",
            marker=look.marker if "marker" in shown else "none",
            label=name,
        )
        for name, look in LOOK.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
