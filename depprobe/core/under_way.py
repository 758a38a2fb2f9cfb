"""Long work under way: what share of it is done, and what is kept of it, so that it can be taken up again.

Whoever waits for the work watches it; what does the work goes through it in pieces, and knows no more of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from depprobe.core.temporal_jacobian import LogNorms, TemporalJacobian

Arrays = Mapping[str, NDArray[Any]]

_DONE = "pieces done"
_NORMS = tuple(field.name for field in fields(LogNorms))
#: seconds after which more is kept of a case that is under way
_EVERY = 5.0


class Watch(Protocol):
    """What is told of work under way."""

    def done(self, share: float) -> None:
        """This share of it is done."""

    def get(self, key: str) -> Arrays | None:
        """What an interrupted run kept of it."""

    def put(self, key: str, state: Callable[[], Arrays]) -> None:
        """What it has come to, to be kept if that is worth it."""


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch | None) -> Iterator[None]:
    """While work goes on that is to be watched."""
    before = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(before)


def pieces(
    key: str,
    total: int,
    size: int,
    state: Callable[[], Arrays] | None = None,
    resume: Callable[[Arrays], None] | None = None,
) -> Iterator[int]:
    """The numbers of the pieces of work that are still to be done.

    Parameters
    ----------
    key : tells the work from others of the same run.
    total, size : of the work, and of a piece; pieces of another size are not taken up.
    state, resume : what the pieces so far have come to, and what takes it up; None: it is not kept.

    Examples
    --------
    >>> list(pieces("three", 12, 5))
    [0, 1, 2]
    """
    watch, count, key = _watch.get(), -(-total // size), f"{key} in pieces of {size}"
    kept = watch.get(key) if watch is not None and resume is not None and count > 1 else None
    if kept is not None and resume is not None:
        resume({name: value for name, value in kept.items() if name != _DONE})
    for number in range(0 if kept is None else int(kept[_DONE]), count):
        yield number
        if watch is not None and number + 1 < count:
            watch.done((number + 1) / count)
            if state is not None:
                watch.put(key, partial(_noted, state, number + 1))


def _noted(state: Callable[[], Arrays], done: int) -> Arrays:
    return {**state(), _DONE: np.array(done)}


class Keeps(Protocol):
    """A place for fields by the facts they follow from."""

    def get(self, facts: dict[str, Any]) -> dict[str, Any] | None:
        """Those that were kept."""

    def put(self, facts: dict[str, Any], found: dict[str, Any]) -> None:
        """Keep some."""


class UnderWay:
    """One case under way, which watches its work: finished batches of targets, and pieces of one, are kept.

    A short case is over before anything is kept of it.

    Parameters
    ----------
    report : called with the share done.
    kept : where parts are kept, or None.
    facts : of the case, as it is kept.
    """

    def __init__(self, report: Callable[[float], None], kept: Keeps | None, facts: dict[str, Any]) -> None:
        self._report, self._facts = report, facts
        self._kept = kept
        self._span, self._last, self._kept_at = (0.0, 1.0), 0.0, time.monotonic()

    def batch(
        self,
        batch: slice,
        count: int,
        operators: Sequence[TemporalJacobian],
        work: Callable[[slice], list[LogNorms]],
    ) -> list[LogNorms]:
        """Norms of a batch of so many targets, of every operator."""
        self._span = batch.start / count, batch.stop / count
        found = self._taken_up(operators)
        if found is None:
            with watched(self):
                found = work(batch)
            if self._kept is not None:
                states = [operator.state() for operator in operators]
                if all(state is not None for state in states):
                    norms = found
                    self.put("norms", lambda: _arrays(norms, states))
        self.done(1.0)
        return found

    def _taken_up(self, operators: Sequence[TemporalJacobian]) -> list[LogNorms] | None:
        kept = self.get("norms")
        if kept is None:
            return None
        for i, operator in enumerate(operators):
            mine = {name: value for name, value in kept.items() if name.startswith(f"{i}/")}
            operator.resume({name.removeprefix(f"{i}/"): value for name, value in mine.items()})
        return [
            LogNorms(**{name: kept[f"{i}.{name}"] for name in _NORMS if f"{i}.{name}" in kept})
            for i in range(len(operators))
        ]

    def done(self, share: float) -> None:
        """This share of the batch."""
        first, last = self._span
        self._last = max(self._last, first + share * (last - first))
        self._report(self._last)

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept of the batch."""
        return None if self._kept is None else self._kept.get(self._known(key))

    def put(self, key: str, state: Callable[[], Mapping[str, Any]]) -> None:
        """Keep it, unless something has just been kept."""
        if self._kept is not None and time.monotonic() - self._kept_at > _EVERY:
            self._kept.put(self._known(key), dict(state()))
            self._kept_at = time.monotonic()

    def _known(self, key: str) -> dict[str, Any]:
        return self._facts | {"part": [*self._span, key]}


def _arrays(found: Sequence[LogNorms], states: Sequence[Any]) -> dict[str, Any]:
    named = {f"{i}.{name}": value for i, one in enumerate(found) for name, value in vars(one).items()}
    learned = {f"{i}/{name}": value for i, state in enumerate(states) for name, value in state.items()}
    return named | learned
