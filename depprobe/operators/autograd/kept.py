"""Passes that are kept: of each kind one at most, the oldest given up for the next where memory is short."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Made = TypeVar("Made")

#: kinds: the whole, one that ends early, one with other last bits, the trace of the forward's structure
KINDS = 4
TRACE = "structure"


class Kept:
    """What was made last of each kind, as many as fit.

    Parameters
    ----------
    most : how many there may be at a time, 1 or more.

    Examples
    --------
    >>> kept = Kept(1)
    >>> kept.of("whole", None, lambda: "first"), kept.of("whole", None, lambda: "again")
    ('first', 'first')
    >>> kept.of("short", 5, lambda: "second"), kept.of("whole", None, lambda: "again")
    ('second', 'again')
    """

    def __init__(self, most: int = KINDS) -> None:
        self.most = most
        self._held: dict[str, tuple[Hashable, Any]] = {}

    def give_up(self) -> None:
        """Keep nothing: what is asked for next is made anew."""
        self._leave(0)

    def of(self, kind: str, key: Hashable, make: Callable[[], Made]) -> Made:
        """What is kept of a kind if its key is the same, else what is made, behind what had to go."""
        held = self._held.pop(kind, None)
        if held is None or held[0] != key:
            held = None
            self._leave(self.most - 1)
            held = key, make()
        self._held[kind] = held
        made: Made = held[1]
        return made

    def _leave(self, count: int) -> None:
        given_up = []
        while len(self._held) > count:
            given_up.append(next(iter(self._held)))
            del self._held[given_up[-1]]
        if TRACE in given_up:
            gc.collect()  # it refers to itself
