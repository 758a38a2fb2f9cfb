"""A trained model by its name in the catalogue, from files in the user's cache."""

from __future__ import annotations

import importlib

from depprobe.models.checkpoint import StoredWeights
from depprobe.models.trained.archives import kept
from depprobe.models.trained.catalogue import entry_of


def trained(name: str) -> StoredWeights:
    """A factory of the model of a name, such as ``g2p``; called, it builds the module with its weights.

    Of models of text it also gives the ids of a text, ``ids(text)``, and what ids read as, ``words(ids)``.

    Raises
    ------
    BadInput : no such model, or its files are not in the cache or damaged.
    """
    entry = entry_of(name)
    folder = kept(entry)
    module, _, name = entry.factory.rpartition(".")
    found: StoredWeights = getattr(importlib.import_module(module), name)(folder)
    return found
