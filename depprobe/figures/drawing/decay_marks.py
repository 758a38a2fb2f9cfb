"""All marks in a figure of decay curves, with their legend and what a caption says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from depprobe.figures.drawing import wording
from depprobe.figures.drawing.drawn_curve import ENDS, ENDS_IN_WORDS, Curve, end_marker
from depprobe.figures.drawing.style import GREY, line_style, thin
from depprobe.figures.drawing.theory_curves import draw_theory


@dataclass
class Marks:
    """The marks of some curves, in the order in which they were added.

    Attributes
    ----------
    curves : all curves of the figure.
    lines, bands, edges, ends, limits, theory : as in ``DecayDrawing``.
    cut : log10 of the lowest norm where the axis is cut above it.
    kinds : how curves end.
    absent : number of a curve of which nothing can be drawn -> its name, and why.
    """

    curves: Sequence[Curve]
    lines: list[Line2D] = field(default_factory=list)
    bands: list[PolyCollection | None] = field(default_factory=list)
    edges: list[Line2D | None] = field(default_factory=list)
    ends: list[Line2D] = field(default_factory=list)
    limits: list[Line2D] = field(default_factory=list)
    theory: list[Line2D] = field(default_factory=list)
    cut: float | None = None
    kinds: set[str] = field(default_factory=set)
    absent: dict[int, str] = field(default_factory=dict)

    def add(self, ax: Axes, index: int, name: str, part: xr.Dataset, theory: xr.Dataset | None) -> None:
        """Draw one curve with its band, its ends and what theory says of it."""
        curve, look, said = self.curves[index], line_style(index, name), wording.printable(name)
        self.bands.append(curve.draw_band(ax, look["color"]))
        self.edges.append(curve.draw_edge(ax, look["color"]))
        # a lone line needs no marker to be told from others
        self.lines.append(curve.draw_line(ax, look, marked=len(self.curves) > 1))
        self.lines[-1].set_label(said)
        if not curve.shown.size:
            self.absent[len(self.lines) - 1] = f"{said}: {curve.why_empty}"
        if theory is not None:
            self.theory += draw_theory(ax, theory, part, curve, look["color"], said)
        for lag, height, kind in filter(None, (curve.end(-1), curve.end(1))):
            self.ends.append(ax.add_line(end_marker(kind, look["color"], [lag], [height])))
            self.kinds.add(kind)

    def handles(self, axes: Sequence[Axes], parts: Sequence[xr.Dataset]) -> list[Artist]:
        """What a legend shows: curves, then what else is drawn, then what is left out."""
        found: list[Artist] = [
            _note(self.absent[i]) if i in self.absent else line for i, line in enumerate(self.lines)
        ]
        found += self.theory
        if any(band is not None for band in self.bands):
            found.append(Patch(color=GREY, alpha=0.25, linewidth=0, label="5 to 95 %"))
        if any(edge is not None for edge in self.edges):
            found.append(Line2D([], [], color=GREY, linewidth=thin(), label="95 %, the 5 % exactly zero"))
        found += [end_marker(kind, GREY) for kind in ENDS if kind in self.kinds]
        if self.cut is not None:
            found.append(_note(rf"axis cut; lowest norm $10^{{{self.cut:.0f}}}$"))
        horizon = _horizon(parts)
        if horizon is not None:
            look: dict[str, Any] = {"color": GREY, "lw": thin(2 / 3), "ls": ":", "zorder": 0.5}
            words = f"lag {horizon}: rounding determines the states"
            found += [ax.axvline(horizon, **look, label=words) for ax in axes][:1]
        blind = wording.unknown_norms(parts)
        return [*found, *([_note(f"{blind}, left out")] if blind else [])]

    def caption(self, parts: Sequence[xr.Dataset]) -> str:
        """What was measured and every mark in the figure, in sentences for a paper."""
        horizon, blind = _horizon(parts), wording.unknown_norms(parts)
        norm, _, _ = wording.norm_label(parts).partition(" (")
        said = [f"decay of the {norm} of the temporal Jacobian with the lag $t - k$"]
        said += [", ".join(wording.conditions(parts))]
        if any(band is not None for band in self.bands):
            said.append("lines: median over targets, samples and seeds; bands: 5 to 95 %")
        if any(edge is not None for edge in self.edges):
            said.append("a thin line is the 95 % quantile where the 5 % quantile is exactly zero")
        said += [words for kind, words in ENDS_IN_WORDS.items() if kind in self.kinds]
        if self.absent:
            said.append(f"without a curve are {', '.join(self.absent.values())}")
        if self.cut is not None:
            said.append(rf"the axis is cut; the lowest norm is $10^{{{self.cut:.0f}}}$")
        if self.limits:
            said.append("dotted horizontal lines: limits of floating-point numbers")
        if self.theory:
            said.append("thin dashed lines: predictions")
        if horizon is not None:
            said.append(f"from lag {horizon} on (dotted vertical line) rounding determines the states")
        if blind:
            said.append(f"norms that are not known are left out ({blind})")
        return wording.sentences(*said)


def _horizon(parts: Sequence[xr.Dataset]) -> int | None:
    return min((part.attrs["horizon_lag"] for part in parts if "horizon_lag" in part.attrs), default=None)


def _note(words: str) -> Line2D:
    return Line2D([], [], linestyle="None", label=words)
