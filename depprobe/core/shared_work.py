"""Work that serves several askers at once: its results wait until each of them has asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

Found = TypeVar("Found")

#: results that wait at most; some are never asked for by all
_MOST = 512


class SharedWork(Generic[Found]):
    """Results by key, one for each of some askers.

    Examples
    --------
    >>> shared = SharedWork(2)
    >>> shared.of("key", 0, lambda: ["first", "second"]), shared.of("key", 1, lambda: [])
    ('first', 'second')
    """

    def __init__(self, askers: int) -> None:
        self.askers = askers
        self._waiting: dict[Hashable, dict[int, Found]] = {}

    def of(self, key: Hashable, asker: int, work: Callable[[], Sequence[Found]]) -> Found:
        """What ``work`` gives one asker, done for all where it does not wait already."""
        waiting = self._waiting.setdefault(key, {})
        if asker not in waiting:
            waiting |= enumerate(work())
        found = waiting.pop(asker)
        if not waiting:
            del self._waiting[key]
        elif len(self._waiting) > _MOST:
            del self._waiting[next(iter(self._waiting))]
        return found
