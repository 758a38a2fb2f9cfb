"""Documents that ``--json`` prints, read as strictly as the published schema has them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from depprobe.cli.json_schema import schema


@functools.cache
def _validator(command: str) -> Draft202012Validator:
    whole = schema()
    Draft202012Validator.check_schema(whole)
    assert command in whole["$defs"]
    # at the root a list of commands would answer for one another
    return Draft202012Validator({"$ref": f"#/$defs/{command}", "$defs": whole["$defs"]})


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def faults_of(command: str, document: Any) -> list[str]:
    """What of a document is not as the schema has it, and strings that hold JSON."""
    found = [f"{list(one.absolute_path)}: {one.message}" for one in _validator(command).iter_errors(document)]
    return found + [
        f"JSON in a string: {text}" for text in _texts(document) if text.strip()[:1] in ("{", "[")
    ]


def document_of(command: str, text: str) -> Any:
    """What ``depprobe <command> --json`` printed; fails where it does not conform."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    document = json.loads(text, parse_constant=refuse)
    faults = faults_of(command, document)
    assert not faults, faults
    return document
