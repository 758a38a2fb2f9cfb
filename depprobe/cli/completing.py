"""What a shell completes values with: files, and the names in tables, which load when they are asked for.

eval "$(_DEPPROBE_COMPLETE=bash_source depprobe)"          in ~/.bashrc
eval "$(_DEPPROBE_COMPLETE=zsh_source depprobe)"           in ~/.zshrc
_DEPPROBE_COMPLETE=fish_source depprobe | source           in ~/.config/fish/completions/depprobe.fish
"""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

#: set by the shell while it asks for completions
ASKED = "_DEPPROBE_COMPLETE"


def files(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Files, which the shell knows."""
    return [CompletionItem(begun, type="file")]


def layers(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Named layers, behind a label as well."""
    from depprobe.registry import layers as table

    label, equals, name = begun.rpartition("=")
    return [CompletionItem(f"{label}{equals}{one.value}") for one in _beginning(name, table)]


def trained(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Trained models of the catalogue."""
    from depprobe.models.trained.catalogue import ENTRIES

    return _beginning(begun, ENTRIES)


def models(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Trained models behind ``trained:``, and files."""
    if not begun.startswith("trained:"):
        return files(context, parameter, begun)
    found = trained(context, parameter, begun.removeprefix("trained:"))
    return [CompletionItem(f"trained:{one.value}") for one in found]


def claims(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Statements of the ledger."""
    from depprobe.ledger import claims as ledger

    return _beginning(begun.upper(), ledger)


def _beginning(begun: str, names: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(begun)]
