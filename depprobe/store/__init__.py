"""Datasets on disk: atomic save and load, the contract they keep, how they came about. No torch here."""

from depprobe.store.atomic import replacing
from depprobe.store.contract import validate
from depprobe.store.files import load, save
from depprobe.store.origin import fingerprint, provenance

__all__ = ["fingerprint", "load", "provenance", "replacing", "save", "validate"]
