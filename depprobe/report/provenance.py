"""Where each number of a page comes from: the attributes of its dataset, folded away until asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from depprobe.errors import harmless


@dataclass(frozen=True)
class Source:
    """A dataset that a page shows.

    Attributes
    ----------
    name : its cell of a sweep, or its file.
    file : where it is stored.
    attributes : name -> value; values may be tables of the same kind.
    """

    name: str
    file: str
    attributes: Mapping[str, Any]


def folded(source: Source) -> str:
    """The attributes of a dataset in an element that opens when it is touched."""
    rows = "".join(
        f"<tr><th scope=row>{text(name)}</th><td>{text(value)}</td></tr>"
        for name, value in [("file", source.file), *_flat(source.attributes)]
    )
    return (
        f"<details><summary>{text(source.name)}</summary>"
        f'<div class="wide"><table class="pairs">{rows}</table></div></details>'
    )


def text(value: Any) -> str:
    """Any value as text that HTML shows and does not obey.

    Examples
    --------
    >>> text("<b>")
    '&lt;b&gt;'
    """
    return escape(harmless(str(value)))


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} / ")
        else:
            yield f"{above}{name}", value
