"""Pages made from what the program itself reads: layers, commands, names, public functions, equations."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bibliography
import click
from sphinx.application import Sphinx
from written import write

import depprobe
from depprobe import vocabulary
from depprobe.cli import COMMANDS, cli
from depprobe.registry import layers

PAGES = Path(__file__).parent.parent / "generated"

#: heading of the reference -> the packages and modules whose public names stand below it
GROUPS = {
    "Measure": ("depprobe.probes",),
    "Choose": ("depprobe.advice",),
    "The operator": ("depprobe.operators",),
    "Curves and distances": ("depprobe.curves",),
    "The article": ("depprobe.ledger",),
    "Data and tables": ("depprobe.store", "depprobe.runs.inputs", "depprobe.cli", "depprobe.vocabulary"),
    "Models": ("depprobe.models", "depprobe.core"),
}

#: public names that are no functions or classes -> what they are
OTHER_NAMES = {
    "__version__": "The version, a string.",
    "layers": "The table of named layers, by name: :doc:`layers`. ``depprobe.layers.register`` adds one.",
    "figures": "The module of the figures below.",
}

#: packages whose files open with their equations, in the order in which data flows
EQUATIONS = ("core", "layers", "operators", "dynamics", "costs", "advice", "probes", "curves", "theory")


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
        source = bibliography.links(layer.citation)
        parts.append(f"## {name}\n\n{layer.summary}\n\n```text\n{layer.equation}\n```\n\n{layer.citation}.")
        parts += [f"In the bibliography: {source}."] * bool(source)
        if options:
            parts.append(table(["option", "default"], options))
        if layer.examples:
            parts.append("Examples: " + ", ".join(f"`{example}`" for example in layer.examples) + ".")
    return "\n\n".join(["# The named layers", *parts]) + "\n"


def command_page() -> str:
    """The help of every command, as the program prints it."""
    parts = ["# The commands"]
    for name in COMMANDS:
        command = getattr(importlib.import_module(f"depprobe.cli.commands.{name}"), name)
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


def public_of(module: Any) -> list[str]:
    """Functions and classes that a module defines and does not hide, those that carry a docstring."""
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__module__ == module.__name__
        and inspect.getdoc(thing)
    ]


def modules_of(package: str) -> list[Any]:
    """The modules of a package, by name."""
    found = importlib.import_module(f"depprobe.{package}")
    names = sorted(module.name for module in pkgutil.iter_modules(found.__path__))
    return [importlib.import_module(f"{found.__name__}.{name}") for name in names]


def listing(title: str, module: str, names: Iterable[str]) -> str:
    """A section of the reference."""
    lines = [title, "-" * len(title), "", f".. currentmodule:: {module}", "", ".. autosummary::"]
    return "\n".join([*lines, "   :toctree: api", "", *(f"   {name}" for name in names)])


def reference_page() -> str:
    """Every public name of the package, of its figures and of its theory."""
    names = [name for name in depprobe.__all__ if callable(getattr(depprobe, name))]
    parts = [
        "Reference\n=========",
        "Every public name. The commands: :doc:`commands`; what is in a dataset: :doc:`schema`.",
    ]
    for title, homes in GROUPS.items():
        here = [name for name in names if getattr(depprobe, name).__module__.startswith(homes)]
        names = [name for name in names if name not in here]
        if here:
            parts.append(listing(title, "depprobe", here))
    parts.append(listing("Errors", "depprobe", names))
    rest = [name for name in depprobe.__all__ if not callable(getattr(depprobe, name))]
    parts.append("Other names\n-----------")
    parts += [f"``depprobe.{name}``\n   {OTHER_NAMES[name]}" for name in rest]
    parts.append(listing("Methods of datasets", "depprobe.cli.notebook.accessor", ["Accessor"]))
    drawing = [name for name in depprobe.figures.__all__ if callable(getattr(depprobe.figures, name))]
    parts.append(listing("Figures", "depprobe.figures", drawing))
    rules = ["beside_ranking", "beside_map", "tree", "rule_of_thumb"]
    parts.append(listing("Decision rules of the article", "depprobe.ledger.choosing.article_rules", rules))
    parts.append("Theory\n------\n\nNone of this needs torch, apart from the last function.")
    for module in [*modules_of("theory"), importlib.import_module("depprobe.probes.theory")]:
        lines = [".. currentmodule:: " + module.__name__, "", ".. autosummary::", "   :toctree: api", ""]
        parts.append("\n".join([*lines, *(f"   {name}" for name in public_of(module))]))
    return "\n\n".join(parts) + "\n"


def equation_page() -> str:
    """What every file that computes opens with: its equations, shapes and source."""
    parts = [
        "# Equations, file by file",
        "Every file opens with the equations it computes, its shapes and its source. They are repeated here.",
    ]
    for package in EQUATIONS:
        folder = Path(depprobe.__file__).parent / package
        texts = {
            ".".join(file.relative_to(folder).with_suffix("").parts): ast.get_docstring(
                ast.parse(file.read_text("utf-8"))
            )
            for file in sorted(folder.rglob("[a-z]*.py"))
        }
        parts += [f"## depprobe.{package}"] * bool(texts)
        for name, text in texts.items():
            if text:
                parts.append(f"### {package}.{name}\n\n```text\n{text}\n```")
                source = bibliography.links(text)
                parts += [f"In the bibliography: {source}."] * bool(source)
    return "\n\n".join(parts) + "\n"


def prepare(app: Sphinx, config: Any) -> None:
    """Write the pages before Sphinx looks for them."""
    write(PAGES / "layers.md", layer_page())
    write(PAGES / "commands.md", command_page())
    write(PAGES / "vocabulary.md", vocabulary_page())
    write(PAGES / "reference.rst", reference_page())
    write(PAGES / "equations.md", equation_page())


def setup(app: Sphinx) -> dict[str, Any]:
    """Prepare the pages once the configuration is read."""
    app.connect("config-inited", prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
