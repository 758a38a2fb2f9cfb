"""Progress on stderr: a bar on a terminal, a line now and then elsewhere, nothing when quiet.

The time that is left of what is under way is said as soon as a first share of it is done.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator

import click

#: seconds between two lines where stderr is not a terminal; and seconds left from which they are said at once
_EVERY, _LONG = 15.0, 5.0
#: seconds between two reports below which what is in between was taken up, not done
_TAKEN_UP = 0.05


class Left:
    """How much time is left of the item under way, from how long its shares took."""

    def __init__(self) -> None:
        self._since, self._at = (0.0, 0.0), 0.0

    def seconds(self, done: float, now: float) -> float:
        """Seconds left of the item under way once so many are done, by a clock; NaN where it cannot be told.

        Examples
        --------
        >>> left = Left()
        >>> [left.seconds(done, now) for done, now in ((1.0, 10.0), (1.25, 15.0), (1.5, 20.0))]
        [nan, 15.0, 10.0]
        """
        new = math.floor(done) > math.floor(self._since[0])
        if new or now - self._at < _TAKEN_UP or not self._at:
            self._since = done, now
        self._at = now
        begun, since = self._since
        if done <= begun:
            return math.nan
        return (math.floor(done) + 1 - done) * (now - since) / (done - begun)


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[float, int, str], None] | None]:
    """A function to be called with (cases done, cases in all, what is under way), or None when quiet."""
    left = Left()
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)

            def moved(done: float, total: int, label: str) -> None:
                seconds = left.seconds(done, time.monotonic())
                said = f"{label} {_about(seconds)}" if seconds > _LONG else label
                bar.update(task, completed=done, total=total, description=said)

            yield moved
    else:
        last, told = time.monotonic(), -1

        def line(done: float, total: int, label: str) -> None:
            nonlocal last, told
            now = time.monotonic()
            seconds = left.seconds(done, now)
            first = seconds > _EVERY and told < math.floor(done)
            if now - last > _EVERY or first:
                last = now
                told = math.floor(done) if first else told
                named = ", ".join(part for part in (label, _about(seconds)) if part)
                click.echo(
                    f"depprobe: {100 * done / total:.0f} %" + (f" ({named})" if named else ""), err=True
                )

        yield line


def _about(seconds: float) -> str:
    """A time left in one unit; nothing where it is not known."""
    if not seconds > 0:
        return ""
    unit, size = next((u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= 1.5 * s or s == 1)
    return (
        f"about {seconds / size:.2g} {unit} left"
        if unit == "h"
        else f"about {seconds / size:.0f} {unit} left"
    )
