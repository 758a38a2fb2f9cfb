r"""An axis for numbers far outside the range of floats.

    axis value = log10 of the number = (natural log of the number) / ln 10

The axis itself is linear, so 1e-5000 is the ordinary value -5000; only its ticks are special. They stand at
whole powers of ten and read $10^{-5000}$.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import Formatter, Locator
from numpy.typing import NDArray

from depprobe.errors import BadInput

#: ln 10: natural logs divided by it are axis values
LN10 = math.log(10.0)

#: share of the smallest norms of a layer that a shared scale may leave out
_LEFT_OUT = 0.02
#: more labels than this are clutter, however long the axis
_MOST_TICKS = 9


def decade_step(span: float, most: int) -> int:
    """Smallest of 1, 2, 5, 10, 20, 50, ... that puts at most ``most`` ticks into ``span`` decades.

    Examples
    --------
    >>> decade_step(214, 8), decade_step(5000, 8), decade_step(3, 8)
    (50, 1000, 1)
    """
    power = 1
    while True:
        for digit in (1, 2, 5):
            if span / (digit * power) + 1 <= most:
                return digit * power
        power *= 10


class DecadeLocator(Locator):
    """Ticks at whole powers of ten, a round number of decades apart."""

    def _step(self, low: float, high: float) -> int:
        space = self.axis.get_tick_space() if self.axis is not None else _MOST_TICKS
        return decade_step(high - low, max(3, min(space, _MOST_TICKS)))

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Axis values of the ticks between two axis values."""
        low, high = sorted((vmin, vmax))
        return _multiples(self._step(low, high), low, high)

    def __call__(self) -> Sequence[float]:
        """Axis values of the ticks in view."""
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())


class BetweenDecades(DecadeLocator):
    """Unlabelled ticks: 2 to 9 times each power where all powers are labelled, else a part of the step."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Axis values of the ticks between two axis values."""
        low, high = sorted((vmin, vmax))
        step = self._step(low, high)
        if step == 1:
            powers = np.arange(math.floor(low), math.ceil(high))
            ticks = (powers[:, None] + np.log10(np.arange(2, 10))).ravel()
            return ticks[(ticks >= low) & (ticks <= high)].tolist()
        parts = 2 if str(step).startswith("2") else 5
        return _multiples(step // parts, low, high)


class PowerOfTen(Formatter):
    """Labels such as 10^-5000; empty between whole powers."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of one axis value."""
        power = round(x)
        return rf"$10^{{{power}}}$" if abs(x - power) < 1e-6 else ""

    def format_data(self, value: float) -> str:
        """The reading under a mouse pointer."""
        return f"1e{value:+.2f}"

    format_data_short = format_data


class PartOfTen(Formatter):
    """Labels such as 2 x 10^-3 for ticks between powers, where fewer than two whole powers are in view."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of one axis value."""
        assert self.axis is not None
        low, high = sorted(self.axis.get_view_interval())
        power = math.floor(x + 1e-6)
        digit = round(10 ** (x - power))
        if (
            math.floor(high) > math.ceil(low)
            or digit not in (2, 5)
            or abs(x - power - math.log10(digit)) > 1e-6
        ):
            return ""
        return rf"${digit}\times 10^{{{power}}}$"


def use_decades(axis: Axis) -> None:
    """Give an axis, or the long axis of a colour bar, ticks at powers of ten."""
    axis.set_major_locator(DecadeLocator())
    axis.set_major_formatter(PowerOfTen())
    axis.set_minor_locator(BetweenDecades())
    axis.set_minor_formatter(PartOfTen())


def with_room(low: float, high: float) -> tuple[float, float]:
    """A range that spans little, widened so that a flat curve is not on its edge and two ticks have labels.

    Examples
    --------
    >>> [round(end, 2) for end in with_room(-2.0, -2.0)], [round(end, 2) for end in with_room(-3.0, -1.8)]
    ([-2.4, -1.6], [-3.1, -1.7])
    """
    middle, half = (low + high) / 2, max((high - low) / 2 + 0.1, 0.4)
    return middle - half, middle + half


def whole_decades(low: float, high: float) -> tuple[int, int]:
    """Whole powers around a range, at least one decade apart.

    Examples
    --------
    >>> whole_decades(-3.2, -2.9), whole_decades(-2.0, -2.0)
    ((-4, -2), (-3, -2))
    """
    # round-off in ln 10 must not add a decade
    bottom, top = math.floor(low + 1e-9), math.ceil(high - 1e-9)
    return (bottom, top) if top > bottom else (top - 1, top)


def typical_floor(bottoms: Sequence[float], top: float) -> float | None:
    """Where to cut a scale that several layers share, or None where it can show everything.

    One layer that falls by hundreds of decades would press all others into one colour or one line. Where it
    takes more than ten times the decades of the middle layer, the scale ends at twice those.

    Parameters
    ----------
    bottoms : log10 of the lowest value of each layer.
    top : log10 of the highest value of all.

    Examples
    --------
    >>> typical_floor([-214.0, -3.0, -2.5], 0.0)
    -6.0
    >>> typical_floor([-214.0, -150.0, -300.0], 0.0) is None
    True
    """
    if len(bottoms) < 3:
        return None
    middle = top - sorted(bottoms)[(len(bottoms) - 1) // 2]
    return float(math.floor(top - 2 * max(middle, 1.0))) if top - min(bottoms) > 10 * middle else None


def shared_scale(
    known: Sequence[NDArray[np.float64]], floor: float | None, ceiling: float | None
) -> tuple[float, float]:
    """Ends of a scale that several layers share, log10 of norms; a decade apart unless they are given."""
    low, high = -1.0, 0.0
    if known:
        # adding 0 turns -0 into 0
        high = max(float(values.max()) for values in known) + 0.0
        lows = [_robust_low(values) for values in known]
        low = max(min(lows), typical_floor(lows, high) or -math.inf)
    if high - low < 1:
        low, high = whole_decades(low, high)
    ends = (low if floor is None else floor), (high if ceiling is None else ceiling)
    if not ends[0] < ends[1]:
        raise BadInput(f"the colour scale needs floor < ceiling, not {ends[0]:g} and {ends[1]:g}")
    return ends


def _robust_low(values: NDArray[np.float64]) -> float:
    lowest, high = float(values.min()), float(values.max())
    low = float(np.quantile(values, _LEFT_OUT))
    # few outliers are left out only if they would cost much of the scale
    return low if low - lowest > 0.3 * (high - lowest) else lowest


def _multiples(step: int, low: float, high: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(step * i) for i in range(first, last + 1)]


def log10_of(natural: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axis values of natural logs; -inf and NaN stay."""
    return natural / LN10
