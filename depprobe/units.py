"""Numbers as people read them: decimal and binary prefixes, times with their quartiles. No torch here."""

from __future__ import annotations

import math

_PREFIXES = ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"))
_TIMES = ((1.0, "s"), (1e3, "ms"), (1e6, "µs"))


def scaled(value: float, unit: str = "") -> str:
    """A number in three digits with a decimal prefix; ``-`` where unknown.

    Examples
    --------
    >>> scaled(2.1e8, "B"), scaled(950.0, "B"), scaled(18432.0)
    ('210 MB', '950 B', '18.4 k')
    """
    if math.isnan(value):
        return "-"
    power, prefix = next((pair for pair in _PREFIXES if value >= 0.9995 * 10 ** pair[0]), (0, ""))
    return f"{three(value / 10**power)} {prefix}{unit}".rstrip()


def readable(size: float) -> str:
    """A number of bytes in three digits with a binary prefix; ``-`` where unknown.

    Examples
    --------
    >>> readable(2.1e8), readable(950), readable(1023.9 * 2**20)
    ('200 MiB', '950 B', '1 GiB')
    """
    if not math.isfinite(size):
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1023.5:
            return f"{three(size)} {unit}"
        size /= 1024
    return f"{three(size)} TiB"


def seconds(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """A time, and its quartiles in the same unit where they are known.

    Examples
    --------
    >>> seconds(0.0423), seconds(0.0423, 0.0418, 0.0431)
    ('42.3 ms', '42.3 ms (41.8 to 43.1)')
    """
    if math.isnan(value):
        return "-"
    factor, unit = next(((f, u) for f, u in _TIMES if value * f >= 1), _TIMES[-1])
    text = f"{three(value * factor)} {unit}"
    if math.isnan(low) or math.isnan(high):
        return text
    return f"{text} ({three(low * factor)} to {three(high * factor)})"


def three(value: float) -> str:
    """A number in three digits, without an exponent where it is large.

    Examples
    --------
    >>> three(1234.5), three(18.44), three(0.5)
    ('1234', '18.4', '0.5')
    """
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def counted(count: int, thing: str) -> str:
    """How many of a thing there are.

    Examples
    --------
    >>> counted(1, "layer"), counted(2000, "step"), counted(2, "matrix")
    ('1 layer', '2000 steps', '2 matrices')
    """
    several = {"matrix": "matrices", "axis": "axes"}.get(thing, f"{thing}s")
    return f"{count} {thing if count == 1 else several}"
