"""``depprobe layers``: the named layers with their options, equations and operators."""

from __future__ import annotations

import typing

import click

from depprobe.cli import completing
from depprobe.cli.output import as_json as to_json

if typing.TYPE_CHECKING:
    from depprobe.registry import Layer


@click.command(short_help="the named layers")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=completing.layers)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def layers(names: tuple[str, ...], as_json: bool) -> None:
    """List the named layers, or those named: options with defaults, equation, citation, operator."""
    from depprobe.registry import layers as table

    # those named alone: no package is asked for the others
    chosen = {name: table[name] for name in (dict.fromkeys(names) or table)}
    document: dict[str, dict[str, typing.Any]] = {
        name: {
            "summary": entry.summary,
            "equation": entry.equation,
            "citation": entry.citation,
            "operator": _operator_of(name, entry),
            "options": {
                option: {"type": _type_name(parameter.annotation), "default": parameter.default}
                for option, parameter in entry.options.items()
            },
            "examples": list(entry.examples),
        }
        for name, entry in chosen.items()
    }
    if as_json:
        click.echo(to_json(document))
        return
    for name, facts in document.items():
        click.echo(click.style(name, bold=True) + f"  {facts['summary']}")
        click.echo(f"    {facts['equation']}")
        click.echo(f"    {facts['citation']}; operator: {facts['operator']}")
        for option, about in facts["options"].items():
            click.echo(f"      {option}={_plain(about['default'])}  ({about['type']})")
        click.echo()


def _operator_of(name: str, entry: Layer) -> str:
    from depprobe.operators.dispatch import operator_name

    try:
        return operator_name(entry.build(16), 16)
    except Exception as error:
        # code of another package hides no other layer
        click.echo(f"depprobe: {name} cannot be built with d = 16: {error}", err=True)
        return "-"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _type_name(annotation: typing.Any) -> str:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(str, arguments))
    if arguments:
        return " or ".join(_type_name(kind) for kind in arguments)
    return {"bool": "true or false", "NoneType": "none"}.get(annotation.__name__, annotation.__name__)
