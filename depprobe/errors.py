"""The errors a caller can meet, and the exit code each one means on the command line."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any

from depprobe.units import counted


class DepprobeError(Exception):
    """The run failed although the call was right (exit code 1)."""

    exit_code = 1


class BadInput(DepprobeError, ValueError):
    """The call was wrong: the message names the fault, the value and the valid choices (exit code 2)."""

    exit_code = 2


class OverBudget(BadInput):
    """The job would need more memory than the budget; said before anything is allocated (exit code 2)."""


class NothingToDraw(BadInput):
    """A figure would hold no point: every norm is exactly zero or not known (exit code 2)."""


class PluginWarning(UserWarning):
    """Something that another package offers could not be loaded; all else goes on without it."""


#: what a terminal may obey, and what reverses the direction of text; line breaks and tabs are left
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


#: what may mend a width
CHOOSE = "of a table, --columns (in read_input columns=) chooses some"
#: dtypes of pandas that hold words
_WORDS = ("object", "str", "string", "category")


def harmless(text: str) -> str:
    """Text without what a terminal would obey, and without halves of characters.

    Examples
    --------
    >>> harmless("a\\x1b[31m b")
    'a?[31m b'
    """
    return _OBEYED.sub("?", text).encode("utf-8", "replace").decode()


def require_known(kind: str, name: object, known: Iterable[str]) -> None:
    """Raise what ``unknown`` gives unless ``name`` is text that stands in ``known``; arrays of names are not.

    Examples
    --------
    >>> require_known("layer", "gru", ["gru", "lstm"])
    """
    if not isinstance(name, str) or name not in known:
        raise unknown(kind, name if isinstance(name, str) else " ".join(str(name).split())[:60], known)


def unknown(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for a name that is in no table of a ``kind``, with the nearest valid name first.

    Examples
    --------
    >>> str(unknown("layer", "lsmt", ["gru", "lstm"]))
    "unknown layer 'lsmt'; did you mean 'lstm'? Known: gru, lstm"
    >>> str(unknown("block", "h99", ["h10", "h9", "h1"]))
    "unknown block 'h99'; did you mean 'h9'? Known: h1, h9, h10"
    >>> str(unknown("layer", "LSTM", ["gru", "lstm"]))
    "unknown layer 'LSTM'; did you mean 'lstm'? Known: gru, lstm"
    """

    def in_order(name: str) -> list[tuple[str, int]]:  # h2 before h10
        return [(words, int(number or -1)) for words, number in re.findall(r"(\D*)(\d*)", name)]

    names = sorted(set(known), key=in_order)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) if isinstance(name, str) else []
    alike = [one for one in names if isinstance(name, str) and one.lower() == name.strip().lower()]
    hint = f"; did you mean {[*alike, *near][0]!r}?" if near or alike else "."
    return BadInput(f"unknown {kind} {name!r}{hint} Known: {', '.join(names) or 'none'}")


def wrong_number(given: int, what: str, needed: int, of: str) -> BadInput:
    """The error for another number of names than there are things to be named.

    Examples
    --------
    >>> str(wrong_number(1, "label", 2, "layer"))
    '1 label was given for 2 layers'
    """
    return BadInput(
        f"{counted(given, what)} {'was' if given == 1 else 'were'} given for {counted(needed, of)}"
    )


def wrong_width(given: int, reads: int, what: str = "module") -> BadInput:
    """The error for an input (n, d) of another width than what reads it takes.

    Examples
    --------
    >>> str(wrong_width(8, 7))
    'x is 8 wide and the module reads 7; of a table, --columns (in read_input columns=) chooses some'
    """
    return BadInput(f"x is {given} wide and the {what} reads {reads}; {CHOOSE}")


def no_numbers(x: Any, dtype: object) -> BadInput:
    """The error for an x of a ``dtype`` that is not one of numbers, with the call that reads what it is.

    Examples
    --------
    >>> str(no_numbers("a.npy", "<U5"))
    "x is text, 'a.npy'; a file is read by depprobe.read_input('a.npy')"
    """
    if isinstance(x, str | os.PathLike):
        name = repr(harmless(str(x))[:80])
        return BadInput(f"x is text, {name}; a file is read by depprobe.read_input({name})")
    if hasattr(x, "columns") and hasattr(x, "dtypes"):
        told = zip(map(str, x.columns), map(str, x.dtypes), strict=True)
        others = (f", column {name!r} of {kind}" for name, kind in told if kind in _WORDS or "[" in kind)
        return BadInput(
            f"x is a DataFrame that holds more than numbers{next(others, '')}; depprobe.read_input(x) reads "
            "it as a file: dates are the index, columns= chooses"
        )
    return BadInput(f"x holds {dtype}; it must hold real numbers")
