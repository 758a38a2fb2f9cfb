"""The schema of ``--json`` covers every command that has it, and refuses what it does not describe."""

from __future__ import annotations

import copy
import importlib
import json

import click
import pytest
from click.testing import CliRunner
from json_documents import document_of, faults_of
from jsonschema import Draft202012Validator

from depprobe.cli import COMMANDS, cli
from depprobe.cli.json_schema import schema


def with_json(command: click.Command, name: str) -> list[str]:
    """The names under which a command, and the commands in it, have ``--json``."""
    own = [name] if any("--json" in parameter.opts for parameter in command.params) else []
    inner = command.commands.items() if isinstance(command, click.Group) else ()
    return own + [found for word, one in inner for found in with_json(one, f"{name}-{word}")]


def test_every_command_with_json_has_a_definition():
    loaded = {
        name: getattr(importlib.import_module(f"depprobe.cli.commands.{name}"), name) for name in COMMANDS
    }
    names = {found for name, command in loaded.items() for found in with_json(command, name)}
    assert {"jacobian", "claims", "sweep-status"} <= names
    assert names == {one["$ref"].removeprefix("#/$defs/") for one in schema()["anyOf"]}


def test_the_schema_is_printed_and_is_one():
    done = CliRunner().invoke(cli, ["--schema"])
    assert done.exit_code == 0
    printed = json.loads(done.stdout)
    Draft202012Validator.check_schema(printed)
    assert printed == json.loads(json.dumps(schema()))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Small datasets of four commands in one folder, with the document of each."""
    folder, documents = tmp_path_factory.mktemp("runs"), {}
    small = ["--n", "20", "--d", "4", "--json", "-q"]
    for name, layers in (("jacobian", ["rnn", "conv"]), ("lyapunov", ["rnn"]), ("gates", ["lstm"])):
        given = [word for layer in layers for word in ("--layer", layer)]
        place = ["-o", f"{folder}/{name}.nc", "--figure", f"{folder}/{name}.svg"]
        done = CliRunner().invoke(cli, [name, *given, *small, *place])
        assert done.exit_code == 0, done.output
        documents[name] = document_of(name, done.stdout)
    return folder, documents


def test_documents_conform_and_changed_ones_do_not(measured):
    _, documents = measured
    good = documents["jacobian"]
    for change in (
        lambda one: one.pop("dataset"),
        lambda one: one.update(extra=1),
        lambda one: one["layers"][0].update(decay_rate="fast"),
        lambda one: one["layers"][0].update(alike="exponential;power law"),
        lambda one: one["layers"][1].pop("receptive_field"),
        lambda one: one["attributes"].update(provenance=json.dumps(one["attributes"]["provenance"])),
        lambda one: one["curve"].update(lag=["0"]),
    ):
        changed = copy.deepcopy(good)
        change(changed)
        assert faults_of("jacobian", changed)
    assert faults_of("gates", good)


def test_what_lists_and_shows_stored_datasets_conforms(measured):
    folder, documents = measured
    shown = CliRunner().invoke(cli, ["show", str(folder), "--json"])
    found = document_of("show", shown.stdout)
    assert len(found) == len(documents)
    for name, one in documents.items():
        assert found[f"{folder}/{name}.nc"]["layers"] == one["layers"]
        assert found[f"{folder}/{name}.nc"]["attributes"] == one["attributes"]
    document_of("runs", CliRunner().invoke(cli, ["runs", str(folder), "--json"]).stdout)
    document_of("layers", CliRunner().invoke(cli, ["layers", "lstm", "conv", "--json"]).stdout)
    document_of("models", CliRunner().invoke(cli, ["models", "--json"]).stdout)
