"""One loop for every probe: measure item after item, say how far it is, keep what is finished.

A probe gives the items (cases, or what it makes of them) and a function that measures one; what comes back is
labelled by ``runs.labelling``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

#: called with (items done, items in all, what is under way)
Progress = Callable[[float, int, str], None]
#: called by a measurement with the share of its own item that is done
Report = Callable[[float], None]


class Kept(Protocol[Found]):
    """Where finished items are kept, and taken up from: see ``runs.cache``."""

    def claim(self) -> None:
        """Refuse a place that is not its own, before anything is measured."""

    def get(self, facts: dict[str, Any]) -> Found | None:
        """What was measured under these facts before, or None."""

    def put(self, facts: dict[str, Any], found: Found) -> None:
        """Keep what was measured."""


def collect(
    items: Sequence[Item],
    measure: Callable[[Item, Report], Found],
    *,
    name: Callable[[Item], str],
    progress: Progress | None = None,
    kept: Kept[Found] | None = None,
    facts: Callable[[Item], dict[str, Any]] | None = None,
) -> list[Found]:
    """Measure every item, in order.

    Parameters
    ----------
    items : what is measured.
    measure : called with an item and a function to report the share done to.
    name : what is said of an item while it is under way.
    progress : called with (items done, items in all, what is under way).
    kept : where finished items are kept, and taken up from.
    facts : all that bears on the result of an item; needed with ``kept``.

    Returns
    -------
    What ``measure`` gave, one an item.

    Examples
    --------
    >>> collect([2, 3], lambda item, report: item**2, name=str)
    [4, 9]
    """
    if kept:
        kept.claim()
    results = []
    for done, item in enumerate(items):

        def report(share: float, done: int = done, item: Item = item) -> None:
            if progress:
                progress(done + share, len(items), name(item))

        report(0)
        known = facts(item) if kept and facts else {}
        found = kept.get(known) if kept else None
        if found is None:
            found = measure(item, report)
            if kept:
                kept.put(known, found)
        results.append(found)
    if progress:
        progress(len(items), len(items), "")
    return results
