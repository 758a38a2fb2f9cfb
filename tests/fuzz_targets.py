"""What a stranger may hand over, as hypothesis draws it, and who reads it.

``TARGETS`` maps a name to (strategy, reader): ``reader(value, folder)`` reads one drawn value in a folder of
its own. It may raise ``DepprobeError`` and nothing else.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import depprobe
from depprobe import store
from depprobe.cli.commands.sweep.cells import plan_of
from depprobe.cli.commands.sweep.grid import read as read_grid
from depprobe.core.options import Options, parse_bytes, wanted_positions
from depprobe.models.checkpoint import read_weights
from depprobe.models.json_object import object_in as read_configuration
from depprobe.models.transformers_folder import PretrainedFolder
from depprobe.registry import Spec, layers
from depprobe.runs.inputs import read as read_input
from depprobe.store.finished import Finished
from depprobe.store.sweeps.folder import PLAN
from depprobe.store.trailer import sealed

Reader = Callable[[Any, Path], Any]
_MARK = "0123456789abcdef01234567"


@cache
def seed_file(kind: str) -> bytes:
    """A small file as it should be."""
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, np.arange(6.0).reshape(3, 2))
    elif kind == "npz":
        np.savez(stream, weight=np.ones((2, 2)), bias=np.zeros(2))
    elif kind == "pt":
        torch.save({"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, stream)
    elif kind == "safetensors":
        from safetensors.torch import save

        return save({"weight": torch.ones(2, 2), "bias": torch.zeros(2)})
    elif kind == "csv":
        return b"a,b\n1.0,2\n-3e4,.5\n"
    elif kind == "wav":
        from scipy.io import wavfile

        wavfile.write(stream, 8000, np.arange(20, dtype=np.int16))
    elif kind == "json":
        return b'{"model_type": "gpt2", "n_layer": 2}'
    elif kind == "tokenizer":
        from tokenizers import Tokenizer, models, pre_tokenizers

        tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return tokenizer.to_str().encode()
    elif kind == "toml":
        grid = b'probe = "gates"\n[grid]\nlayer = ["lstm", "gru:gain=2"]\nn = [3, 4]\n'
        return grid + b"[fixed]\nd = 2\n[[exclude]]\nn = 3\n"
    elif kind == "plan":
        cell = {"mark": _MARK, "settings": {"subject": {"layer": "gru"}, "values": {"n": 4}}}
        cell |= {"at": {"layer": "gru", "n": 4}, "work": 1.0}
        return json.dumps({"probe": "jacobian", "axes": ["layer", "n"], "cells": [cell]}).encode()
    elif kind == "nc":
        folder = Path(os.environ.get("TMPDIR", "/tmp"))
        path = store.save(depprobe.jacobian("gru", n=4, d=2), folder / f"depprobe-fuzz-{os.getpid()}.nc")
        content = path.read_bytes()
        path.unlink()
        return content
    return stream.getvalue()


@st.composite
def changed(draw: Any, kind: str) -> bytes:
    """A file as it should be with bytes changed, cut out, doubled or put in; or none of it."""
    whole = bytearray(seed_file(kind))
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(whole) - 1)))
        what = draw(st.integers(0, 5))
        if what == 0:
            whole[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif what == 1:
            del whole[at : at + draw(st.integers(1, 40))]
        elif what == 2:
            whole[at:at] = whole[at : at + draw(st.integers(1, 40))]
        elif what == 3 and whole:
            whole[at] ^= 1 << draw(st.integers(0, 7))
        elif what == 4:
            size = draw(st.sampled_from([2**15 - 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 0]))
            whole[at : at + 8] = struct.pack("<Q", size)
        else:
            del whole[at:]
    return bytes(whole)


_PIECES = ["lstm:", "rnn:gain=", ":", "=", ",", "hf:", "trained:", "../x", "a.py:f", "\x1b[31m"]
_WORD = st.one_of(
    st.sampled_from([*layers, *_PIECES]),
    st.text(max_size=12),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
)
_SPEC = st.one_of(
    st.lists(_WORD, max_size=4).map("".join),
    st.builds(
        lambda name, option, value: f"{name}:{option}={value}",
        st.sampled_from([*layers]),
        st.sampled_from(sorted({option for layer in layers.values() for option in layer.options})),
        _WORD,
    ),
)
_PARTS = ["last", "all", "every", "random", ":", "-", ",", "5", "0", "1e9", " "]
_TARGETS = st.one_of(
    st.lists(st.sampled_from(_PARTS), max_size=5).map("".join),
    st.builds("{}:{}".format, st.sampled_from(["every", "random"]), st.integers(-(2**70), 2**70)),
    st.lists(st.integers(-5, 2**64), max_size=5).map(lambda many: ",".join(map(str, many))),
    st.text(max_size=10),
)
#: values as a parsed TOML file holds them
_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), _WORD, _SPEC).filter(
        lambda value: value is not None
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=6,
)
_KEYS = ["layer", "model", "weights", "label", "n", "d", "seed", "targets", "input", "output", "hold_h"]
_KEY = st.one_of(
    st.sampled_from(_KEYS),
    st.text(max_size=8),
)


def _toml(value: Any) -> str:
    """A value in TOML; strings and keys as JSON writes them, which TOML reads alike."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else str(value)


