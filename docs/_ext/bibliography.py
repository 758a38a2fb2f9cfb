"""The bibliography, from ``docs/bibliography.toml``, and links to it from whatever names a source.

Files of the package name their sources by surname and year, as in "Halko, Martinsson and Tropp 2011".
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parent.parent
PACKAGE = DOCS.parent / "depprobe"


class Source(NamedTuple):
    """An entry: its authors, title, place, and address, where it has one."""

    key: str
    group: str
    who: str
    title: str
    where: str
    address: str

    @property
    def year(self) -> str:
        """The last four characters of the key."""
        return self.key[-4:]

    @property
    def surname(self) -> str:
        """The last name of the first author."""
        return re.split(r",| and others", self.who)[0].split()[-1]

    @property
    def short(self) -> str:
        """Surnames and year, as a text refers to it."""
        several = self.who.count(",") > 1 or self.who.endswith("and others")
        pair = re.split(r", ", self.who)
        second = f" and {pair[1].split()[-1]}" if len(pair) == 2 and not several else ""
        return f"{self.surname}{' et al.' if several else second} {self.year}"


@cache
def sources() -> tuple[Source, ...]:
    """All entries, group by group."""
    groups = tomllib.loads((DOCS / "bibliography.toml").read_text(encoding="utf-8"))
    return tuple(
        Source(key, group, one["who"], one["title"], one["where"], address(one))
        for group, entries in groups.items()
        for key, one in entries.items()
    )


def address(entry: dict[str, str]) -> str:
    """The DOI of an entry as a link; that of its preprint where it has no other; or none."""
    doi = entry.get("doi") or (f"10.48550/arXiv.{entry['arxiv']}" if "arxiv" in entry else "")
    return f"https://doi.org/{doi}" if doi else ""


def plain(text: str) -> str:
    """Text without accents."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def named_in(text: str) -> list[Source]:
    """The entries that a text names: the surname of the first author, then the year."""
    flat = " ".join(plain(text).split())
    return [
        one
        for one in sources()
        if re.search(rf"\b{plain(one.surname)}\b[^0-9:;]{{0,80}}?\b{one.year}\b", flat)
    ]


def links(text: str) -> str:
    """Links to the entries that a text names, in Markdown; "" where it names none."""
    return ", ".join(f"[{one.short}](#{one.key})" for one in named_in(text))


def page() -> str:
    """The bibliography, with the files that name each entry."""
    using: dict[str, list[str]] = {one.key: [] for one in sources()}
    for path in sorted(PACKAGE.rglob("*.py")):
        for one in named_in(path.read_text(encoding="utf-8")):
            using[one.key].append(path.relative_to(PACKAGE.parent).as_posix())
    parts = [
        "# Bibliography",
        "The sources of the equations, methods and layers, each with its DOI where it has one (of a "
        "preprint, that of its archive) and with the files that rest on it. "
        "[Equations, file by file](equations.md) repeats what those files compute.",
    ]
    group = ""
    for one in sorted(sources(), key=lambda one: (list_of_groups().index(one.group), plain(one.surname))):
        if one.group != group:
            group = one.group
            parts.append(f"## {group}")
        files = ", ".join(f"`{name}`" for name in using[one.key])
        said = f"{one.who} ({one.year}): *{one.title}*. {one.where}."
        said += f" [{one.address.removeprefix('https://doi.org/')}]({one.address})." if one.address else ""
        parts.append(f"({one.key})=\n{said}" + (f"  \nIn {files}." if files else ""))
    return "\n\n".join(parts) + "\n"


def list_of_groups() -> list[str]:
    """The groups, in the order of the file."""
    return list(dict.fromkeys(one.group for one in sources()))


def setup(app: Any) -> dict[str, Any]:
    """Write the page once the configuration is read."""
    from written import write

    app.connect("config-inited", lambda app, config: write(DOCS / "generated" / "bibliography.md", page()))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
