"""Datasets on disk: atomic save and load, and the contract they keep. No torch here."""

from depprobe.renaming import moved
from depprobe.store.atomic import replacing
from depprobe.store.contract import validate
from depprobe.store.files import load, save

__all__ = ["load", "replacing", "save", "validate"]

__getattr__ = moved(
    __name__,
    {name: f"depprobe.runs.labelling:{name}" for name in ("fingerprint", "provenance")},
    since="0.2",
)
