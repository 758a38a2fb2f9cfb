"""Progress on stderr: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

#: seconds between two lines where stderr is not a terminal
_EVERY = 15.0


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[float, int, str], None] | None]:
    """A function to be called with (cases done, cases in all, what is under way), or None when quiet."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total, label: bar.update(task, completed=done, total=total, description=label)
    else:
        last = time.monotonic()

        def line(done: float, total: int, label: str) -> None:
            nonlocal last
            if time.monotonic() - last > _EVERY:
                last = time.monotonic()
                named = f" ({label})" if label else ""
                click.echo(f"depprobe: {100 * done / total:.0f} %{named}", err=True)

        yield line
