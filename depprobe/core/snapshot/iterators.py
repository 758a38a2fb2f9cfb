"""Iterators that a module holds: how far each has come, and another that goes on from the same place."""

from __future__ import annotations

import ast
import copy
import operator
from itertools import count
from types import GeneratorType
from typing import Any

#: iterators of which a copy goes on by itself
_COPIED: tuple[type, ...] = (type(iter([])), type(iter(())), type(iter(range(0))), type(iter("")))
#: those that are looked at
ITERATORS: tuple[type, ...] = (count, GeneratorType, *_COPIED)


def copy_of_iterator(iterator: Any) -> Any:
    """Another that goes on from the same place; the iterator itself where there is none, as of a generator.

    Examples
    --------
    >>> counter = count(3, 2)
    >>> next(counter), next(copy_of_iterator(counter)), next(counter)
    (3, 5, 5)
    """
    if isinstance(iterator, count):
        try:
            # Python 3.14 copies none
            return count(*ast.literal_eval(f"({repr(iterator)[6:-1]},)"))
        except (ValueError, SyntaxError):  # of numbers that have no literal
            return iterator
    return copy.copy(iterator) if isinstance(iterator, _COPIED) else iterator


def place_of(iterator: Any) -> list[Any]:
    """How far an iterator has come: what ``same_place`` compares.

    Examples
    --------
    >>> squares = (i * i for i in range(5))
    >>> before = place_of(squares)
    >>> same_place(before, place_of(squares)), next(squares), same_place(before, place_of(squares))
    (True, 0, False)
    """
    if isinstance(iterator, GeneratorType):
        frame = iterator.gi_frame
        if frame is None:
            return ["ended"]
        # a loop may come back to the same instruction, with other values
        values = [value for name, value in sorted(frame.f_locals.items())]
        inner = [place for value in values if isinstance(value, ITERATORS) for place in place_of(value)]
        return [frame.f_lasti, *values, *inner]
    return [repr(iterator) if isinstance(iterator, count) else operator.length_hint(iterator)]


def same_place(one: list[Any], other: list[Any]) -> bool:
    """Whether an iterator is where it was."""
    return len(one) == len(other) and all(
        a is b or (isinstance(a, int | str) and type(a) is type(b) and a == b)
        for a, b in zip(one, other, strict=True)
    )
