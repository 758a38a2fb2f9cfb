"""Trained models for tests: from the user's cache, small ones brought by pip, or skipped with the reason.

DEPPROBE_TEXTGENRNN=textgenrnn-2.0.0.tar.gz      the source archive, which pip is not asked for
depprobe models fetch minilm resemblyzer typeseg    larger ones, tested where they are in the cache
"""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from depprobe.errors import BadInput
from depprobe.models.trained.archives import fetch, is_kept
from depprobe.models.trained.by_name import trained
from depprobe.models.trained.catalogue import entry_of

_SPEC = importlib.util.spec_from_file_location(
    "_spoken_vowels", Path(__file__).parent.parent / "studies" / "_spoken_vowels.py"
)
_vowels = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_vowels)
#: sound that is like speech, and its samples a second
spoken, RATE = _vowels.spoken, _vowels.RATE
#: models that are small enough to bring for a test
SMALL = ("g2p", "attacut", "silero-vad")


@functools.cache
def _missing(name: str) -> str:
    """Why a model is not in the cache, once it was looked for; empty where it is."""
    entry, archive = entry_of(name), os.environ.get(f"DEPPROBE_{name.upper()}")
    try:
        if not is_kept(entry) and (archive or name in SMALL):
            fetch(entry, archive)
        trained(name)
    except BadInput as error:
        return str(error)
    return ""


def model(name: str) -> Any:
    """The factory of a trained model."""
    reason = _missing(name)
    if reason:
        pytest.skip(reason)
    return trained(name)
