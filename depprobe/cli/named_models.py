"""``--layer``, ``--model`` and ``--weights``, in the order in which they stand on the command line.

    --layer SPEC | --layer LABEL=SPEC
    --model FILE.py:FACTORY | package.module:FACTORY | hf:FOLDER | trained:NAME, each with LABEL= before it
    --weights FILE         of the --model before it;    --weights LABEL=FILE    of the one so labelled

A label holds no ``:``, ``/`` or ``\\``, so only an ``=`` before the first of these ends one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depprobe.errors import BadInput, unknown

_FLAGS = ("--layer", "--model", "--weights")
#: models that are named with their weights
_WITH_WEIGHTS = ("hf:", "trained:")
#: where the words of a subcommand are kept in click's ``Context.meta``
WORDS = "depprobe.words"


@dataclass(frozen=True)
class Named:
    """One layer or model of the command line, as it was written, and the weights that belong to it."""

    text: str
    is_model: bool
    label: str | None = None
    weights: str | None = None

    @property
    def words(self) -> list[str]:
        """The words of the command line that name it."""
        own = f"{self.label}={self.text}" if self.label else self.text
        given = ["--model" if self.is_model else "--layer", own]
        return given + (["--weights", self.weights] if self.weights else [])

    @property
    def name(self) -> str:
        """Its label: the one given, else the spec string, or what the factory or the folder is called."""
        if self.label:
            return self.label
        if not self.is_model:
            from depprobe.registry import Spec

            return str(Spec.parse(self.text))
        where, _, name = self.text.rpartition(":")
        return Path(name).resolve().name if where == "hf" else name

    def target(self) -> Any:
        """What is measured: the spec string, or the module or factory that the code, folder or file gives."""
        if not self.is_model:
            return self.text
        from depprobe.models import checkpoint, transformers_folder, user_code
        from depprobe.models.trained.by_name import trained

        if self.weights and self.text.startswith(_WITH_WEIGHTS):
            raise BadInput(f"{self.text} has weights of its own; leave out --weights {self.weights}")
        if self.text.startswith("trained:"):
            return trained(self.text)
        if self.text.startswith("hf:"):
            return transformers_folder.PretrainedFolder(Path(self.text.removeprefix("hf:")))
        found = user_code.find(self.text)
        return checkpoint.Checkpoint(found, Path(self.weights)) if self.weights else found


def named(words: Sequence[str]) -> list[Named]:
    """The layers and models that the words of a command line name, in their order.

    Raises
    ------
    BadInput : weights without a model, of a label that is none's, or a second file of them.

    Examples
    --------
    >>> [one.words for one in named(["--model", "A=net.py:make", "--weights", "net.pt", "--layer=lstm"])]
    [['--model', 'A=net.py:make', '--weights', 'net.pt'], ['--layer', 'lstm']]
    """
    found: list[Named] = []
    for flag, value in _pairs(words):
        label, text = _split(value)
        if flag != "--weights":
            found.append(Named(text, flag == "--model", label))
            continue
        models = [i for i, one in enumerate(found) if one.is_model]
        labelled = [i for i in models if label is not None and found[i].name == label]
        at = (labelled or models)[-1:]
        if not at:
            raise BadInput(f"--weights {value} stands before any --model; give the model first")
        if label is not None and not labelled:
            text = value
            if not Path(text).exists():  # else the = belongs to the file's own name
                raise unknown("label of --weights", label, [found[i].name for i in models])
        if found[at[0]].weights:
            raise BadInput(f"--model {found[at[0]].text} is given two files of weights; give one")
        found[at[0]] = replace(found[at[0]], weights=text)
    return found


def targets_of(given: Sequence[Named]) -> Any:
    """What the probes measure: spec strings, or a mapping of labels where there is a model or a label.

    Raises
    ------
    BadInput : nothing is given, two of one label, or what a model cannot be made from.
    """
    if not given:
        raise BadInput("give --layer SPEC or --model FILE.py:FACTORY; see depprobe layers")
    if not any(one.is_model or one.label for one in given):
        return [one.text for one in given]
    labels = [one.name for one in given]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise BadInput(
            f"two curves would be called {twice!r}; name them, as in --model LABEL={given[-1].text}"
        )
    return {label: one.target() for label, one in zip(labels, given, strict=True)}


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """(flag, value) of every word of these three flags, written with a blank or with ``=``."""
    found, rest = [], list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag == "--":
            break
        if flag in _FLAGS and (equals or rest):
            found.append((flag, value if equals else rest.pop(0)))
    return found


def _split(text: str) -> tuple[str | None, str]:
    label, equals, rest = text.partition("=")
    return (label, rest) if equals and label.strip() and not re.search(r"[:/\\]", label) else (None, text)
