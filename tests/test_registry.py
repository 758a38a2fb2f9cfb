"""Spec strings: the one address of a layer, read and written, with typed values."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal, Optional

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depprobe.errors import BadInput
from depprobe.registry import Layer, Spec, Table, _parse_value, layers

WORD = st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=1, max_size=12)
VALUE = st.text("abcdefghijklmnopqrstuvwxyz0123456789.+-_=:", min_size=1, max_size=12)


@settings(max_examples=100, deadline=None, database=None)
@given(name=WORD, pairs=st.dictionaries(WORD, VALUE, max_size=4), space=st.sampled_from(["", " ", "  "]))
def test_parse_and_format_are_inverse(name, pairs, space):
    spec = Spec(name, pairs)
    assert Spec.parse(str(spec)) == spec
    loose = f"{space}{name}{space}:{space}" + f"{space},{space}".join(
        f"{option}{space}={space}{value}" for option, value in pairs.items()
    )
    assert str(Spec.parse(loose + space)) == str(spec)


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused_in_words(text):
    try:
        spec = Spec.parse(text)
    except BadInput:
        return
    assert Spec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("lstm:forget_bias", r"bad option 'forget_bias' in .*; write lstm:option=value,option=value"),
        ("lstm:forget_bias=", "bad option 'forget_bias='"),
        ("lstm:=2", "bad option '=2'"),
        ("lstm:depth=1,depth=2", "option 'depth' is given twice"),
    ],
)
def test_malformed_specs(text, match):
    with pytest.raises(BadInput, match=match):
        Spec.parse(text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("lsmt", "unknown layer 'lsmt'; did you mean 'lstm'"),
        ("", "unknown layer ''"),
        ("lstm:deepth=2", "unknown option of lstm 'deepth'; did you mean 'depth'"),
        ("lstm:d=2", "unknown option of lstm 'd'"),
        ("lstm:depth=two", "lstm:depth takes int, not 'two'"),
        ("lstm:depth=2.0", "lstm:depth takes int, not '2.0'"),
        ("lstm:bias=yes", "lstm:bias is true or false, not 'yes'"),
        ("rnn:nonlinearity=Tanh", "unknown value of rnn:nonlinearity 'Tanh'; did you mean 'tanh'"),
    ],
)
def test_specs_that_no_layer_answers_to(text, match):
    with pytest.raises(BadInput, match=match):
        Spec.parse(text).options()


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("-3", int, -3),
        ("1e-3", float, 1e-3),
        ("2", float, 2.0),
        ("True", bool, True),
        ("false", bool, False),
        ("relu", Literal["relu", "tanh"], "relu"),
        ("2", Literal[1, 2], 2),
        ("plain", str, "plain"),
        ("None", float | None, None),
        ("0.5", float | None, 0.5),
        ("none", Optional[int], None),  # noqa: UP045 - both ways of writing it are read
        ("7", Optional[int], 7),  # noqa: UP045
        ("b", Literal["a", "b"] | None, "b"),
    ],
)
def test_values_take_the_type_of_their_option(text, annotation, expected):
    value = _parse_value("layer", "option", text, annotation)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "annotation", "match"),
    [
        ("none", int, "layer:option takes int, not 'none'"),
        ("x", float | None, "layer:option takes float, not 'x'"),
        ("1", bool, "layer:option is true or false, not '1'"),
        ("3", Literal[1, 2], r"unknown value of layer:option '3'\. Known: 1, 2"),
        ("none", Literal["a", "b"], "unknown value of layer:option 'none'"),
    ],
)
def test_values_of_another_type_are_refused(text, annotation, match):
    with pytest.raises(BadInput, match=match):
        _parse_value("layer", "option", text, annotation)


@pytest.mark.parametrize("name", list(layers))
def test_every_layer_documents_itself_and_its_examples_build(name):
    entry = layers[name]
    assert entry.name == name
    assert entry.summary
    assert entry.equation
    assert entry.citation
    assert entry.examples
    for text in (name, *entry.examples):
        spec = Spec.parse(text)
        assert spec.name == name
        assert str(spec) == text
        module = entry.build(16, **spec.options())
        assert isinstance(module, torch.nn.Module)
        assert isinstance(entry.causal(**spec.options()), bool)
    for option, parameter in entry.options.items():
        assert parameter.default is not parameter.empty, option
        assert parameter.annotation is not parameter.empty, option
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY), option


@pytest.mark.parametrize("name", list(layers))
def test_every_default_can_be_written_in_a_spec_string(name):
    for option, parameter in layers[name].options.items():
        text = (
            str(parameter.default).lower() if parameter.default in (True, False, None) else parameter.default
        )
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
            text = repr(parameter.default)
        found = Spec.parse(f"{name}:{option}={text}").options()
        assert found == {option: parameter.default}


def test_a_table_is_a_mapping_in_the_order_of_the_alphabet():
    assert list(layers) == sorted(layers)
    assert len(layers) == len(list(layers)) > 0
    assert all(isinstance(entry, Layer) for entry in layers.values())
    assert "lstm" in layers
    assert "lsmt" not in layers


def test_a_taken_name_is_refused_and_a_new_one_entered():
    table = Table("layer", "depprobe.layers")
    facts = {"equation": "y = x", "citation": "none"}

    @table.register("identity", **facts)
    def identity(d: int, depth: int = 1):
        """Nothing."""

    assert table._entries["identity"].summary == "Nothing."
    assert list(table._entries["identity"].options) == ["depth"]
    assert not table._entries["identity"].reads_any_width
    with pytest.raises(BadInput, match="layer 'identity' is registered already"):
        table.register("identity", **facts)(identity)


def test_the_table_reads_no_layer_before_it_is_asked():
    code = (
        "import sys, depprobe.registry; sys.exit('torch' in sys.modules or 'depprobe.layers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
