"""Telling how far a measurement is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
#: called with (parts done, parts in all, what is under way)
Progress = Callable[[float, int, str], None]


def tracked(items: Iterable[T], progress: Progress | None, label: Callable[[T], str]) -> Iterator[T]:
    """The items in turn, each told to ``progress`` before it is under way."""
    known = list(items)
    for done, item in enumerate(known):
        if progress:
            progress(done, len(known), label(item))
        yield item


def teller(progress: Progress | None, total: int) -> Callable[[str], None]:
    """To be called with what is under way before each of ``total`` parts."""
    done = itertools.count()
    return (lambda label: progress(next(done), total, label)) if progress else (lambda label: None)
