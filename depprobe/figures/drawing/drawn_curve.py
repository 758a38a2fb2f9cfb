"""One decay curve as drawn: its line, its band, and where either meets an exact zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from depprobe.errors import BadInput
from depprobe.figures.drawing.log_axis import log10_of
from depprobe.figures.drawing.style import thin

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: how a curve ends -> its marker, its words
ENDS = {"all": ("o", "exactly zero beyond"), "median": ("v", "median exactly zero beyond")}
#: how a curve ends -> what a caption says of its marker
ENDS_IN_WORDS = {
    "all": "an open circle ends a curve beyond which every norm is exactly zero",
    "median": "an open triangle ends a curve beyond which the median is exactly zero",
}

_LOGS = ("log_median", "log_low", "log_high")
_COUNTS = ("count", "zeros", "unknown")
#: markers along a curve that tell it from others in grey
_MARKERS = 6


@dataclass(frozen=True)
class Curve:
    """log10 of norms at the lags (m,) that exist: -inf exact zero, NaN unknown.

    Attributes
    ----------
    lag : (m,) ascending.
    median, low, high : (m,) the median, 5 % and 95 % quantile.
    count, zeros, unknown : (m,) blocks pooled, exact zeros among them, blocks left out.
    """

    lag: Floats
    median: Floats
    low: Floats
    high: Floats
    count: Ints
    zeros: Ints
    unknown: Ints

    @classmethod
    def of(cls, ds: xr.Dataset) -> Curve:
        """The curve of a dataset over ``lag``; raises ``BadInput`` where it is none."""
        missing = [name for name in (*_LOGS, *_COUNTS) if name not in ds]
        if missing:
            raise BadInput(f"not a decay curve: it lacks {', '.join(missing)}")
        if ds["log_median"].dims != ("lag",):
            dims = ", ".join(map(str, ds["log_median"].dims))
            raise BadInput(f"a decay curve is over (lag) or (layer, lag), not ({dims})")
        ds = ds.sortby("lag")
        # beside a layer with more lags, a layer has rows that do not exist for it and must not cut its line
        ds = ds.isel(lag=np.flatnonzero((ds["count"] + ds["unknown"]).values > 0))
        median, low, high = (log10_of(ds[name].values.astype(np.float64)) for name in _LOGS)
        count, zeros, unknown = (ds[name].values.astype(np.int64) for name in _COUNTS)
        return cls(ds["lag"].values.astype(np.float64), median, low, high, count, zeros, unknown)

    @property
    def shown(self) -> Floats:
        """The lags where something is drawn."""
        return self.lag[np.isfinite(self.median) | np.isfinite(self.high)]

    @property
    def why_empty(self) -> str:
        """Why nothing is drawn of a curve without a norm that is known and not zero."""
        if not (self.count.any() or self.unknown.any()):
            return "not measured"
        return "no norm known" if self.unknown.any() else "exactly zero"

    def draw_line(self, ax: Axes, look: Mapping[str, Any], marked: bool) -> Line2D:
        """Draw the median, broken where it is zero or unknown; with markers along it if ``marked``."""
        finite = np.isfinite(self.median)
        (line,) = ax.plot(self.lag, np.where(finite, self.median, np.nan), **look)
        spots = np.flatnonzero(finite & _isolated(finite))
        if marked:
            spots = np.union1d(spots, self._spread(ax, finite))
        else:
            line.set_marker("." if spots.size else "None")
        line.set_markevery(spots.tolist())
        return line

    def draw_band(self, ax: Axes, colour: str) -> PolyCollection | None:
        """Draw the band where both its edges are known and not zero; None where there are no bands."""
        if (self.count <= 1).all():
            return None
        both = np.isfinite(self.low) & np.isfinite(self.high)
        alone = both & _isolated(both)
        ax.vlines(
            self.lag[alone], self.low[alone], self.high[alone], color=colour, alpha=0.3, linewidth=thin(2)
        )
        return ax.fill_between(
            self.lag, self.low, self.high, where=both.tolist(), color=colour, alpha=0.2, linewidth=0
        )

    def draw_edge(self, ax: Axes, colour: str) -> Line2D | None:
        """Draw the upper edge alone where the lower one is an exact zero, which has no place on the axis."""
        upper = np.where(np.isneginf(self.low) & np.isfinite(self.high), self.high, np.nan)
        finite = np.isfinite(upper)
        if not finite.any():
            return None
        (edge,) = ax.plot(self.lag, upper, color=colour, linewidth=thin(), marker="_", markersize=2)
        edge.set_markevery(np.flatnonzero(finite & _isolated(finite)).tolist())
        return edge

    def end(self, side: int) -> tuple[float, float, str] | None:
        """Lag and height where the median ends because it is exactly zero further out, and the kind of end.

        ``side`` is 1 for the past, -1 for the future. None where the curve does not end like this.
        """
        finite = np.flatnonzero(np.isfinite(self.median))
        if finite.size == 0:
            return None
        last = finite[-1] if side > 0 else finite[0]
        beyond = slice(last + 1, None) if side > 0 else slice(None, last)
        outer = self.median[beyond]
        if outer.size == 0 or not np.isneginf(outer).all():
            return None
        every = (self.zeros[beyond] == self.count[beyond]).all() and not self.unknown[beyond].any()
        return float(self.lag[last]), float(self.median[last]), "all" if every else "median"

    def _spread(self, ax: Axes, finite: NDArray[np.bool_]) -> Ints:
        """Indices of finite points about evenly spaced along the axis as drawn."""
        indices = np.flatnonzero(finite)
        if indices.size == 0:
            return indices
        x = ax.xaxis.get_transform().transform(self.lag[indices])
        wanted = np.linspace(x[0], x[-1], _MARKERS)
        return indices[np.unique(np.abs(x[None, :] - wanted[:, None]).argmin(1))]


def end_marker(kind: str, colour: str, x: Sequence[float] = (), y: Sequence[float] = ()) -> Line2D:
    """The open marker of a kind of end, in the figure or (without x and y) in its legend."""
    marker, words = ENDS[kind]
    return Line2D(
        x,
        y,
        linestyle="None",
        marker=marker,
        markersize=1.5 * float(matplotlib.rcParams["lines.markersize"]),
        markerfacecolor="white",
        markeredgecolor=colour,
        zorder=3,
        label=words,
    )


def _isolated(shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Points without a shown neighbour, which a line or a band leaves invisible."""
    padded = np.concatenate([[False], shown, [False]])
    return ~padded[:-2] & ~padded[2:]
