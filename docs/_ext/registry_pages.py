"""Pages made from the tables the program itself reads: layers, commands, names in datasets."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx
from written import write

from depprobe import vocabulary
from depprobe.cli import COMMANDS, cli
from depprobe.registry import layers

PAGES = Path(__file__).parent.parent / "generated"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def layer_page() -> str:
    """Every named layer: what it is, its options, its source."""
    parts = []
    for name, layer in layers.items():
        options = [[f"`{option}`", f"`{parameter.default}`"] for option, parameter in layer.options.items()]
        parts.append(f"## {name}\n\n{layer.summary}\n\n```text\n{layer.equation}\n```\n\n{layer.citation}.")
        if options:
            parts.append(table(["option", "default"], options))
        if layer.examples:
            parts.append("Examples: " + ", ".join(f"`{example}`" for example in layer.examples) + ".")
    return "\n\n".join(["# The named layers", *parts]) + "\n"


def command_page() -> str:
    """The help of every command, as the program prints it."""
    parts = ["# The commands"]
    for name in COMMANDS:
        command = getattr(importlib.import_module(f"depprobe.cli.{name}"), name)
        context = click.Context(command, info_name=name, parent=click.Context(cli, info_name="depprobe"))
        context.max_content_width = 100
        parts.append(f"## depprobe {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(parts) + "\n"


def vocabulary_page() -> str:
    """The names that datasets are written in."""
    rows = {
        "Dimensions and coordinates": vocabulary.DIMENSIONS,
        "Variables": vocabulary.VARIABLES,
    }
    parts = ["# Names in datasets"]
    for title, names in rows.items():
        cells = [[f"`{name}`", words, units] for name, (words, units) in names.items()]
        parts.append(f"## {title}\n\n{table(['name', 'meaning', 'units'], cells)}")
    return "\n\n".join(parts) + "\n"


def prepare(app: Sphinx, config: Any) -> None:
    """Write the pages before Sphinx looks for them."""
    write(PAGES / "layers.md", layer_page())
    write(PAGES / "commands.md", command_page())
    write(PAGES / "vocabulary.md", vocabulary_page())


def setup(app: Sphinx) -> dict[str, Any]:
    """Prepare the pages once the configuration is read."""
    app.connect("config-inited", prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