@st.composite
def grids(draw: Any) -> bytes:
    """A grid file of the right form whose keys and values are anything."""
    lines = []
    if draw(st.booleans()):
        lines.append(f"probe = {_toml(draw(st.sampled_from(['jacobian', 'gates', 'cost', 'gate', 3])))}")
    for head in ("[grid]", "[fixed]", "[[include]]", "[[exclude]]"):
        table = draw(st.dictionaries(_KEY, _VALUE, max_size=3))
        if head == "[grid]" and draw(st.integers(0, 3)):
            table = {"layer": ["gru"], **{k: v if isinstance(v, list) else [v] for k, v in table.items()}}
        if table:
            lines += [head, *(f"{json.dumps(key)} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines).encode("utf-8", "replace")


def _file(name: str, read: Callable[[Path], Any]) -> Reader:
    def reader(content: bytes, folder: Path) -> Any:
        path = folder / name
        path.write_bytes(content)
        return read(path)

    return reader


def _grid(path: Path) -> None:
    plan_of(read_grid(path))


def _plan(path: Path) -> None:
    (path.parent / f"{_MARK}.nc").write_bytes(sealed(seed_file("nc"), _MARK))
    depprobe.open_sweep(path.parent)


def _cell(content: bytes, folder: Path) -> None:
    """A dataset in a sweep, its checksum right whatever it holds."""
    (folder / PLAN).write_bytes(seed_file("plan"))
    (folder / f"{_MARK}.nc").write_bytes(sealed(content, _MARK))
    depprobe.open_sweep(folder).compute()


def _kept(content: bytes, folder: Path) -> None:
    """A finished case of a run, as it is and with its checksum right."""
    kept = Finished(folder)
    for held in (content, sealed(content, kept._path({}).stem)):
        kept._path({}).write_bytes(held)
        kept.get({})


def _spec(text: str, folder: Path) -> None:
    Spec.parse(text).options()


def _targets(text: str, folder: Path) -> None:
    wanted_positions(text, 50)


def _options(text: str, folder: Path) -> None:
    try:
        parse_bytes(text)
    finally:
        Options(probes=text)


def _tokenizer(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(seed_file("json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / "tokenizer.json").write_bytes(content)
    held = PretrainedFolder(folder)
    held.words(held.ids("a b c"))


#: name -> (what is drawn, who reads it)
TARGETS: dict[str, tuple[st.SearchStrategy[Any], Reader]] = {
    "spec": (_SPEC, _spec),
    "targets": (_TARGETS, _targets),
    "options": (_TARGETS, _options),
    "grid": (grids(), _file("grid.toml", _grid)),
    "toml": (changed("toml"), _file("grid.toml", _grid)),
    "plan": (changed("plan"), _file(PLAN, _plan)),
    "npy": (changed("npy"), _file("x.npy", lambda path: read_input(str(path)))),
    "csv": (changed("csv"), _file("x.csv", lambda path: read_input(str(path)))),
    "wav": (changed("wav"), _file("x.wav", lambda path: read_input(str(path)))),
    "npz": (changed("npz"), _file("w.npz", read_weights)),
    "pt": (changed("pt"), _file("w.pt", read_weights)),
    "safetensors": (changed("safetensors"), _file("w.safetensors", read_weights)),
    "configuration": (changed("json"), _file("config.json", read_configuration)),
    "kept": (changed("npz"), _kept),
    "netcdf": (changed("nc"), _file("a.nc", lambda path: store.validate(store.load(path)))),
    "cell": (changed("nc"), _cell),
}
if "DEPPROBE_FUZZ" in os.environ:
    # transformers takes long to load
    TARGETS["tokenizer"] = changed("tokenizer"), _tokenizer
