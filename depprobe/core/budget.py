"""The memory budget: what a job needs is said before anything is allocated."""

from __future__ import annotations

import re

from depprobe.errors import BadInput, OverBudget

#: bytes; fixed rather than read from the machine, so that chunks and hence results are the same everywhere
DEFAULT_MEMORY = 4 << 30
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def parse_bytes(text: str) -> int:
    """Bytes in a size such as ``4GiB``, ``500 MB`` or ``1000000``.

    Examples
    --------
    >>> parse_bytes("1.5KiB")
    1536
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise BadInput(f"memory must be a size such as 4GiB, 500MB or 1000000, not {text!r}")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def readable(size: float) -> str:
    """A size in binary units, such as ``3.2 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def require(needed: float, budget: int, what: str, remedy: str) -> None:
    """Raise ``OverBudget`` if ``needed`` bytes exceed the budget; ``remedy`` names options that would fit."""
    if needed > budget:
        raise OverBudget(
            f"{what} needs {readable(needed)} and the memory budget is {readable(budget)}; {remedy}"
        )
